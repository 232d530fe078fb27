"""Signed append-only logs in one local store, replicated sparsely and verified between peers."""

from __future__ import annotations

from corestore.errors import (
    BlockNotAvailable,
    CoreNotFound,
    CorestoreError,
    DecodeError,
    ForkConflict,
    InvalidCapability,
    InvalidChecksum,
    InvalidProof,
    InvalidSignature,
    LimitExceeded,
    LocalProtocolError,
    NotWritable,
    ProtocolError,
    RemoteProtocolError,
    SnapshotNotAvailable,
    StorageConflict,
    StorageCorrupt,
    StorageError,
    StorageLocked,
    VerificationError,
)

__all__ = [
    "BlockNotAvailable",
    "CoreNotFound",
    "CorestoreError",
    "DecodeError",
    "ForkConflict",
    "InvalidCapability",
    "InvalidChecksum",
    "InvalidProof",
    "InvalidSignature",
    "LimitExceeded",
    "LocalProtocolError",
    "NotWritable",
    "ProtocolError",
    "RemoteProtocolError",
    "SnapshotNotAvailable",
    "StorageConflict",
    "StorageCorrupt",
    "StorageError",
    "StorageLocked",
    "VerificationError",
]
