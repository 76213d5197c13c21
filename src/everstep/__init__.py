"""Python functions that wait for people: Steps, workflows and approvals that survive.

Every name below is loaded when it is first used, so that ``import everstep``
costs next to nothing.

Floor 7.5.  May import: everything below.  Imported by: users only.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everstep.app import App
    from everstep.core.retry import Retry
    from everstep.durations import Duration
    from everstep.errors import (
        ConfigError,
        EverstepError,
        GroupMissing,
        NotEncodable,
        RetryableError,
        StateChanged,
        StepFailed,
        StoreError,
        StoreUnavailable,
        TerminalError,
        UpdateError,
        WaitTimeout,
    )
    from everstep.log import Logger
    from everstep.settings import Settings
    from everstep.steps.blocking import SyncStepContext
    from everstep.steps.config import StepConfig, api, http, queue
    from everstep.steps.context import StepContext
    from everstep.steps.on import on, step
    from everstep.steps.request import Request, Response
    from everstep.steps.step import Step
    from everstep.steps.topic import Topic
    from everstep.steps.validator import InvalidInput

__version__ = "0.1.0.dev0"

_HOMES = {
    "App": "app",
    "Retry": "core.retry",
    "Duration": "durations",
    **dict.fromkeys(
        (
            *(
                "ConfigError",
                "EverstepError",
                "GroupMissing",
                "NotEncodable",
                "RetryableError",
                "StateChanged",
            ),
            *("StepFailed", "StoreError", "StoreUnavailable", "TerminalError", "UpdateError", "WaitTimeout"),
        ),
        "errors",
    ),
    "Logger": "log",
    "Settings": "settings",
    "SyncStepContext": "steps.blocking",
    **dict.fromkeys(("StepConfig", "api", "http", "queue"), "steps.config"),
    "StepContext": "steps.context",
    **dict.fromkeys(("on", "step"), "steps.on"),
    **dict.fromkeys(("Request", "Response"), "steps.request"),
    "Step": "steps.step",
    "Topic": "steps.topic",
    "InvalidInput": "steps.validator",
}

__all__ = [
    "App",
    "ConfigError",
    "Duration",
    "EverstepError",
    "GroupMissing",
    "InvalidInput",
    "Logger",
    "NotEncodable",
    "Request",
    "Response",
    "Retry",
    "RetryableError",
    "Settings",
    "StateChanged",
    "Step",
    "StepConfig",
    "StepContext",
    "StepFailed",
    "StoreError",
    "StoreUnavailable",
    "SyncStepContext",
    "TerminalError",
    "Topic",
    "UpdateError",
    "WaitTimeout",
    "api",
    "http",
    "on",
    "queue",
    "step",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'everstep' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"everstep.{home}"), name)
    globals()[name] = value  # asked only once
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
