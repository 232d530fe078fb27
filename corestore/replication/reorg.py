"""Another history of a log: how much of what we hold is the same in both.

A peer has proved a head of a higher fork. The blocks before the first difference need not be
fetched again. Where that is, the tree tells from above: an equal node stands for equal blocks, so
the search goes down the leftmost nodes that differ. What is not known of the new tree is asked for,
one path to a leaf at a time; each answer leads down at least one level, two as a rule.

The search only saves work. Whenever it cannot go on, what is proven so far stands.

Format: holepunchto/hypercore 11, its tree's reorganisation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from corestore.tree import flat
from corestore.tree.types import HashRequest
from corestore.tree.verify import VerifiedBatch

if TYPE_CHECKING:
    from corestore.bitfield import Bitfield
    from corestore.manifest import Manifest
    from corestore.replication.peer import Flight, Peer
    from corestore.tree.types import Head, Node, NodeReader

# Each answer leads down a level at least, unless the peer plays for time.
MAX_REQUESTS: Final = 64


class Reorganisation:
    """One search, from the proof of the new head to the batch that follows it.

    Attributes:
      peer: who proved the head, and is asked for nodes.
      head: the new head. Answers are verified against it, with this object as the `NodeReader`:
        it knows the new history only.
      flight: the request under way.
      deadline: when the search is given up.
    """

    def __init__(
        self,
        peer: Peer,
        batch: VerifiedBatch,
        manifest: Manifest | None,
        *,
        own: NodeReader,
        own_length: int,
        deadline: float,
    ) -> None:
        assert batch.head is not None
        self.peer = peer
        self.head: Head = batch.head
        self.manifest = manifest
        self.flight: Flight | None = None
        self.deadline = deadline
        self._own = own
        self._own_length = own_length
        # Nodes of the new tree whose sizes are certain, and those that are only claimed.
        self._sound = {node.index: node for node in batch.nodes}
        self._claimed = {node.index: node for node in batch.hints}
        self._target = -1
        self._requests = 0
        self._shared = 0

    def node(self, index: int) -> Node | None:
        """A node of the new tree, if it is known."""
        return self._sound.get(index) or self._claimed.get(index)

    def next_request(self, announced: Bitfield) -> HashRequest | None:
        """What to ask the peer for, which has *announced* blocks; None when all is known, or the
        peer cannot help."""
        target = self._find()
        self._requests += 1
        if target is None or self._requests > MAX_REQUESTS:
            return None
        self._target = target.index
        start, end = flat.blocks(target.index)
        # The right edge of the left half: it tells the halves apart, and goes on in the left one.
        leaf = (start + end) // 2 - 1
        if not announced.get(leaf):
            found = announced.first(True, start, end)
            if found is None:
                return None
            leaf = found
        return HashRequest(2 * leaf, flat.depth(target.index))

    def answered(self, batch: VerifiedBatch) -> None:
        """The answer to `next_request` was verified."""
        known = self._sound if self._target in self._sound else self._claimed
        for node in batch.nodes:
            known.setdefault(node.index, node)
        for node in batch.hints:
            self._claimed.setdefault(node.index, node)

    def result(self) -> VerifiedBatch:
        """What to commit: the new head, and what is known to stay."""
        self._find()
        for index, node in list(self._claimed.items()):
            if self._is_own(node):
                # Ours is certain, so its sibling's is, by the sum above them.
                for certain in (index, flat.sibling(index)):
                    if certain in self._claimed:
                        self._sound[certain] = self._claimed[certain]
        nodes = list(self._sound.values())
        return VerifiedBatch(self.head, nodes, truncate=self._shared)

    def _find(self) -> Node | None:
        """Go down to the first difference that is not resolved; None if there is none. Sets
        `_shared` to the number of blocks before it."""
        waiting = list(reversed(self.head.roots))
        self._shared = 0
        while waiting:
            node = waiting.pop()
            start, end = flat.blocks(node.index)
            if self._is_own(node):
                self._shared = end
                continue
            whole = end <= self._own_length
            if start >= self._own_length or end - start == 1:
                return None
            if whole and self._own.node(node.index) is None:
                # Every block held leads to a root through nodes that are stored: none is below.
                return None
            left = self.node(flat.left_child(node.index))
            right = self.node(flat.right_child(node.index))
            if left is None or right is None:
                return node
            waiting += right, left
        return None

    def _is_own(self, node: Node) -> bool:
        within = flat.blocks(node.index)[1] <= self._own_length
        return within and self._own.node(node.index) == node
