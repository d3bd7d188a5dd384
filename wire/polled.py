"""A link without a thread of its own, so that thousands fit into one process.

paho's threads wait with ``select()``, which ends at descriptor 1,024: about 330 links. Here asyncio's own loop, epoll on
Linux, says when a socket can be read or written, and paho's calls for loops of others do the rest.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any

from wire.broker_address import BrokerAddress
from wire.mqtt import MqttLink
from wire.topics import Envelope

__all__ = ["PolledLink"]

TEND_S = 5.0
FLUSH_S = 0.01
NUM_FLUSHES = 500

log = logging.getLogger(__name__)


class PolledLink(MqttLink):
    """An ``MqttLink`` that asyncio's loop drives: the same messages, callbacks and bounds. See ``MqttLink``."""

    def __init__(self, broker: BrokerAddress, client_id: str, fleet: str, will: Envelope) -> None:
        """Prepare; ``connect`` opens it."""
        super().__init__(broker, client_id, fleet, will)
        self._timer: asyncio.TimerHandle | None = None
        self._attempt: asyncio.Future[Any] | None = None
        self._client.on_socket_open = self._on_socket_open
        self._client.on_socket_close = self._on_socket_close
        self._client.on_socket_register_write = self._on_socket_register_write
        self._client.on_socket_unregister_write = self._on_socket_unregister_write

    def _start(self) -> None:
        self._timer = self._loop.call_later(TEND_S * random.random(), self._tend)  # noqa: S311 - spreads them

    async def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for _ in range(NUM_FLUSHES):  # the farewell may be longer than what the socket takes at once
            if self._client.socket() is None:
                return
            self._client.loop_write()
            await asyncio.sleep(FLUSH_S)
        self._client._reset_sockets()  # noqa: SLF001 - as MqttLink does

    def _call(self, function: Any, argument: object) -> None:
        self._loop.call_soon(function, argument)  # its callbacks run on the loop already

    def _on_socket_open(self, _client: object, _data: object, sock: Any) -> None:
        self._loop.call_soon_threadsafe(self._watch, sock)  # a connection is made on a thread

    def _on_socket_register_write(self, _client: object, _data: object, sock: Any) -> None:
        self._loop.call_soon_threadsafe(self._watch_writing, sock)

    def _on_socket_close(self, _client: object, _data: object, sock: Any) -> None:
        self._loop.remove_reader(sock)
        self._loop.remove_writer(sock)

    def _on_socket_unregister_write(self, _client: object, _data: object, sock: Any) -> None:
        self._loop.remove_writer(sock)

    def _watch(self, sock: Any) -> None:
        if self._client.socket() == sock:
            self._loop.add_reader(sock, self._read)

    def _watch_writing(self, sock: Any) -> None:
        if self._client.socket() == sock and self._client.want_write():
            self._loop.add_writer(sock, self._client.loop_write)

    def _read(self) -> None:
        self._client.loop_read()
        while (sock := self._client.socket()) is not None and hasattr(sock, "pending") and sock.pending():
            self._client.loop_read()  # TLS has read it already: the socket will not say so again

    def _tend(self) -> None:
        """Keep the connection alive, or make it anew: the timer spreads the links of a process."""
        self._timer = self._loop.call_later(TEND_S, self._tend)
        self._client.loop_misc()
        is_trying = self._attempt is not None and not self._attempt.done()
        if self._client.socket() is None and not is_trying:
            self._attempt = self._loop.run_in_executor(None, self._reconnect)

    def _reconnect(self) -> None:
        try:
            self._client.reconnect()
        except OSError as error:
            log.debug("the broker is still away: %s", error)
