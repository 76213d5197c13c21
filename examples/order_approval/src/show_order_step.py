"""GET /orders/:orderId: an order, and all that happened to it."""

from pydantic import BaseModel

from everstep import Request, Response, StepContext, on, step

from .orders import FLOW, ORDERS, TRAIL, Entry, Order, Problem


class Shown(BaseModel):
    order: Order
    trail: list[Entry]


@step(
    on.get("/orders/:orderId", responses={200: Shown, 404: Problem}),
    name="ShowOrder",
    flows=[FLOW],
)
async def show_order(ctx: StepContext, request: Request[None]) -> Shown | Response:
    """Show an order and its trail"""
    order_id = request.path_params["orderId"]
    order = await ctx.state.get(ORDERS, order_id, Order)
    if order is None:
        return Response({"error": "there is no such order"}, 404)
    trail = await ctx.state.get(TRAIL, order_id, list[Entry])
    return Shown(order=order, trail=trail or [])
