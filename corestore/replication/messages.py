"""The ten messages two peers exchange about one core, and the handshake that opens its channel.

Each message is a frozen dataclass. `encode` gives the type number and the body that the
multiplexer carries, `decode` takes them apart and raises only `DecodeError`. Nothing here judges a
message: what a proof proves, and whether anybody asked, is for `corestore.tree` and the machine.

What follows the last known field of a message is ignored, types that are not known decode to None:
this is how the protocol grows.

Format: hypercore 11.37.1, lib/messages.js; field by field in corestore/PROTOCOL.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from hmac import compare_digest
from typing import TYPE_CHECKING, Final

from corestore import crypto
from corestore.encoding import Reader, Writer
from corestore.errors import DecodeError, InvalidCapability
from corestore.manifest import Manifest
from corestore.tree.types import (
    BlockProof,
    BlockRequest,
    HashProof,
    HashRequest,
    Node,
    Proof,
    Request,
    SeekProof,
    SeekRequest,
    UpgradeProof,
    UpgradeRequest,
)

if TYPE_CHECKING:
    from collections.abc import Callable

PROTOCOL: Final = "hypercore/alpha"
ALIASES: Final = ("hypercore",)
CAPABILITY_BYTES: Final = 32
BITFIELD_ALIGNMENT: Final = 32
# A path or a list of roots has at most one node for each of the 53 bits of a length, an upgrade at
# most two. The bound keeps 16 MiB of bytes from becoming 100 MiB of nodes.
MAX_NODES: Final = 256
# A node takes at least two one-byte integers and its hash.
_NODE_BYTES: Final = 34


class MessageType(IntEnum):
    """The type numbers, as the multiplexer carries them."""

    SYNC = 0
    REQUEST = 1
    CANCEL = 2
    DATA = 3
    NO_DATA = 4
    WANT = 5
    UNWANT = 6
    BITFIELD = 7
    RANGE = 8
    EXTENSION = 9


class NoDataReason(IntEnum):
    """Why a request was not answered with data."""

    UNKNOWN = 0
    NOT_AVAILABLE = 1
    INVALID_REQUEST = 2


@dataclass(frozen=True, slots=True)
class OpenHandshake:
    """Sent with the opening of a channel: proof of knowing the key, without showing it.

    `seeks`: the sender understands the padding of seek requests; peers before 10.29 do not, and
    are sent none.
    """

    capability: bytes
    seeks: bool = True


@dataclass(frozen=True, slots=True)
class Sync:
    """The sender's view of the log: its own state, and what it last heard of the receiver's.

    Attributes:
      remote_length: the receiver's length as last heard, 0 while the forks differ. Peers ask for
        an upgrade only once their current length came back in this field.
      can_upgrade: the sender can prove the way from the receiver's length to its own.
      uploading: the sender answers requests.
      downloading: the sender wants data; a channel that nobody downloads on is closed.
      has_manifest: the sender can send the manifest (never set for a core without one).
      allow_push: the sender takes data it did not ask for.
    """

    fork: int
    length: int
    remote_length: int
    can_upgrade: bool
    uploading: bool
    downloading: bool
    has_manifest: bool
    allow_push: bool = False


@dataclass(frozen=True, slots=True)
class RequestMessage:
    """Asks for a proof, for the manifest, or for both. `id` comes back in the answer.

    Id 0 asks for evidence of a conflict; ordinary requests start at 1.
    """

    id: int
    request: Request
    manifest: bool = False
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Cancel:
    """The answer to request `id` is no longer wanted; it may still come."""

    id: int


@dataclass(frozen=True, slots=True)
class Data:
    """Answers request `id`. The manifest is there if it was asked for and is known."""

    id: int
    proof: Proof
    manifest: Manifest | None = None


@dataclass(frozen=True, slots=True)
class NoData:
    """Refuses request `id`. A `reason` beyond `NoDataReason` is possible from newer peers."""

    id: int
    reason: int = NoDataReason.UNKNOWN


@dataclass(frozen=True, slots=True)
class Want:
    """Asks which of the blocks `start .. start + length` the receiver has, now and later.

    `any`: one block of the range is enough of an answer.
    """

    start: int
    length: int
    any: bool = False


@dataclass(frozen=True, slots=True)
class Unwant:
    """Ends what the `Want` of the same fields began."""

    start: int
    length: int
    any: bool = False


@dataclass(frozen=True, slots=True)
class BitfieldMessage:
    """Which blocks from `start` on the sender has: bit `b & 7` of byte `b >> 3` is block start + b.

    `start` is a multiple of 32, `bits` a whole number of 32-bit words.
    """

    start: int
    bits: bytes


@dataclass(frozen=True, slots=True)
class Range:
    """The sender has the blocks `start .. start + length`, or no longer has them (`drop`)."""

    start: int
    length: int
    drop: bool = False


@dataclass(frozen=True, slots=True)
class Extension:
    """A message of some extension. An empty `name` repeats the name sent before."""

    name: str
    payload: bytes


Message = (
    Sync
    | RequestMessage
    | Cancel
    | Data
    | NoData
    | Want
    | Unwant
    | BitfieldMessage
    | Range
    | Extension
)

# -- flags ---------------------------------------------------------------------------------------

_HANDSHAKE_SEEKS: Final = 1

_SYNC_CAN_UPGRADE: Final = 1
_SYNC_UPLOADING: Final = 2
_SYNC_DOWNLOADING: Final = 4
_SYNC_HAS_MANIFEST: Final = 8
_SYNC_ALLOW_PUSH: Final = 16

# The parts of requests and data; data has no priority.
_BLOCK: Final = 1
_HASH: Final = 2
_SEEK: Final = 4
_UPGRADE: Final = 8
_MANIFEST: Final = 16
_PRIORITY: Final = 32

_NO_DATA_REASON: Final = 1
_WANT_ANY: Final = 1
_RANGE_DROP: Final = 1
_RANGE_SINGLE: Final = 2


# -- the channel's handshake -----------------------------------------------------------------------


def capability(key: bytes, handshake_hash: bytes, *, initiator: bool) -> bytes:
    """What a side of this stream shows to prove that it knows *key*.

    *initiator* says which side: the one that began the Noise handshake, or the other.
    """
    side = crypto.REPLICATE_INITIATOR if initiator else crypto.REPLICATE_RESPONDER
    return crypto.keyed_hash(handshake_hash, side, key)


def check_capability(
    handshake: OpenHandshake, key: bytes, handshake_hash: bytes, *, initiator: bool
) -> None:
    """Check what the peer showed; *initiator* says whether the peer is the Noise initiator.

    Raises:
      InvalidCapability: the peer does not know the key (or replays another stream's proof).
    """
    expected = capability(key, handshake_hash, initiator=initiator)
    if not compare_digest(handshake.capability, expected):
        raise InvalidCapability("the peer opened a channel without knowing the key of its core")


def encode_handshake(handshake: OpenHandshake) -> bytes:
    """The bytes that go with the opening of a channel."""
    flags = _HANDSHAKE_SEEKS if handshake.seeks else 0
    return Writer().uint(flags).fixed(handshake.capability).finish()


def decode_handshake(data: bytes | memoryview) -> OpenHandshake:
    """Take apart what came with the opening of a channel. Raises only DecodeError."""
    reader = Reader(data)
    flags = reader.uint()
    return OpenHandshake(
        capability=reader.fixed(CAPABILITY_BYTES), seeks=bool(flags & _HANDSHAKE_SEEKS)
    )


# -- encoding --------------------------------------------------------------------------------------


def encode(message: Message) -> tuple[int, bytes]:
    """The type number and the body of *message*.

    Raises:
      ValueError: a number is negative or above 2**53 - 1.
    """
    writer = Writer()
    match message:
        case Data():
            _write_data(writer, message)
            kind = MessageType.DATA
        case RequestMessage():
            _write_request(writer, message)
            kind = MessageType.REQUEST
        case Range(start, length, drop):
            flags = (_RANGE_DROP if drop else 0) | (_RANGE_SINGLE if length == 1 else 0)
            writer.uint(flags).uint(start)
            if length != 1:
                writer.uint(length)
            kind = MessageType.RANGE
        case Sync():
            writer.uint(_sync_flags(message))
            writer.uint(message.fork).uint(message.length).uint(message.remote_length)
            kind = MessageType.SYNC
        case Cancel(id):
            writer.uint(id)
            kind = MessageType.CANCEL
        case NoData(id, reason):
            writer.uint(id).uint(_NO_DATA_REASON if reason else 0)
            if reason:
                writer.uint(reason)
            kind = MessageType.NO_DATA
        case Want(start, length, any_) | Unwant(start, length, any_):
            writer.uint(start).uint(length)
            if any_:
                writer.uint(_WANT_ANY)
            kind = MessageType.WANT if isinstance(message, Want) else MessageType.UNWANT
        case BitfieldMessage(start, bits):
            if start % BITFIELD_ALIGNMENT or len(bits) % 4:
                raise ValueError("a bitfield starts at a multiple of 32 and is made of words")
            writer.uint(start).uint(len(bits) // 4).fixed(bits)
            kind = MessageType.BITFIELD
        case Extension(name, payload):
            writer.string(name).fixed(payload)
            kind = MessageType.EXTENSION
    return int(kind), writer.finish()


def _sync_flags(sync: Sync) -> int:
    return (
        (_SYNC_CAN_UPGRADE if sync.can_upgrade else 0)
        | (_SYNC_UPLOADING if sync.uploading else 0)
        | (_SYNC_DOWNLOADING if sync.downloading else 0)
        | (_SYNC_HAS_MANIFEST if sync.has_manifest else 0)
        | (_SYNC_ALLOW_PUSH if sync.allow_push else 0)
    )


def _part_flags(parts: Request | Proof, *, manifest: bool) -> int:
    return (
        (_BLOCK if parts.block is not None else 0)
        | (_HASH if parts.hash is not None else 0)
        | (_SEEK if parts.seek is not None else 0)
        | (_UPGRADE if parts.upgrade is not None else 0)
        | (_MANIFEST if manifest else 0)
    )


def _write_request(writer: Writer, message: RequestMessage) -> None:
    request = message.request
    flags = _part_flags(request, manifest=message.manifest)
    if message.priority:
        flags |= _PRIORITY
    writer.uint(flags).uint(message.id).uint(request.fork)
    if request.block is not None:
        writer.uint(request.block.index).uint(request.block.nodes)
    if request.hash is not None:
        writer.uint(request.hash.index).uint(request.hash.nodes)
    if request.seek is not None:
        writer.uint(request.seek.offset).uint(request.seek.padding)
    if request.upgrade is not None:
        writer.uint(request.upgrade.start).uint(request.upgrade.length)
    if message.priority:
        writer.uint(message.priority)


def _write_data(writer: Writer, message: Data) -> None:
    proof = message.proof
    flags = _part_flags(proof, manifest=message.manifest is not None)
    writer.uint(flags).uint(message.id).uint(proof.fork)
    if proof.block is not None:
        writer.uint(proof.block.index).buffer(proof.block.value)
        _write_nodes(writer, proof.block.nodes)
    if proof.hash is not None:
        writer.uint(proof.hash.index)
        _write_nodes(writer, proof.hash.nodes)
    if proof.seek is not None:
        writer.uint(proof.seek.offset)
        _write_nodes(writer, proof.seek.nodes)
    if proof.upgrade is not None:
        writer.uint(proof.upgrade.start).uint(proof.upgrade.length)
        _write_nodes(writer, proof.upgrade.nodes)
        _write_nodes(writer, proof.upgrade.additional_nodes)
        writer.buffer(proof.upgrade.signature)
    if message.manifest is not None:
        writer.fixed(message.manifest.encode())


def _write_nodes(writer: Writer, nodes: tuple[Node, ...]) -> None:
    writer.uint(len(nodes))
    for index, size, hash_ in nodes:
        writer.uint(index).uint(size).fixed(hash_)


# -- decoding --------------------------------------------------------------------------------------


def decode(kind: int, body: bytes | memoryview) -> Message | None:
    """The message of type number *kind*; None if this version knows no such type.

    Raises:
      DecodeError: *body* is not such a message. Nothing else, whatever the bytes.
    """
    read = _DECODERS.get(kind)
    return None if read is None else read(Reader(body))


def _read_sync(reader: Reader) -> Sync:
    flags = reader.uint()
    return Sync(
        fork=reader.uint(),
        length=reader.uint(),
        remote_length=reader.uint(),
        can_upgrade=bool(flags & _SYNC_CAN_UPGRADE),
        uploading=bool(flags & _SYNC_UPLOADING),
        downloading=bool(flags & _SYNC_DOWNLOADING),
        has_manifest=bool(flags & _SYNC_HAS_MANIFEST),
        allow_push=bool(flags & _SYNC_ALLOW_PUSH),
    )


def _read_request(reader: Reader) -> RequestMessage:
    flags = reader.uint()
    id_ = reader.uint()
    request = Request(
        fork=reader.uint(),
        block=BlockRequest(reader.uint(), reader.uint()) if flags & _BLOCK else None,
        hash=HashRequest(reader.uint(), reader.uint()) if flags & _HASH else None,
        seek=SeekRequest(reader.uint(), reader.uint()) if flags & _SEEK else None,
        upgrade=UpgradeRequest(reader.uint(), reader.uint()) if flags & _UPGRADE else None,
    )
    priority = reader.uint() if flags & _PRIORITY else 0
    return RequestMessage(id_, request, bool(flags & _MANIFEST), priority)


def _read_data(reader: Reader) -> Data:
    flags = reader.uint()
    id_ = reader.uint()
    fork = reader.uint()
    block = hash_ = seek = upgrade = manifest = None
    if flags & _BLOCK:
        block = BlockProof(reader.uint(), reader.buffer(), _read_nodes(reader))
    if flags & _HASH:
        hash_ = HashProof(reader.uint(), _read_nodes(reader))
    if flags & _SEEK:
        seek = SeekProof(reader.uint(), _read_nodes(reader))
    if flags & _UPGRADE:
        upgrade = UpgradeProof(
            start=reader.uint(),
            length=reader.uint(),
            nodes=_read_nodes(reader),
            additional_nodes=_read_nodes(reader),
            signature=reader.buffer(),
        )
    if flags & _MANIFEST:
        manifest = Manifest.read(reader)
    return Data(id_, Proof(fork, block, hash_, seek, upgrade), manifest)


def _read_nodes(reader: Reader) -> tuple[Node, ...]:
    at = reader.at
    count = reader.uint()
    if count > MAX_NODES or count * _NODE_BYTES > reader.remaining:
        raise DecodeError(f"at most {MAX_NODES} tree nodes", at)
    return tuple([Node(reader.uint(), reader.uint(), reader.fixed(32)) for _ in range(count)])


def _read_no_data(reader: Reader) -> NoData:
    id_ = reader.uint()
    # Peers before 11.13 send the id alone.
    flags = reader.uint() if reader.remaining else 0
    return NoData(id_, reader.uint() if flags & _NO_DATA_REASON else NoDataReason.UNKNOWN)


def _read_any(reader: Reader) -> bool:
    return bool(reader.uint() & _WANT_ANY) if reader.remaining else False


def _read_bitfield(reader: Reader) -> BitfieldMessage:
    start = reader.uint()
    if start % BITFIELD_ALIGNMENT:
        raise DecodeError("a bitfield that starts at a multiple of 32", 0)
    return BitfieldMessage(start, reader.uint32_array())


def _read_range(reader: Reader) -> Range:
    flags = reader.uint()
    start = reader.uint()
    length = 1 if flags & _RANGE_SINGLE else reader.uint()
    return Range(start, length, bool(flags & _RANGE_DROP))


_DECODERS: Final[dict[int, Callable[[Reader], Message]]] = {
    MessageType.SYNC: _read_sync,
    MessageType.REQUEST: _read_request,
    MessageType.CANCEL: lambda reader: Cancel(reader.uint()),
    MessageType.DATA: _read_data,
    MessageType.NO_DATA: _read_no_data,
    MessageType.WANT: lambda reader: Want(reader.uint(), reader.uint(), _read_any(reader)),
    MessageType.UNWANT: lambda reader: Unwant(reader.uint(), reader.uint(), _read_any(reader)),
    MessageType.BITFIELD: _read_bitfield,
    MessageType.RANGE: _read_range,
    MessageType.EXTENSION: lambda reader: Extension(reader.string(), reader.rest()),
}
