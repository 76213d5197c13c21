"""Commands configure logging for their own process; here they run inside pytest's."""

import logging
from collections.abc import Iterator

import pytest

from everstep import log


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Give other tests of this process back the loggers they know."""
    logger = logging.getLogger(log.ROOT)
    before = (list(logger.handlers), logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])
