"""Wake other processes of this machine at once: a datagram on the loopback.

A bell says only "look": losing one costs a second, until the next look of its
own accord.  Nothing is trusted that comes through it, and a bell that is rung
all the time is heard now and then only.

Floor 3.  May import: floor 0.  Imported by: engine.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable

MUFFLED = 0.005  # seconds after a ring in which others count as one

class _Bell(asyncio.DatagramProtocol):
    def __init__(self, heard: Callable[[], None]) -> None:
        self._heard = heard
        self._muffled: asyncio.TimerHandle | None = None
        self._again = False

    def datagram_received(self, data: bytes, addr: object) -> None:
        if self._muffled is not None:
            self._again = True
            return
        self._muffled = asyncio.get_running_loop().call_later(MUFFLED, self._clear)
        self._heard()

    def _clear(self) -> None:
        self._muffled = None
        if self._again:  # somebody came while the look was under way
            self._again = False
            self.datagram_received(b"", None)

    def connection_lost(self, error: Exception | None) -> None:
        if self._muffled is not None:
            self._muffled.cancel()


class Doorbell:
    """Hears rings on a loopback port of its own, and rings others."""

    def __init__(self) -> None:
        self._transport: asyncio.DatagramTransport | None = None
        self._socket: socket.socket | None = None
        self.address = ""

    async def hang(self, heard: Callable[[], None]) -> None:
        """Listen; `address` is what others ring."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: _Bell(heard), local_addr=("127.0.0.1", 0))
        self._transport = transport
        host, port = transport.get_extra_info("sockname")[:2]
        self.address = f"udp://{host}:{port}"

    def ring(self, addresses: Iterable[str]) -> None:
        """Ring at each address but our own; one that is gone is ignored."""
        for address in addresses:
            if address == self.address or not address.startswith("udp://127.0.0.1:"):
                continue
            if self._socket is None:
                self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                self._socket.setblocking(False)
            try:
                self._socket.sendto(b"!", ("127.0.0.1", int(address.rpartition(":")[2])))
            except (OSError, ValueError, OverflowError):  # gone, or no port at all
                continue

    def close(self) -> None:
        """Take it down."""
        if self._transport is not None:
            self._transport.close()
        if self._socket is not None:
            self._socket.close()
