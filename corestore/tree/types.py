"""The values the tree modules exchange: nodes, heads, requests and proofs.

A tree node is named by its flat-tree index: block *i* is leaf `2 * i`, inner nodes are the odd
numbers between. Sizes are bytes of stored blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from corestore import crypto

# The longest log that is believed to exist: what a store can number. At a million blocks a second
# it would take 25 days to write.
MAX_LENGTH: Final = 1 << 41


class Node(NamedTuple):
    """One node of a Merkle tree: flat index, bytes of the blocks below it, 32-byte hash.

    A tuple because millions of them are made; `index` is the field, not the tuple's method.
    """

    index: int  # type: ignore[assignment]  # tuples have a method of that name
    size: int
    hash: bytes


class NodeNotAvailable(LookupError):
    """Raised by tree algorithms that need a node which is not known here; `index` names it.

    A sparse copy of a log lacks nodes by design: ask a peer for a proof that has this one.
    """

    def __init__(self, index: int) -> None:
        super().__init__(f"tree node {index} is not known here")
        self.index = index


class NodeReader(Protocol):
    """Where tree algorithms look up nodes: storage, or storage under a batch not yet written."""

    def node(self, index: int) -> Node | None:
        """The node at a flat index, or None when it is not known here."""
        ...


class NoNodes:
    """A `NodeReader` that knows no node: a proof checked with it has to bring all it needs."""

    def node(self, index: int) -> None:
        """None, whatever *index*."""
        del index


@dataclass(frozen=True, slots=True)
class Head:
    """The state of a log: all that its signature covers, and the signature.

    `roots` are the full roots of the tree, left to right; `length` counts blocks.
    """

    fork: int = 0
    length: int = 0
    byte_length: int = 0
    roots: tuple[Node, ...] = ()
    signature: bytes = b""

    def tree_hash(self) -> bytes:
        """The hash that stands for the whole log."""
        return crypto.tree_hash(self.roots)


EMPTY_HEAD = Head()


class StoredBlock(NamedTuple):
    """A block to write: its index, where its bytes start in the log, and the bytes.

    A tuple for the reason a `Node` is one.
    """

    index: int  # type: ignore[assignment]  # tuples have a method of that name
    byte_offset: int
    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Prologue:
    """What a log starts from: its first *length* blocks have this tree *hash*, signed or not."""

    hash: bytes
    length: int


class Verifier(Protocol):
    """Decides whether a head was signed by those who may. `corestore.manifest` provides it."""

    @property
    def prologue(self) -> Prologue | None:
        """What every history of the core must start from, if its manifest says so."""
        ...

    def verify(self, head: Head) -> None:
        """Raises InvalidSignature unless *head* carries a valid signature."""
        ...


# -- what one asks -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BlockRequest:
    """A block, with *nodes* levels of siblings above its leaf."""

    index: int
    nodes: int


@dataclass(frozen=True, slots=True)
class HashRequest:
    """A tree node by flat index, with *nodes* levels of siblings above it."""

    index: int
    nodes: int


@dataclass(frozen=True, slots=True)
class SeekRequest:
    """The node at a byte offset; `padding` bytes of every block do not count."""

    offset: int
    padding: int


@dataclass(frozen=True, slots=True)
class UpgradeRequest:
    """The roots that lengthen a log of *start* blocks by *length*."""

    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Request:
    """What a proof is asked for: any of the parts, on one fork."""

    fork: int = 0
    block: BlockRequest | None = None
    hash: HashRequest | None = None
    seek: SeekRequest | None = None
    upgrade: UpgradeRequest | None = None


# -- what one is answered ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BlockProof:
    """A block's bytes and the siblings that lead upwards."""

    index: int
    value: bytes
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class HashProof:
    """A node (the first of *nodes*) and the siblings that lead upwards."""

    index: int
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class SeekProof:
    """The node found at *offset* (the first of *nodes*) and the siblings that lead upwards."""

    offset: int
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class UpgradeProof:
    """The new roots; *additional_nodes* lead on to the length that *signature* covers."""

    start: int
    length: int
    nodes: tuple[Node, ...]
    additional_nodes: tuple[Node, ...]
    signature: bytes


@dataclass(frozen=True, slots=True)
class Proof:
    """The answer to a `Request`, part by part. Nothing in it is to be believed unverified."""

    fork: int = 0
    block: BlockProof | None = None
    hash: HashProof | None = None
    seek: SeekProof | None = None
    upgrade: UpgradeProof | None = None
