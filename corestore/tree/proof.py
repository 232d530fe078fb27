"""Build the `Proof` that answers a `Request`: which nodes of our tree go into it, in what order.

A part of a proof is a path: a node and then the sibling at every level above it, so that the
receiver can compute the parents itself. A block or hash within what the requester already has is
led up as many levels as it asked for. One beyond that is led up to the node of the upgrade that
contains it, and that node is left out of the upgrade: the receiver computes it. In the same way
the path of a seek replaces the node above it, in the upgrade or in the block's own path.

Format: holepunchto/hypercore 11, its Merkle tree's proofs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from corestore.errors import BlockNotAvailable
from corestore.tree import flat
from corestore.tree.types import (
    BlockProof,
    HashProof,
    Proof,
    SeekProof,
    UpgradeProof,
    UpgradeRequest,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from corestore.tree.types import Head, Node, NodeReader, Request


class InvalidRequest(ValueError):
    """A request that no tree of this length can answer: the asker is mistaken or hostile."""


def build(
    request: Request,
    head: Head,
    *,
    nodes: NodeReader,
    block: Callable[[int], bytes | None],
    prologue_length: int = 0,
) -> Proof:
    """The proof that answers *request* about the log whose state is *head*.

    The request's fork is taken to be the head's; a caller answers other forks itself. A log of
    length 0 has nothing to prove: every part is left out.

    Args:
      nodes: the tree under *head*; a longer tree of the same history will do.
      block: the stored bytes of a block, None if it is not held.
      prologue_length: blocks in the manifest's prologue. A request that starts inside them is
        answered as if it asked for exactly them; the rest follows as additional nodes.

    Raises:
      InvalidRequest: the request asks for what cannot be.
      BlockNotAvailable: the block, or a tree node on the way, is not stored here.
    """
    if head.length == 0:
        return Proof(fork=head.fork)
    upgrade = request.upgrade
    if upgrade is not None and upgrade.start < prologue_length <= head.length:
        upgrade = UpgradeRequest(0, prologue_length)
    start = 2 * upgrade.start if upgrade is not None else 0
    end = start + 2 * upgrade.length if upgrade is not None else 2 * head.length
    if start >= end or end > 2 * head.length:
        raise InvalidRequest(f"no upgrade to {end >> 1} of {head.length} blocks")
    builder = _Builder(request, nodes)
    value = None
    if request.block is not None:
        if request.block.index >= head.length:
            raise BlockNotAvailable(request.block.index)
        value = block(request.block.index)
        if value is None:
            raise BlockNotAvailable(request.block.index)
    if builder.target is not None:
        if upgrade is None or flat.right_span(builder.target) < start:
            builder.add_path(end)
        elif request.seek is not None and builder.target >= start:
            raise InvalidRequest("a seek and a block cannot both be in one upgrade")
    if upgrade is None:
        return builder.finish(head.fork, value, None)
    if builder.path is None:
        builder.seek_in_upgrade(end)
    found = builder.add_upgrade(start, end)
    if builder.target is not None and builder.path is None:
        raise InvalidRequest(f"node {builder.target} is not in the upgrade to {end >> 1} blocks")
    additional = (
        [builder.get(index) for index in flat.upgrade_nodes(end, 2 * head.length)]
        if 2 * head.length > end
        else []
    )
    proof = UpgradeProof(
        upgrade.start, upgrade.length, tuple(found), tuple(additional), head.signature
    )
    return builder.finish(head.fork, value, proof)


def missing_levels(index: int, head: Head, nodes: NodeReader) -> int:
    """How many levels of siblings to ask for above tree node *index* (a block's is `2 * block`).

    As many as lead to a node that is stored; 0 for a node beyond our own tree, which comes with
    an upgrade.
    """
    end = 2 * head.length
    if index >= end:
        return 0
    levels = 0
    node = nodes.node
    while node(index) is None and not flat.contains(index, end):
        levels += 1
        index = flat.parent(index)
    return levels


class _Builder:
    """One proof in the making.

    `target` is the node asked for by block or hash, None if neither; `path` its nodes once they
    are chosen, and `seek_path` likewise. `seek_node` is where the seek leads, once known.
    """

    def __init__(self, request: Request, nodes: NodeReader) -> None:
        self._request = request
        self._nodes = nodes
        self.target: int | None = None
        if request.block is not None:
            self.target = 2 * request.block.index
        elif request.hash is not None:
            self.target = request.hash.index
        self.seek_node: int | None = None
        self.path: list[Node] | None = None
        self.seek_path: list[Node] | None = None

    def get(self, index: int) -> Node:
        node = self._nodes.node(index)
        if node is None:
            raise BlockNotAvailable(flat.left_span(index) >> 1)
        return node

    def add_path(self, end: int) -> None:
        """Lead the target up as many levels as were asked for, inside the tree before *end*."""
        assert self.target is not None
        part = self._request.block or self._request.hash
        assert part is not None
        if flat.right_span(self.target) >= end:
            raise BlockNotAvailable(flat.right_span(self.target) >> 1)
        top = self.target
        for _ in range(part.nodes):
            top = flat.parent(top)
            if flat.contains(top, end):
                raise InvalidRequest(f"{part.nodes} levels above node {self.target} leave the tree")
        if self._request.seek is not None:
            self.seek_node = self._seek_below(top, end)
        self._climb(self.target, top)

    def add_upgrade(self, start: int, end: int) -> list[Node]:
        """The nodes of the upgrade, without the one that is computed from the target or seek."""
        found = []
        wanted = self.target if self.target is not None else self.seek_node
        for index in flat.upgrade_nodes(start, end):
            chosen = self.path is not None or self.seek_path is not None
            if not chosen and wanted is not None and flat.contains(index, wanted):
                self._climb(wanted, index)
            else:
                found.append(self.get(index))
        return found

    def seek_in_upgrade(self, end: int) -> None:
        """Find where the seek leads among the roots of the tree before *end*."""
        seek = self._request.seek
        if seek is None or self.target is not None:
            return
        left = seek.offset
        for root in flat.full_roots(end):
            size = self._size(self.get(root))
            if left == size:
                self.seek_node = root
                return
            if left < size:
                self.seek_node = self._descend(root, left)
                return
            left -= size

    def finish(self, fork: int, value: bytes | None, upgrade: UpgradeProof | None) -> Proof:
        request = self._request
        path = tuple(self.path or ())
        block = hash_ = seek = None
        if request.block is not None and value is not None:
            block = BlockProof(request.block.index, value, path)
        elif request.hash is not None:
            hash_ = HashProof(request.hash.index, path)
        if request.seek is not None and self.seek_path is not None:
            seek = SeekProof(request.seek.offset, tuple(self.seek_path))
        return Proof(fork, block, hash_, seek, upgrade)

    def _climb(self, index: int, top: int) -> None:
        """Choose the nodes from *index* to *top*, for the target or, without one, the seek."""
        if self.target is None:
            self.seek_path = self._siblings(index, top, [self.get(index)])
            return
        path = [] if self._request.block is not None else [self.get(index)]
        seek_node = self.seek_node
        while index != top:
            other = flat.sibling(index)
            if seek_node is not None and seek_node != other and flat.contains(other, seek_node):
                self.seek_path = self._siblings(seek_node, other, [self.get(seek_node)])
            else:
                path.append(self.get(other))
            index = flat.parent(index)
        self.path = path

    def _siblings(self, index: int, top: int, path: list[Node]) -> list[Node]:
        while index != top:
            path.append(self.get(flat.sibling(index)))
            index = flat.parent(index)
        return path

    def _size(self, node: Node) -> int:
        """Bytes below a node that count for the seek: its padding does not."""
        assert self._request.seek is not None
        return node.size - self._request.seek.padding * flat.leaf_count(node.index)

    def _seek_below(self, top: int, end: int) -> int:
        """Where the seek leads below *top*; it must lead there."""
        assert self._request.seek is not None
        left = self._request.seek.offset
        for root in flat.full_roots(end):
            if flat.contains(root, top):
                break
            left -= self._size(self.get(root))
        while root != top:
            child = flat.left_child(root)
            if top > root:
                left -= self._size(self.get(child))
                child = flat.right_child(root)
            root = child
        if left < 0 or (left > 0 and left >= self._size(self.get(top))):
            raise InvalidRequest(f"the seek does not lead below node {top}")
        return self._descend(top, left)

    def _descend(self, root: int, left: int) -> int:
        """The node that starts *left* bytes into *root*, or the last one known that holds it."""
        if not left:
            return root
        while root & 1:
            child = flat.left_child(root)
            node = self._nodes.node(child)
            if node is None:
                return root
            size = self._size(node)
            if size == left:
                return child
            if size > left:
                root = child
            else:
                left -= size
                root = flat.right_child(root)
        return root
