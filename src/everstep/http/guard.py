"""Who may use the API for operations: this machine, or whoever has the token.

Without a token only loopback clients are let in, and only under a loopback
name, so that neither another machine, nor a proxy, nor a web page whose name
was pointed here afterwards (DNS rebinding) gets through.  A browser says where
a request comes from: one that changes something must come from our own pages.

Floor 6.  May import: refusals.  Imported by: http.api.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from everstep.http.refusals import Refusal

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_PROXIED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


def admit(method: str, headers: Mapping[str, str], client: str | None, token: str | None) -> None:
    """
    Let a request to the API pass, or refuse it.

    Args:
        headers: With lower-case names.
        client: The address it comes from; None for a socket that has none.
        token: What EVERSTEP_TOKEN says.

    Raises:
        Refusal: 401 without the token, 403 from elsewhere.
    """
    if token:
        _check_token(headers.get("authorization", ""), token)
    else:
        _check_loopback(headers, client)
    if method not in SAFE:
        _check_origin(headers)


def _check_token(authorization: str, token: str) -> None:
    scheme, _, given = authorization.partition(" ")
    known = hmac.compare_digest(given.strip().encode("utf-8", "replace"), token.encode())
    if scheme.lower() != "bearer" or not known:
        raise Refusal(
            401,
            "this needs the token of EVERSTEP_TOKEN, as 'Authorization: Bearer <token>'",
            headers={"www-authenticate": "Bearer"},
        )


def _check_loopback(headers: Mapping[str, str], client: str | None) -> None:
    proxied = next((name for name in _PROXIED if name in headers), None)
    if client is not None and not is_loopback(client):
        why = f"a request from {client} needs a token"
    elif proxied is not None:
        why = f"a request through a proxy ({proxied}) needs a token"
    elif not is_loopback(host_name(headers.get("host", ""))):
        why = "a request under another name than localhost needs a token"
    else:
        return
    raise Refusal(
        403, f"{why}: start everstep with EVERSTEP_TOKEN, and send it as 'Authorization: Bearer <token>'"
    )


def _check_origin(headers: Mapping[str, str]) -> None:
    origin = headers.get("origin")
    if origin is not None and _place(origin) != headers.get("host", "").lower():
        raise Refusal(403, f"a page of {origin[:200]} may not change anything here")
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        raise Refusal(403, "a page of another site may not change anything here")


def _place(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """
    Whether a host is this machine, by address or by name.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("example.com")
    (True, True, False)
    """
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def host_name(host: str) -> str:
    """
    The name of a Host header, without its port.

    >>> host_name("[::1]:3111"), host_name("localhost:3111")
    ('::1', 'localhost')
    """
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
