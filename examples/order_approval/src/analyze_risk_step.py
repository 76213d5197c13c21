"""Look at a new order: go on at once when it is harmless, else stop and let a person decide."""

from typing import Any

from everstep import StepContext

from .orders import FLOW, NEEDS_A_PERSON, load, record, risk_of

config = {
    "name": "AnalyzeRisk",
    "description": "Approve low risk at once; let a person decide about high risk",
    "triggers": [{"type": "queue", "topic": "order.submitted"}],
    "enqueues": ["order.auto_approved"],
    "virtualEnqueues": [{"topic": "approval.required", "label": "a person decides"}],
    "flows": [FLOW],
}


async def handler(message: dict[str, Any], ctx: StepContext) -> None:
    async with ctx.atomic():
        order = await load(ctx, message["orderId"])
        if "analyzed" in order.done:
            return  # a message may come twice; our marker says that we did this
        order.risk = risk_of(order)
        if order.risk >= NEEDS_A_PERSON:
            order.status = "awaiting_approval"
            await record(ctx, order, "analyzed", who="risk rule", why=f"risk {order.risk}: a person decides")
            # Nothing is enqueued, so nothing runs: the order waits in state, for as
            # long as it takes, until somebody calls the webhook.
        else:
            order.status = "approved"
            await record(ctx, order, "analyzed", who="risk rule", why=f"risk {order.risk}: nobody is asked")
            await ctx.enqueue({"topic": "order.auto_approved", "data": {"orderId": order.id}})
    ctx.logger.info("order analysed", order=order.id, risk=order.risk, status=order.status)
