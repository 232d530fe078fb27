"""The errors of corestore.

```
CorestoreError
├── NotWritable                   we hold no secret key for this core
├── CoreNotFound                  no such name or discovery key here
├── BlockNotAvailable(index)      not local, and the caller did not want to wait
├── SnapshotNotAvailable          truncated below the snapshot
├── WrongEncryptionKey            the core's blocks are encrypted with another key, or not at all
├── MustRecover(reason)           somebody else may have a longer log under our key
├── StorageError
│   ├── StorageLocked             another process writes this core
│   ├── StorageConflict           the store holds another core under this name
│   └── StorageCorrupt(where)     what we wrote is not what we read
├── VerificationError             data that does not prove itself
│   ├── InvalidProof
│   ├── InvalidSignature
│   ├── InvalidChecksum
│   └── ForkConflict(proof)       two signed histories of one length
└── ProtocolError
    ├── LocalProtocolError        we asked a machine for the impossible: a bug here
    └── RemoteProtocolError       the peer did
        ├── DecodeError(what, at)
        ├── InvalidCapability
        └── LimitExceeded
```

Bad arguments are `ValueError` and `TypeError`, paths fail with `OSError`; use after close is
`trio.ClosedResourceError`, a lost stream `trio.BrokenResourceError`.
"""

from __future__ import annotations


class CorestoreError(Exception):
    """The root of everything corestore raises on its own account."""


class NotWritable(CorestoreError):
    """Raised by mutations of a core whose secret key is not here, and of snapshots."""


class CoreNotFound(CorestoreError):
    """Raised by `Corestore.get` when it may not create: no such name or discovery key here."""


class BlockNotAvailable(CorestoreError):
    """Raised by `get_nowait`: the block is not local. `index` is the block asked for."""

    def __init__(self, index: int) -> None:
        super().__init__(f"block {index} is not stored here")
        self.index = index


class SnapshotNotAvailable(CorestoreError):
    """Raised by reads of a snapshot whose core was truncated below the snapshot's length."""


class WrongEncryptionKey(CorestoreError):
    """Raised by `Corestore.get` and by reads: the core's blocks are encrypted with another key than
    the one given, or not at all. Open the core with the right one."""


class MustRecover(CorestoreError):
    """Raised by mutations of a core of ours of which another copy has, or may have, a longer signed
    log: signing here would fork it. `Hypercore.recover` fetches what is missing.

    `reason` is "behind" (a peer has proved it), "copied" (the store was restored or copied),
    "moved" (the secret key was exported) or "imported" (and the log was not fetched yet).
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class StorageError(CorestoreError):
    """What the local store cannot do. Retrying the same call does not help."""


class StorageLocked(StorageError):
    """Another process holds the signing lock of this core; `pid` names it when it is known."""

    def __init__(self, message: str, *, pid: int | None = None) -> None:
        super().__init__(message)
        self.pid = pid


class StorageConflict(StorageError):
    """The store already holds something else under this name or key."""


class StorageCorrupt(StorageError):
    """What storage returned is not what was written; `where` names the place."""

    def __init__(self, where: str) -> None:
        super().__init__(f"the store is damaged: {where}")
        self.where = where


class VerificationError(CorestoreError):
    """Data that does not prove itself. It is never stored, and never asked of that peer again."""


class InvalidProof(VerificationError):
    """A tree node is missing, misplaced, or does not reach a root we trust."""


class InvalidSignature(VerificationError):
    """The roots are not signed by a quorum of the manifest's signers."""


class InvalidChecksum(VerificationError):
    """A stored block does not have the hash its tree names."""


class ForkConflict(VerificationError):
    """Two valid signatures for two different histories of one fork; `proof` is the evidence."""

    def __init__(self, message: str, *, proof: object) -> None:
        super().__init__(message)
        self.proof = proof


class ProtocolError(CorestoreError):
    """Somebody broke the rules of the wire: we (`Local...`) or the peer (`Remote...`)."""


class LocalProtocolError(ProtocolError):
    """We asked a state machine for something impossible in its state: a bug in the caller."""


class RemoteProtocolError(ProtocolError):
    """The peer sent what the protocol does not allow. The stream is dropped."""


class DecodeError(RemoteProtocolError):
    """Bytes that are not a valid encoding. `what` was expected, `at` is the byte offset."""

    def __init__(self, what: str, at: int = 0) -> None:
        super().__init__(f"cannot decode {what} at byte {at}")
        self.what = what
        self.at = at


class InvalidCapability(RemoteProtocolError):
    """The peer opened a channel for a core without proving that it knows the core's key."""


class LimitExceeded(RemoteProtocolError):
    """The peer sent more, or larger, than a bound of ours allows."""
