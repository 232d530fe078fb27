"""The ten messages two peers exchange about one core, and the handshake that opens its channel.

Each message is a frozen dataclass. `encode` gives the type number and the body that the multiplexer
carries, `decode` takes them apart and raises only `DecodeError`. Nothing here judges a message: what
a proof proves, and whether anybody asked, is for `corestore.tree` and the machine.

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

    from corestore.manifest import Manifest

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
