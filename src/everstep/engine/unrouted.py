"""A message on a topic that nobody reads: kept, and said aloud once.

It is no error, for its Step may come later; but most often the topic is
misspelt, and then nothing would happen, and nothing would say why.

Floor 3.  May import: core, registry, log, errors.  Imported by: engine.engine.
"""

from __future__ import annotations

from everstep.core.batch import Applied, Batch, Outcome, Publish, Published
from everstep.engine.registry import Registry
from everstep.errors import did_you_mean
from everstep.log import Logger

MOST = 1_000  # topics that are remembered as said
_log = Logger("everstep.enqueue")


class Unrouted:
    """Hears what became of each batch, and warns once of each topic without a reader."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._said: set[str] = set()

    def heard(self, batch: Batch, outcome: Outcome) -> None:
        """Look for messages of this batch that reached no Step."""
        if not isinstance(outcome, Applied):
            return
        for number, result in enumerate(outcome.results):
            if isinstance(result, Published) and not result.handlers:
                change = batch.changes[number]
                assert isinstance(change, Publish)
                self._say(change.topic, result.mid)

    def _say(self, topic: str, mid: str) -> None:
        if topic in self._said or len(self._said) >= MOST or not len(self._registry):
            return  # a process without any handler, such as a command, says it in its own way
        self._said.add(topic)
        known = {s.topic for s in self._registry.subscriptions}
        _log.warning(
            f"nobody reads topic {topic!r}; the message is kept as unrouted, until a Step is subscribed: "
            f"everstep unrouted list.{did_you_mean(topic, sorted(known))}",
            message_id=mid,
        )
