"""What an order is, how risky it is, and the one way its story is written down.

Steps import this file relatively (`from .orders import ...`); it is no Step
itself, for its name does not end in `_step`.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from everstep import StepContext, TerminalError, Topic

ORDERS = "orders"  # the two groups of state: an order by its id,
TRAIL = "trail"  # and what happened to it
FLOW = "order-approval"

NEEDS_A_PERSON = 40

Words = Annotated[str, Field(min_length=1, max_length=200)]


class Item(BaseModel):
    sku: Words
    quantity: int = Field(ge=1, le=100_000, strict=True)  # strict: true is not 1


class NewOrder(BaseModel):
    """What a customer sends."""

    customer: Words = "guest"
    items: list[Item] = Field(min_length=1, max_length=100)
    total: float = Field(ge=0, le=1e9, strict=True)


class Order(NewOrder):
    """What we keep.  `done` holds the marker of every Step that did its part."""

    id: str
    status: Literal["submitted", "awaiting_approval", "approved", "rejected", "completed"] = "submitted"
    done: list[str] = []
    risk: int | None = None
    decided_by: str | None = None
    reason: str | None = None
    parcel: str | None = None


class OrderId(BaseModel):
    """The message of all three topics: which order.  Everything else is in state."""

    orderId: str


class Entry(BaseModel):
    """One line of the trail.  `after` is the number of the line before, so that a gap would show."""

    number: int
    after: int
    at: str
    who: str
    what: str
    why: str = ""


class Accepted(BaseModel):
    """What whoever changes an order is told."""

    orderId: str
    status: str


class Problem(BaseModel):
    error: str


submitted = Topic("order.submitted", OrderId)
approved = Topic("order.approved", OrderId)
auto_approved = Topic("order.auto_approved", OrderId)


def risk_of(order: NewOrder) -> int:
    """From 0 to 70; the same order always has the same risk."""
    risk = 40 if order.total > 1_000 else 20 if order.total > 500 else 0
    if sum(item.quantity for item in order.items) > 10:
        risk += 30
    return risk


async def load(ctx: StepContext, order_id: str) -> Order:
    """The order a message is about."""
    order = await ctx.state.get(ORDERS, order_id, Order)
    if order is None:  # it was there when the message was sent: no retry will find it
        raise TerminalError(f"order {order_id} is gone from state")
    return order


async def record(ctx: StepContext, order: Order, marker: str, *, who: str, why: str = "") -> None:
    """
    Write the order with its marker, and the next line of its trail.

    Called inside `ctx.atomic()`, so that both are written, or neither is.
    """
    order.done.append(marker)
    await ctx.state.set(ORDERS, order.id, order)
    before: list[Any] = await ctx.state.get(TRAIL, order.id) or []
    line = Entry(
        number=len(before) + 1, after=len(before), at=ctx.now().isoformat(), who=who, what=marker, why=why
    )
    await ctx.state.update(TRAIL, order.id, [{"type": "append", "path": "", "value": line}])
