"""Where the key pairs of a store's cores come from, and how a core's record says so.

Derived pairs are never stored: their record names the namespace and the name, from which the
primary key leads to them again. Only a pair that was given is kept itself.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Final

from corestore import crypto
from corestore.keys import KeyPair, derive_key_pair

if TYPE_CHECKING:
    from corestore.storage.base import CoreRecord

# A note (`CoreRecord.signer`) is one of these bytes, then either the namespace (32 bytes) and the
# name, or the secret key (64 bytes).
_DERIVED: Final = b"\x01"
_GIVEN: Final = b"\x02"
_NAMESPACE_END: Final = 1 + 32

# A core that is loaded again needs its pair again, and deriving it takes 20 us.
MAX_DERIVED: Final = 1024


class KeyRing:
    """The key pairs that follow from a primary key."""

    def __init__(self, primary_key: bytes) -> None:
        self.primary_key = primary_key
        self._derive = lru_cache(MAX_DERIVED)(partial(derive_key_pair, primary_key))

    def derive(self, namespace: bytes, name: bytes) -> KeyPair:
        """The key pair called *name* in *namespace*."""
        return self._derive(namespace, name)

    def note(self, key_pair: KeyPair) -> bytes:
        """What to keep with a core in order to find its key pair again."""
        origin = key_pair.origin
        # It may come from another store.
        if origin is not None and self.derive(*origin) == key_pair:
            return _DERIVED + b"".join(origin)
        return _GIVEN + key_pair.secret_key

    def find(self, record: CoreRecord) -> KeyPair | None:
        """The key pair that a core's record leads to; None for a core of somebody else."""
        note = record.signer
        if note is None:
            return None
        if note[:1] == _DERIVED:
            return self.derive(note[1:_NAMESPACE_END], note[_NAMESPACE_END:])
        secret_key = note[1:]
        return KeyPair(secret_key[crypto.SEED_BYTES :], secret_key)


def namespace_of(record: CoreRecord) -> bytes | None:
    """The namespace a core's key pair derives from; None if it was given, or is not here."""
    note = record.signer
    return note[1:_NAMESPACE_END] if note is not None and note[:1] == _DERIVED else None
