"""POST /orders: take an order, keep it, and send it to be looked at."""

from typing import Any

from everstep import Request, StepContext

from .orders import FLOW, Accepted, NewOrder, Order, record

config = {
    "name": "SubmitOrder",
    "description": "Take an order and send it to be analysed",
    "triggers": [
        {
            "type": "http",
            "method": "POST",
            "path": "/orders",
            "bodySchema": NewOrder,
            "responseSchema": {201: Accepted},
        }
    ],
    "enqueues": ["order.submitted"],
    "flows": [FLOW],
}


async def handler(request: Request[NewOrder], ctx: StepContext) -> dict[str, Any]:
    order = Order(id=str(ctx.uuid()), **request.body.model_dump())
    # Both or neither: an order nobody looks at, or a message about no order, cannot be.
    async with ctx.atomic():
        await record(ctx, order, "submitted", who=order.customer)
        await ctx.enqueue({"topic": "order.submitted", "data": {"orderId": order.id}})
    ctx.logger.info("order submitted", order=order.id)
    return {"status": 201, "body": {"orderId": order.id, "status": order.status}}
