"""Who may use the API for operations."""

import pytest

from everstep.http.guard import admit, host_name, is_loopback
from everstep.http.refusals import Refusal

HOST = {"host": "localhost:3111"}


def status(
    method: str = "GET",
    headers: dict[str, str] | None = None,
    client: str | None = "127.0.0.1",
    token: str = "",
) -> int:
    try:
        admit(method, {**HOST, **(headers or {})}, client, token)
    except Refusal as refusal:
        return refusal.status
    return 200


@pytest.mark.parametrize("client", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", None])
def test_this_machine_needs_no_token(client: str | None) -> None:
    """By whatever of its addresses, or through a socket that has none."""
    assert status(client=client) == 200


@pytest.mark.parametrize("client", ["10.0.0.2", "192.168.1.4", "::2", "::ffff:10.0.0.2", "evil", ""])
def test_another_machine_needs_the_token(client: str) -> None:
    """Without one configured nobody from elsewhere gets in."""
    assert status(client=client) == 403


@pytest.mark.parametrize("name", ["x-forwarded-for", "forwarded", "via", "x-real-ip"])
def test_a_proxy_on_this_machine_is_not_this_machine(name: str) -> None:
    """Whom it speaks for is unknown."""
    assert status(headers={name: "1.2.3.4"}) == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:3111", "10.0.0.1", "", "[::", "localhost.evil.example"]
)
def test_another_name_for_this_machine_is_refused(host: str) -> None:
    """A web page may point its own name at 127.0.0.1 once the browser trusts it."""
    assert status(headers={"host": host}) == 403


def test_the_token_opens_from_anywhere_and_is_then_needed_everywhere() -> None:
    """Also on this machine: one rule."""
    assert status(client="10.0.0.2", headers={"authorization": "Bearer s3cret"}, token="s3cret") == 200
    assert status(client="10.0.0.2", headers={"authorization": "bearer  s3cret"}, token="s3cret") == 200
    assert status(token="s3cret") == 401
    assert status(headers={"authorization": "Bearer s3cre"}, token="s3cret") == 401
    assert status(headers={"authorization": "Basic s3cret"}, token="s3cret") == 401
    assert status(headers={"authorization": "Bearer \u00e9\u00ff"}, token="s3cret") == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:8000"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_page_of_another_site_changes_nothing(headers: dict[str, str]) -> None:
    """It may not even with the token; to read is refused to it by the browser."""
    assert status("POST", headers) == 403
    assert status("POST", {**headers, "authorization": "Bearer t"}, token="t") == 403
    assert status("GET", headers) == 200


def test_our_own_page_may() -> None:
    """Its origin is where it came from."""
    assert status("POST", {"origin": "http://localhost:3111", "sec-fetch-site": "same-origin"}) == 200


def test_names_and_addresses_of_this_machine() -> None:
    """Nothing that only looks like one."""
    assert [is_loopback(h) for h in ("LOCALHOST", "a.localhost", "127.1.1.1", "::1", "localhost.")] == [
        True
    ] * 5
    assert [is_loopback(h) for h in ("", "localhosts", "127.0.0.1.evil.example", "0.0.0.0")] == [False] * 4
    assert [host_name(h) for h in ("a:1", "[::1]:1", "[::1", "")] == ["a", "::1", "", ""]


@pytest.mark.parametrize("origin", ["http://[::1", "http://[evil]", "null", "//", ""])
def test_an_origin_that_is_none_may_change_nothing(origin: str) -> None:
    """It is refused like a strange one, and breaks nothing."""
    assert status("POST", headers={"origin": origin}) == 403
