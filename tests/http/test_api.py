"""The API for operations, against a real engine."""

from typing import Any

import httpx
import pytest

from everstep.app import App
from everstep.core.retry import Retry
from everstep.core.status import Status
from everstep.errors import TerminalError
from everstep.http import api
from everstep.steps.context import StepContext
from everstep.steps.on import on, step
from everstep.steps.step import Step
from everstep.steps.topic import Topic
from tests.http.serving import app_of, client_of

pytestmark = pytest.mark.anyio

API = "/api/v1"
NEVER = Retry(attempts=1)


class Charger:
    """A Step that fails for good until it is told not to."""

    def __init__(self) -> None:
        self.broken = True
        self.got: list[Any] = []
        charger = self

        @step(on.queue("order.placed"), enqueues=["order.charged"], flows=["shop"])
        async def charge(ctx: StepContext, order: Any) -> None:
            charger.got.append(order)
            if charger.broken:
                raise TerminalError("card refused")

        self.step = charge


def noop() -> Step[Any, Any]:
    return Step(
        name="Gate", virtual_subscribes=("order.charged",), flows=("shop",), file="gate_step.py", line=1
    )


async def ended(app: App, rid: str) -> Status:
    return (await app.engine.result(rid, timeout=5)).state


async def placed(app: App, client: httpx.AsyncClient, data: Any) -> str:
    """The id of a run a message made, once it ended."""
    await client.post(f"{API}/enqueue", json={"topic": "order.placed", "data": data})
    rid: str = (await client.get(f"{API}/runs?limit=1")).json()["runs"][0]["id"]
    await ended(app, rid)
    return rid


async def test_a_message_becomes_a_run_that_can_be_looked_at() -> None:
    """Its list, its page, its input, its failed attempts."""
    charger = Charger()
    app = app_of(charger.step)
    async with app, client_of(app) as client:
        sent = await client.post(f"{API}/enqueue", json={"topic": "order.placed", "data": {"id": "o-1"}})
        rid = (await client.get(f"{API}/runs")).json()["runs"][0]["id"]
        await ended(app, rid)
        shown = (await client.get(f"{API}/runs/{rid}")).json()

    assert (sent.status_code, sent.json()["handlers"]) == (202, ["charge"])
    assert (shown["handler"], shown["status"], shown["input"]) == ("charge", "failed", {"id": "o-1"})
    assert shown["error"]["message"] == "card refused"
    assert shown["history"][0]["type"] == "TerminalError"


async def test_a_dead_letter_is_edited_and_redriven() -> None:
    """Same run, new input, and it ends well."""
    charger = Charger()
    app = app_of(charger.step)
    async with app, client_of(app) as client:
        rid = await placed(app, client, {"id": "o-1"})
        dead = (await client.get(f"{API}/dlq")).json()["runs"]
        charger.broken = False
        redriven = await client.post(f"{API}/dlq/{rid}/redrive", json={"input": {"id": "o-2"}})
        after = await ended(app, rid)
        left = (await client.get(f"{API}/dlq")).json()["runs"]
        again = await client.post(f"{API}/dlq/{rid}/redrive")

    assert [run["id"] for run in dead] == [rid]
    assert redriven.status_code == 200
    assert after == Status.DONE
    assert charger.got == [{"id": "o-1"}, {"id": "o-2"}]
    assert left == []
    assert again.status_code == 409


async def test_dead_letters_are_redriven_in_bulk() -> None:
    """Oldest first, at a rate; a second call finds nothing."""
    charger = Charger()
    app = app_of(charger.step)
    async with app, client_of(app) as client:
        rids = [await placed(app, client, number) for number in range(3)]
        charger.broken = False
        charger.got.clear()
        first = (await client.post(f"{API}/dlq/redrive", json={"handler": "charge", "rate": 1_000})).json()
        for rid in rids:
            await ended(app, rid)
        second = (await client.post(f"{API}/dlq/redrive")).json()

    assert first == {"done": rids, "left": 0}
    assert charger.got == [0, 1, 2]
    assert second == {"done": [], "left": 0}


async def test_dead_letters_are_chosen_by_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    """To look at and to redrive, also when those of another topic fill whole pages."""
    monkeypatch.setattr(api, "MOST", 5)

    @step(on.queue("order.placed", retry=NEVER), on.queue("order.paid", retry=NEVER))
    async def charge(ctx: StepContext, number: int) -> None:
        raise TerminalError("card refused")

    app = app_of(charge)
    async with app, client_of(app) as client:
        rids = []
        for topic in ("order.paid", "order.paid", *["order.placed"] * 7):
            await client.post(f"{API}/enqueue", json={"topic": topic, "data": 1})
            rids.append((await client.get(f"{API}/runs?limit=1")).json()["runs"][0]["id"])
            await ended(app, rids[-1])
        paid = (await client.get(f"{API}/dlq?topic=order.paid")).json()
        one = (await client.get(f"{API}/dlq?topic=order.paid&limit=1")).json()
        other = (await client.get(f"{API}/runs?topic=order.paid&before={one['next']}")).json()
        none = (await client.get(f"{API}/dlq?topic=order.paid&handler=Other")).json()
        done = await client.post(f"{API}/dlq/discard", json={"topic": "order.paid", "limit": 3})

    assert [run["id"] for run in paid["runs"]] == [rids[1], rids[0]]
    assert [run["id"] for run in one["runs"] + other["runs"]] == [rids[1], rids[0]]
    assert none == {"runs": [], "next": None}
    assert done.json() == {"done": rids[:2], "left": 0}


async def test_a_message_that_lacks_its_group_is_told_how_to_say_it() -> None:
    """In the words of the API, not in Python; who misspells it is told of it too."""

    @step(on.queue("in.order", fifo=True))
    async def reader(ctx: StepContext, data: Any) -> None: ...

    app = app_of(reader)
    async with app, client_of(app) as client:
        without = await client.post(f"{API}/enqueue", json={"topic": "in.order", "data": 1})
        wrong = await client.post(f"{API}/enqueue", json={"topic": "in.order", "data": 1, "grup": "a"})

    [fault] = without.json()["faults"]
    assert without.status_code == wrong.status_code == 400
    assert fault["path"] == "body.group"
    assert 'give "group"' in fault["message"]
    assert "ctx" not in without.text
    assert "Did you mean 'group'?" in wrong.text


async def test_dead_letters_are_discarded() -> None:
    """One, or all."""
    charger = Charger()
    app = app_of(charger.step)
    async with app, client_of(app) as client:
        rids = [await placed(app, client, number) for number in range(3)]
        one = await client.post(f"{API}/dlq/{rids[0]}/discard")
        all_of_them = await client.post(f"{API}/dlq/discard", json={"limit": 10})
        left = (await client.get(f"{API}/dlq")).json()["runs"]

    assert one.status_code == 200
    assert set(all_of_them.json()["done"]) == set(rids[1:])
    assert left == []


async def test_pages_follow_each_other() -> None:
    """`next` of one is `before` of the other; nothing is shown twice."""
    charger = Charger()
    app = app_of(charger.step)
    async with app, client_of(app) as client:
        rids = [await placed(app, client, number) for number in range(5)]
        seen: list[str] = []
        page: dict[str, Any] = {"next": ""}
        while page["next"] is not None:
            before = f"&before={page['next']}" if page["next"] else ""
            page = (await client.get(f"{API}/runs?limit=2{before}&status=failed")).json()
            seen += [run["id"] for run in page["runs"]]

    assert seen == rids[::-1]


async def test_state_is_read_and_changed() -> None:
    """Groups, keys, one value; the old one is told."""
    app = app_of()
    async with app, client_of(app) as client:
        created = await client.put(f"{API}/state/orders/o%2F1", json={"total": 1})
        changed = await client.put(f"{API}/state/orders/o%2F1", json=[2])
        groups = await client.get(f"{API}/state")
        group = await client.get(f"{API}/state/orders")
        value = await client.get(f"{API}/state/orders/o%2F1")
        removed = await client.delete(f"{API}/state/orders/o%2F1")
        missing = await client.get(f"{API}/state/orders/o%2F1")
        await client.put(f"{API}/state/orders/b", json=None)
        cleared = await client.delete(f"{API}/state/orders")

    assert (created.json()["old_value"], changed.json()["old_value"]) == (None, {"total": 1})
    assert groups.json() == {"groups": [{"group": "orders", "count": 1}]}
    assert [(item["key"], item["value"]) for item in group.json()["items"]] == [("o/1", [2])]
    assert value.json()["value"] == [2]
    assert removed.json()["old_value"] == [2]
    assert missing.status_code == 404
    assert cleared.json()["removed"] == 1


async def test_bytes_in_state_are_shown_as_such() -> None:
    """JSON has no bytes."""
    app = app_of()
    async with app, client_of(app) as client:
        await app.state.set("files", "a", b"\x00\xff")
        shown = (await client.get(f"{API}/state/files/a")).json()

    assert shown["value"] == {"base64": "AP8="}


async def test_the_steps_and_the_picture_of_their_flow() -> None:
    """Edges by topic; one whose end is only drawn is virtual."""

    @step(on.post("/orders"), enqueues=["order.placed"], flows=["shop"])
    async def place(ctx: StepContext, req: Any) -> None: ...

    app = app_of(place, Charger().step, noop())
    async with app, client_of(app) as client:
        told = (await client.get(f"{API}/steps")).json()

    assert {(s["name"], s["kind"], s["noop"]) for s in told["steps"]} == {
        ("place", "Http", False),
        ("charge", "Queue", False),
        ("Gate", "Noop", True),
    }
    assert {(e["from"], e["to"], e["topic"], e["virtual"]) for e in told["edges"]} == {
        ("place", "charge", "order.placed", False),
        ("charge", "Gate", "order.charged", True),
    }
    assert set(told["flows"]["shop"]) == {"place", "charge", "Gate"}


async def test_a_message_nobody_listens_to_is_unrouted() -> None:
    """Kept, and visible."""
    app = app_of()
    async with app, client_of(app) as client:
        sent = (await client.post(f"{API}/enqueue", json={"topic": "lost", "data": 1})).json()
        unrouted = (await client.get(f"{API}/unrouted")).json()["messages"]

    assert sent["handlers"] == []
    assert [(m["id"], m["topic"], m["data"]) for m in unrouted] == [(sent["id"], "lost", 1)]


async def test_counts_and_workers() -> None:
    """How many runs are where, and who works."""
    charger = Charger()
    app = app_of(charger.step)
    async with app, client_of(app) as client:
        await placed(app, client, 1)
        counts = (await client.get(f"{API}/counts")).json()
        workers = (await client.get(f"{API}/workers")).json()["workers"]

    assert counts == {"handlers": [{"handler": "charge", "counts": {"failed": 1}}]}
    assert [worker["alive"] for worker in workers] == [True]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/runs/nope", None, 404),
        ("POST", "/runs/nope/cancel", None, 404),
        ("POST", "/runs/nope/explode", None, 404),
        ("GET", "/dlq/nope", None, 404),
        ("POST", "/dlq/nope/redrive", None, 404),
        ("GET", "/runs?status=finished", None, 400),
        ("GET", "/runs?limit=ten", None, 400),
        ("GET", "/runs?limit=99999", None, 400),
        ("GET", "/runs?before=" + "9" * 40, None, 400),
        ("POST", "/enqueue", b"{", 400),
        ("POST", "/enqueue", b"[]", 400),
        ("POST", "/enqueue", b"{}", 400),
        ("POST", "/enqueue", b'{"topic": ""}', 400),
        ("POST", "/enqueue", b'{"topic": 7}', 400),
        ("POST", "/enqueue", b'{"topic": "a", "dta": 1}', 400),
        ("POST", "/enqueue", b'{"topic": "a", "delay": "soon"}', 400),
        ("POST", "/enqueue", b'{"topic": "a", "delay": {}}', 400),
        ("POST", "/enqueue", b'{"topic": "a", "priority": "high"}', 400),
        ("POST", "/enqueue", b'{"topic": "a", "priority": 1e300}', 400),
        ("POST", "/enqueue", b'{"topic": "a", "group": 7}', 400),
        ("POST", "/dlq/redrive", b'{"rate": 0}', 400),
        ("POST", "/dlq/redrive", b'{"rate": true}', 400),
        ("POST", "/dlq/redrive", b'{"limit": 1e9}', 400),
        ("POST", "/dlq/redrive", b'{"handler": 7}', 400),
        ("POST", "/dlq/redrive", b'{"topic": 7}', 400),
        ("PUT", "/state/g/k", b"nonsense", 400),
        ("PUT", "/state/g/k", b'"' + b"x" * 2_000 + b'"', 413),
        ("DELETE", "/runs", None, 405),
        ("GET", "/nothing", None, 404),
    ],
)
async def test_bad_calls_are_refused(method: str, path: str, body: bytes | None, status: int) -> None:
    """Each with a status and a sentence, never a 500."""
    app = app_of(body_limit=1_000)
    async with app, client_of(app) as client:
        answer = await client.request(method, API + path, content=body)

    assert answer.status_code == status
    assert answer.json()["error"]


async def test_a_message_must_fit_the_steps_that_listen() -> None:
    """What is known here is checked here, before it is sent."""

    @step(on.queue(Topic("numbers", int)))
    async def count(ctx: StepContext, number: int) -> None: ...

    app = app_of(count)
    async with app, client_of(app) as client:
        answer = await client.post(f"{API}/enqueue", json={"topic": "numbers", "data": "seven"})

    assert answer.status_code == 400
    assert answer.json()["faults"][0]["path"] == "data"


async def test_only_this_machine_or_the_token() -> None:
    """From elsewhere 403; with a token configured, everyone needs it."""
    app = app_of()
    async with (
        app,
        client_of(app, address="10.1.1.1") as far,
        client_of(app, base="http://evil.example") as odd,
    ):
        from_far, by_name = await far.get(f"{API}/runs"), await odd.get(f"{API}/runs")
    opened = app_of(token="s3cret")
    async with opened, client_of(opened, address="10.1.1.1") as far, client_of(opened) as near:
        with_token = await far.get(f"{API}/runs", headers={"authorization": "Bearer s3cret"})
        without = await near.get(f"{API}/runs")

    assert (from_far.status_code, by_name.status_code) == (403, 403)
    assert (with_token.status_code, without.status_code) == (200, 401)
