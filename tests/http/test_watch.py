"""Watching the client of a request that takes long."""

import asyncio

import pytest
from starlette.types import Message

from everstep.http.watch import TICK, Late, Left, Watch, Watches

pytestmark = pytest.mark.anyio


class Client:
    """A client that stays until it is told to hang up."""

    def __init__(self) -> None:
        self.asked = 0
        self.left = asyncio.Event()

    async def receive(self) -> Message:
        self.asked += 1
        await self.left.wait()
        return {"type": "http.disconnect"}


async def test_a_quick_request_is_not_watched() -> None:
    """Nothing is asked of its client, and no timer is left behind."""
    client, watches = Client(), Watches()
    with Watch(watches, client.receive, 30):
        await asyncio.sleep(0)
    await asyncio.sleep(3 * TICK)

    assert client.asked == 0
    assert not watches._ticking


async def test_a_client_that_leaves_ends_the_block() -> None:
    """With everything else still at work."""
    client, other, watches = Client(), Client(), Watches()

    async def serve(of: Client) -> str:
        with Watch(watches, of.receive, 30):
            await asyncio.sleep(4 * TICK)
        return "done"

    left, stayed = asyncio.create_task(serve(client)), asyncio.create_task(serve(other))
    client.left.set()

    with pytest.raises(Left):
        await left
    assert await stayed == "done"


@pytest.mark.parametrize("timeout", [TICK / 5, 2.5 * TICK])
async def test_a_block_that_takes_too_long_ends(timeout: float) -> None:
    """At its time, be it shorter or longer than the tick."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(Late), Watch(Watches(), Client().receive, timeout):
        await asyncio.sleep(60)

    assert timeout <= loop.time() - began < timeout + 1


async def test_a_server_that_stops_wins() -> None:
    """The task's own cancellation is not taken for ours."""
    client, watches = Client(), Watches()

    async def serve() -> None:
        with Watch(watches, client.receive, 30):
            await asyncio.sleep(60)

    task = asyncio.create_task(serve())
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_block_that_ends_well_in_spite_of_it_has_its_result() -> None:
    """What it cleaned up and answered is not thrown away, and the task is not marked cancelled."""
    client, watches = Client(), Watches()
    client.left.set()
    answer = ""
    with Watch(watches, client.receive, 30):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            answer = "saved"

    assert answer == "saved"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
