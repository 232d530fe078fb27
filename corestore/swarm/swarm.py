"""Topics in, replicating links out: who to connect to, and keeping the connections.

A swarm listens where it is told and dials the peers it is told, again and again, with growing
pauses. Whoever dials begins the Noise handshake. What is replicated over a link is the store's
affair: every core that both sides know.
"""

from __future__ import annotations

import logging
import random
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from corestore.errors import LimitExceeded
from corestore.keys import DiscoveryKey
from corestore.swarm import tcp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from corestore.link import Link
    from corestore.store import Corestore

logger: Final = logging.getLogger("corestore")

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
# Of connections from outside, each of which takes some 100 KB. Beyond it, one that shares no core
# with us makes room for a new one, or the new one is refused.
MAX_INCOMING: Final = 256


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """A link that is up.

    Attributes:
      address: `HOST:PORT` of the other end.
      remote_public_key: its static key, 32 bytes.
      initiator: whether we dialled.
      bytes_received, bytes_sent: on this link.
      cores: those whose channels are open.
    """

    address: str
    remote_public_key: bytes
    initiator: bool
    bytes_received: int
    bytes_sent: int
    cores: tuple[DiscoveryKey, ...]


@dataclass(frozen=True, slots=True)
class DialInfo:
    """A peer we were told to dial: whether it is connected, and why the last attempt ended."""

    address: str
    connected: bool
    attempts: int
    last_error: str | None


class _Dial:
    """One address that is dialled until the swarm closes."""

    def __init__(self, store: Corestore, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.attempts = 0
        self.connected = False
        self.last_error: str | None = None
        # Set once an attempt has succeeded or failed; until then `update` waits.
        self.tried = trio.Event()
        self.scope = trio.CancelScope()
        self._finding = ExitStack()
        self._finding.enter_context(store.finding_peers())

    @property
    def address(self) -> str:
        return tcp.format_address((self.host, self.port))

    def was_tried(self) -> None:
        self.tried.set()
        self._finding.close()


class Swarm:
    """Connections of one store. Made by `open_swarm`."""

    def __init__(self, store: Corestore, nursery: trio.Nursery) -> None:
        self._store = store
        self._nursery = nursery
        self._topics: set[DiscoveryKey] = set()
        self._dials: dict[tuple[str, int], _Dial] = {}
        self._links: dict[Link, str] = {}
        self._incoming = 0
        self._closed = False

    @property
    def topics(self) -> frozenset[DiscoveryKey]:
        """What was joined and not left."""
        return frozenset(self._topics)

    @property
    def peers(self) -> list[PeerInfo]:
        """The links that are up, oldest first."""
        return [
            PeerInfo(
                address=address,
                remote_public_key=link.remote_public_key,
                initiator=link.initiator,
                bytes_received=link.bytes_received,
                bytes_sent=link.bytes_sent,
                cores=tuple(link.cores),
            )
            for link, address in self._links.items()
            if link.established
        ]

    @property
    def dials(self) -> list[DialInfo]:
        """The peers given to `connect`."""
        return [
            DialInfo(dial.address, dial.connected, dial.attempts, dial.last_error)
            for dial in self._dials.values()
        ]

    async def join(self, topic: DiscoveryKey) -> None:
        """Look for peers of *topic*, a core's discovery key, from now on. Idempotent.

        Peers are those given to `connect` and those who dial us: there is no discovery yet, so
        this waits for nothing.
        """
        self._check_open()
        self._topics.add(DiscoveryKey(topic))
        await trio.lowlevel.checkpoint()

    async def leave(self, topic: DiscoveryKey) -> None:
        """Stop looking for peers of *topic*; links stay."""
        self._topics.discard(DiscoveryKey(topic))
        await trio.lowlevel.checkpoint()

    async def flush(self) -> None:
        """Wait until every peer that is known of has been tried once."""
        self._check_open()
        await trio.lowlevel.checkpoint()
        for dial in list(self._dials.values()):
            await dial.tried.wait()

    async def listen(self, host: str = "127.0.0.1", port: int = 0) -> tuple[str, int]:
        """Take connections on an address from now on; returns the (host, port) bound.

        Nothing listens unless this is called.

        Raises:
          OSError: EADDRINUSE for a busy port, or another reason to refuse the address.
        """
        self._check_open()
        listener = await tcp.open_listener(host, port)
        serve = partial(trio.serve_listeners, self._accepted, [listener])
        await self._nursery.start(partial(serve, handler_nursery=self._nursery))
        return tcp.listening_address(listener)

    def connect(self, host: str, port: int) -> None:
        """Dial a peer now, and again whenever the connection ends. Idempotent, does not wait."""
        self._check_open()
        if (host, port) not in self._dials:
            dial = self._dials[host, port] = _Dial(self._store, host, port)
            self._nursery.start_soon(self._keep_dialling, dial)

    def disconnect(self, host: str, port: int) -> None:
        """Stop dialling a peer, and end the connection to it."""
        dial = self._dials.pop((host, port), None)
        if dial is not None:
            dial.scope.cancel()
            dial.was_tried()

    # -- connections ------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def _accepted(self, stream: trio.SocketStream) -> None:
        if self._incoming >= MAX_INCOMING and not self._make_room():
            await trio.aclose_forcefully(stream)
            return
        self._incoming += 1
        try:
            tcp.prepare(stream)
            address = tcp.format_address(tcp.remote_address(stream))
        except OSError:
            # It was gone before we looked at it.
            await trio.aclose_forcefully(stream)
        else:
            await self._replicate(self._store.link(stream, initiator=False), address)
        finally:
            self._incoming -= 1

    def _make_room(self) -> bool:
        """End the oldest connection from outside whose peer has not shown the key of any core."""
        for link in self._links:
            if not (link.initiator or link.cores or link.ending):
                link.stop(LimitExceeded("it shares no core with us, and others wait"))
                return True
        return False

    @trio.lowlevel.enable_ki_protection
    async def _replicate(self, link: Link, address: str) -> None:
        self._links[link] = address
        try:
            await link.run()
        finally:
            del self._links[link]

    @trio.lowlevel.enable_ki_protection
    async def _keep_dialling(self, dial: _Dial) -> None:
        with dial.scope:
            pause = FIRST_PAUSE
            while True:
                began = trio.current_time()
                dial.attempts += 1
                try:
                    stream = await tcp.dial(dial.host, dial.port)
                except OSError as error:
                    dial.last_error = str(error)
                    logger.info("cannot reach %s: %s", dial.address, error)
                else:
                    await self._run_dialled(dial, self._store.link(stream, initiator=True))
                dial.was_tried()
                if trio.current_time() - began > LONGEST_PAUSE:
                    pause = FIRST_PAUSE
                await trio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _run_dialled(self, dial: _Dial, link: Link) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._replicate, link, dial.address)
            if await link.wait_established():
                # It has offered its cores, so `update` knows from here on what to wait for.
                dial.connected = True
                dial.last_error = None
                dial.was_tried()
        dial.connected = False
        dial.last_error = str(link.failure or "the peer closed the connection")

    def _close(self) -> None:
        self._closed = True
        for dial in self._dials.values():
            dial.was_tried()

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this swarm is closed")


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def open_swarm(store: Corestore) -> AsyncIterator[Swarm]:
    """Connections for *store*, until the block is left; then all of them are closed."""
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        swarm = Swarm(store, nursery)
        try:
            yield swarm
        except BaseException as error:
            # Raised again below, outside of the nursery: not wrapped in a group.
            failure = error
        swarm._close()
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
