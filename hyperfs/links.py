"""The link of a drive: what a reader has to be told (pure).

`hyper://KEY`, or `hyper://KEY#ENCRYPTIONKEY` of an encrypted drive, each of the two as 52
characters of z-base-32 or 64 hexadecimal digits. As in any URL, what follows `#` is for the reader
alone: a seeder is given the part in front of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from corestore import Key

SCHEMES: Final = ("hyper://", "pear://")


@dataclass(frozen=True, slots=True)
class DriveLink:
    """The key of a drive and, if it is encrypted, what decrypts it (32 secret bytes)."""

    key: Key
    encryption_key: bytes | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, value: DriveLink | Key | bytes | str) -> DriveLink:
        """A link, as it is or as `str` gives it, with or without the scheme; or a key.

        Raises:
          ValueError: it is none; the message says what is wrong, in a user's words.
          TypeError: it is nothing of that kind.
        """
        if isinstance(value, DriveLink):
            return value
        if isinstance(value, bytes):
            return cls(Key(value))
        if not isinstance(value, str):
            raise TypeError(f"a key or link is no {type(value).__name__}")
        for scheme in SCHEMES:
            value = value.removeprefix(scheme)
        key, mark, secret = value.partition("#")
        return cls(Key.parse(key), bytes(Key.parse(secret)) if mark else None)

    def __str__(self) -> str:
        link = f"hyper://{self.key}"
        return link if self.encryption_key is None else f"{link}#{Key(self.encryption_key)}"
