"""Turn an untrusted `Proof` into a `VerifiedBatch`, or raise.

A proof is checked from below. The seek's path, then the block's or hash's path, are hashed
upwards; the node they end in must be one we have stored, or the very node that the upgrade needs.
The upgrade's nodes are pushed onto our roots, and the roots that result must be signed.

Sizes need care. The hash of a parent covers the sum of its children's sizes, not each of them:
of two sibling nodes that a peer merely claims, it may shift bytes from one to the other unnoticed.
A node is *sound* if its size is certain: a leaf of a block we hold, a parent we hashed, a root
under the signature, and the sibling of any of these. Only sound nodes are given for storage, since
byte offsets are computed from them. The others are *hints*, good for guiding a seek, and are
replaced by sound ones when a block below them is fetched.

Format: holepunchto/hypercore 11, its Merkle tree's verification.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from corestore import crypto
from corestore.encoding import MAX_SAFE_INTEGER
from corestore.errors import ForkConflict, InvalidProof
from corestore.tree import flat
from corestore.tree.batch import roots_at
from corestore.tree.types import EMPTY_HEAD, MAX_LENGTH, Head, Node, NodeNotAvailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from corestore.tree.types import NodeReader, Proof, UpgradeProof, Verifier

# A path climbs at most one level a bit of the longest log, an upgrade climbs and then lists roots.
_MAX_PATH_NODES: Final = 64
_MAX_UPGRADE_NODES: Final = 128


class OutdatedProof(InvalidProof):
    """An upgrade from a length that is no longer ours, which cannot be joined to what we have.

    The peer did nothing wrong: our log grew between the request and the answer. Ask again.
    """


@dataclass(frozen=True, slots=True)
class VerifiedBatch:
    """What a proof adds, ready to be committed.

    Attributes:
      head: the new head, signature included; None if the log did not grow.
      nodes: tree nodes to store. They are sound, and every one leads to a root.
      block: the (index, bytes) that the proof carried, if any.
      hints: nodes whose hash is proven and whose size is not. Never store them; put them into a
        `NodeOverlay` to go on with a seek.
      truncate: the new head is of a higher fork: only the first so many blocks, and the nodes
        over them, stay as they were. None for the fork we had.
    """

    head: Head | None
    nodes: Sequence[Node]
    block: tuple[int, bytes] | None = None
    hints: Sequence[Node] = ()
    truncate: int | None = None

    @property
    def reorganises(self) -> bool:
        """Whether this replaces our history by that of a higher fork."""
        return self.truncate is not None


class NodeOverlay:
    """Nodes laid over a `NodeReader`: verified but not yet committed, or hints for a seek."""

    __slots__ = ("_base", "_nodes")

    def __init__(self, base: NodeReader, nodes: Iterable[Node] = ()) -> None:
        self._base = base
        self._nodes: dict[int, Node] = {}
        self.add(nodes)

    def node(self, index: int) -> Node | None:
        """The node at a flat index: of the overlay if it is there, else of the base."""
        return self._nodes.get(index) or self._base.node(index)

    def add(self, nodes: Iterable[Node]) -> None:
        """Lay *nodes* over what is there."""
        self._nodes.update((node.index, node) for node in nodes)

    def discard(self, nodes: Iterable[Node]) -> None:
        """Take *nodes* away again where they are still the latest, once they are committed."""
        held = self._nodes
        for node in nodes:
            if held.get(node.index) is node:
                del held[node.index]

    def clear(self) -> None:
        """Take everything away."""
        self._nodes.clear()

    def __len__(self) -> int:
        return len(self._nodes)


def verify(proof: Proof, head: Head, *, nodes: NodeReader, verifier: Verifier) -> VerifiedBatch:
    """Check *proof* against the log we hold and return what it adds.

    Reads nodes through *nodes* and writes nothing. The result may be committed as it is: every
    block in it reaches a root, and the roots reach a signature. A proof of a higher fork must be
    an upgrade from length 0; it is checked by itself and replaces what we have.

    Raises:
      InvalidProof: a node is missing, misplaced, or does not reach a root.
      OutdatedProof: the upgrade starts from a length we have left behind.
      InvalidSignature: the roots are not signed by a quorum of the manifest.
      ForkConflict: the signature is valid, for another history of our fork.
    """
    upgrade = proof.upgrade
    if proof.fork != head.fork and (upgrade is None or proof.fork < head.fork):
        raise InvalidProof(f"a proof of fork {proof.fork} while ours is {head.fork}")
    found = _Found()
    root = _verify_paths(proof, found)
    block = None if proof.block is None else (proof.block.index, proof.block.value)
    if upgrade is None:
        if root is None:
            raise InvalidProof("nothing is proven")
        _check_stored(root, nodes)
        return VerifiedBatch(None, found.nodes, block, found.hints)
    return _verify_upgrade(proof, upgrade, head, root, found, block, nodes, verifier)


def extend(
    roots: Sequence[Node], length: int, by: int, nodes: Mapping[int, Node]
) -> tuple[Node, ...]:
    """The roots after *by* more blocks, given the upgrade's nodes by index, unsigned.

    Raises:
      InvalidProof: a node is missing from *nodes* or does not fit.
    """
    growth = _Growth(roots, length, _Found())
    for index in flat.upgrade_nodes(2 * length, 2 * (length + by)):
        node = nodes.get(index)
        if node is None:
            raise InvalidProof(f"node {index} is missing")
        growth.push(node, claimed=True)
    return tuple(growth.roots)


class _Found:
    """What a proof has yielded so far: sound nodes, and hints."""

    __slots__ = ("hints", "nodes")

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.hints: list[Node] = []


# -- paths ---------------------------------------------------------------------------------------


def _verify_paths(proof: Proof, found: _Found) -> tuple[Node, bool] | None:
    """Hash the seek's and the block's or hash's path upwards.

    Returns the node they end in, and whether it is only claimed; None if the proof has neither.
    Everything below that node is put into *found*.
    """
    extra = None
    if proof.seek is not None and proof.seek.nodes:
        first = proof.seek.nodes[0]
        extra = _climb(first, True, proof.seek.nodes[1:], None, found)
    if proof.block is not None:
        block = proof.block
        leaf = Node(2 * block.index, len(block.value), crypto.leaf_hash(block.value))
        return _climb(leaf, False, block.nodes, extra, found)
    if proof.hash is not None:
        if not proof.hash.nodes:
            raise InvalidProof("a hash without its node")
        first = proof.hash.nodes[0]
        if first.index != proof.hash.index:
            raise InvalidProof(f"node {first.index} instead of node {proof.hash.index}")
        return _climb(first, True, proof.hash.nodes[1:], extra, found)
    return extra


def _climb(
    node: Node,
    claimed: bool,
    siblings: Sequence[Node],
    extra: tuple[Node, bool] | None,
    found: _Found,
) -> tuple[Node, bool]:
    """Hash upwards from *node* through its siblings; *extra* is one of them, if it fits."""
    if len(siblings) > _MAX_PATH_NODES:
        raise InvalidProof(f"a path of {len(siblings)} nodes")
    index, size, digest = node
    bit = flat.leaf_count(index) << 1
    at = 0
    count = len(siblings)
    nodes = found.nodes
    while at < count or extra is not None:
        wanted = index ^ bit
        if extra is not None and extra[0].index == wanted:
            other, other_claimed = extra
            extra = None
        elif at < count:
            other, other_claimed = siblings[at], True
            at += 1
            if other.index != wanted:
                raise InvalidProof(f"node {other.index} instead of node {wanted}")
        else:
            raise InvalidProof("the seek does not join the path")
        target = found.hints if claimed and other_claimed else nodes
        target.append(node)
        target.append(other)
        claimed = False
        size += other.size
        if size > MAX_SAFE_INTEGER:
            raise InvalidProof(f"{size} bytes below one node")
        if wanted > index:
            digest = crypto.parent_hash(size, digest, other.hash)
        else:
            digest = crypto.parent_hash(size, other.hash, digest)
        index = (index + wanted) >> 1
        bit <<= 1
        node = Node(index, size, digest)
    return node, claimed


def _check_stored(root: tuple[Node, bool], nodes: NodeReader) -> None:
    """Whether the node that a path ends in is the one we have stored."""
    node = root[0]
    stored = nodes.node(node.index)
    if stored is None:
        raise InvalidProof(f"the proof ends in node {node.index}, which is not known here")
    if stored != node:
        raise InvalidProof(f"the proof ends in another node {node.index} than ours")


# -- upgrades ------------------------------------------------------------------------------------


class _Growth:
    """Roots that grow to the right."""

    __slots__ = ("_claimed", "_found", "_own", "end", "roots")

    def __init__(self, roots: Sequence[Node], length: int, found: _Found) -> None:
        self.roots = list(roots)
        self.end = 2 * length
        self._found = found
        self._claimed = [False] * len(self.roots)
        self._own = len(self.roots)

    def push(self, node: Node, *, claimed: bool) -> None:
        """Add the tree below *node* at the end; while the last two roots are siblings, join them.

        The node must start where the log ends; nothing else can fit, as a node's place bounds its
        height.
        """
        index = node.index
        if flat.left_span(index) != self.end:
            raise InvalidProof(f"node {index} does not follow {self.end >> 1} blocks")
        leaves = flat.leaf_count(index)
        self.end += 2 * leaves
        roots = self.roots
        while roots and roots[-1].index == index - 2 * leaves == flat.sibling(index):
            left = roots.pop()
            left_claimed = self._claimed.pop()
            target = self._found.hints if claimed and left_claimed else self._found.nodes
            if len(roots) < self._own:
                self._own = len(roots)  # ours, hence stored
            else:
                target.append(left)
            target.append(node)
            size = left.size + node.size
            if size > MAX_SAFE_INTEGER:
                raise InvalidProof(f"{size} bytes below one node")
            index -= leaves
            leaves *= 2
            node = Node(index, size, crypto.parent_hash(size, left.hash, node.hash))
            claimed = False
        roots.append(node)
        self._claimed.append(claimed)

    def finish(self) -> tuple[Node, ...]:
        """The roots as they are now. They are signed, so their sizes are certain."""
        self._found.nodes.extend(self.roots[self._own :])
        return tuple(self.roots)


def _verify_upgrade(
    proof: Proof,
    upgrade: UpgradeProof,
    head: Head,
    root: tuple[Node, bool] | None,
    found: _Found,
    block: tuple[int, bytes] | None,
    nodes: NodeReader,
    verifier: Verifier,
) -> VerifiedBatch:
    reorganises = proof.fork != head.fork
    if reorganises and upgrade.start:
        raise InvalidProof(f"an upgrade to fork {proof.fork} that does not start from nothing")
    base = EMPTY_HEAD.roots if reorganises else _base(head, upgrade.start, nodes)
    growth = _Growth(base, upgrade.start, found)
    consumed = _push_all(growth, upgrade, root, verifier)
    roots = growth.finish()
    byte_length = sum(node.size for node in roots)
    length = growth.end >> 1
    if byte_length > MAX_SAFE_INTEGER or length > MAX_LENGTH:
        raise InvalidProof(f"a log of {length} blocks and {byte_length} bytes")
    if root is not None and not consumed:
        if reorganises:
            raise InvalidProof(f"node {root[0].index} does not join the upgrade")
        _check_stored(root, nodes)
    new = Head(proof.fork, length, byte_length, roots, upgrade.signature)
    verifier.verify(new)
    if reorganises:
        shared = _shared_blocks(roots, head.length, nodes)
        return VerifiedBatch(new, found.nodes, block, found.hints, truncate=shared)
    if length <= head.length:
        # Signed, and nothing new: it must be our own past, which a sparse copy may not know.
        own = [nodes.node(node.index) for node in roots]
        if any(mine is not None and mine != node for mine, node in zip(own, roots, strict=True)):
            raise ForkConflict(f"two histories of {length} blocks are signed", proof=proof)
        if None in own:
            raise OutdatedProof(f"the signed history of {length} blocks is not known here")
        return VerifiedBatch(None, found.nodes, block, found.hints)
    if upgrade.start != head.length:
        _check_joins(head, proof, found)
    return VerifiedBatch(new, found.nodes, block, found.hints)


def _base(head: Head, start: int, nodes: NodeReader) -> tuple[Node, ...]:
    """The roots of our log when it had the length that an upgrade starts from."""
    if start > head.length:
        raise InvalidProof(f"an upgrade from {start} blocks, we have {head.length}")
    try:
        return roots_at(head, start, nodes=nodes)
    except NodeNotAvailable as error:
        raise OutdatedProof(f"an upgrade from {start} blocks, we have {head.length}") from error


def _push_all(
    growth: _Growth, upgrade: UpgradeProof, root: tuple[Node, bool] | None, verifier: Verifier
) -> bool:
    """Push the upgrade's nodes, *root* among them if it is one; returns whether it was."""
    prologue = verifier.prologue
    start, length = upgrade.start, upgrade.length
    if prologue is not None and start < prologue.length and (start or length != prologue.length):
        # Nor together with what follows them, or nothing would show that they are the prologue.
        raise InvalidProof(f"the first {prologue.length} blocks cannot be proven in parts")
    if not 0 < length <= MAX_SAFE_INTEGER:
        raise InvalidProof(f"an upgrade by {length} blocks")
    if len(upgrade.nodes) + len(upgrade.additional_nodes) > _MAX_UPGRADE_NODES:
        raise InvalidProof("an upgrade of too many nodes")
    wanted = flat.upgrade_nodes(2 * start, 2 * (start + length))
    given = iter(upgrade.nodes)
    consumed = False
    for index in wanted:
        if root is not None and not consumed and root[0].index == index:
            growth.push(root[0], claimed=root[1])
            consumed = True
            continue
        node = next(given, None)
        if node is None or node.index != index:
            raise InvalidProof(f"node {index} is missing from the upgrade")
        growth.push(node, claimed=True)
    if next(given, None) is not None:
        raise InvalidProof("the upgrade has nodes left over")
    if (
        prologue is not None
        and growth.end == 2 * prologue.length
        and crypto.tree_hash(growth.roots) != prologue.hash
    ):
        raise InvalidProof("the first blocks are not those of the prologue")
    for node in upgrade.additional_nodes:
        growth.push(node, claimed=True)
    return consumed


def _check_joins(head: Head, proof: Proof, found: _Found) -> None:
    """Whether an upgrade from an earlier length of ours leads through our present roots."""
    seen = {node.index: node for node in (*found.hints, *found.nodes)}
    for own in head.roots:
        node = seen.get(own.index)
        if node is None:
            assert proof.upgrade is not None
            raise OutdatedProof(
                f"an upgrade from {proof.upgrade.start} blocks, we have {head.length}"
            )
        if node != own:
            raise ForkConflict(f"two histories of {head.length} blocks are signed", proof=proof)


def _shared_blocks(roots: Sequence[Node], length: int, nodes: NodeReader) -> int:
    """How many blocks at the start are certainly the same in our old history and the new one."""
    shared = 0
    for root in roots:
        end = flat.blocks(root.index)[1]
        if end > length or nodes.node(root.index) != root:
            break
        shared = end
    return shared
