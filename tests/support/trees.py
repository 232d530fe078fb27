"""A writer's log and a sparse replica of it, in dictionaries."""

from __future__ import annotations

from dataclasses import replace

from corestore.keys import KeyPair
from corestore.manifest import Manifest, ManifestVerifier, manifest_key, sign
from corestore.tree import EMPTY_HEAD, append, flat
from corestore.tree.proof import build, missing_levels
from corestore.tree.types import BlockRequest, Request, UpgradeRequest
from corestore.tree.verify import verify

KEY_PAIR = KeyPair.from_seed(bytes(range(32)))
MANIFEST = Manifest.default(KEY_PAIR.public_key)
KEY = manifest_key(MANIFEST)
VERIFIER = ManifestVerifier(MANIFEST, KEY)


class Nodes:
    """A `NodeReader` over a dictionary, which counts what is read."""

    def __init__(self, nodes=()) -> None:
        self.by_index = {node.index: node for node in nodes}
        self.reads = 0

    def node(self, index: int):
        self.reads += 1
        return self.by_index.get(index)

    def add(self, nodes) -> None:
        self.by_index.update((node.index, node) for node in nodes)


def block(index: int) -> bytes:
    """Blocks of different sizes, some of them empty; those of the reference's vectors otherwise."""
    return (b"block-%d" % index) * (index % 4 + 1)


class Log:
    """A signed log with all of its nodes."""

    def __init__(self, blocks=(), *, fork=0) -> None:
        self.nodes = Nodes()
        self.blocks: list[bytes] = []
        self.head = EMPTY_HEAD
        self.fork = fork
        self.append(*blocks)

    @classmethod
    def of_length(cls, length: int, *, fork=0) -> Log:
        return cls([block(i) for i in range(length)], fork=fork)

    def append(self, *blocks: bytes) -> None:
        batch = append(self.head, blocks)
        self.nodes.add(batch.nodes)
        self.blocks += blocks
        self.head = self.sign(batch)

    def sign(self, batch):
        batch = replace(batch, fork=self.fork)
        return batch.head(sign(MANIFEST, KEY, KEY_PAIR, batch))

    def build(self, **parts):
        fork = parts.pop("fork", self.fork)
        return build(
            Request(fork, **parts),
            self.head,
            nodes=self.nodes,
            block=lambda index: self.blocks[index] if index < len(self.blocks) else None,
        )


class Replica:
    """What a reader holds of a log: the nodes and blocks that proofs brought."""

    def __init__(self) -> None:
        self.nodes = Nodes()
        self.blocks: dict[int, bytes] = {}
        self.head = EMPTY_HEAD

    @classmethod
    def at(cls, log: Log, length: int) -> Replica:
        """A replica that knows only the roots of the log's first blocks."""
        self = cls()
        if length:
            self.head = log.sign(append(EMPTY_HEAD, log.blocks[:length]))
            self.nodes.add(self.head.roots)
        return self

    def check(self, proof, *, verifier=VERIFIER):
        return verify(proof, self.head, nodes=self.nodes, verifier=verifier)

    def receive(self, proof, *, verifier=VERIFIER):
        batch = self.check(proof, verifier=verifier)
        if batch.truncate is not None:
            end = 2 * batch.truncate
            kept = [n for n in self.nodes.by_index.values() if flat.right_span(n.index) < end]
            self.nodes = Nodes(kept)
            self.blocks = {i: b for i, b in self.blocks.items() if i < batch.truncate}
        self.nodes.add(batch.nodes)
        if batch.block is not None:
            self.blocks[batch.block[0]] = batch.block[1]
        if batch.head is not None:
            self.head = batch.head
        return batch

    def levels(self, index: int) -> int:
        return missing_levels(index, self.head, self.nodes)

    def fetch(self, log: Log, index: int):
        """Ask for one block, with an upgrade if it lies beyond what we know."""
        upgrade = None
        if index >= self.head.length:
            upgrade = UpgradeRequest(self.head.length, log.head.length - self.head.length)
        request = BlockRequest(index, self.levels(2 * index))
        return self.receive(log.build(block=request, upgrade=upgrade))
