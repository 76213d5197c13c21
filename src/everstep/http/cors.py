"""Which other sites' pages may call the Steps.  Off unless origins are named.

Floor 6.  May import: errors.  Imported by: http.site, app.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from starlette.types import Message, Send

from everstep.errors import ConfigError

_HOUR = b"3600"
_ANY = "*"


class Cors:
    """
    The origins whose pages may call, such as ``https://shop.example``; ``*`` for any.

    Cookies are sent along only to named origins, never to ``*``.
    """

    def __init__(self, origins: Sequence[str] = ()) -> None:
        for origin in origins:
            if origin != _ANY and ("://" not in origin or origin.rstrip("/").count("/") != 2):
                raise ConfigError(
                    f"CORS origin is {origin!r}",
                    expected="an origin is a scheme and a host: https://shop.example",
                )
        self._origins = frozenset(origin.rstrip("/").lower() for origin in origins)

    def __bool__(self) -> bool:
        return bool(self._origins)

    def allows(self, origin: str) -> bool:
        """Whether pages of this origin may call."""
        return _ANY in self._origins or origin.lower() in self._origins

    def preflight(self, origin: str, wanted: str | None, methods: Iterable[str]) -> list[tuple[bytes, bytes]]:
        """What a browser is told that asks whether it may send *wanted* headers."""
        told = self._granted(origin)
        told.append((b"access-control-allow-methods", ", ".join(sorted(methods)).encode()))
        if wanted:
            told.append((b"access-control-allow-headers", wanted.encode("latin-1")))
        told.append((b"access-control-max-age", _HOUR))
        return told

    def wrap(self, send: Send, origin: str) -> Send:
        """A *send* that adds what lets the page read the answer."""
        granted = self._granted(origin)
        granted.append((b"access-control-expose-headers", b"x-trace-id, idempotency-replayed"))

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *granted]}
            await send(message)

        return sending

    def _granted(self, origin: str) -> list[tuple[bytes, bytes]]:
        if _ANY in self._origins:
            return [(b"access-control-allow-origin", b"*")]
        return [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-allow-credentials", b"true"),
            (b"vary", b"Origin"),
        ]
