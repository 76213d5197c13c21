"""Exit codes: one table, and which error ends in which.

Floor 8.  May import: errors.  Imported by: cli.
"""

from __future__ import annotations

OK = 0
REFUSED = 1  # what was asked could not be done: an unknown run, a wrong status, a port in use
USAGE = 2  # the command line itself is wrong
CONFIG = 3  # a setting or a Step cannot be used
STORE = 4  # the store cannot be reached, read, or is not ours


class Refusal(Exception):
    """A command ends here, with a message for a person and an exit code."""

    def __init__(self, message: str, code: int = REFUSED) -> None:
        super().__init__(message)
        self.code = code


def code_of(error: Exception) -> int | None:
    """The exit code an error of everstep ends in; None for one that is no word to a user."""
    from everstep.core.status import WrongStatus
    from everstep.errors import ConfigError, EverstepError, StoreError

    if isinstance(error, Refusal):
        return error.code
    if isinstance(error, StoreError):
        return STORE
    if isinstance(error, ConfigError):
        return CONFIG
    return REFUSED if isinstance(error, EverstepError | WrongStatus) else None
