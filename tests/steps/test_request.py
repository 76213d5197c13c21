"""What a request brings, in our words and in Motia's."""

from copy import copy
from typing import Any

import pytest
from pydantic import BaseModel

from everstep.errors import NotEncodable
from everstep.steps.request import (
    Request,
    Response,
    Values,
    accept,
    dump_request,
    dump_response,
    load_request,
    load_response,
)
from everstep.steps.triggers import HttpTrigger
from everstep.steps.validator import InvalidInput, validator_of


class Order(BaseModel):
    total: int


class Page(BaseModel):
    page: int = 1
    tags: list[str] = []


def request(body: Any = None, query: list[tuple[str, str]] | None = None) -> Request[Any]:
    return Request(
        body=body,
        path_params={"id": "o-1"},
        query=Values(query or []),
        headers=Values([("Authorization", "Bearer x")], fold=True),
        cookies={"sid": "1"},
        raw_body=b"raw",
        method="POST",
        path="/orders/o-1",
    )


def trigger(**options: Any) -> HttpTrigger:
    return HttpTrigger(method="POST", path="/orders/:id", **options)


def test_a_request_answers_in_motias_words() -> None:
    """Attributes, keys and get() in camelCase read the same things."""
    req = request({"name": "a"}, [("page", "2"), ("tag", "a"), ("tag", "b")])

    assert req.get("body", {}).get("name") == req["body"]["name"] == req.body["name"] == "a"
    assert req.get("pathParams", {}).get("id") == req.pathParams["id"] == req.path_params["id"] == "o-1"
    assert req.get("queryParams") == req.queryParams == {"page": "2", "tag": ["a", "b"]}
    assert req.get("headers", {}).get("authorization") == "Bearer x"
    assert req.get("rawBody") == req.rawBody == req.raw_body == b"raw"


def test_get_answers_its_default_where_there_is_nothing() -> None:
    """A request without a body can be read like a dict without the key."""
    assert request().get("body", {}) == {}
    assert request().get("nothing", 5) == 5


def test_a_misspelt_part_says_which_was_meant() -> None:
    """A key that is not there names the nearest that is."""
    with pytest.raises(KeyError, match="Did you mean 'pathParams'"):
        request()["pathParam"]


def test_repeated_names_are_kept_in_order() -> None:
    """A query with a name twice has both values; reading one gives the last."""
    values = Values([("tag", "a"), ("page", "1"), ("tag", "b")])

    assert values["tag"] == "b"
    assert values.getlist("tag") == ["a", "b"]
    assert values.getlist("none") == []
    assert values.pairs() == [("tag", "a"), ("tag", "b"), ("page", "1")]


def test_headers_have_no_case() -> None:
    """A header is found however its name is written."""
    headers = Values([("X-Token", "1"), ("x-token", "2")], fold=True)

    assert headers["X-TOKEN"] == "2"
    assert "x-Token" in headers
    assert headers.getlist("X-Token") == ["1", "2"]


def test_accept_makes_the_body_what_was_declared() -> None:
    """The handler gets an instance of the declared type; the request of the client is left as it is."""
    given = request({"total": 5})

    accepted = accept(trigger(body=validator_of(Order)), given)

    assert accepted.body == Order(total=5)
    assert given.body == {"total": 5}


def test_accept_names_the_faults_of_body_and_query_together() -> None:
    """One answer tells the client all there is to mend."""
    declared = trigger(body=validator_of(Order), query_schema=validator_of(Page))

    with pytest.raises(InvalidInput) as caught:
        accept(declared, request({"total": "x"}, [("page", "y")]))

    assert [fault.path for fault in caught.value.faults] == ["body.total", "query.page"]


@pytest.mark.parametrize(
    "declared",
    [
        Page,
        {
            "properties": {
                "page": {"type": "integer"},
                "tags": {"type": "array", "items": {"type": "string"}},
            }
        },
    ],
    ids=["model", "schema"],
)
def test_a_query_is_read_as_its_schema_says(declared: Any) -> None:
    """Text becomes a number where one is declared, and a single value a list."""
    accepted = accept(
        trigger(query_schema=validator_of(declared)), request(query=[("page", "2"), ("tags", "a")])
    )

    parsed = accepted.parsed_query
    assert (parsed if isinstance(parsed, dict) else parsed.model_dump()) == {"page": 2, "tags": ["a"]}


def test_what_a_middleware_hung_on_a_request_stays_on_it() -> None:
    """Attributes of one's own survive the checking of the body, and can be read like the others."""
    req = request({"total": 1})
    req.user = "ada"  # type: ignore[attr-defined]  # what middleware does

    accepted = accept(trigger(body=validator_of(Order)), req)

    assert accepted["user"] == accepted.get("user") == "ada"


@pytest.mark.parametrize("body", [None, {"a": [1, 2.5, None]}, "text", b"\x00\xff"])
def test_a_request_comes_back_from_its_run(body: Any) -> None:
    """An idempotent request that another worker finishes is the same request."""
    before = request(body, [("tag", "a"), ("tag", "b")])
    if isinstance(body, bytes):
        before.raw_body = body

    after = load_request(dump_request(before))

    assert after == before
    assert after.query.getlist("tag") == ["a", "b"]
    assert after.headers["AUTHORIZATION"] == "Bearer x"


def test_a_request_that_cannot_be_kept_is_refused() -> None:
    """An uploaded file cannot be in an idempotent request."""
    with pytest.raises(NotEncodable):
        dump_request(request({"file": b"\x00"}))


@pytest.mark.parametrize("body", [None, {"ok": True}, "text", b"\x00\xff"])
def test_a_response_comes_back_from_its_run(body: Any) -> None:
    """A repeated request is answered with the stored response, byte for byte."""
    before = Response(body, 201, {"X-Id": "1"})

    assert load_response(dump_response(before)) == before


def test_a_model_in_a_stored_response_becomes_plain_data() -> None:
    """What is stored is what was sent."""
    assert load_response(dump_response(Response(Order(total=1)))).body == {"total": 1}


def test_a_part_that_is_not_there_is_told_what_was_meant() -> None:
    """As an attribute too; a copy of the request is not disturbed by it."""
    request = Request(body=1, path_params={"id": "o-1"})

    with pytest.raises(AttributeError, match="Did you mean 'path_params'"):
        _ = request.path_param  # type: ignore[attr-defined]
    assert copy(request) == request
