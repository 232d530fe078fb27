"""Which cores a link talks about: their channels, from the offer to the end.

Every core that is open here is offered, and what the peer asks for is looked up in the store. A
channel that both sides have opened is a peer of its core's machine. What is said on it is taken
there; what the machine says goes to the link, which sends when there is room.

Format: hypercore 11 and corestore 7, how many cores share one stream; corestore/PROTOCOL.md.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Protocol

import trio

from corestore.errors import CorestoreError
from corestore.keys import DiscoveryKey
from corestore.replication import messages
from corestore.wire.mux import ChannelClosed, ChannelMessage, ChannelOpened, RemoteOpen

if TYPE_CHECKING:
    from corestore.driver import Driver
    from corestore.replication.actions import PeerId
    from corestore.replication.messages import Message, RequestMessage
    from corestore.replication.peer import Allowance
    from corestore.state import CoreState
    from corestore.wire.mux import Channel, Mux, MuxEvent

# How long a core is not offered again to a peer that said it does not have it.
OFFER_AGAIN_SECONDS: Final = 5.0
# How long `update` waits for a peer to say whether it has a core.
ANSWER_SECONDS: Final = 5.0


class Carrier(Protocol):
    """The link that carries the channels."""

    @property
    def remote_public_key(self) -> bytes:
        """The peer's static key."""
        ...

    @property
    def allowance(self) -> Allowance:
        """What may be under way to us."""
        ...

    def send(self, channel: CoreChannel, message: Message) -> None:
        """Queue *message*. Does not wait."""
        ...

    def serve(self, channel: CoreChannel, request: RequestMessage) -> None:
        """Queue *request* to be answered when there is room to send."""
        ...

    def wake(self) -> None:
        """There is something to send."""
        ...

    def stop(self, reason: Exception) -> None:
        """End the link."""
        ...


class CoreChannel:
    """One core's channel on a link: the `Port` of its machine.

    Attributes:
      channel: the multiplexer's, None while it is closed.
      peer: set while the channel is open both ways.
      refused_at: when the peer said that it does not have the core.
      remote_downloading: whether the peer wants anything, as far as it has told.
    """

    __slots__ = ("_carrier", "channel", "peer", "refused_at", "remote_downloading", "state")

    def __init__(self, carrier: Carrier, state: CoreState) -> None:
        self._carrier = carrier
        self.state = state
        self.channel: Channel | None = None
        self.peer: PeerId | None = None
        self.refused_at = -math.inf
        self.remote_downloading = True

    @property
    def remote_public_key(self) -> bytes:
        """See `Port`."""
        return self._carrier.remote_public_key

    def send(self, message: Message) -> None:
        """See `Port`."""
        self._carrier.send(self, message)

    def serve(self, request: RequestMessage) -> None:
        """See `Port`."""
        self._carrier.serve(self, request)

    def drop(self, reason: CorestoreError) -> None:
        """See `Port`."""
        self._carrier.stop(reason)


class Channels:
    """The channels of one link.

    *only* restricts it to one core; `attach` adds to that later.
    """

    def __init__(
        self,
        driver: Driver,
        mux: Mux,
        carrier: Carrier,
        *,
        initiator: bool,
        only: CoreState | None,
    ) -> None:
        self._driver = driver
        self._mux = mux
        self._carrier = carrier
        self._initiator = initiator
        # None for all cores of the store.
        self._only = None if only is None else {only}
        # None before the handshake: until then nothing is said.
        self._handshake_hash: bytes | None = None
        self._by_core: dict[DiscoveryKey, CoreChannel] = {}
        self._by_channel: dict[Channel, CoreChannel] = {}
        # Channels we opened and the peer has not answered, with the time until which `update` waits
        # for that; in order of time.
        self._awaited: dict[CoreChannel, float] = {}

    @property
    def cores(self) -> list[DiscoveryKey]:
        """The cores whose channels are open."""
        return [core for core, channel in self._by_core.items() if channel.peer is not None]

    # -- ours -------------------------------------------------------------------------------------

    def begin(self, handshake_hash: bytes) -> None:
        """The handshake is done: offer what is open here."""
        self._handshake_hash = handshake_hash
        self._offer_all()

    def attach(self, only: CoreState | None) -> None:
        """Carry *only* too, or every core of the store (None); nothing if that is so already."""
        if only is None:
            self._only = None
        elif self._only is not None:
            self._only.add(only)
        if self._handshake_hash is not None:
            self._offer_all()

    def _offer_all(self) -> None:
        self._mux.cork()
        for state in list(self._driver.states.values()):
            if state.handles:
                self.open(state)
        self._mux.uncork()
        self._carrier.wake()

    def open(self, state: CoreState) -> None:
        """Offer the peer to talk about this core; nothing if that was done a moment ago."""
        if self._handshake_hash is None or not self._carried(state):
            return
        if state.lease.evidence is not None:
            return  # stopped: nobody is spoken to about it
        channel = self._by_core.get(state.discovery_key)
        if channel is not None:
            if channel.channel is not None:
                return
            if trio.current_time() < channel.refused_at + OFFER_AGAIN_SECONDS:
                return
        self._open(state, self._handshake_hash)
        self._carrier.wake()

    def _carried(self, state: CoreState) -> bool:
        return self._only is None or state in self._only

    def _open(self, state: CoreState, handshake_hash: bytes) -> None:
        proof = messages.capability(state.key, handshake_hash, initiator=self._initiator)
        entry = self._by_core[state.discovery_key] = CoreChannel(self._carrier, state)
        entry.channel = self._mux.open(
            messages.PROTOCOL,
            state.discovery_key,
            messages.encode_handshake(messages.OpenHandshake(proof)),
            messages.ALIASES,
        )
        self._by_channel[entry.channel] = entry
        # Until the peer answers, `update` waits for it.
        state.asked += 1
        now = trio.current_time()
        self._awaited[entry] = now + ANSWER_SECONDS
        # It may have answered, and said more, before we asked. Who asked is not to blame for it.
        touched = False
        try:
            for event in self._mux.events():
                touched |= self.handle(event, now) is not None
        except CorestoreError as error:
            self._carrier.stop(error)
        if touched:
            self._driver.drain(state)

    # -- the peer's -------------------------------------------------------------------------------

    def handle(self, event: MuxEvent, now: float) -> CoreState | None:
        """Take what the mux reports to its machine; the core whose machine has heard something.

        Raises:
          RemoteProtocolError: the peer is to blame.
        """
        match event:
            case ChannelMessage(channel, kind, body):
                entry = self._by_channel.get(channel)
                if entry is None or entry.peer is None:
                    return None
                message = messages.decode(kind, body)
                if message is not None:
                    state = entry.state
                    if isinstance(message, messages.Sync):
                        entry.remote_downloading = message.downloading
                    state.replicator.receive(entry.peer, message, now)
                    return state
            case RemoteOpen():
                self._asked(event)
            case ChannelOpened(channel, handshake):
                if (entry := self._by_channel.get(channel)) is not None:
                    self._opened(entry, handshake)
            case ChannelClosed(channel):
                if (entry := self._by_channel.get(channel)) is not None:
                    self._closed(entry)
        return None

    def _asked(self, event: RemoteOpen) -> None:
        """The peer opened a channel that we have not."""
        state = None
        known = event.protocol == messages.PROTOCOL or event.protocol in messages.ALIASES
        if known and event.id is not None and len(event.id) == 32:
            state = self._driver.find_for_peer(DiscoveryKey(event.id))
        if state is not None and state.lease.evidence is not None:
            state = None
        if state is None or not self._carried(state):
            self._mux.reject(event)
            return
        entry = self._by_core.get(state.discovery_key)
        if entry is not None and entry.channel is not None:
            # A second channel for one core would only say everything twice.
            self._mux.reject(event)
            return
        # Before we show our own proof: a stranger learns nothing.
        self._check(state, event.handshake)
        assert self._handshake_hash is not None
        self._open(state, self._handshake_hash)

    def _check(self, state: CoreState, handshake: bytes) -> messages.OpenHandshake:
        shown = messages.decode_handshake(handshake)
        assert self._handshake_hash is not None
        messages.check_capability(
            shown, state.key, self._handshake_hash, initiator=not self._initiator
        )
        return shown

    def _opened(self, entry: CoreChannel, handshake: bytes) -> None:
        state = entry.state
        shown = self._check(state, handshake)
        self._found(entry)
        entry.peer = self._driver.add_peer(
            state, entry, seeks=shown.seeks, allowance=self._carrier.allowance
        )

    # -- the end ----------------------------------------------------------------------------------

    def close(self, state: CoreState) -> None:
        """End the conversation about this core, if there is one."""
        entry = self._by_core.pop(state.discovery_key, None)
        if entry is not None and entry.channel is not None:
            entry.channel.close()
            self._closed(entry)
            self._carrier.wake()

    def close_idle(self, state: CoreState) -> None:
        """End the conversation about this core if neither side wants anything of it.

        Whoever wants something later opens the channel again.
        """
        entry = self._by_core.get(state.discovery_key)
        if entry is None or entry.peer is None or state.handles or entry.remote_downloading:
            return
        self.close(state)

    def end(self) -> None:
        """The link has ended, and all channels with it."""
        for channel in list(self._by_core.values()):
            self._closed(channel)

    def _closed(self, entry: CoreChannel) -> None:
        """The channel is closed, by whomever; there may come another one for its core."""
        if entry.channel is None:
            return
        del self._by_channel[entry.channel]
        entry.channel = None
        if entry.peer is None:
            entry.refused_at = trio.current_time()
            self._found(entry)
        else:
            self._driver.remove_peer(entry.peer)
            entry.peer = None

    def _found(self, entry: CoreChannel) -> None:
        """The peer has answered whether it has this core, or nobody waits for that any more."""
        if self._awaited.pop(entry, None) is not None:
            entry.state.asked -= 1
            entry.state.changed.unpark_all()

    def tick(self, now: float) -> None:
        """Some time has passed: a peer that does not answer is not waited for."""
        while self._awaited:
            entry, end = next(iter(self._awaited.items()))
            if now < end:
                break
            self._found(entry)
