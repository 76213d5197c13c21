"""Which route answers a method and a path."""

import pytest

from everstep.errors import ConfigError
from everstep.http.routes import Found, Router, pattern


def router(*routes: str) -> Router[str]:
    made: Router[str] = Router()
    for route in routes:
        method, path = route.split(" ")
        made.add(method, path, route)
    return made


def answer(made: Router[str], method: str, path: str, raw: bytes = b"") -> str | frozenset[str]:
    found = made.find(method, path, raw)
    return found.route.target if isinstance(found, Found) else found


def params(made: Router[str], path: str, raw: bytes = b"") -> dict[str, str]:
    found = made.find("GET", path, raw)
    assert isinstance(found, Found)
    return dict(found.params)


def test_a_fixed_segment_comes_before_a_parameter() -> None:
    """The order of declaration does not matter: what is more exact answers."""
    made = router("GET /orders/:id", "GET /orders/new", "GET /:a/:b")

    assert answer(made, "GET", "/orders/new") == "GET /orders/new"
    assert answer(made, "GET", "/orders/7") == "GET /orders/:id"
    assert answer(made, "GET", "/users/7") == "GET /:a/:b"


def test_a_method_that_does_not_fit_does_not_hide_a_route_behind() -> None:
    """POST /orders/new exists, and GET /orders/new is still answered by /orders/:id."""
    made = router("POST /orders/new", "GET /orders/:id", "DELETE /:a/:b")

    assert answer(made, "GET", "/orders/new") == "GET /orders/:id"
    assert answer(made, "DELETE", "/orders/new") == "DELETE /:a/:b"
    assert answer(made, "PUT", "/orders/new") == frozenset({"POST", "GET", "HEAD", "DELETE"})


def test_an_unknown_path_has_no_methods() -> None:
    """404 and 405 are told apart by whether any method is there."""
    made = router("GET /orders")

    assert answer(made, "GET", "/nothing") == frozenset()
    assert answer(made, "POST", "/orders") == frozenset({"GET", "HEAD"})
    assert answer(made, "GET", "/orders/7") == frozenset()


def test_head_is_answered_by_get() -> None:
    """Unless a Step takes HEAD itself."""
    made = router("GET /a", "GET /b", "HEAD /b", "GET /c/:id")

    assert answer(made, "HEAD", "/a") == "GET /a"
    assert answer(made, "HEAD", "/b") == "HEAD /b"
    assert answer(made, "HEAD", "/c/1") == "GET /c/:id"


@pytest.mark.parametrize(
    ("path", "raw", "value"),
    [
        ("/files/a b", b"/files/a%20b", "a b"),
        ("/files/a/b", b"/files/a%2Fb", "a/b"),
        ("/files/caf\u00e9", b"/files/caf%C3%A9", "caf\u00e9"),
        ("/files/100%", b"/files/100%25", "100%"),
        ("/files/\ufffd", b"/files/%ff", "\ufffd"),
        ("/files/x/", b"/files/x/", "x"),
    ],
)
def test_a_parameter_is_decoded_inside_its_segment(path: str, raw: bytes, value: str) -> None:
    """An encoded slash belongs to the value; what is no UTF-8 is replaced, never an error."""
    assert params(router("GET /files/:name"), path, raw) == {"name": value}


@pytest.mark.parametrize("path", ["/files/", "/files//", "/files"])
def test_a_parameter_is_never_empty(path: str) -> None:
    """/files/ is not /files/:name with no name."""
    assert answer(router("GET /files/:name"), "GET", path) == frozenset()


def test_parameter_names_differ_by_method() -> None:
    """One shape, two methods, each with its own name."""
    made = router("GET /orders/:id", "PUT /orders/:order_id")
    found = made.find("PUT", "/orders/7")

    assert params(made, "/orders/7") == {"id": "7"}
    assert isinstance(found, Found)
    assert found.params == {"order_id": "7"}


def test_one_route_has_one_target() -> None:
    """A second one is refused, naming both, whatever its parameter is called."""
    made: Router[str] = Router()
    made.add("GET", "/orders/:id", "first", source="a_step.py:3")

    with pytest.raises(ConfigError, match=r"b_step\.py:9.*a_step\.py:3") as refused:
        made.add("GET", "/orders/:orderId/", "second", source="b_step.py:9")

    assert refused.value.file == "b_step.py:9"


def test_a_page_of_ours_gives_way() -> None:
    """keep= leaves what is there."""
    made = router("GET /docs")
    made.add("GET", "/docs", "ours", keep=True)

    assert answer(made, "GET", "/docs") == "GET /docs"


def test_the_root_and_deep_paths() -> None:
    """No path is special."""
    made = router("GET /", "GET /:a", "GET /:a/:b/:c/d")

    assert answer(made, "GET", "/") == "GET /"
    assert answer(made, "GET", "/x") == "GET /:a"
    assert answer(made, "GET", "/1/2/3/d") == "GET /:a/:b/:c/d"
    assert answer(made, "GET", "/1/2/3/e") == frozenset()


def test_all_routes_can_be_listed() -> None:
    """For the documents made of them."""
    assert {r.target for r in router("GET /a", "POST /a", "GET /:x/b")} == {"GET /a", "POST /a", "GET /:x/b"}


def test_a_path_as_openapi_writes_it() -> None:
    """Parameters in braces, other segments encoded."""
    assert pattern("/orders/:orderId/caf\u00e9") == "/orders/{orderId}/caf%C3%A9"
    assert pattern("/") == "/"
