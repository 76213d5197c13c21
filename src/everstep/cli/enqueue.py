"""`everstep enqueue`: send a message from a shell.

Floor 8.  May import: codec, durations, errors, command, opening.  Imported by: program.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from everstep.cli.command import Call, one_json
from everstep.cli.exits import Refusal

TopicArgument = Annotated[str | None, typer.Argument(metavar="TOPIC", help="Such as order.submitted.")]
MessageArgument = Annotated[
    str | None, typer.Argument(metavar="JSON", help="The message; - reads it from standard input.")
]
TopicOption = Annotated[str | None, typer.Option("--topic", metavar="TOPIC", help="As the argument.")]
MessageOption = Annotated[
    str | None, typer.Option("--message", "-m", metavar="JSON", help="As the argument.")
]


async def enqueue(
    call: Call,
    topic: TopicArgument = None,
    message: MessageArgument = None,
    topic_: TopicOption = None,
    message_: MessageOption = None,
    group: Annotated[
        str | None, typer.Option(help="Messages of one group are handled in order (FIFO topics).")
    ] = None,
    delay: Annotated[str | None, typer.Option(help="Not before this time has passed: 30s, 5m, 2d.")] = None,
    priority: Annotated[int, typer.Option(help="Higher goes first.")] = 0,
) -> None:
    """Send a message to every Step on a topic; it is durable when the command returns."""
    from everstep.cli.opening import acting
    from everstep.codec import codec_for
    from everstep.durations import micros
    from everstep.errors import GroupMissing

    if topic_ is not None and topic is not None and message is None and message_ is None:
        topic, message = None, topic  # enqueue --topic T '{...}'
    to = _one_of(topic, topic_, "TOPIC")
    text = _one_of(message, message_, "JSON")
    data = codec_for(Any).encode(one_json(text, "JSON"), f"the message for {to}")
    try:
        pause = None if delay is None else micros(delay)
    except ValueError:
        raise typer.BadParameter(
            f"{delay!r} is not a duration; write 5m, 30s, 2h", param_hint="--delay"
        ) from None
    async with acting(call, create=True) as engine:
        try:
            sent = await engine.publish(to, data, group=group, delay=pause, priority=priority)
        except GroupMissing:
            raise Refusal(
                f"topic {to!r} is FIFO: messages of one group are handled in order. "
                f"Say which group this one is in: everstep enqueue {to} … --group ID"
            ) from None
    document = {"id": sent.mid, "topic": to, "steps": list(sent.handlers), "routed": bool(sent.handlers)}
    call.answer(document, _told(sent.mid, to, sent.handlers))


def _one_of(argument: str | None, option: str | None, name: str) -> str:
    if argument is not None and option is not None:
        raise typer.BadParameter("is given twice", param_hint=name)
    found = argument if argument is not None else option
    if not found:
        raise typer.BadParameter("is missing; write everstep enqueue TOPIC JSON", param_hint=name)
    return found


def _told(mid: str, topic: str, handlers: tuple[str, ...]) -> str:
    if handlers:
        return f"{mid} → {', '.join(handlers)}"
    return (
        f"{mid} is kept, but no Step is subscribed to {topic!r} in this store: it waits until one is.\n"
        "Is the topic spelt right, and has the server been started on this store once?"
    )
