"""Frames on a byte stream, and the encryption of everything after the handshake.

Every unit on the wire is a length of three bytes and that many bytes. The first frames are the
Noise messages, then each side sends one header (a stream id and the nonce its cipher starts from),
then encrypted messages, each 17 bytes longer than its plain text. A side may send messages right
after its own header. An empty message says only that the stream is alive.

`SecureStream` does no IO: feed it what arrives, act on the events, write out `data_to_send()`.
After any error it is of no use and the stream must be dropped: there is nothing to resynchronise.

There are two ways to feed it. `receive_data` takes bytes and gives messages that are the caller's.
`receive_buffer` and `received` let a socket write where frames are decrypted in place, and give
views that last until the next read: of a block of 64 KiB two copies less are made.

Memory: what is buffered is what has arrived of one incomplete frame, never what its length
announces, and the room for one read, which follows what reads bring. A frame that is not of the
expected size is refused at its length.

Format: @hyperswarm/secret-stream 6.9.2; libsodium's crypto_secretstream_xchacha20poly1305.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from corestore import crypto
from corestore.errors import DecodeError, LocalProtocolError, RemoteProtocolError
from corestore.wire.noise import Handshake

if TYPE_CHECKING:
    from corestore.keys import KeyPair

LENGTH_BYTES: Final = 3
MAX_FRAME_BYTES: Final = (1 << 24) - 1
MAX_MESSAGE_BYTES: Final = MAX_FRAME_BYTES - crypto.SECRETSTREAM_OVERHEAD
# The peers send an empty message after this many seconds without another; so do we.
KEEPALIVE_SECONDS: Final = 5

# The room for one read: small while little arrives, as most streams are idle most of the time. What
# is read at once should fit into a processor's second cache together with what it decrypts to.
LEAST_READ_BYTES: Final = 16 << 10
GREATEST_READ_BYTES: Final = 512 << 10

_STREAM_ID_BYTES: Final = 32
_HEADER_BYTES: Final = _STREAM_ID_BYTES + crypto.SECRETSTREAM_HEADER_BYTES


@dataclass(frozen=True, slots=True)
class HandshakeDone:
    """Both sides know each other's static key; from now on messages may be sent.

    `handshake_hash` (64 bytes) is the same on both sides and on no other stream.
    """

    handshake_hash: bytes
    remote_public_key: bytes


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """One decrypted message, never empty. A view lasts until the next read."""

    plain: bytes | memoryview


StreamEvent = HandshakeDone | MessageReceived


def stream_id(handshake_hash: bytes, *, initiator: bool) -> bytes:
    """Names one direction of a stream: that of the Noise initiator, or the other."""
    side = crypto.STREAM_INITIATOR if initiator else crypto.STREAM_RESPONDER
    return crypto.keyed_hash(handshake_hash, side)


class SecureStream:
    """One end of an encrypted stream.

    *ephemeral* and *header* (24 bytes) are random unless a test needs known bytes.
    """

    def __init__(
        self,
        initiator: bool,
        key_pair: KeyPair,
        *,
        ephemeral: KeyPair | None = None,
        header: bytes | None = None,
    ) -> None:
        self._handshake = Handshake(initiator, key_pair, ephemeral=ephemeral)
        self._header = header
        self._push: crypto.SecretstreamPush | None = None
        self._pull: crypto.SecretstreamPull | None = None
        # What arrived and was not handled lies in `buffer[start:end]`.
        self._buffer = bytearray(LEAST_READ_BYTES)
        self._start = self._end = 0
        self._room = LEAST_READ_BYTES
        self._outgoing: list[bytes | bytearray] = []
        self._failed = False
        if initiator:
            self._send_frame(self._handshake.send())

    @property
    def initiator(self) -> bool:
        """Whether this side began the Noise handshake."""
        return self._handshake.initiator

    @property
    def established(self) -> bool:
        """Whether `send` may be called: `HandshakeDone` was returned."""
        return self._push is not None

    @property
    def complete(self) -> bool:
        """Whether the peer has sent all that comes before messages."""
        return self._pull is not None

    @property
    def incoming_bytes(self) -> int:
        """How much of an incomplete frame is held. Nothing, when the stream may end here."""
        return self._end - self._start

    def receive_data(self, data: bytes | bytearray | memoryview) -> list[StreamEvent]:
        """Take bytes from the wire, cut anywhere, and return what they complete.

        *data* is not kept. Events that precede an error in one call are lost with it.

        Raises:
          RemoteProtocolError: the peer broke a rule; drop the stream. Raised again by later calls.
        """
        events: list[StreamEvent] = []
        at = 0
        while True:
            room = self.receive_buffer()
            count = min(len(room), len(data) - at)
            room[:count] = data[at : at + count]
            at += count
            for event in self.received(count):
                if isinstance(event, MessageReceived):
                    event = MessageReceived(bytes(event.plain))
                events.append(event)
            if at == len(data):
                return events

    def receive_buffer(self) -> memoryview:
        """Where to put what comes next from the wire; `received` then says how much that is.

        Views of earlier messages end here.
        """
        start, held, room = self._start, self._end - self._start, self._room
        old = self._buffer
        size = len(old)
        if size < held + room or size > 4 * (held + room):
            # Twice what is held: a large frame is moved a few times, not at every read.
            self._buffer = bytearray(max(held + room, 2 * held))
            self._buffer[:held] = memoryview(old)[start : start + held]
        elif start and held:
            with memoryview(old) as view:
                view[:held] = view[start : start + held]
        self._start, self._end = 0, held
        return memoryview(self._buffer)[held : held + room]

    def received(self, count: int) -> list[StreamEvent]:
        """As `receive_data`, for *count* bytes put into `receive_buffer`, and with views."""
        if self._failed:
            raise RemoteProtocolError("the stream was damaged or closed before")
        if count == self._room:
            self._room = min(2 * count, GREATEST_READ_BYTES)
        elif count < self._room >> 3:
            self._room = max(self._room >> 1, LEAST_READ_BYTES)
        self._end += count
        events: list[StreamEvent] = []
        try:
            self._start = self._read_frames(memoryview(self._buffer)[: self._end], events)
        except RemoteProtocolError:
            self.close()
            raise
        return events

    def close(self) -> None:
        """Take nothing more, and give back the memory of what has arrived. Idempotent."""
        self._failed = True
        self._buffer = bytearray()  # others may still look at the old one
        self._start = self._end = 0

    def send(self, plain: bytes | memoryview) -> None:
        """Encrypt a message of at most `MAX_MESSAGE_BYTES`; it joins `data_to_send`.

        Raises:
          LocalProtocolError: the handshake is not done.
          ValueError: it is too long.
        """
        if self._push is None:
            raise LocalProtocolError("nothing can be sent before the handshake is done")
        if len(plain) > MAX_MESSAGE_BYTES:
            raise ValueError(f"a message has at most {MAX_MESSAGE_BYTES} bytes")
        length = (len(plain) + crypto.SECRETSTREAM_OVERHEAD).to_bytes(LENGTH_BYTES, "little")
        self._outgoing.append(self._push.push(plain, prefix=length))

    def keepalive(self) -> None:
        """Send an empty message, which the peer drops. Nothing while the handshake runs."""
        if self._push is not None:
            self.send(b"")

    def data_to_send(self) -> list[bytes | bytearray]:
        """Take what must be written, in order. The buffers are the caller's."""
        outgoing = self._outgoing
        self._outgoing = []
        return outgoing

    # -- receiving -------------------------------------------------------------------------------

    def _read_frames(self, view: memoryview, events: list[StreamEvent]) -> int:
        """Handle all complete frames of *view*; returns where the incomplete one begins."""
        at, end = self._start, len(view)
        while end - at >= LENGTH_BYTES:
            length = view[at] | view[at + 1] << 8 | view[at + 2] << 16
            pull = self._pull
            if pull is None:
                self._check_early_length(length)
            elif length < crypto.SECRETSTREAM_OVERHEAD:
                raise DecodeError("encrypted message")
            start = at + LENGTH_BYTES
            if end - start < length:
                break
            at = start + length
            if pull is None:
                frame = bytes(view[start:at])
                if self._handshake.done:
                    self._receive_header(frame)
                else:
                    events += self._shake_hands(frame)
                continue
            try:
                plain = pull.pull_in_place(view[start:at])
            except crypto.DecryptionError as error:
                raise RemoteProtocolError("a message of the peer does not decrypt") from error
            if plain:
                events.append(MessageReceived(plain))
        return at

    def _check_early_length(self, length: int) -> None:
        """Before messages every frame has a known size: whoever announces another is no peer."""
        expected = _HEADER_BYTES if self._handshake.done else self._handshake.expected_bytes
        if length != expected:
            raise DecodeError(f"frame of {expected} bytes")

    def _shake_hands(self, frame: bytes) -> list[StreamEvent]:
        handshake = self._handshake
        handshake.receive(frame)
        if handshake.sends_next:
            self._send_frame(handshake.send())
        if not handshake.done:
            return []
        self._start_sending()
        return [HandshakeDone(handshake.handshake_hash, handshake.remote_public_key)]

    def _receive_header(self, frame: bytes) -> None:
        expected = stream_id(self._handshake.handshake_hash, initiator=not self.initiator)
        if frame[:_STREAM_ID_BYTES] != expected:
            raise RemoteProtocolError("the peer's header names another stream")
        self._pull = crypto.SecretstreamPull(self._handshake.rx_key, frame[_STREAM_ID_BYTES:])

    # -- sending ---------------------------------------------------------------------------------

    def _start_sending(self) -> None:
        key = self._handshake.tx_key
        if self._header is None:
            self._push = crypto.SecretstreamPush(key)
        else:
            self._push = crypto.SecretstreamPush.from_header(key, self._header)
        own_id = stream_id(self._handshake.handshake_hash, initiator=self.initiator)
        self._send_frame(own_id + self._push.header)

    def _send_frame(self, frame: bytes) -> None:
        self._outgoing.append(len(frame).to_bytes(LENGTH_BYTES, "little") + frame)
