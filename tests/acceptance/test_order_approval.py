"""The order-approval example, driven as its users drive it: real processes, real HTTP, real kills."""

import random
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.project import Project, Server, eventually

EXAMPLE = Path(__file__).parents[2] / "examples" / "order_approval"
Json = dict[str, Any]

HIGH = {"customer": "Ada", "items": [{"sku": "laptop", "quantity": 12}], "total": 14_400}
LOW = {"customer": "Ada", "items": [{"sku": "pen", "quantity": 2}], "total": 12.5}
APPROVE = {"approved": True, "by": "grace@example.com", "reason": "known customer"}
REJECT = {"approved": False, "by": "grace@example.com", "reason": "too many laptops"}

LOW_PATH = ["submitted", "analyzed", "completed"]
APPROVED_PATH = ["submitted", "analyzed", "approved", "completed"]
REJECTED_PATH = ["submitted", "analyzed", "rejected"]
WAITING_PATH = ["submitted", "analyzed"]
ENDS = {tuple(LOW_PATH), tuple(APPROVED_PATH), tuple(REJECTED_PATH), tuple(WAITING_PATH)}


@pytest.fixture(params=["sqlite", "postgres"])
def example(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Project]:
    """The example's own files, on a store of its own."""
    store = request.getfixturevalue("postgres_url") if request.param == "postgres" else None
    with Project(tmp_path / "order_approval", store=store) as project:
        shutil.copytree(EXAMPLE / "src", project.root / "src", ignore=shutil.ignore_patterns("__pycache__"))
        yield project


# ---- what a client does


def submit(client: httpx.Client, order: Json) -> str:
    answer = client.post("/orders", json=order)
    assert answer.status_code == 201, answer.text
    assert answer.json()["status"] == "submitted"
    return str(answer.json()["orderId"])


def decide(client: httpx.Client, order_id: str, decision: Json) -> httpx.Response:
    return client.post(f"/webhooks/orders/{order_id}/approve", json=decision)


def shown(client: httpx.Client, order_id: str) -> Json:
    answer = client.get(f"/orders/{order_id}")
    assert answer.status_code == 200, answer.text
    body: Json = answer.json()
    return body


def until(client: httpx.Client, order_id: str, status: str) -> Json:
    """Wait until an order has a status; then what is shown of it."""

    def reached() -> Json | None:
        order = shown(client, order_id)
        return order if order["order"]["status"] == status else None

    found = eventually(reached, f"order {order_id} is {status}")
    assert found is not None
    return found


def assert_told(order: Json, path: list[str]) -> None:
    """What happened is *path*, each part once; marker and trail agree and no line is missing."""
    assert order["order"]["done"] == path
    assert [line["what"] for line in order["trail"]] == path
    assert_unbroken(order["trail"])


def assert_unbroken(trail: list[Json]) -> None:
    assert [line["number"] for line in trail] == list(range(1, len(trail) + 1))
    assert [line["after"] for line in trail] == list(range(len(trail)))
    assert all(line["who"] and line["at"] for line in trail)
    times = [line["at"] for line in trail]
    assert times == sorted(times)


# ---- the three paths


@pytest.mark.parametrize("command", ["dev", "start"])
def test_low_risk_is_completed_and_nobody_is_asked(example: Project, command: str) -> None:
    """A small order passes all Steps by itself; its trail says so."""
    server = example.start(command).wait_ready()

    order_id = submit(server.http, LOW)

    order = until(server.http, order_id, "completed")
    assert_told(order, LOW_PATH)
    assert order["order"]["risk"] == 0
    assert [line["who"] for line in order["trail"]] == ["Ada", "risk rule", "warehouse"]


@pytest.mark.parametrize("command", ["dev", "start"])
def test_high_risk_waits_and_an_approval_completes_it(example: Project, command: str) -> None:
    """A large order stops, with nothing running for it, until somebody approves it."""
    server = example.start(command).wait_ready()
    order_id = submit(server.http, HIGH)
    assert_told(until(server.http, order_id, "awaiting_approval"), WAITING_PATH)
    assert_nothing_is_on_its_way(example)

    answer = decide(server.http, order_id, APPROVE)

    assert (answer.status_code, answer.json()["status"]) == (200, "approved")
    order = until(server.http, order_id, "completed")
    assert_told(order, APPROVED_PATH)
    assert order["order"]["decided_by"] == "grace@example.com"
    assert order["trail"][2]["who"] == "grace@example.com"
    assert order["trail"][2]["why"] == "known customer"


def test_high_risk_rejected_ends_there(example: Project) -> None:
    """A rejection is written with who and why, and sends nothing."""
    server = example.serve()
    order_id = submit(server.http, HIGH)
    until(server.http, order_id, "awaiting_approval")

    answer = decide(server.http, order_id, REJECT)

    assert (answer.status_code, answer.json()["status"]) == (200, "rejected")
    order = shown(server.http, order_id)
    assert_told(order, REJECTED_PATH)
    assert order["order"]["reason"] == "too many laptops"
    assert_nothing_is_on_its_way(example)


def assert_nothing_is_on_its_way(example: Project) -> None:
    """Every run there is has ended: the order is only a row in state."""

    def all_done() -> bool:
        return all(run["status"] == "done" for run in runs(example, "--all"))

    eventually(all_done, "every run is done")


# ---- what is refused


def test_an_unknown_order_is_404(example: Project) -> None:
    """Neither shown nor decided."""
    server = example.serve()

    shown_ = server.http.get("/orders/nobody-knows-me")
    decided = decide(server.http, "nobody-knows-me", APPROVE)

    assert (shown_.status_code, decided.status_code) == (404, 404)


def test_an_order_that_does_not_wait_cannot_be_decided(example: Project) -> None:
    """400 for one that is completed, and for one that was decided before."""
    server = example.serve()
    low, high = submit(server.http, LOW), submit(server.http, HIGH)
    until(server.http, low, "completed")
    until(server.http, high, "awaiting_approval")
    assert decide(server.http, high, REJECT).status_code == 200

    refused = [decide(server.http, low, APPROVE), decide(server.http, high, APPROVE)]

    assert [answer.status_code for answer in refused] == [400, 400]
    assert "does not wait" in refused[0].json()["error"]
    assert shown(server.http, high)["order"]["status"] == "rejected"


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ({"items": [], "total": 1}, "items"),
        ({"items": [{"sku": "pen", "quantity": 0}], "total": 1}, "items"),
        ({"items": [{"sku": "pen", "quantity": 1}], "total": "much"}, "total"),
        ({"total": 1}, "items"),
        ([], ""),
    ],
)
def test_an_order_that_does_not_fit_is_400_with_its_faults(
    example: Project, body: object, fault: str
) -> None:
    """The path of what is wrong is named, and nothing is kept."""
    server = example.serve()

    answer = server.http.post("/orders", json=body)

    assert answer.status_code == 400
    assert any(fault in found["path"] for found in answer.json()["faults"])
    assert example.cli("state", "list") == []


# ---- two at once


@pytest.mark.parametrize("servers", [1, 2])
def test_of_many_decisions_at_once_exactly_one_counts(example: Project, servers: int) -> None:
    """Whoever is first decides; all others are told 400, also by another process of the same store."""
    running = [example.serve() for _ in range(servers)]
    clients = [running[n % servers].client() for n in range(8)]
    with ThreadPoolExecutor(len(clients)) as pool:
        for _ in range(10):
            order_id = submit(clients[0], HIGH)
            until(clients[0], order_id, "awaiting_approval")
            ready = threading.Barrier(len(clients))

            answers = list(
                pool.map(_decide_at_once, clients, range(len(clients)), [order_id] * 8, [ready] * 8)
            )

            assert sorted(answer.status_code for answer in answers) == [200] + [400] * 7
            winner = next(n for n, answer in enumerate(answers) if answer.status_code == 200)
            order = until(clients[0], order_id, "rejected" if winner % 2 else "completed")
            assert order["order"]["decided_by"] == f"person-{winner}"
            assert_told(order, REJECTED_PATH if winner % 2 else APPROVED_PATH)


def _decide_at_once(
    client: httpx.Client, number: int, order_id: str, ready: threading.Barrier
) -> httpx.Response:
    decision = {"approved": number % 2 == 0, "by": f"person-{number}", "reason": "I was first"}
    ready.wait()
    return decide(client, order_id, decision)


# ---- kill -9


@pytest.mark.parametrize("command", ["dev", "start"])
@pytest.mark.parametrize(("order", "status", "path"), [
    (LOW, "completed", LOW_PATH),
    (HIGH, "awaiting_approval", WAITING_PATH),
])
def test_killed_right_after_submit_answered(
    example: Project, command: str, order: Json, status: str, path: list[str]
) -> None:
    """What was answered 201 is on disk with its message: the next process goes on with it."""
    server = example.start(command).wait_ready()
    order_id = submit(server.http, order)
    server.kill9()

    server = example.start(command).wait_ready()

    assert_told(until(server.http, order_id, status), path)


def test_killed_while_it_waits_for_a_person(example: Project) -> None:
    """An order that waits is a row: it waits on through any number of deaths, and is decided then."""
    server = example.serve()
    order_id = submit(server.http, HIGH)
    until(server.http, order_id, "awaiting_approval")
    for _ in range(2):
        server.kill9()
        server = example.serve()
    assert_told(shown(server.http, order_id), WAITING_PATH)

    assert decide(server.http, order_id, APPROVE).status_code == 200

    assert_told(until(server.http, order_id, "completed"), APPROVED_PATH)


@pytest.mark.parametrize("command", ["dev", "start"])
def test_killed_right_after_the_approval_was_answered(example: Project, command: str) -> None:
    """An approval that was answered 200 counts, whatever happens next."""
    server = example.start(command).wait_ready()
    order_id = submit(server.http, HIGH)
    until(server.http, order_id, "awaiting_approval")
    assert decide(server.http, order_id, APPROVE).status_code == 200
    server.kill9()

    server = example.start(command).wait_ready()

    assert_told(until(server.http, order_id, "completed"), APPROVED_PATH)
    assert decide(server.http, order_id, APPROVE).status_code == 400


def test_killed_while_it_is_shipped(example: Project) -> None:
    """A completion that was cut short is made once by whoever comes next."""
    server = example.serve()
    order_id = submit(server.http, HIGH)
    until(server.http, order_id, "awaiting_approval")
    assert decide(server.http, order_id, APPROVE).status_code == 200
    running = "/api/v1/runs?status=running"
    eventually(lambda: _runs_of(server.http.get(running).json()["runs"]), "the order is being shipped")
    server.kill9()
    assert _runs_of(runs(example, "--status", "running")), "the kill came too late to cut it short"

    server = example.serve()

    order = until(server.http, order_id, "completed")
    assert_told(order, APPROVED_PATH)
    assert order["order"]["parcel"] == f"parcel-{order_id[:8]}"


def _runs_of(found: Any) -> bool:
    return any(run["handler"] == "CompleteOrder" for run in found)


def runs(example: Project, *which: str) -> list[Json]:
    """What `everstep runs list` prints, beside a server or without one."""
    ran = example.run("runs", "list", *which, "--json")
    assert ran.code == 0, str(ran)
    return ran.lines


@pytest.mark.parametrize("seed", range(6))
def test_killed_at_any_moment_under_load(example: Project, seed: int) -> None:
    """
    Orders and decisions pour in, and the process dies at a random moment, again and again.

    What was answered is kept; what was not is there as a whole or not at all.
    In the end every order has ended as it should, completed once, its trail unbroken.
    """
    chance = random.Random(seed)
    answered: dict[str, Json] = {}
    decided: dict[str, str] = {}
    for _ in range(3):
        server = example.serve()
        before = len(answered)
        with ThreadPoolExecutor(4) as pool:
            work = [pool.submit(_customers, server, chance.random(), answered, decided) for _ in range(4)]
            _wait_for_more(answered, before)
            _wait_a_little(chance)
            server.kill9()
            for done in work:
                done.result()

    server = example.serve()

    ids = [row["key"] for row in example.cli("state", "list", "orders")]
    assert set(answered) <= set(ids)
    ends = {order_id: _settled(server.http, order_id) for order_id in ids}
    for order_id, order in ends.items():
        assert tuple(order["order"]["done"]) in ENDS
        assert_told(order, order["order"]["done"])
        if order_id in decided:
            assert decided[order_id] in order["order"]["done"]
    assert_nothing_is_on_its_way(example)


def _customers(server: Server, seed: float, answered: dict[str, Json], decided: dict[str, str]) -> None:
    """Submit orders and decide about those that wait, until the server is gone."""
    chance = random.Random(seed)
    waiting: list[str] = []
    with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as client:
        while True:
            try:
                order = chance.choice([LOW, HIGH])
                order_id = submit(client, order)
                answered[order_id] = order
                if order is HIGH:
                    waiting.append(order_id)
                _decide_some(client, chance, waiting, decided)
            except httpx.TransportError:
                return


def _decide_some(
    client: httpx.Client, chance: random.Random, waiting: list[str], decided: dict[str, str]
) -> None:
    for order_id in list(waiting):
        if shown(client, order_id)["order"]["status"] != "awaiting_approval":
            continue
        waiting.remove(order_id)
        answer = decide(client, order_id, chance.choice([APPROVE, REJECT]))
        assert answer.status_code == 200, answer.text
        decided[order_id] = answer.json()["status"]


def _wait_for_more(answered: dict[str, Json], before: int) -> None:
    eventually(lambda: len(answered) > before, "the first order of this life is answered")


def _wait_a_little(chance: random.Random) -> None:
    """The moment of death is the one thing here that is left to the clock."""
    threading.Event().wait(chance.uniform(0, 0.8))


def _settled(client: httpx.Client, order_id: str) -> Json:
    """An order once nothing happens to it by itself any more."""

    def at_rest() -> Json | None:
        order = shown(client, order_id)
        return order if order["order"]["status"] in ("completed", "rejected", "awaiting_approval") else None

    found = eventually(at_rest, f"order {order_id} has come to rest")
    assert found is not None
    return found


def test_a_graceful_stop_hands_over_what_it_does_not_finish(example: Project) -> None:
    """SIGTERM ends with 0, and the next process completes what was on its way."""
    server = example.serve()
    ids = [submit(server.http, LOW) for _ in range(10)]

    assert server.stop() == 0

    server = example.serve()
    for order_id in ids:
        assert_told(until(server.http, order_id, "completed"), LOW_PATH)


# ---- the program people start


def test_the_steps_of_the_example_are_what_it_says(example: Project) -> None:
    """`everstep dev` prints each Step with its kind; none has a problem or a warning."""
    server = example.dev()

    for line in (
        "[CREATED] Step (Http) src/submit_order_step.py",
        "[CREATED] Step (Queue) src/analyze_risk_step.py",
        "[CREATED] Step (Noop) src/human_approval_gate_step.py",
        "[CREATED] Step (Http) src/decide_order_step.py",
        "[CREATED] Step (Queue) src/complete_order_step.py",
        "[CREATED] Step (Http) src/show_order_step.py",
        "[CREATED] Flow order-approval",
    ):
        server.wait_for(line)
    assert "[WARNING]" not in server.output
    assert "[PROBLEM]" not in server.output


