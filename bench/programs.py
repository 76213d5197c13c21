"""The functions and bodies that are measured."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

PAD = "x" * 80


async def note(number: int) -> dict[str, Any]:
    """A call that costs nothing but its journal entry, of about a hundred bytes."""
    return {"number": number, "pad": PAD}


class Line(BaseModel):
    """One line of an order."""

    sku: str
    count: int
    price: float


class Order(BaseModel):
    """An argument as applications have them."""

    id: str
    customer: str
    lines: list[Line]
    note: str | None = None


class Receipt(BaseModel):
    """A result as applications have them."""

    order: str
    total: float
    paid: bool


async def charge(order: Order) -> Receipt:
    """A typed call that costs nothing but its journal entry."""
    return Receipt(order=order.id, total=sum(line.count * line.price for line in order.lines), paid=True)


async def ten_calls(ctx: Any, given: Any) -> dict[str, bool]:
    """Ten calls, one after the other."""
    for number in range(10):
        await ctx.run(note, number)
    return {"ok": True}


async def ten_typed_calls(ctx: Any, given: Any) -> dict[str, bool]:
    """Ten calls with pydantic arguments and results."""
    for number in range(10):
        lines = [Line(sku="tea", count=2, price=3.5), Line(sku="cup", count=number, price=9.0)]
        await ctx.run(charge, Order(id=f"o-{number}", customer="ada", lines=lines))
    return {"ok": True}


async def one_call(ctx: Any, given: Any) -> dict[str, bool]:
    """The smallest workflow that does something."""
    await ctx.run(note, 1)
    return {"ok": True}
