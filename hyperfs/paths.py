"""Byte-string paths inside a drive, and their normal form.

A path in a drive is bytes, as in the file systems it is copied from and to; text is accepted
everywhere and stands for its UTF-8 bytes, with surrogate escapes for what is not UTF-8. The normal
form is absolute, has no empty, `.` or `..` component and no slash at its end; the root is `/`.
`..` is resolved by the text alone, never through a symbolic link, and stops at the root.
"""

from __future__ import annotations

import errno
from typing import Final

ROOT: Final = b"/"
MAX_NAME_BYTES: Final = 255


def as_bytes(path: str | bytes) -> bytes:
    """The bytes that *path* stands for."""
    return path.encode("utf-8", "surrogateescape") if isinstance(path, str) else path


def as_text(path: bytes) -> str:
    """*path* as text, from which `as_bytes` gets the same bytes back."""
    return path.decode("utf-8", "surrogateescape")


def split(path: str | bytes) -> tuple[bytes, ...]:
    """The names that lead from the root to *path*; none for the root itself.

    Raises:
      ValueError: a NUL in it.
      OSError: ENAMETOOLONG, when a component has more than 255 bytes.
    """
    names: list[bytes] = []
    raw = as_bytes(path)
    if b"\0" in raw:
        raise ValueError("a path cannot contain NUL")
    for name in raw.split(b"/"):
        if name in (b"", b"."):
            continue
        if name == b"..":
            if names:
                names.pop()
            continue
        if len(name) > MAX_NAME_BYTES:
            raise OSError(errno.ENAMETOOLONG, "File name too long", as_text(raw))
        names.append(name)
    return tuple(names)


def normalise(path: str | bytes) -> bytes:
    """The normal form of *path*. Raises as `split` does."""
    return ROOT + b"/".join(split(path))


def join(directory: str | bytes, *names: str | bytes) -> bytes:
    """The normal form of *names* below *directory*; a name that begins with a slash does not
    start over. Raises as `split` does.
    """
    return normalise(b"/".join((as_bytes(directory), *map(as_bytes, names))))


def parent(path: str | bytes) -> bytes:
    """The directory *path* lies in; the root's is the root. Raises as `split` does."""
    return ROOT + b"/".join(split(path)[:-1])


def basename(path: str | bytes) -> bytes:
    """The last name of *path*, empty for the root. Raises as `split` does."""
    names = split(path)
    return names[-1] if names else b""
