"""The nodes of the index, block by block: leaves and inner nodes, and the cache of decoded ones.

The index is a B+tree whose nodes are blocks of the metadata log. A leaf holds keys and records; an
inner node holds children and, between each two, a separator: the shortest byte string above every
key of the left child and not above any key of the right. What all keys or separators of a node
begin with is stored once. Records stay bytes in here, so that rewriting a node copies them.

A child is named by how many blocks before its parent it lies, so no cycle can be written; its
level must be one less than its parent's, so no tree is deeper than its root says. Nodes come from
other people's drives: `decode` checks all that can be checked of one node and raises `DecodeError`;
what needs two nodes, that keys lie between their parent's separators, is checked by those who walk.

Every block of the log after the first is a msgpack array of three, so none of them can be taken
for a node of a Hyperbee.

Format: hyperfs/FORMAT.md, "Index nodes".
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from operator import lt
from typing import TYPE_CHECKING, Final, Protocol

from corestore import DecodeError
from hyperfs.paths import MAX_NAME_BYTES
from hyperfs.records import ID_BYTES, pack, unpack_untrusted

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence

# What a leaf is cut to; one with a single long record may be larger.
LEAF_BYTES: Final = 4096
# What an inner node is cut to. With 4 KiB in place of 16 the directories on a path share theirs
# less often, and in a drive of a million names there are four times as many to fetch ahead; changes
# of single names in random places would take 5 % less.
INNER_BYTES: Final = 16 * 1024
# An array of the format has at most 4096 elements.
MAX_CHILDREN: Final = 2048
# Nothing larger is read: the longest record in a leaf of its own stays below it.
MAX_NODE_BLOCK_BYTES: Final = 64 * 1024
# With the longest names a leaf holds about 12 entries and a node 15 children: 12 * 15**8 is 2**34.
MAX_LEVEL: Final = 8
MIN_KEY_BYTES: Final = ID_BYTES + 1
MAX_KEY_BYTES: Final = ID_BYTES + MAX_NAME_BYTES
# Beyond its bytes, a decoded item takes an object header and a place in a list.
_ITEM_OVERHEAD: Final = 41
# Some 5,000 leaves, or the inner nodes of a drive of 15 million names.
NODE_CACHE_BYTES: Final = 32 * 1024 * 1024

OVERLAY_KIND: Final = 64
ROOT_KIND: Final = 65


class BlockSource(Protocol):
    """Where missing blocks come from (`hyperfs.blocks`)."""

    async def fetch(self, indices: Iterable[int]) -> None:
        """Return when all these blocks are local."""
        ...


class BlocksMissing(Exception):
    """Blocks of the metadata log that an operation needs and that are not local.

    Raised by a `BlockReader`, and by every operation that reads through one. `indices` are all the
    blocks known to be needed so far: fetch them together and call again. Operations change nothing
    before they have what they need, and nodes once read are cached, so a repeated call goes on
    where the last one stopped. `source` is where they are fetched from, when that is another log.
    """

    def __init__(self, indices: Iterable[int], source: BlockSource | None = None) -> None:
        self.indices = tuple(indices)
        self.source = source
        super().__init__(f"blocks {', '.join(map(str, self.indices))} are not local")


class BlockReader(Protocol):
    """The metadata log, as far as it is here."""

    def block(self, index: int) -> bytes:
        """The block *index*. Raises BlocksMissing when it is not local."""
        ...


@dataclass(slots=True)
class Leaf:
    """Keys and records, sorted; a key is `prefix` and one of `suffixes`. Not to be changed."""

    prefix: bytes
    suffixes: list[bytes]
    values: list[bytes]
    level: int = 0

    def key(self, at: int) -> bytes:
        """One whole key."""
        return self.prefix + self.suffixes[at]

    def keys(self, start: int = 0, end: int | None = None) -> list[bytes]:
        """The whole keys, or some of them."""
        prefix = self.prefix
        return [prefix + suffix for suffix in self.suffixes[start:end]]

    def place(self, key: bytes) -> int:
        """How many keys come before *key*."""
        prefix = self.prefix
        if key.startswith(prefix):
            return bisect_left(self.suffixes, key[len(prefix) :])
        return 0 if key < prefix else len(self.suffixes)

    @property
    def cost(self) -> int:
        """Roughly how many bytes of memory it takes."""
        return 2 * _ITEM_OVERHEAD * len(self.values) + sum(map(len, self.values)) * 5 // 4


@dataclass(slots=True)
class Inner:
    """Children and the separators between them. Not to be changed.

    `children[i]` is the block of the child whose keys lie from separator i - 1 (inclusive) to
    separator i; a separator is `prefix` and one of `suffixes`, of which there is one fewer.
    """

    level: int
    prefix: bytes
    suffixes: list[bytes]
    children: list[int]

    def position(self, key: bytes) -> int:
        """Which child *key* lies in."""
        prefix = self.prefix
        if key.startswith(prefix):
            return bisect_right(self.suffixes, key[len(prefix) :])
        return 0 if key < prefix else len(self.suffixes)

    def separator(self, position: int) -> bytes:
        """The separator in front of the child at *position*, which is not the first."""
        return self.prefix + self.suffixes[position - 1]

    @property
    def cost(self) -> int:
        """Roughly how many bytes of memory it takes."""
        return 2 * _ITEM_OVERHEAD * len(self.children) + sum(map(len, self.suffixes))


Node = Leaf | Inner


# -- writing -----------------------------------------------------------------------------------


def common_prefix(first: bytes, last: bytes) -> bytes:
    """What both begin with; of a sorted list's ends, what all of it begins with."""
    limit = min(len(first), len(last))
    if first[:limit] == last[:limit]:
        return first[:limit]
    at = 0
    while first[at] == last[at]:
        at += 1
    return first[:at]


def separator(left: bytes, right: bytes) -> bytes:
    """The shortest byte string above *left* and not above *right*, which is above *left*."""
    return right[: len(common_prefix(left, right)) + 1]


def encode_leaf(keys: Sequence[bytes], values: Sequence[bytes]) -> bytes:
    """The block of a leaf; *keys* sorted, at least one."""
    prefix = common_prefix(keys[0], keys[-1])
    return pack([0, prefix, _interleave(keys, values, len(prefix))])


def encode_inner(
    level: int, separators: Sequence[bytes], children: Sequence[int], *, index: int
) -> bytes:
    """The block of an inner node that will be block *index*; children as block indices."""
    prefix = common_prefix(separators[0], separators[-1]) if separators else b""
    items: list[object] = [None] * (len(children) + len(separators))
    items[::2] = [index - child for child in children]
    skip = len(prefix)
    items[1::2] = [separator[skip:] for separator in separators]
    return pack([level, prefix, items])


def encode_overlay(changes: Mapping[bytes, bytes | None], top: bytes | None = None) -> bytes:
    """The block of an overlay: keys with their records, or None where the key is deleted. *top* is
    the block of the tree's topmost node, if it is repeated here."""
    keys = sorted(changes)
    prefix = common_prefix(keys[0], keys[-1]) if keys else b""
    values = [changes[key] for key in keys]
    head = prefix if top is None else [prefix, top]
    return pack([OVERLAY_KIND, head, _interleave(keys, values, len(prefix))])


def _interleave(
    keys: Sequence[bytes], values: Sequence[bytes | None], skip: int
) -> list[bytes | None]:
    items: list[bytes | None] = [None] * (2 * len(keys))
    items[::2] = [key[skip:] for key in keys] if skip else keys
    items[1::2] = values
    return items


# -- reading -----------------------------------------------------------------------------------


def unpack_block_untrusted(block: bytes) -> tuple[int, object, list[object]]:
    """The kind and the two parts of any block of the log after the first.

    Raises:
      DecodeError: it is not an array of a number, something, and an array.
    """
    if len(block) > MAX_NODE_BLOCK_BYTES:
        raise DecodeError(f"block of at most {MAX_NODE_BLOCK_BYTES} bytes")
    value = unpack_untrusted(block)
    if type(value) is not list or len(value) != 3:
        raise DecodeError("array of three")
    kind, head, items = value
    if type(kind) is not int or type(items) is not list:
        raise DecodeError("block of the index")
    return kind, head, items


def decode_node(block: bytes, index: int) -> Node:
    """Read the leaf or inner node that is block *index*.

    Raises:
      DecodeError: it is neither, its keys are not sorted or too long, a child lies after it.
    """
    level, prefix, items = unpack_block_untrusted(block)
    if type(prefix) is not bytes or not items:
        raise DecodeError("index node")
    if level == 0:
        keys, values = _keys_untrusted(prefix, items, least=MIN_KEY_BYTES)
        if set(map(type, values)) != {bytes}:
            raise DecodeError("records of a leaf")
        return Leaf(prefix, keys, values)
    if not 0 < level <= MAX_LEVEL or len(items) % 2 == 0:
        raise DecodeError("level of an index node")
    steps: list[int] = items[::2]  # type: ignore[assignment]  # looked at next
    if set(map(type, steps)) != {int}:
        raise DecodeError("children of an index node")
    children = [index - step for step in steps]
    if max(children) >= index or min(children) <= 0:
        raise DecodeError("child in front of its parent")
    # The odd items, each followed by its child: the shape that keys and values have.
    suffixes, _ = _keys_untrusted(prefix, items[1:], least=1)
    return Inner(level, prefix, suffixes, children)


def decode_overlay(block: bytes) -> dict[bytes, bytes | None]:
    """The changes of an overlay block.

    Raises:
      DecodeError: it is none, or its keys are not sorted.
    """
    return decode_overlay_and_top(block)[0]


def decode_overlay_and_top(block: bytes) -> tuple[dict[bytes, bytes | None], bytes | None]:
    """The changes of an overlay block, and the block of the tree's topmost node if it is repeated
    there. Raises as `decode_overlay`."""
    kind, head, items = unpack_block_untrusted(block)
    prefix, top = head if type(head) is list and len(head) == 2 else (head, None)
    if kind != OVERLAY_KIND or type(prefix) is not bytes or type(top) not in (bytes, type(None)):
        raise DecodeError("overlay")
    return decode_changes_untrusted(prefix, items), top


def decode_changes_untrusted(prefix: bytes, items: list[object]) -> dict[bytes, bytes | None]:
    """The changes in the items of an overlay or of a root block. Raises DecodeError."""
    if not items:
        return {}
    suffixes, values = _keys_untrusted(prefix, items, least=MIN_KEY_BYTES)
    if not set(map(type, values)) <= {bytes, type(None)}:
        raise DecodeError("records of an overlay")
    return dict(zip([prefix + suffix for suffix in suffixes], values, strict=True))


def _keys_untrusted(
    prefix: bytes, items: list[object], *, least: int
) -> tuple[list[bytes], list[bytes]]:
    """Keys and values of alternating items, the keys checked; empty for no items."""
    keys: list[bytes] = items[::2]  # type: ignore[assignment]  # looked at below
    values: list[bytes] = items[1::2]  # type: ignore[assignment]  # by who wants them
    if not keys:
        return keys, values
    if set(map(type, keys)) != {bytes} or len(values) != len(keys):
        raise DecodeError("keys of an index node")
    if not all(map(lt, keys, keys[1:])):
        raise DecodeError("sorted keys")
    lengths = list(map(len, keys))
    if len(prefix) + min(lengths) < least or len(prefix) + max(lengths) > MAX_KEY_BYTES:
        raise DecodeError("key of 7 to 261 bytes")
    return keys, values


# -- the cache ---------------------------------------------------------------------------------


class Costed(Protocol):
    """What a cache keeps: something that knows roughly how much memory it takes."""

    @property
    def cost(self) -> int: ...


class NodeCache:
    """Decoded blocks of one metadata log, least recently used out, shared by all its views.

    Bounded by the memory its nodes take. Blocks of a log never change, so nothing in it becomes
    stale, except when an unpublished tail is cut off: then `forget_from` is called.
    """

    def __init__(self, limit: int = NODE_CACHE_BYTES) -> None:
        self._limit = limit
        self._size = 0
        self._nodes: OrderedDict[int, Costed] = OrderedDict()

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def size_bytes(self) -> int:
        """Roughly how much memory the cached nodes take."""
        return self._size

    def get(self, index: int) -> Costed | None:
        """What was decoded from block *index*, if it is still here."""
        node = self._nodes.get(index)
        if node is not None:
            self._nodes.move_to_end(index)
        return node

    def put(self, index: int, node: Costed) -> None:
        """Keep what was decoded from block *index*."""
        old = self._nodes.pop(index, None)
        if old is not None:
            self._size -= old.cost
        self._nodes[index] = node
        self._size += node.cost
        while self._size > self._limit and len(self._nodes) > 1:
            self._size -= self._nodes.popitem(last=False)[1].cost

    def warm(self, first: int, nodes: Iterable[bytes]) -> Generator[None, None, None]:
        """Keep the nodes that were just written from block *first* on, in steps: who lists or
        changes what was changed needs them, and would read, compare and decode them."""
        for index, block in enumerate(nodes, first):
            self.put(index, decode_node(block, index))
            yield

    def forget_from(self, length: int) -> None:
        """Drop what came from blocks at *length* and after it."""
        for index in [index for index in self._nodes if index >= length]:
            self._size -= self._nodes.pop(index).cost

    def node(self, index: int, level: int | None, reader: BlockReader) -> Node:
        """The node of block *index*, which must be of *level* when that is known.

        Raises:
          BlocksMissing: it is not local.
          DecodeError: the block is no node, or one of another level.
        """
        node = self.get(index)
        if node is None:
            node = decode_node(reader.block(index), index)
            self.put(index, node)
        if not isinstance(node, Leaf | Inner) or (level is not None and node.level != level):
            raise DecodeError("index node of the level below its parent")
        return node
