"""Commands configure logging for their own process; here they run inside pytest's."""

import logging
from collections.abc import Iterator

import pytest

from everstep import log


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Give other tests of this process back the loggers they know."""
    loggers = [logging.getLogger(log.ROOT), logging.getLogger("everstep.worker")]
    before = [(list(logger.handlers), logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)
