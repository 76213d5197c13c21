"""The bell between processes: heard at once, not overheard, and harmless."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from everstep.engine.doorbell import Doorbell

pytestmark = pytest.mark.anyio


@pytest.fixture
async def heard() -> list[float]:
    return []


@pytest.fixture
async def bell(heard: list[float]) -> AsyncIterator[Doorbell]:
    bell = Doorbell()
    await bell.hang(lambda: heard.append(asyncio.get_running_loop().time()))
    yield bell
    bell.close()


@pytest.fixture
async def neighbour() -> AsyncIterator[Doorbell]:
    bell = Doorbell()
    await bell.hang(lambda: None)
    yield bell
    bell.close()


async def test_whoever_rings_all_the_time_is_heard_now_and_then(
    bell: Doorbell, neighbour: Doorbell, heard: list[float]
) -> None:
    """Each ring makes its hearer look into the store: a storm of them must not be a storm of looks."""
    began = asyncio.get_running_loop().time()
    last = began
    for _ in range(100):
        for _ in range(10):
            neighbour.ring([bell.address])
        last = asyncio.get_running_loop().time()
        await asyncio.sleep(0.0005)
    await asyncio.sleep(0.05)

    assert 1 <= len(heard) <= 2 + (last - began) / 0.005
    assert heard[-1] >= last, "the last ring was not heard"


@pytest.mark.parametrize(
    "address", ["udp://127.0.0.1:", "udp://127.0.0.1:door", "udp://127.0.0.1:99999", "x"]
)
async def test_an_address_that_is_none_is_passed_over(
    bell: Doorbell, neighbour: Doorbell, heard: list[float], address: str
) -> None:
    """Whatever a row says, those behind it are rung."""
    neighbour.ring([address, bell.address])
    await asyncio.sleep(0.05)

    assert len(heard) == 1
