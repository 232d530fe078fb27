"""What stat(2) shows of an entry: the `Attributes`, and the ways a mount may present them."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeVar

from hyperfs.records import TYPE_BITS

if TYPE_CHECKING:
    from hyperfs.records import Entry

_FILE: Final = stat.S_IFREG
# The unit in which the bytes of a file are counted as used, as on most local file systems.
_USED_UNIT: Final = 4096
_SECTOR: Final = 512

# How long the kernel may trust what it was told, in seconds: it is told what changes.
LONG_TIMEOUT: Final = 3600.0


S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)


class Attributes(NamedTuple):
    """As stat(2) has them; `mode` is the whole st_mode, times are nanoseconds since 1970.

    `timeout` says for how many seconds the kernel may use the name and the attributes unasked.
    """

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    timeout: float = LONG_TIMEOUT


class Show(Protocol[S_co]):
    """Makes what an interface shows of a file; the parameters are those of `Attributes`, which is
    one. The kernel's has a form of its own: to make that of this would take as long again."""

    def __call__(
        self,
        ino: int,
        mode: int,
        nlink: int,
        uid: int,
        gid: int,
        rdev: int,
        size: int,
        blocks: int,
        atime_ns: int,
        mtime_ns: int,
        ctime_ns: int,
        timeout: float,
        /,
    ) -> S_co:
        """What is shown."""
        ...


@dataclass(frozen=True, slots=True)
class Presentation:
    """How entries are shown, whatever their records say.

    `uid` and `gid` replace the owners. `umask` replaces the permission bits by those it leaves.
    `timeout` is the attributes' timeout in seconds. `first` is added to each file's id.
    """

    uid: int | None = None
    gid: int | None = None
    umask: int | None = None
    timeout: float = LONG_TIMEOUT
    first: int = 0

    def rights(self, entry: Entry) -> tuple[int, int, int]:
        """Mode, user and group as they are shown, which decide who may do what."""
        return (
            self._mode(entry.mode),
            entry.uid if self.uid is None else self.uid,
            entry.gid if self.gid is None else self.gid,
        )

    def _mode(self, mode: int) -> int:
        if self.umask is None or mode & TYPE_BITS == stat.S_IFLNK:
            return mode
        return mode & TYPE_BITS | 0o777 & ~self.umask

    def show(self, show: Show[S], entry: Entry, atime_ns: int | None, used: int | None) -> S:
        """The attributes of an entry.

        *used* says how many bytes of the file are no hole, unless its record does (None: nothing of
        the file waits to be committed). To show less than there is would make tar(1) and others
        take data for holes.
        """
        ino, mode, uid, gid, mtime_ns, ctime_ns, size, nlink, rdev = entry[:9]
        blocks = 0
        if size and mode & TYPE_BITS == _FILE:
            if used is None:
                used = _used(entry)
            # Never 0 for a file with a size: to tar(1) that means one that is all hole, and what
            # was written to a mapping the kernel may have for itself.
            blocks = (-(-used // _USED_UNIT) or 1) * (_USED_UNIT // _SECTOR)
        return show(
            self.first + ino,
            mode if self.umask is None else self._mode(mode),
            nlink,
            uid if self.uid is None else self.uid,
            gid if self.gid is None else self.gid,
            rdev,
            size,
            blocks,
            mtime_ns if atime_ns is None else atime_ns,
            mtime_ns,
            ctime_ns,
            self.timeout,
        )


def looks_same(old: Entry, new: Entry) -> bool:
    """Whether a record shows what the one before showed: all that is told of it is the same, and
    there are no holes by which it could use less."""
    return old.size == new.size and old[:9] == new[:9] and _used(new) == new.size


def _used(entry: Entry) -> int:
    """How many bytes of a settled file are not holes."""
    if entry.grouped or entry.inline is not None or entry.blob is not None:
        return entry.size
    used = 0
    for extent in entry.extents:
        used += extent.length
    return used if used < entry.size else entry.size


@dataclass(slots=True)
class SetAttributes:
    """The changes that setattr asks for; None leaves as it is. `mode` is the permission bits.

    One that asks for nothing is chown(2) which names nobody: that clears set-ID bits all the same.
    """

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
