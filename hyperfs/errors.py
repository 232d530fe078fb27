"""The errors of hyperfs, below corestore's.

```
CorestoreError
└── HyperfsError
    ├── NotADrive                     the core's first block is no drive header
    ├── DriveEncrypted                the drive can be read with its encryption key only
    ├── UnsupportedFormat(version)    a drive of a newer format than this program reads
    ├── DriveExists(name, key)        the store has a drive of this name
    ├── VersionCleared(version, oldest)  an older version than those that were kept
    ├── SecretError                   the text is no drive's secret
    ├── NoSuchDrive(name)             the store has no drive of this name
    ├── FuseUnavailable               this machine cannot mount; the message says what to install
    └── RestoreMismatch(path)         a restored file is not what the snapshot names
```

Paths fail with the built-in `OSError` classes, errno and path set; bad arguments are `ValueError`
and `TypeError`. Bytes of a drive that are not valid records are corestore's `DecodeError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from corestore import CorestoreError

if TYPE_CHECKING:
    from corestore import Key


class HyperfsError(CorestoreError):
    """The root of what hyperfs adds to the errors of corestore."""


class NotADrive(HyperfsError):
    """Raised when a drive is opened by the key of a core that holds something else."""


class DriveEncrypted(HyperfsError):
    """Raised by reads of an encrypted drive without its encryption key, or with a wrong one.

    It can be fetched and served all the same. Open it by its whole link to read it.
    """

    def __init__(self, *, wrong_key: bool = False) -> None:
        super().__init__(
            "the drive is not encrypted with the key in this link: copy the whole link again"
            if wrong_key
            else "this drive is encrypted: use its whole link, hyper://KEY#ENCRYPTIONKEY"
        )


class UnsupportedFormat(HyperfsError):
    """Raised by every read of a drive, or of a part of it, written in a newer format.

    `version` is the format version found. A newer program reads it.
    """

    def __init__(self, version: int) -> None:
        super().__init__(f"the drive has format {version}, which this program is too old to read")
        self.version = version


class DriveExists(HyperfsError):
    """Raised when a drive is made under a name that is taken; `key` is the drive that has it."""

    def __init__(self, name: str, key: Key) -> None:
        super().__init__(f"a drive called {name} is there already; its key is {key}")
        self.name = name
        self.key = key


class VersionCleared(HyperfsError, ValueError):
    """Raised when a version is asked for that was given back to the disk; `oldest` is the first
    that was kept."""

    def __init__(self, version: int, oldest: int) -> None:
        super().__init__(
            f"version {version} was given back to the disk; the oldest one kept is {oldest}"
        )
        self.version = version
        self.oldest = oldest


class SecretError(HyperfsError):
    """Raised by `DriveSecret.parse`: the text is no drive's secret, or not all of it."""


class NoSuchDrive(HyperfsError):
    """Raised when a drive is asked for by a local name that no drive has."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no drive called {name} in this store")
        self.name = name


class FuseUnavailable(HyperfsError):
    """Raised by a mount where the kernel, the helper or the binding is missing.

    The message is one sentence that says what to install or allow.
    """


class RestoreMismatch(HyperfsError):
    """Raised by a restore whose result differs from the snapshot; `path` names the file."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} was restored, but is not what the snapshot holds")
        self.path = path
