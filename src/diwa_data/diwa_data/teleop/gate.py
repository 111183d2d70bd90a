"""Accepts TLS connections for a server: strangers, who have not shown its token yet, are few and soon gone."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

_MOST_STRANGERS = 32
_MOST_FROM_ONE = 8  # a browser opens six at once
_PATIENCE = 5.0  # seconds from the first packet to a request with the token
_STEP = 0.02  # seconds between looks at a stranger


class Gate:
    """Listens from the start; serves while `serve` runs. For one event loop only."""

    def __init__(self, host: str, port: int):
        """Raises `OSError` if it cannot listen there."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=_MOST_STRANGERS)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._strangers: set[Any] = set()  # their addresses with ports
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, protocol: Callable[[], asyncio.Protocol], context: ssl.SSLContext) -> None:
        """Hand every connection to a protocol of its own, until this is cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    connection, peer = await loop.sock_accept(self._listener)
                except OSError:
                    await asyncio.sleep(_STEP)  # it has gone again, or there are too many open files
                    continue
                hosts = Counter(stranger[0] for stranger in self._strangers)
                if len(self._strangers) >= _MOST_STRANGERS or hosts[peer[0]] >= _MOST_FROM_ONE:
                    connection.close()
                    continue
                self._strangers.add(peer)
                task = loop.create_task(self._receive(connection, peer, protocol, context))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        finally:
            self._listener.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def admit(self, transport: asyncio.BaseTransport | None) -> None:
        """Whoever is at the other end has shown the token: no stranger any more."""
        if transport is not None:
            self._strangers.discard(transport.get_extra_info("peername"))

    async def _receive(
        self, connection: socket.socket, peer: Any, protocol: Callable[[], asyncio.Protocol], context: ssl.SSLContext
    ) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + _PATIENCE
        transport: asyncio.Transport | None = None
        try:
            with suppress(OSError):  # no TLS, a certificate that it does not like, or silence
                transport, _ = await loop.connect_accepted_socket(
                    protocol, connection, ssl=context, ssl_handshake_timeout=_PATIENCE
                )
            while transport and peer in self._strangers and not transport.is_closing() and loop.time() < end:
                await asyncio.sleep(_STEP)
        finally:
            if transport and peer in self._strangers:
                with suppress(AttributeError):  # Python 3.11.2 cannot abort what has gone already
                    transport.abort()
            self._strangers.discard(peer)
