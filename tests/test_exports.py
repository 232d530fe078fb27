"""The public names, pinned: taking one away or adding one is a decision, not an accident."""

from __future__ import annotations

import inspect

import corestore

PUBLIC = """
Appended BlockNotAvailable BlockRequest Blocks Chunks Codec CoreEvent CoreHandle CoreNotFound
CoreOpened CoreOptions CoreStatistics Corestore CorestoreError DecodeError DialInfo DiscoveryKey
DiskStorage Downloaded EncodingName Findings ForkConflict ForkDetected ForkEvidence HashRequest Head
Hypercore InvalidCapability InvalidChecksum InvalidProof InvalidRequest InvalidSignature Key
KeyPair LimitExceeded LocalProtocolError Manifest MAX_BLOCK_BYTES MemoryStorage Missed MustRecover
Namespace Node NotWritable Overtaken PartialSignature PeerAdded PeerInfo PeerRemoved Position
Prologue Proof Proposal ProtocolError Published Reader Reason RemoteProtocolError Request
SeekRequest Signer SnapshotNotAvailable Storage StorageConflict StorageCorrupt StorageError
StorageLocked StoreStatistics Subscription Swarm SyncPolicy Transaction Truncated UpgradeRequest
VerificationError Writer WrongEncryptionKey derive_manifest hash_leaves manifest_key open
open_swarm
"""


def test_public_names_are_these():
    assert sorted(corestore.__all__) == sorted(PUBLIC.split())


def test_every_public_name_exists_and_is_documented():
    for name in corestore.__all__:
        value = getattr(corestore, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), f"{name} has no docstring"
