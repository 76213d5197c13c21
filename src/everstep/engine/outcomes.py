"""What it means for whoever asked that a batch was not applied.

Floor 3.  May import: core, errors.  Imported by: engine.
"""

from __future__ import annotations

from everstep.core.batch import Outcome, Refused, Unknown
from everstep.errors import EverstepError, Fenced, GroupMissing, StateChanged, StoreError


def refusal(outcome: Outcome) -> Exception:
    """The error that says why a batch was not applied."""
    if isinstance(outcome, Unknown):
        return StoreError(f"the store was lost while committing; it may have been applied: {outcome.reason}")
    assert isinstance(outcome, Refused)
    match outcome.why:
        case "run_epoch" | "worker_epoch":
            return Fenced(
                "this attempt no longer owns its run: it took longer than its timeout, was cancelled, or "
                "another worker took over. Nothing of this effect was applied."
            )
        case "group_missing":
            topic, step = outcome.current
            return GroupMissing(topic, step=step)
        case "kv_version":
            return StateChanged()
        case _ if isinstance(outcome.current, Exception):
            return outcome.current
        case why:
            return EverstepError(f"the commit was refused ({why}): {outcome.current!r}")
