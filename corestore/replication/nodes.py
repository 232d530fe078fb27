"""Tree nodes between verification and the store, and those needed again soon.

Proofs are verified against nodes that earlier proofs brought and that may not be committed yet;
proofs are built from nodes near those of the proof before. Both read through a `NodeCache`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from corestore.tree.types import Node, NodeReader

# Per generation, of two: 150 bytes a node, so 5 MB for a core that replicates at full speed. The
# window of requests (512 blocks) and the paths above it take a few thousand.
GENERATION_NODES: Final = 16_384


class NodeCache:
    """A `NodeReader` over the store that remembers what passed through it.

    Nodes given to `add` stay until `committed` was called as often as `add`; the others are
    forgotten a generation at a time, oldest first.
    """

    __slots__ = ("_added", "_base", "_committed", "_old", "_old_added", "_young")

    def __init__(self, base: NodeReader) -> None:
        self._base = base
        self._young: dict[int, Node] = {}
        self._old: dict[int, Node] = {}
        self._added = 0
        self._committed = 0
        # `_added` when the old generation was the young one: it may go once that many committed.
        self._old_added = 0

    def node(self, index: int) -> Node | None:
        """The node at a flat index: verified, lately read, or stored."""
        node = self._young.get(index)
        if node is None:
            node = self._old.get(index)
            if node is None:
                node = self._base.node(index)
                if node is None:
                    return None
                if len(self._young) >= GENERATION_NODES:
                    self._turn()
            # Used again: it survives the next turn.
            self._young[index] = node
        return node

    def add(self, nodes: Iterable[Node]) -> None:
        """Lay verified nodes over the store. Every call is one commit to come."""
        young = self._young
        for node in nodes:
            young[node[0]] = node
        self._added += 1
        if len(young) >= GENERATION_NODES:
            self._turn()

    def committed(self) -> None:
        """The oldest `add` that was not yet committed now is, and the store has its nodes."""
        self._committed += 1

    def clear(self) -> None:
        """Forget everything: the store's nodes have changed, or what was added is refused."""
        self._young.clear()
        self._old.clear()
        self._committed = self._old_added = self._added

    def _turn(self) -> None:
        if self._committed < self._old_added:
            return
        self._old = self._young
        self._old_added = self._added
        self._young = {}
