"""`everstep state`: look at and change values kept in state, beside running servers.

Floor 8.  May import: codec, command, opening, shown.  Imported by: program.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from everstep.cli.command import Call, command, count, one_json, table
from everstep.cli.exits import Refusal

group = typer.Typer(no_args_is_help=True, help="Look at and change what Steps keep in state.")

Group = Annotated[str, typer.Argument(help="The group, such as orders.", show_default=False)]
Key = Annotated[str, typer.Argument(help="The key in it.", show_default=False)]


@command(group, "list")
async def list_(
    call: Call,
    group: Annotated[str | None, typer.Argument(help="Only this group, with its values.")] = None,
) -> None:
    """List the groups and how many keys they have; or one group's keys and values."""
    from everstep.cli.opening import reading
    from everstep.cli.shown import brief, plain

    async with reading(call) as store:
        if group is None:
            groups = await store.kv_groups()
            if call.json:
                call.document([{"group": name, "keys": keys} for name, keys in groups])
            else:
                call.console.print(table(["group", "keys"], groups) if groups else "No state is kept.")
            return
        rows = await store.kv_list(group)
    if call.json:
        call.document([{"key": r.key, "value": plain(r.value), "version": r.version} for r in rows])
    elif rows:
        call.console.print(table(["key", "value"], [(r.key, brief(r.value)) for r in rows]))
    else:
        call.console.print(f"No key is in the group {group!r}.")


@command(group)
async def get(call: Call, group: Group, key: Key) -> None:
    """Print one value as JSON."""
    from everstep.cli.opening import reading
    from everstep.cli.shown import indented, plain

    async with reading(call) as store:
        row = await store.kv_get(group, key)
    if row is None:
        raise Refusal(f"there is no {key!r} in the group {group!r}")
    if call.json:
        call.document(plain(row.value))
    else:
        call.console.print(indented(row.value))


@command(group, "set")
async def set_(
    call: Call,
    group: Group,
    key: Key,
    value: Annotated[
        str, typer.Argument(metavar="JSON", help="The value as JSON; - reads it from standard input.")
    ],
) -> None:
    """Write one value, whatever was there."""
    from everstep.cli.opening import acting
    from everstep.codec import codec_for

    data = codec_for(Any).encode(one_json(value, "JSON"), f"state {group}/{key}")
    async with acting(call, create=True) as engine:
        old = await engine.kv_set(group, key, data)
    _changed(call, group, key, old, data)


@command(group)
async def delete(call: Call, group: Group, key: Key) -> None:
    """Remove one value; one that is not there stays so."""
    from everstep.cli.opening import acting

    async with acting(call) as engine:
        old = await engine.kv_delete(group, key)
    _changed(call, group, key, old, None)


@command(group)
async def clear(
    call: Call,
    group: Group,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a whole group."""
    from everstep.cli.opening import acting

    call.sure(f"Remove every key of the group {group!r}?", yes=yes)
    async with acting(call) as engine:
        gone = await engine.kv_clear(group)
    call.answer({"group": group, "deleted": gone}, f"Removed {count(gone, 'key')} of {group!r}.")


def _changed(call: Call, group: str, key: str, old: bytes | None, new: bytes | None) -> None:
    from everstep.cli.shown import brief, plain

    document = {"group": group, "key": key, "old": plain(old), "new": plain(new)}
    if old is None:
        text = f"{group}/{key} was not there." if new is None else f"{group}/{key} is {brief(new)}"
    else:
        text = f"{group}/{key} is {'removed' if new is None else brief(new)}; it was {brief(old)}"
    call.answer(document, text)
