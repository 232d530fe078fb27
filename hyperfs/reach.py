"""Which blocks of a drive's two logs some versions need: what a collection must not clear.

A version needs its root block and the roots that one leads to, its overlay, the nodes of its tree
and the content blocks that its records name. A record in the tree that an overlay replaces or
removes is not the version's, though the node it lies in is.

Nodes never change and versions share most of them, so each is read once: what is added of a further
version costs about what changed. Memory is some three bits a block, whatever the number of
versions. Pure: blocks come through a `BlockReader`; work is done in steps, between which the caller
may let others run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from corestore import DecodeError
from hyperfs.blockset import BlockSet
from hyperfs.index.node import Leaf, decode_node, decode_overlay
from hyperfs.index.root import decode_root
from hyperfs.records import Entry, Link, unpack_record

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Set

    from hyperfs.extents import Extent
    from hyperfs.index.node import BlockReader
    from hyperfs.index.root import RootInfo


class Reach:
    """The blocks that the versions added so far need: `metadata` and `content`.

    Add versions from the oldest to the newest: any order is right, that one is fast. *ahead* is
    told the nodes that will be read; *content* is used as the set of that name.
    """

    def __init__(
        self,
        reader: BlockReader,
        *,
        ahead: Callable[[Sequence[int]], None] | None = None,
        content: BlockSet | None = None,
    ) -> None:
        self.metadata = BlockSet()
        self.content = BlockSet() if content is None else content
        self._reader = reader
        self._ahead = ahead
        # Nodes of which, with all below, everything is counted.
        self._whole = BlockSet()
        # The overlay read last, and its records that are not counted yet.
        self._overlay: tuple[int, dict[bytes, bytes | None], set[bytes]] = (0, {}, set())
        # The tree walked last, and the keys that were hidden then.
        self._tree: tuple[int, Set[bytes]] | None = None
        self.metadata.add(0)

    def add_version(self, root_block: int) -> Iterator[None]:
        """Count what the version with this root needs, in steps of a block or so.

        Raises:
          BlocksMissing: it is not all local.
          DecodeError, UnsupportedFormat: it, or a record in it, cannot be read. Nobody can say what
            such a version needs, so nothing may be cleared.
        """
        root = decode_root(self._reader.block(root_block), root_block)
        if root is None:
            raise DecodeError("root block")
        info, recent = root.info, root.recent
        self.metadata.add(root_block)
        # The way to older versions, and to a date, leads over these.
        for skip in info.skips:
            self.metadata.add(skip)
        for record in recent.values():
            self._count(record)
        yield
        older = self._older(info)
        uncounted = self._overlay[2]
        for key in [key for key in uncounted if key not in recent]:
            self._count(older[key])
            uncounted.discard(key)
        yield
        if info.tree is None:
            return
        hidden = {**older, **recent}.keys()
        walked = self._tree
        if walked is not None and walked[0] == info.tree and walked[1] <= hidden:
            # The same tree under more changes: whatever shows through was counted.
            return
        if info.tree not in self._whole:
            yield from self._walk(info.tree, hidden)
        self._tree = info.tree, hidden

    def add_extents(self, extents: Iterable[Extent]) -> None:
        """Count the content blocks of *extents*, which no version may have."""
        for extent in extents:
            self.content.add(extent.block)

    def _older(self, info: RootInfo) -> dict[bytes, bytes | None]:
        block = info.overlay
        if block is None:
            self._overlay = (0, {}, set())
        elif self._overlay[0] != block:
            self.metadata.add(block)
            changes = decode_overlay(self._reader.block(block))
            self._overlay = (block, changes, set(changes))
        return self._overlay[1]

    def _walk(self, block: int, hidden: Set[bytes]) -> Generator[None, None, bool]:
        """Count a subtree without the records of the keys *hidden*; whether there were none."""
        self.metadata.add(block)
        node = decode_node(self._reader.block(block), block)
        whole = True
        if isinstance(node, Leaf):
            for key, record in zip(node.keys(), node.values, strict=True):
                if key in hidden:
                    whole = False
                else:
                    self._count(record)
        else:
            if self._ahead is not None:
                self._ahead([child for child in node.children if child not in self._whole])
            for child in node.children:
                if child not in self._whole:
                    whole = (yield from self._walk(child, hidden)) and whole
        if whole:
            self._whole.add(block)
        yield
        return whole

    def _count(self, record: bytes | None) -> None:
        if record is None:
            return
        found = unpack_record(record)
        if isinstance(found, Entry):
            self.add_extents(found.extents)
        elif not isinstance(found, Link):
            self.add_extents(found)
