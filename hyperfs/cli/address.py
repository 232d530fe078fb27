"""What users type to name a drive: keys, names, and paths inside drives (pure).

A drive is a KEY (z-base-32, 64 hexadecimal digits, `hyper://KEY[/path]` or `pear://KEY`) or a local
NAME. Its version N is `NAME+N` or `KEY+N`. A path inside it follows a colon: `photos:/2026`,
`KEY:/a b`. The encryption key of an encrypted drive follows the key, or the version:
`hyper://KEY#ENCRYPTIONKEY`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Final

from corestore import Key
from hyperfs.links import SCHEMES, DriveLink
from hyperfs.moving import PREFIX as SECRET_PREFIX

NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9._-]{1,40}")
_KEY_LENGTHS: Final = (52, 64)
# What is in front of :// when something else is meant than a path in a drive of that name.
_OTHER_SCHEMES: Final = ("http", "https", "file", "ftp", "sftp", "ssh", "dat", "ipfs")

# Host and port.
Endpoint = tuple[str, int]


class AddressError(ValueError):
    """What was typed cannot name a drive; the message says why, in a user's words."""


@dataclass(frozen=True, slots=True)
class Address:
    """A drive and a place in it. Exactly one of `key` and `name` is set; `path` starts with /.

    `encryption_key` is set if the drive was named by a link that has it.
    """

    key: Key | None = None
    name: str | None = None
    version: int | None = None
    path: bytes = b"/"
    encryption_key: bytes | None = field(default=None, repr=False)

    def __str__(self) -> str:
        if self.key is None:
            return self.name or ""
        return str(DriveLink(self.key, self.encryption_key))


def parse(text: str) -> Address:
    """Take apart a drive with an optional version and path.

    Raises:
      AddressError: it is neither a key nor a possible name.
    """
    _refuse_secrets(text)
    rest = _behind_scheme(text)
    if rest is not None:
        return _parse_url(rest)
    drive, colon, path = text.partition(":")
    if path.startswith("//") and drive.lower() in _OTHER_SCHEMES:
        raise AddressError(f"{drive}:// names no drive: use a key, a name or hyper://KEY")
    if "/" in drive:
        drive, _, path = text.partition("/")
        if drive in ("", ".", ".."):
            raise AddressError(f"{text} names no drive: a path in one is NAME:/PATH or KEY:/PATH")
        raise AddressError(f"write a path in a drive as {drive}:/{path}")
    if colon and not path:
        path = "/"
    if colon and not path.startswith("/"):
        raise AddressError(f"write a path in a drive as {drive}:/{path}")
    place = os.fsencode(path) if colon else b"/"
    if looks_like_key(drive):
        drive, secret = _split_secret(drive)
        drive, version = _split_version(drive)
        return Address(parse_key(drive), None, version, place, secret)
    drive, version = _split_version(drive)
    return Address(None, parse_name(drive), version, place)


def looks_like_key(text: str) -> bool:
    """Whether *text* can only have been meant as a key: longer than any name may be."""
    return len(text) > 40


def parse_key(text: str) -> Key:
    """A key alone, in any of its forms.

    Raises:
      AddressError: with what is wrong with it.
    """
    _refuse_secrets(text)
    rest = _behind_scheme(text)
    if rest is not None:
        key = _parse_url(rest).key
        assert key is not None
        return key
    if len(text) not in _KEY_LENGTHS:
        raise AddressError(
            f"a key has 52 characters (or 64 hexadecimal digits), this has {len(text)};"
            " copy it again from `hyperfs drives`"
        )
    try:
        return Key.parse(text)
    except ValueError as error:
        raise AddressError(f"{error}; copy the key again from `hyperfs drives`") from None


def parse_name(text: str) -> str:
    """A local name.

    Raises:
      AddressError: it has other characters or another length than names may have.
    """
    _refuse_secrets(text)
    if not NAME_PATTERN.fullmatch(text) or text in (".", ".."):
        rest = _behind_scheme(text)
        _refuse_secrets(rest or "")
        if rest is not None or len(text) in _KEY_LENGTHS:
            raise AddressError(
                "what is asked for here is the name a drive has in this store, not its key"
                " (`hyperfs drives` shows both)"
            )
        raise AddressError(
            f"{text!r} cannot be a drive's name: use 1 to 40 letters, digits, dots, dashes"
            " and underscores"
        )
    return text


def parse_endpoint(text: str) -> Endpoint:
    """HOST:PORT, where an empty host is the loopback interface and [HOST] may be IPv6.

    Raises:
      AddressError: there is no port, or it is none.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise AddressError(f"write an address as HOST:PORT or :PORT, not {text!r}")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


def _behind_scheme(text: str) -> str | None:
    """What follows `hyper://` or `pear://`, in letters of either size; None without one."""
    for scheme in SCHEMES:
        if text[: len(scheme)].lower() == scheme:
            return text[len(scheme) :]
    return None


def _parse_url(rest: str) -> Address:
    drive, slash, path = rest.partition("/")
    # A colon in front of the path is what follows a key or a name.
    drive, secret = _split_secret(drive.removesuffix(":"))
    drive, version = _split_version(drive)
    place = b"/" + os.fsencode(path) if slash else b"/"
    return Address(parse_key(drive), None, version, place, secret)


def _split_version(text: str) -> tuple[str, int | None]:
    """What is in front of `+`, and the version behind it."""
    rest, plus, version = text.partition("+")
    if plus and not (version.isascii() and version.isdigit()):
        raise AddressError(f"the version after + must be a number, not {version!r}")
    return rest, int(version) if plus else None


def _split_secret(text: str) -> tuple[str, bytes | None]:
    """What is in front of `#`, and the encryption key behind it."""
    rest, mark, secret = text.partition("#")
    return rest, bytes(parse_key(secret)) if mark else None


def _refuse_secrets(text: str) -> None:
    if text.lower().startswith(SECRET_PREFIX):
        raise AddressError(
            "this is a secret, not a key: keep it to yourself, and use the drive's key"
            " (`hyperfs drives` shows it)"
        )
