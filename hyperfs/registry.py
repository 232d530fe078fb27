"""Which drives have a name in a store, and how the keys of our own are derived again.

A name is an alias, kept in the store's user data: `drive/NAME` -> namespace (32 bytes) || key (32).
The namespace is random, made when the drive is made; a drive of somebody else has zeros there, one
whose secret key was imported ones. So a name that is removed and used again never leads to the same
key, which would fork the old log.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from corestore import Key, Reason
from hyperfs.errors import DriveExists, NoSuchDrive
from hyperfs.links import DriveLink

if TYPE_CHECKING:
    from corestore import Corestore

NAMESPACE_BYTES: Final = 32
FOREIGN: Final = bytes(NAMESPACE_BYTES)
# Of a drive whose secret key was imported: it does not derive from this store's primary key.
IMPORTED: Final = b"\xff" * NAMESPACE_BYTES
_PREFIX: Final = "drive/"
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,40}\Z")


@dataclass(frozen=True, slots=True)
class DriveInfo:
    """A drive that has a name here. `namespace` is None if its secret key never was here,
    `encryption_key` if the drive is not encrypted (or nobody has told us with what). `held_for`:
    why it is not written here for now, if so."""

    name: str
    key: Key
    namespace: bytes | None
    encryption_key: bytes | None = field(default=None, repr=False)
    held_for: Reason | None = None

    @property
    def writable(self) -> bool:
        """Whether this store can write it, if need be after it was recovered; not if its secret
        key was moved to another one."""
        return self.namespace is not None and self.held_for is not Reason.MOVED

    @property
    def link(self) -> DriveLink:
        """What a reader has to be told."""
        return DriveLink(self.key, self.encryption_key)


def check_name(name: str) -> None:
    """Raise ValueError unless *name* is 1 to 40 of `A-Za-z0-9._-` (so never a key's length)."""
    if not _NAME.match(name):
        raise ValueError(
            f"{name!r} is no drive name: 1 to 40 letters, digits, dots, underscores or hyphens"
        )


def drives(store: Corestore) -> list[DriveInfo]:
    """The drives that have a name, sorted by it."""
    found = []
    for user_key, value in store.user_data_items(_PREFIX):
        found.append(_info(store, user_key.removeprefix(_PREFIX), value))
    return found


def find_name(store: Corestore, name: str) -> DriveInfo:
    """The drive called *name*.

    Raises:
      NoSuchDrive: there is none.
    """
    value = store.user_data(_PREFIX + name)
    if value is None:
        raise NoSuchDrive(name)
    return _info(store, name, value)


def _info(store: Corestore, name: str, value: bytes) -> DriveInfo:
    namespace, key = value[:NAMESPACE_BYTES], Key(value[NAMESPACE_BYTES:])
    encryption_key = store.encryption_key(key.discovery_key)
    held_for = store.held_for(key.discovery_key)
    own = None if namespace == FOREIGN else namespace
    return DriveInfo(name, key, own, encryption_key, held_for)


def find_key(store: Corestore, key: Key) -> DriveInfo | None:
    """The named drive with this key, if any."""
    return next((info for info in drives(store) if info.key == key), None)


def check_free(store: Corestore, name: str) -> None:
    """Raise DriveExists if *name* is taken, ValueError if it is no name."""
    check_name(name)
    value = store.user_data(_PREFIX + name)
    if value is not None:
        raise DriveExists(name, Key(value[NAMESPACE_BYTES:]))


def add(store: Corestore, name: str, key: Key, namespace: bytes | None) -> None:
    """Give a drive a name. Raises as `check_free` does."""
    check_free(store, name)
    store.set_user_data(_PREFIX + name, (namespace or FOREIGN) + key)


def rename(store: Corestore, old: str, new: str) -> None:
    """Give a drive another name; its key stays.

    A crash between the two writes leaves both names, never none.

    Raises:
      NoSuchDrive, DriveExists, ValueError.
    """
    info = find_name(store, old)
    if old == new:
        return
    add(store, new, info.key, info.namespace)
    store.set_user_data(_PREFIX + old, None)


def remove(store: Corestore, name: str) -> DriveInfo:
    """Take a name away and return what it named. Raises NoSuchDrive."""
    info = find_name(store, name)
    store.set_user_data(_PREFIX + name, None)
    return info
