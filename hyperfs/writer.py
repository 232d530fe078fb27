"""`OpenFile`: the live state of a file that somebody holds open, and its unflushed writes."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, TypedDict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Unpack

    from hyperfs.records import Entry


class Shared(enum.Enum):
    """The location of a file with several names: its record lies under its own id."""

    SHARED = "shared"


SHARED: Final = Shared.SHARED
# (directory id, name) | the shared record | None: no name left (unlinked, or never linked).
Location = tuple[int, bytes] | Shared | None


class Attributes(TypedDict, total=False):
    """What `OpenFile.update` may set."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    ctime_ns: int
    nlink: int
    rdev: int
    xattrs: Mapping[bytes, bytes]


class OpenFile:
    """One per file id, counted. Writes are visible at once to reads, look-ups and listings."""

    location: Location

    @property
    def id(self) -> int:
        raise NotImplementedError

    @property
    def entry(self) -> Entry:
        """The live record: size, times, attributes. Its extents are those committed last."""
        raise NotImplementedError

    @property
    def size(self) -> int:
        raise NotImplementedError

    @property
    def dirty(self) -> bool:
        """Whether content or attributes wait for a commit."""
        raise NotImplementedError

    def acquire(self) -> OpenFile:
        """One more holder."""
        raise NotImplementedError

    def release(self) -> None:
        """One holder less. The last one leaves: dirty state is still committed (schedule it),
        or dropped if the file has no name."""
        raise NotImplementedError

    async def read(self, offset: int, length: int) -> bytes:
        """Up to *length* bytes; fewer only at the end of the file. One instant of the file.

        Raises TooSlowError, DecodeError, VerificationError, StorageError.
        """
        raise NotImplementedError

    async def write(self, offset: int, data: bytes | memoryview) -> None:
        """Lay bytes over the file, sets mtime and ctime. Applied before the first await: a cancelled
        write has written. Waits only while the drive holds too much dirty content.

        Raises NotWritable, OSError EFBIG (beyond 2**62).
        """
        raise NotImplementedError

    async def truncate(self, size: int) -> None:
        """Cut or extend (with a hole) to *size*; sets mtime and ctime."""
        raise NotImplementedError

    def update(self, **changes: Unpack[Attributes]) -> None:
        """Change attributes; staged like a `Drive.put`. ctime_ns is as given, not set here."""
        raise NotImplementedError
