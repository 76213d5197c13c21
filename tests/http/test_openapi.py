"""The OpenAPI document of the Steps."""

from enum import Enum
from typing import Any, Literal

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import BaseModel, Field

from everstep.http.openapi import Components, document
from everstep.http.pages import render
from everstep.steps.on import on, step
from everstep.steps.step import Step


class Colour(Enum):
    RED = "red"


class Item(BaseModel):
    sku: str
    colour: Colour = Colour.RED


class Tree(BaseModel):
    children: list["Tree"] = []


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


class Order(BaseModel):
    id: str
    items: list[Item]
    tree: Tree | None = None
    pet: Cat | Dog = Field(Cat(kind="cat"), discriminator="kind")


class Page(BaseModel):
    page: int = 1
    colour: Colour | None = None


OTHER = {
    "title": "Order",
    "type": "object",
    "$defs": {"Item": {"type": "integer"}},
    "properties": {"item": {"$ref": "#/$defs/Item"}},
}
LINKED = {
    "type": "object",
    "properties": {"next": {"$ref": "#"}, "same": {"$ref": "#/properties/id"}, "id": {"type": "string"}},
}
WHOLE = {"$id": "https://example.org/x", "$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}}


def declared(*triggers: Any, name: str, **options: Any) -> Step[Any, Any]:
    async def fn(ctx: Any, req: Any) -> None: ...

    made: Step[Any, Any] = step(*triggers, name=name, **options)(fn)
    return made


STEPS = [
    declared(
        on.post("/orders", body=Order, responses={201: Item, 400: {"type": "object"}}),
        name="Create",
        flows=["shop"],
    ),
    declared(on.get("/orders", query=Page), name="List"),
    declared(on.get("/orders/:orderId", query=["full"]), name="Show"),
    declared(
        on.put("/orders/:orderId", body=OTHER), on.patch("/orders/:orderId", body=LINKED), name="Change"
    ),
    declared(on.post("/raw", body=bytes), name="Raw"),
    declared(on.post("/text", body=str), name="Text"),
    declared(on.post("/whole", body=WHOLE), name="Whole"),
    declared(on.post("/maybe", body=Order | None), name="Maybe"),
    declared(on.queue("orders"), name="Queue"),
]


@pytest.fixture
def spec() -> dict[str, Any]:
    return document(STEPS, title="Shop", version="1")


def resolve(spec: dict[str, Any], node: dict[str, Any]) -> Any:
    while "$ref" in node:
        found: Any = spec
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        node = found
    return node


def test_it_is_valid(spec: dict[str, Any]) -> None:
    """By the schema of OpenAPI 3.1, with every reference leading somewhere."""
    OpenAPIV31SpecValidator(spec).validate()

    waiting: list[Any] = [spec]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            reference = node.get("$ref", "#")
            if reference.startswith("#/components"):
                resolve(spec, node)
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)


def test_only_steps_with_a_route_are_in_it(spec: dict[str, Any]) -> None:
    """Each by its name, parameters in braces."""
    named = {
        operation["operationId"]: (method, path)
        for path, methods in spec["paths"].items()
        for method, operation in methods.items()
    }

    assert named["Show"] == ("get", "/orders/{orderId}")
    assert named["Change"] == ("put", "/orders/{orderId}")
    assert named["Change-2"] == ("patch", "/orders/{orderId}")
    assert "Queue" not in named


def test_models_become_components_by_their_name(spec: dict[str, Any]) -> None:
    """Used twice, one of them; a different one of the same name gets a number."""
    schemas = spec["components"]["schemas"]
    created = spec["paths"]["/orders"]["post"]
    body = created["requestBody"]["content"]["application/json"]["schema"]
    response = created["responses"]["201"]["content"]["application/json"]["schema"]

    assert body == {"$ref": "#/components/schemas/Order"}
    assert response == {"$ref": "#/components/schemas/Item"}
    assert schemas["Order"]["properties"]["items"]["items"] == response
    assert schemas["Tree"]["properties"]["children"]["items"] == {"$ref": "#/components/schemas/Tree"}
    assert (
        schemas["Order"]["properties"]["pet"]["discriminator"]["mapping"]["cat"] == "#/components/schemas/Cat"
    )
    assert schemas["Order2"]["properties"]["item"] == {"$ref": "#/components/schemas/Item2"}
    assert schemas["Item2"] == {"type": "integer"}
    assert "Item3" not in schemas


def test_references_to_the_document_itself_lead_to_its_component(spec: dict[str, Any]) -> None:
    """`#` and `#/properties/id` mean the schema they are written in."""
    schema = spec["paths"]["/orders/{orderId}"]["patch"]["requestBody"]["content"]["application/json"][
        "schema"
    ]
    properties = resolve(spec, schema)["properties"]

    assert properties["next"] == schema
    assert resolve(spec, properties["same"]) == {"type": "string"}


def test_a_schema_with_an_id_stays_whole() -> None:
    """Its references are to itself, wherever it stands."""
    assert Components().add(WHOLE, "Whole") == WHOLE


def test_bodies_and_their_content_types(spec: dict[str, Any]) -> None:
    """JSON, unless bytes or text are declared; required, unless nothing will do."""
    bodies = {
        path: spec["paths"][path]["post"]["requestBody"] for path in ("/raw", "/text", "/maybe", "/orders")
    }

    assert list(bodies["/raw"]["content"]) == ["application/octet-stream"]
    assert list(bodies["/text"]["content"]) == ["text/plain"]
    assert bodies["/orders"]["required"] is True
    assert bodies["/maybe"]["required"] is False


def test_parameters(spec: dict[str, Any]) -> None:
    """Of the path, of a query's schema or its list, and the key of an unsafe method."""
    by_name = {p["name"]: p for p in spec["paths"]["/orders"]["get"]["parameters"]}
    shown = {p["name"]: p for p in spec["paths"]["/orders/{orderId}"]["get"]["parameters"]}
    posted = {p["name"]: p for p in spec["paths"]["/orders"]["post"]["parameters"]}

    assert by_name["page"]["schema"]["type"] == "integer"
    assert "red" in str(by_name["colour"]["schema"])
    assert (shown["orderId"]["in"], shown["orderId"]["required"]) == ("path", True)
    assert shown["full"]["in"] == "query"
    assert posted["Idempotency-Key"]["in"] == "header"


def test_what_we_may_answer_is_said_where_it_may_happen(spec: dict[str, Any]) -> None:
    """A GET is never 413; a body that is declared may be 415."""
    create = set(spec["paths"]["/orders"]["post"]["responses"])
    show = set(spec["paths"]["/orders/{orderId}"]["get"]["responses"])

    assert {"201", "400", "409", "413", "415", "422", "500", "503", "504", "default"} == create
    assert {"200", "404", "500", "503", "504", "default"} == show


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing() -> None:
    """Whatever a description says."""
    page = render(document([declared(on.get("/<script>"), name="X<script>alert(1)</script>")]))

    assert "<script" not in page
    assert "http://" not in page
    assert "https://" not in page
