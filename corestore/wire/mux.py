"""Many channels over one stream of messages.

A channel is named by a protocol and an id (for a core: its discovery key). Both sides must open it;
each numbers it as it likes, and a message carries the *sender's* number. So one may send right
after opening, before the other side has answered: if it rejects, the messages are lost. Channel 0
carries control: open, reject, close, and batches of other messages.

A `Mux` does no IO. It is fed decrypted messages and says what happened:

- `RemoteOpen`: the peer opened a channel that we have not. Answer it with `open` (the same
  protocol and id) or `reject`, now or later; messages that arrive meanwhile wait here.
- `ChannelOpened`: both sides have opened; what the peer sent with its opening is in it.
- `ChannelMessage`, in the order of the wire; and `ChannelClosed`, by the peer.

Openings that cross pair up, first with first. A channel the peer closed swallows what is sent on
it. After any error the mux is of no use and the stream must be dropped.

Memory: the peer decides how many channels it opens, how much it sends before we answered, and how
many messages it packs in a batch; each of these has a bound below.

Format: protomux 3.12.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final

from corestore.encoding import Reader, Writer, encode_uint
from corestore.errors import DecodeError, LimitExceeded, LocalProtocolError, RemoteProtocolError

# Channels a peer may have open at once. A channel is about a kilobyte here, with its machine.
MAX_REMOTE_CHANNELS: Final = 1 << 16
# Openings that wait for our answer, and the bytes that wait with them. Peers with many cores open
# all of them in one batch; what they send before our answer is little.
MAX_PENDING_OPENS: Final = 1 << 14
MAX_PENDING_BYTES: Final = 1 << 22
# The least message takes two bytes of a batch, and a hundred times that as an object.
MAX_BATCH_MESSAGES: Final = 1 << 16
# Corked messages are sent in batches of about this size, larger messages by themselves.
BATCH_BYTES: Final = 1 << 18
BATCHED_MESSAGE_BYTES: Final = 1 << 15

# What an object that waits costs beyond its bytes, roughly; so that empty ones count too.
_PENDING_OVERHEAD: Final = 64
_CONTROL: Final = 0

_Key = tuple[str, bytes | None]


class _Control(IntEnum):
    BATCH = 0
    OPEN = 1
    REJECT = 2
    CLOSE = 3


class ChannelState(Enum):
    """OPENING until the peer has opened it too; OPEN; CLOSED by either side, or rejected."""

    OPENING = "opening"
    OPEN = "open"
    CLOSED = "closed"


class Channel:
    """One conversation. Made by `Mux.open`."""

    __slots__ = ("_mux", "_prefix", "aliases", "id", "local_id", "protocol", "remote_id", "state")

    def __init__(
        self, mux: Mux, protocol: str, id: bytes | None, aliases: tuple[str, ...], local_id: int
    ) -> None:
        self.protocol = protocol
        self.id = id
        self.aliases = aliases
        self.state = ChannelState.OPENING
        self.local_id = local_id
        self.remote_id = 0
        self._mux = mux
        self._prefix = encode_uint(local_id)

    @property
    def opened(self) -> bool:
        """Whether both sides have opened it and neither has closed it."""
        return self.state is ChannelState.OPEN

    @property
    def closed(self) -> bool:
        """Whether it was closed or rejected; what is sent now goes nowhere."""
        return self.state is ChannelState.CLOSED

    def send(self, type: int, body: bytes | memoryview) -> None:
        """Send one message of the channel's protocol. On a closed channel: nothing happens."""
        if self.state is not ChannelState.CLOSED:
            self._mux._send(self.local_id, self._prefix, encode_uint(type), body)

    def close(self) -> None:
        """Close our side, and with it the channel. Idempotent."""
        self._mux._close(self)

    def __repr__(self) -> str:
        name = self.id.hex()[:12] if self.id else ""
        return f"<Channel {self.protocol}/{name} {self.state.value}>"


@dataclass(frozen=True, slots=True, eq=False)
class RemoteOpen:
    """The peer opened a channel that we have not opened: answer with `open` or `reject`."""

    protocol: str
    id: bytes | None
    handshake: bytes
    remote_id: int


@dataclass(frozen=True, slots=True)
class ChannelOpened:
    """Both sides have opened *channel*; `handshake` is what the peer sent along."""

    channel: Channel
    handshake: bytes


@dataclass(frozen=True, slots=True)
class ChannelMessage:
    """One message. `body` may be a view of the frame: copy what shall outlive the handling."""

    channel: Channel
    type: int
    body: bytes | memoryview


@dataclass(frozen=True, slots=True)
class ChannelClosed:
    """The peer closed *channel*, or `rejected` our opening it. There is nothing to answer."""

    channel: Channel
    rejected: bool = False


MuxEvent = RemoteOpen | ChannelOpened | ChannelMessage | ChannelClosed


class _Pending:
    """A channel that only the peer has opened, and what it sent on it."""

    __slots__ = ("bytes", "messages", "open")

    def __init__(self, open: RemoteOpen) -> None:
        self.open = open
        self.messages: list[tuple[int, bytes]] = []
        self.bytes = _PENDING_OVERHEAD + len(open.handshake) + len(open.protocol)


class Mux:
    """All channels of one stream. Both sides are alike: there is no initiator."""

    def __init__(self) -> None:
        self._local: dict[int, Channel] = {}
        self._free: list[int] = []
        self._remote: list[Channel | _Pending | None] = []
        # Own openings without an answer, and the peer's; by name, the oldest first.
        self._opening: dict[_Key, list[Channel]] = {}
        self._pending: dict[_Key, list[_Pending]] = {}
        self._pending_opens = 0
        self._pending_bytes = 0
        self._events: list[MuxEvent] = []
        self._outgoing: list[bytes] = []
        self._outgoing_bytes = 0
        self._corked = 0
        self._batch: list[bytes | memoryview] = []
        self._batch_bytes = 0
        self._batch_channel = -1

    @property
    def outgoing_bytes(self) -> int:
        """What waits for `data_to_send`; a driver drops a peer that causes it and does not read."""
        return self._outgoing_bytes + self._batch_bytes

    @property
    def channels(self) -> list[Channel]:
        """The channels we opened and nobody closed, oldest number first."""
        return [c for c in self._local.values() if c.state is not ChannelState.CLOSED]

    # -- what the driver does ----------------------------------------------------------------------

    def receive(self, frame: bytes | memoryview) -> list[MuxEvent]:
        """Take one message of the stream; returns what it, and calls before it, brought about.

        Raises:
          RemoteProtocolError: the peer broke a rule, or a bound (`LimitExceeded`).
        """
        view = frame if isinstance(frame, memoryview) else memoryview(frame)
        if view:
            reader = Reader(view)
            remote_id, kind = reader.uint(), reader.uint()
            if remote_id != _CONTROL:
                self._receive_message(remote_id, kind, view[reader.at :])
            elif kind == _Control.BATCH:
                self._receive_batch(view, reader.at)
            else:
                self._receive_control(kind, view[reader.at :])
        return self.events()

    def events(self) -> list[MuxEvent]:
        """Take the events not yet taken: `open` causes some when it answers a `RemoteOpen`."""
        events = self._events
        self._events = []
        return events

    def open(
        self,
        protocol: str,
        id: bytes | None,
        handshake: bytes = b"",
        aliases: tuple[str, ...] = (),
    ) -> Channel:
        """Open a channel, and say so to the peer. *aliases* are further names of the protocol.

        If the peer has opened it already (it was told by `RemoteOpen`) it is open at once:
        `ChannelOpened` and the messages that waited are in `events()`.
        """
        local_id = self._free.pop() if self._free else len(self._local) + 1
        channel = Channel(self, protocol, id, aliases, local_id)
        self._local[local_id] = channel
        writer = Writer().uint(local_id).string(protocol).buffer(id).fixed(handshake)
        self._send_control(_Control.OPEN, writer.finish())
        pending = self._oldest_pending(channel)
        if pending is None:
            for key in _keys(channel):
                self._opening.setdefault(key, []).append(channel)
        else:
            self._forget_pending(pending)
            self._pair(channel, pending.open.remote_id, pending.open.handshake)
            self._events += [ChannelMessage(channel, kind, body) for kind, body in pending.messages]
        return channel

    def reject(self, event: RemoteOpen) -> None:
        """Refuse what the peer opened. Nothing happens if it has closed it meanwhile."""
        pending = self._remote_side(event.remote_id)
        if isinstance(pending, _Pending) and pending.open is event:
            self._forget_pending(pending)
            self._remote[event.remote_id - 1] = None
            self._send_control(_Control.REJECT, encode_uint(event.remote_id))

    def cork(self) -> None:
        """Collect what is sent until `uncork`, to put small messages into one. May be nested."""
        self._corked += 1

    def uncork(self) -> None:
        """End one `cork`. Raises LocalProtocolError without one."""
        if not self._corked:
            raise LocalProtocolError("uncork without cork")
        self._corked -= 1
        if not self._corked:
            self._flush_batch()

    def data_to_send(self) -> list[bytes]:
        """Take the messages for the stream, in order; without what is corked."""
        outgoing = self._outgoing
        self._outgoing = []
        self._outgoing_bytes = 0
        return outgoing

    # -- receiving ---------------------------------------------------------------------------------

    def _receive_message(self, remote_id: int, kind: int, body: memoryview) -> None:
        side = self._remote_side(remote_id)
        if isinstance(side, Channel):
            self._events.append(ChannelMessage(side, kind, body))
        elif side is not None:
            cost = _PENDING_OVERHEAD + len(body)
            self._grow_pending(side, cost)
            side.messages.append((kind, bytes(body)))
        # Else the channel is closed here, and the message was on its way before the peer knew.

    def _receive_batch(self, view: memoryview, at: int) -> None:
        reader = Reader(view, at)
        remote_id = reader.uint()
        items = 0
        while reader.remaining:
            items += 1
            if items > MAX_BATCH_MESSAGES:
                raise LimitExceeded(f"a batch of more than {MAX_BATCH_MESSAGES} messages")
            length = reader.uint()
            if not length:
                remote_id = reader.uint()
                continue
            start, end = reader.at, reader.at + length
            if end > len(view):
                raise DecodeError("message in a batch", start)
            kind = reader.uint()
            if reader.at > end:
                raise DecodeError("message type in a batch", start)
            body = view[reader.at : end]
            reader.at = end
            if remote_id == _CONTROL:
                self._receive_control(kind, body)
            else:
                self._receive_message(remote_id, kind, body)

    def _receive_control(self, kind: int, body: memoryview) -> None:
        reader = Reader(body)
        match kind:
            case _Control.OPEN:
                self._receive_open(reader)
            case _Control.REJECT:
                self._receive_reject(reader.uint())
            case _Control.CLOSE:
                self._receive_close(reader.uint())
            case _Control.BATCH:
                raise DecodeError("message in a batch")
            case _:
                pass  # control messages of the future

    def _receive_open(self, reader: Reader) -> None:
        remote_id = reader.uint()
        protocol = reader.string()
        id = reader.optional_buffer()
        handshake = reader.rest()
        if remote_id == _CONTROL:
            self._send_control(_Control.REJECT, encode_uint(_CONTROL))
            return
        if remote_id == len(self._remote) + 1:
            if remote_id > MAX_REMOTE_CHANNELS:
                raise LimitExceeded(f"more than {MAX_REMOTE_CHANNELS} channels")
            self._remote.append(None)
        elif remote_id > len(self._remote) or self._remote[remote_id - 1] is not None:
            raise RemoteProtocolError(f"the peer may not number a channel {remote_id} now")
        opening = self._opening.get((protocol, id))
        if opening:
            self._answered(channel := opening[0])
            if channel.state is ChannelState.CLOSED:
                # We closed it before this answer. Said again, because a peer that was still
                # making up its mind ignores the closing of a channel it has not opened.
                self._send_control(_Control.CLOSE, encode_uint(channel.local_id))
                self._free_local(channel)
            else:
                self._pair(channel, remote_id, handshake)
            return
        pending = _Pending(RemoteOpen(protocol, id, handshake, remote_id))
        self._pending_opens += 1
        if self._pending_opens > MAX_PENDING_OPENS:
            raise LimitExceeded(f"more than {MAX_PENDING_OPENS} channels opened and not answered")
        self._grow_pending(pending, 0)
        self._remote[remote_id - 1] = pending
        self._pending.setdefault((protocol, id), []).append(pending)
        self._events.append(pending.open)

    def _receive_reject(self, local_id: int) -> None:
        channel = self._local.get(local_id)
        if channel is None or channel.state is ChannelState.OPEN:
            raise RemoteProtocolError(f"the peer rejected channel {local_id}, which is not opening")
        self._answered(channel)
        self._free_local(channel)
        if channel.state is ChannelState.OPENING:
            channel.state = ChannelState.CLOSED
            self._events.append(ChannelClosed(channel, rejected=True))

    def _receive_close(self, remote_id: int) -> None:
        side = self._remote_side(remote_id)
        if isinstance(side, Channel):
            self._free_pair(side)
            self._events.append(ChannelClosed(side))
        elif side is not None:
            # The peer's number stays taken until it is answered, and nobody else will answer.
            self.reject(side.open)

    def _remote_side(self, remote_id: int) -> Channel | _Pending | None:
        return self._remote[remote_id - 1] if 0 < remote_id <= len(self._remote) else None

    # -- pairing -----------------------------------------------------------------------------------

    def _pair(self, channel: Channel, remote_id: int, handshake: bytes) -> None:
        channel.state = ChannelState.OPEN
        channel.remote_id = remote_id
        self._remote[remote_id - 1] = channel
        self._events.append(ChannelOpened(channel, handshake))

    def _answered(self, channel: Channel) -> None:
        for key in _keys(channel):
            opening = self._opening[key]
            opening.remove(channel)
            if not opening:
                del self._opening[key]

    def _oldest_pending(self, channel: Channel) -> _Pending | None:
        for key in _keys(channel):
            if key in self._pending:
                return self._pending[key][0]
        return None

    def _grow_pending(self, pending: _Pending, cost: int) -> None:
        pending.bytes += cost
        self._pending_bytes += cost or pending.bytes
        if self._pending_bytes > MAX_PENDING_BYTES:
            raise LimitExceeded(f"more than {MAX_PENDING_BYTES} bytes for channels not yet open")

    def _forget_pending(self, pending: _Pending) -> None:
        key = (pending.open.protocol, pending.open.id)
        waiting = self._pending[key]
        waiting.remove(pending)
        if not waiting:
            del self._pending[key]
        self._pending_opens -= 1
        self._pending_bytes -= pending.bytes

    def _close(self, channel: Channel) -> None:
        if channel.state is ChannelState.CLOSED:
            return
        self._send_control(_Control.CLOSE, encode_uint(channel.local_id))
        if channel.state is ChannelState.OPEN:
            self._free_pair(channel)
        else:
            channel.state = ChannelState.CLOSED  # the number stays taken until the peer answers

    def _free_pair(self, channel: Channel) -> None:
        channel.state = ChannelState.CLOSED
        self._remote[channel.remote_id - 1] = None
        self._free_local(channel)

    def _free_local(self, channel: Channel) -> None:
        del self._local[channel.local_id]
        self._free.append(channel.local_id)

    # -- sending -----------------------------------------------------------------------------------

    def _send_control(self, kind: _Control, body: bytes) -> None:
        self._send(_CONTROL, b"\x00", encode_uint(kind), body)

    def _send(self, local_id: int, prefix: bytes, kind: bytes, body: bytes | memoryview) -> None:
        if not self._corked:
            self._put(b"".join((prefix, kind, body)))
            return
        if len(body) >= BATCHED_MESSAGE_BYTES:
            self._flush_batch()
            self._put(b"".join((prefix, kind, body)))
            return
        if self._batch_bytes >= BATCH_BYTES:
            self._flush_batch()
        if not self._batch:
            self._batch += (b"\x00\x00", prefix)
        elif local_id != self._batch_channel:
            self._batch += (b"\x00", prefix)
        self._batch_channel = local_id
        self._batch += (encode_uint(len(kind) + len(body)), kind, body)
        self._batch_bytes += len(body) + len(kind) + 2

    def _flush_batch(self) -> None:
        if self._batch:
            self._put(b"".join(self._batch))
            self._batch.clear()
            self._batch_bytes = 0

    def _put(self, message: bytes) -> None:
        self._outgoing.append(message)
        self._outgoing_bytes += _PENDING_OVERHEAD + len(message)


def _keys(channel: Channel) -> list[_Key]:
    return [(name, channel.id) for name in (channel.protocol, *channel.aliases)]
