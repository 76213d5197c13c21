"""POST /webhooks/orders/:orderId/approve: a person decides, and the flow goes on where it stopped."""

from typing import Any

from pydantic import BaseModel, StrictBool

from everstep import Request, StateChanged, StepContext

from .orders import FLOW, ORDERS, Accepted, Order, Problem, Words, record


class Decision(BaseModel):
    """Who decided what, and why: the trail keeps all three."""

    approved: StrictBool  # "no" is not False here
    by: Words
    reason: Words


config = {
    "name": "DecideOrder",
    "description": "A person approves or rejects an order that waits",
    "triggers": [
        {
            "type": "http",
            "method": "POST",
            "path": "/webhooks/orders/:orderId/approve",
            "bodySchema": Decision,
            "responseSchema": {200: Accepted, 404: Problem},
        }
    ],
    "enqueues": ["order.approved"],
    "virtualSubscribes": ["human.decision"],
    "flows": [FLOW],
}


async def handler(request: Request[Decision], ctx: StepContext) -> dict[str, Any]:
    decision = request.body
    try:
        async with ctx.atomic():
            order = await ctx.state.get(ORDERS, request.path_params["orderId"], Order)
            if order is None:
                return {"status": 404, "body": {"error": "there is no such order"}}
            if order.status != "awaiting_approval":
                error = f"the order is {order.status}; it does not wait for a decision"
                return {"status": 400, "body": {"error": error}}
            order.status = "approved" if decision.approved else "rejected"
            order.decided_by, order.reason = decision.by, decision.reason
            await record(ctx, order, order.status, who=decision.by, why=decision.reason)
            if decision.approved:
                await ctx.enqueue({"topic": "order.approved", "data": {"orderId": order.id}})
    except StateChanged:
        # Two people decided at the same moment. The other one was first: nothing of ours was written.
        return {"status": 400, "body": {"error": "somebody else has just decided"}}
    ctx.logger.info("order decided", order=order.id, status=order.status, by=decision.by)
    return {"status": 200, "body": {"orderId": order.id, "status": order.status}}
