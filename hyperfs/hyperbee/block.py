"""The blocks of a Hyperbee: the header, and one block for each operation.

A block holds a key and its value (none for a deletion) and the tree nodes that the operation
changed, called levels: each a list of the blocks that hold its keys, and a list of its children, as
(block, number of the level in it). Level 0 of the last block of an append is the root.

What one block cannot tell, that the keys of a node lie between those above it, is checked by those
who walk.

Format: hyperbee 2, lib/messages.js and index.js (YoloIndex).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from corestore import DecodeError
from hyperfs.hyperbee.protobuf import fields_untrusted, integers_untrusted

PROTOCOL: Final = b"hyperbee"
KEY_BYTES: Final = 32
# A path of this many bytes cannot be named on Linux, but can be stored.
MAX_KEY_BYTES: Final = 16 * 1024
# Hyperbee's nodes have 4 to 8 keys. Some more do no harm.
MAX_KEYS: Final = 64
# A tree of 2**53 keys, at least 5 children a node, has 23 levels; one operation may change two or
# three nodes of each, and a level of a block takes under 200 bytes.
MAX_DEPTH: Final = 32
MAX_INDEX_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Header:
    """Block 0. Both may be absent; *has_metadata* says whether there is a place for them."""

    content_key: bytes | None
    user_data: bytes | None
    has_metadata: bool


def decode_header_untrusted(block: bytes) -> Header | None:
    """Read a Hyperbee's first block; None when it is another kind of block."""
    try:
        fields = dict(fields_untrusted(block))
        if fields.get(1) != PROTOCOL:
            return None
        metadata = dict(fields_untrusted(fields.get(2, b"")))
    except DecodeError:
        return None
    content = metadata.get(1)
    if content is not None:
        # Longer ones carry more than the key.
        content = content[:KEY_BYTES] if len(content) >= KEY_BYTES else None
    return Header(content, metadata.get(2), 2 in fields)


class Level(NamedTuple):
    """One tree node, as it is stored: where its keys are, and its children."""

    keys: tuple[int, ...]
    children: tuple[tuple[int, int], ...]


@dataclass(slots=True)
class Node:
    """One tree node with its keys, sorted. `seqs` are the blocks they and their values are in."""

    keys: list[bytes]
    seqs: tuple[int, ...]
    children: tuple[tuple[int, int], ...]


@dataclass(slots=True)
class Block:
    """One operation. `nodes` is for those who walk: what they have put together of its levels."""

    index: int
    key: bytes
    value: bytes | None
    _packed: bytes
    _levels: tuple[Level, ...] | None = None
    nodes: dict[int, Node] = field(default_factory=dict)

    @property
    def cost(self) -> int:
        """Roughly how many bytes of memory it takes, nodes included."""
        return 500 + len(self.key) + len(self.value or b"") + 24 * len(self._packed)

    def levels(self) -> tuple[Level, ...]:
        """The tree nodes. Raises DecodeError when they cannot be."""
        if self._levels is None:
            messages = fields_untrusted(self._packed)
            self._levels = tuple([_level(each, self.index) for n, each in messages if n == 1])
        return self._levels

    @property
    def is_deletion(self) -> bool:
        """Whether the operation removed the key. Raises DecodeError."""
        return self.value is None and all(self.index not in each.keys for each in self.levels())


def decode_block(block: bytes, index: int) -> Block:
    """Read block *index*, which is not the header.

    Raises:
      DecodeError: it is no block of a Hyperbee, or one beyond the bounds of this module.
    """
    fields = dict(fields_untrusted(block))
    packed, key = fields.get(1), fields.get(2)
    if packed is None or key is None:
        raise DecodeError("block of a Hyperbee")
    if len(key) > MAX_KEY_BYTES or len(packed) > MAX_INDEX_BYTES:
        raise DecodeError("block of a Hyperbee within bounds")
    return Block(index, key, fields.get(3), packed)


def _level(message: bytes, index: int) -> Level:
    """A level of block *index*: it refers to that block or to earlier ones."""
    keys: list[int] = []
    numbers: list[int] = []
    for number, packed in fields_untrusted(message):
        if number == 1:
            keys += integers_untrusted(packed, MAX_KEYS)
        elif number == 2:
            numbers += integers_untrusted(packed, 2 * MAX_KEYS + 2)
    children = tuple(zip(numbers[::2], numbers[1::2], strict=False))
    if len(keys) > MAX_KEYS or len(numbers) % 2 or (children and len(children) != len(keys) + 1):
        raise DecodeError("node of a Hyperbee")
    if children and not keys:
        raise DecodeError("keys of a node")
    for seq in (*keys, *numbers[::2]):
        if not 0 < seq <= index:
            raise DecodeError("block in front of the node")
    return Level(tuple(keys), children)
