"""Ship an approved order, whoever approved it: one Step, two topics."""

import asyncio

from everstep import StepContext, on, step

from .orders import FLOW, OrderId, approved, auto_approved, load, record


async def ship(order_id: str) -> str:
    """The warehouse.  A crash in here means it is asked again: it knows the order by its id."""
    await asyncio.sleep(0.5)
    return f"parcel-{order_id[:8]}"


@step(on.queue(approved), on.queue(auto_approved), name="CompleteOrder", flows=[FLOW])
async def complete_order(ctx: StepContext, message: OrderId) -> None:
    """Ship an approved order"""
    # Its result is kept: a later attempt does not ship again.
    parcel = await ctx.run(ship, message.orderId)
    async with ctx.atomic():
        order = await load(ctx, message.orderId)
        if "completed" in order.done:
            return
        order.status, order.parcel = "completed", parcel
        await record(ctx, order, "completed", who="warehouse", why=parcel)
    ctx.logger.info("order completed", order=order.id, parcel=parcel)
