"""Moving a drive to another store, and recovering one that is behind.

A drive is written in one store. What moves it is its secret: the seed of the key pair that signs
both its cores, with the lengths they had. Whoever exports it stops writing; whoever imports it
first fetches the log from a peer, at least as long as it was. Two stores that write one drive would
sign two histories, and readers refuse both.

The secret as text is `hyperfs-secret-` and the base32 (RFC 4648, small letters, no padding) of: a
version (1 byte: 1), flags (1 byte: 1 if there is an encryption key), the seed (32), the lengths of
the metadata and the content core (u64 each, little endian), the encryption key (32), and the first
4 bytes of the BLAKE2b hash of all that.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from corestore import ForkConflict, KeyPair, MustRecover, Reason
from hyperfs import opening, registry
from hyperfs.errors import SecretError
from hyperfs.refetch import fetch_kept

if TYPE_CHECKING:
    from corestore import Corestore, Key
    from hyperfs.registry import DriveInfo

# So that a secret is never taken for a key.
PREFIX: Final = "hyperfs-secret-"
_VERSION: Final = 1
_ENCRYPTED: Final = 1
_FIXED: Final = struct.Struct("<BB32sQQ")
_CHECK_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class DriveSecret:
    """All it takes to write a drive. Whoever has it can; there is no way to take it back.

    `metadata_length` and `content_length` are those of the cores when it was made.
    """

    seed: bytes = field(repr=False)
    metadata_length: int
    content_length: int
    encryption_key: bytes | None = field(default=None, repr=False)

    @property
    def key_pair(self) -> KeyPair:
        """What signs the cores."""
        return KeyPair.from_seed(self.seed)

    def __str__(self) -> str:
        flags = 0 if self.encryption_key is None else _ENCRYPTED
        data = _FIXED.pack(
            _VERSION, flags, self.seed, self.metadata_length, self.content_length
        ) + (self.encryption_key or b"")
        return PREFIX + base64.b32encode(data + _check(data)).decode().rstrip("=").lower()

    @classmethod
    def parse(cls, text: str) -> DriveSecret:
        """Undo `str`.

        Raises:
          SecretError: it is none, or was not copied whole.
        """
        text = text.strip()
        if not text.startswith(PREFIX):
            raise SecretError(f"a drive's secret begins with {PREFIX}")
        try:
            rest = text.removeprefix(PREFIX).upper()
            data = base64.b32decode(rest + "=" * (-len(rest) % 8))
        except (binascii.Error, ValueError) as error:
            raise SecretError(f"this secret is mistyped: {error}") from None
        body = data[:-_CHECK_BYTES]
        if len(body) < _FIXED.size or _check(body) != data[-_CHECK_BYTES:]:
            raise SecretError("this secret is mistyped, or a part of it is missing")
        version, flags, seed, metadata_length, content_length = _FIXED.unpack_from(body)
        encryption_key = body[_FIXED.size :]
        known = version == _VERSION and not flags & ~_ENCRYPTED
        if not known or len(encryption_key) != 32 * (flags & _ENCRYPTED):
            raise SecretError("this secret was made by a newer version of this program")
        return cls(seed, metadata_length, content_length, encryption_key or None)


def _check(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=32).digest()[:_CHECK_BYTES]


async def export_secret(store: Corestore, name: str, *, keep: bool = False) -> DriveSecret:
    """The secret of the drive *name*. This store writes the drive no more, unless *keep*: then the
    secret is a backup, and must not be used while this store is. Durable when it returns.

    Raises:
      NoSuchDrive: there is none of this name.
      NotWritable: its secret key is not here.
      MustRecover, ForkConflict: it is not written here as it is; see `recover_drive`.
      StorageLocked: another process is writing it.
    """
    info = registry.find_name(store, name)
    async with await store.get(key=info.key) as metadata:
        metadata.lock()
        async with await opening.open_content(store, metadata, None) as content:
            content.lock()
            await store.sync()
            assert metadata.key_pair is not None
            secret = DriveSecret(
                metadata.key_pair.secret_key[:32],
                metadata.length,
                content.length,
                info.encryption_key,
            )
            if not keep:
                # The metadata first: without it nothing of the drive is written.
                for core in (metadata, content):
                    await core.hold(Reason.MOVED, least_length=core.length)
    return secret


async def import_secret(store: Corestore, name: str, secret: DriveSecret) -> DriveInfo:
    """Make this store the one that writes a drive, called *name* from now on. It is not written
    before `recover_drive` has fetched it from a peer. Durable when it returns.

    A store that has the drive already, as a reader or because it was exported here, goes on with
    what it has; *name* may be the one it has.

    Raises:
      DriveExists: another drive has that name.
      ValueError: it is no name.
    """
    lengths = secret.metadata_length, secret.content_length
    async with await store.get(
        key_pair=secret.key_pair, encryption_key=secret.encryption_key
    ) as metadata:
        known = registry.find_key(store, metadata.key)
        if known is None or known.name != name:
            registry.check_free(store, name)
        async with await opening.open_content(store, metadata, secret.key_pair) as content:
            # Before the next await anybody could sign: the holds come first.
            for core, length in zip((metadata, content), lengths, strict=True):
                await core.hold(Reason.IMPORTED, least_length=length)
        if known is None or known.namespace is None:
            if known is not None:
                registry.remove(store, known.name)
            registry.add(store, name, metadata.key, registry.IMPORTED)
        await store.sync()
    return registry.find_name(
        store, name if known is None or known.namespace is None else known.name
    )


async def recover_drive(store: Corestore, key: Key, *, alone: bool = False) -> int:
    """Fetch a drive of this store as far as peers have it, so that it is written here again;
    returns its version. The caller connects peers, and sets the deadline. What only versions need
    that were given back (`Drive.collect`) is not fetched.

    *alone*: ask nobody. On the word of the owner that no other store has written it since.

    Raises:
      ForkConflict: its key has signed two histories.
      NotWritable: its secret key is not here.
      StorageLocked: another process is writing it.
    """
    async with await store.get(key=key) as metadata:
        if alone:
            await metadata.lift_hold()
        else:
            await metadata.recover(download=False)
        async with await opening.open_content(store, metadata, None) as content:
            if alone:
                await content.lift_hold()
            else:
                await content.recover(download=False)
                await fetch_kept(metadata, content)
        await store.sync()
        return metadata.length


async def settle_drive(store: Corestore, key: Key) -> int:
    """Let a drive go on whose key has signed two histories; returns its version.

    If it is written here, both its cores begin a new fork with what is here, and all readers go
    over to that: what only the other history has is lost to them, so settle it in one store only.
    Else what is here of the evidence is forgotten, and the drive follows its peers again. Of a
    drive without a conflict nothing is changed. The drive must not be open.

    Raises:
      StorageLocked: another process is writing it.
    """
    async with (
        await store.get(key=key) as metadata,
        await opening.open_content(store, metadata, None) as content,
    ):
        if metadata.conflict is None and content.conflict is None:
            return metadata.length
        # The content first: no version names content that is not there.
        for core in (content, metadata):
            if core.conflict is None and core.writable and core.length:
                # Nobody has met the other history of this one yet.
                with suppress(ForkConflict):
                    await core.truncate(core.length)
            await core.settle_conflict()
        with suppress(MustRecover):
            async with opening.open(store, key=key) as drive:
                if drive.writable:
                    # Only a root of the new history says which content it relies on.
                    await drive.claim()
        await store.sync()
        return metadata.length
