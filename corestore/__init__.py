"""Signed append-only logs, kept in a local store and replicated between peers that need not trust
each other.

A *core* is one log. Its key names it, lets one read it, and verifies every block, whoever sent it;
only the holder of its secret key can append. A *store* keeps many cores, and all the secret keys of
ours derive from its one primary key.

```python
import corestore, trio

async def main() -> None:
    async with corestore.open("~/.local/share/corestore") as store:
        log = await store.get(name="log")
        await log.append(b"hello", b"world")
        assert await log.get(1) == b"world"

        async with corestore.open_swarm(store) as swarm:
            friend = await store.get(key="8ctcsqp9p1x8p7fn…")
            await swarm.join(friend.discovery_key)
            with trio.fail_after(30):
                await friend.update()
            async for block in friend.blocks(start=friend.length - 10, live=True):
                print(block)

trio.run(main)
```

What exists is open: there is no `ready`, and what holds a resource is an `async with`. Deadlines
are the caller's cancel scopes. Appends are seen locally at once, by peers when they are durable:
`store.sync` waits for that. Several cores change together in `store.transaction`.
"""

from corestore.checking import Findings
from corestore.codec import Codec, EncodingName
from corestore.conflict import ForkEvidence
from corestore.core import Hypercore
from corestore.cosigning import Proposal
from corestore.durability import SyncPolicy
from corestore.encoding import Reader, Writer
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
    MustRecover,
    NotWritable,
    ProtocolError,
    RemoteProtocolError,
    SnapshotNotAvailable,
    StorageConflict,
    StorageCorrupt,
    StorageError,
    StorageLocked,
    VerificationError,
    WrongEncryptionKey,
)
from corestore.events import (
    Appended,
    CoreEvent,
    Downloaded,
    ForkDetected,
    Missed,
    Overtaken,
    PeerAdded,
    PeerRemoved,
    Published,
    Subscription,
    Truncated,
)
from corestore.handle import CoreHandle, CoreStatistics
from corestore.keys import DiscoveryKey, Key, KeyPair
from corestore.lease import Reason
from corestore.manifest import Manifest, PartialSignature, Prologue, Signer, manifest_key
from corestore.manifest import derive as derive_manifest
from corestore.namespace import CoreOpened, CoreOptions, Namespace, StoreStatistics
from corestore.reading import Blocks, Chunks, Position
from corestore.state import MAX_BLOCK_BYTES
from corestore.storage import DiskStorage, MemoryStorage, Storage
from corestore.store import Corestore, open
from corestore.swarm import DialInfo, PeerInfo, Swarm, open_swarm
from corestore.transaction import Transaction
from corestore.tree import (
    BlockRequest,
    HashRequest,
    Head,
    InvalidRequest,
    Node,
    Proof,
    Request,
    SeekRequest,
    UpgradeRequest,
    hash_leaves,
)

__all__ = [
    "MAX_BLOCK_BYTES",
    "Appended",
    "BlockNotAvailable",
    "BlockRequest",
    "Blocks",
    "Chunks",
    "Codec",
    "CoreEvent",
    "CoreHandle",
    "CoreNotFound",
    "CoreOpened",
    "CoreOptions",
    "CoreStatistics",
    "Corestore",
    "CorestoreError",
    "DecodeError",
    "DialInfo",
    "DiscoveryKey",
    "DiskStorage",
    "Downloaded",
    "EncodingName",
    "Findings",
    "ForkConflict",
    "ForkDetected",
    "ForkEvidence",
    "HashRequest",
    "Head",
    "Hypercore",
    "InvalidCapability",
    "InvalidChecksum",
    "InvalidProof",
    "InvalidRequest",
    "InvalidSignature",
    "Key",
    "KeyPair",
    "LimitExceeded",
    "LocalProtocolError",
    "Manifest",
    "MemoryStorage",
    "Missed",
    "MustRecover",
    "Namespace",
    "Node",
    "NotWritable",
    "Overtaken",
    "PartialSignature",
    "PeerAdded",
    "PeerInfo",
    "PeerRemoved",
    "Position",
    "Prologue",
    "Proof",
    "Proposal",
    "ProtocolError",
    "Published",
    "Reader",
    "Reason",
    "RemoteProtocolError",
    "Request",
    "SeekRequest",
    "Signer",
    "SnapshotNotAvailable",
    "Storage",
    "StorageConflict",
    "StorageCorrupt",
    "StorageError",
    "StorageLocked",
    "StoreStatistics",
    "Subscription",
    "Swarm",
    "SyncPolicy",
    "Transaction",
    "Truncated",
    "UpgradeRequest",
    "VerificationError",
    "Writer",
    "WrongEncryptionKey",
    "derive_manifest",
    "hash_leaves",
    "manifest_key",
    "open",
    "open_swarm",
]
