"""The Merkle tree of a log: appending, proving, verifying, seeking. Pure.

`batch` lengthens a log, `proof` answers what a peer asks about it, `verify` checks what a peer
answered, `seek` maps bytes to blocks; `flat` is the arithmetic below them.
"""

from corestore.tree.batch import (
    TreeBatch,
    append,
    append_leaves,
    hash_leaves,
    roots_at,
    truncate,
)
from corestore.tree.proof import InvalidRequest, build, missing_levels
from corestore.tree.seek import Position, SeekStopped, byte_offset
from corestore.tree.types import (
    EMPTY_HEAD,
    MAX_LENGTH,
    BlockProof,
    BlockRequest,
    HashProof,
    HashRequest,
    Head,
    Node,
    NodeNotAvailable,
    NodeReader,
    Prologue,
    Proof,
    Request,
    SeekProof,
    SeekRequest,
    StoredBlock,
    UpgradeProof,
    UpgradeRequest,
    Verifier,
)
from corestore.tree.verify import NodeOverlay, OutdatedProof, VerifiedBatch, extend

__all__ = [
    "EMPTY_HEAD",
    "MAX_LENGTH",
    "BlockProof",
    "BlockRequest",
    "HashProof",
    "HashRequest",
    "Head",
    "InvalidRequest",
    "Node",
    "NodeNotAvailable",
    "NodeOverlay",
    "NodeReader",
    "OutdatedProof",
    "Position",
    "Prologue",
    "Proof",
    "Request",
    "SeekProof",
    "SeekRequest",
    "SeekStopped",
    "StoredBlock",
    "TreeBatch",
    "UpgradeProof",
    "UpgradeRequest",
    "VerifiedBatch",
    "Verifier",
    "append",
    "append_leaves",
    "build",
    "byte_offset",
    "extend",
    "hash_leaves",
    "missing_levels",
    "roots_at",
    "truncate",
]
