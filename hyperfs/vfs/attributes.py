"""What stat(2) shows of an entry: the `Attributes`, and the ways a mount may present them."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from hyperfs.records import Entry

_TYPES: Final = 0o170000
_FILE: Final = stat.S_IFREG
# The unit in which the bytes of a file are counted as used, as on most local file systems.
_USED_UNIT: Final = 4096
_SECTOR: Final = 512

# How long the kernel may trust what it was told, in seconds: it is told what changes.
LONG_TIMEOUT: Final = 3600.0


class _Attributes(NamedTuple):
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
    generation: int = 0


class Attributes(_Attributes):
    """As stat(2) has them; `mode` is the whole st_mode, times are nanoseconds since 1970.

    The timeouts say for how many seconds the kernel may use the name and the attributes unasked.
    An `ino` of 0 stands for a name that does not exist, which may be remembered as long.
    """

    # The same as the interface to the kernel has it, which keeps it here.
    encoded: object = None


MISSING: Final = Attributes(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Presentation:
    """How entries are shown, whatever their records say.

    `uid` and `gid` replace the owners. `umask` replaces the permission bits by those it leaves.
    `timeout` is the attributes' timeout in seconds.
    """

    uid: int | None = None
    gid: int | None = None
    umask: int | None = None
    timeout: float = LONG_TIMEOUT

    def attributes(
        self, entry: Entry, atime_ns: int | None = None, *, settled: bool = False
    ) -> Attributes:
        """The attributes of an entry.

        Only for an entry known to be *settled* (nothing of the file waits to be committed) do its
        extents say how much it uses: to show less than there is would make tar(1) and others
        take data for holes.
        """
        mode = entry.mode
        if self.umask is not None and mode & _TYPES != stat.S_IFLNK:
            mode = mode & _TYPES | 0o777 & ~self.umask
        size = entry.size
        return Attributes(
            entry.id,
            mode,
            entry.nlink,
            entry.uid if self.uid is None else self.uid,
            entry.gid if self.gid is None else self.gid,
            entry.rdev,
            size,
            _sectors(_used(entry) if settled else size) if size and mode & _TYPES == _FILE else 0,
            entry.mtime_ns if atime_ns is None else atime_ns,
            entry.mtime_ns,
            entry.ctime_ns,
            self.timeout,
        )


def _used(entry: Entry) -> int:
    """How many bytes of a settled file are not holes."""
    if entry.grouped or entry.inline is not None:
        return entry.size
    used = 0
    for extent in entry.extents:
        used += extent.length
    return used if used < entry.size else entry.size


def _sectors(used: int) -> int:
    """Never 0 for a file with a size: to tar(1) that means one that is all hole."""
    return (-(-used // _USED_UNIT) or 1) * (_USED_UNIT // _SECTOR)


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
