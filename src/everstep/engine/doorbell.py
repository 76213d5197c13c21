"""Wake other processes of this machine at once: a datagram on the loopback.

A bell says only "look": losing one costs a second, until the next look of its
own accord.  Nothing is trusted that comes through it.

Floor 3.  May import: floor 0.  Imported by: engine.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable


class _Bell(asyncio.DatagramProtocol):
    def __init__(self, heard: Callable[[], None]) -> None:
        self._heard = heard

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._heard()


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
            except OSError:
                continue

    def close(self) -> None:
        """Take it down."""
        if self._transport is not None:
            self._transport.close()
        if self._socket is not None:
            self._socket.close()
