"""Open files and open directories, by the small numbers the kernel passes back."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hyperfs.vfs.inodes import Inode
    from hyperfs.vfs.listings import Listing
    from hyperfs.writer import OpenFile

Handle = TypeVar("Handle")
S = TypeVar("S")


class FileHandle:
    """One open(2) of a regular file.

    `inode` stays valid while the handle is open. `privileged` is set for those who keep set-ID bits
    when they write (root). `written` is set by the first write, and where the open made the file.
    """

    __slots__ = ("file", "inode", "privileged", "writable", "written")

    def __init__(
        self,
        inode: Inode,
        file: OpenFile,
        *,
        writable: bool,
        privileged: bool,
        written: bool = False,
    ) -> None:
        self.inode = inode
        self.file = file
        self.writable = writable
        self.privileged = privileged
        self.written = written


class DirectoryHandle(Generic[S]):
    """One opendir(3), and where in the directory each position that was told lies.

    Positions are told for each entry: 1 and 2 for `.` and `..`, then one a name. To go on at a
    position means after the name it was told with, whatever came and went meanwhile: so nothing is
    listed twice or left out, and nothing stale is shown. `offered` is how many entries the last
    answer had, `wanted` how many the next one should have, `last` says that no names followed it;
    `end` is the position after the last name, once that was passed on. `began` is the tree's stamp
    at the start. `listing` is what the last answer was taken from, if more may follow.
    """

    __slots__ = ("began", "end", "ino", "last", "listing", "names", "offered", "wanted")

    FIRST_NAME = 3
    FIRST_ANSWER = 64

    def __init__(self, ino: int) -> None:
        self.ino = ino
        self.names: list[bytes] = []
        self.offered = 0
        self.wanted = self.FIRST_ANSWER
        self.last = False
        self.end = 0
        self.began = -1
        self.listing: Listing[S] | None = None

    def name_before(self, position: int) -> bytes:
        """The name after which the listing goes on at *position*; empty for the start.

        Raises EINVAL for a position never told.
        """
        index = position - self.FIRST_NAME
        if index < 0:
            return b""
        if index >= len(self.names):
            raise OSError(errno.EINVAL, "no such position in the directory")
        return self.names[index]

    def tell(self, position: int, names: list[bytes]) -> None:
        """Note that *position* and those after it were told with *names*."""
        index = position - self.FIRST_NAME
        self.names[index : index + len(names)] = names
        self.end = position + len(names) - 1 if self.last else 0

    def fitted(self, count: int) -> None:
        """Note that *count* of the entries offered were taken: the next ones may be a few more, or
        twice as many if these were too few."""
        if count == self.offered:
            self.wanted = max(2 * count, self.FIRST_ANSWER)
        else:
            self.wanted = max(count + 8, self.FIRST_ANSWER)
            self.last = False


class Handles(Generic[Handle]):
    """Numbers for things of one kind. A number is not used again."""

    def __init__(self) -> None:
        self._open: dict[int, Handle] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Handle]:
        return iter(list(self._open.values()))

    def add(self, handle: Handle) -> int:
        """The number under which *handle* is open from now on."""
        self._last += 1
        self._open[self._last] = handle
        return self._last

    def __getitem__(self, number: int) -> Handle:
        try:
            return self._open[number]
        except KeyError:
            raise OSError(errno.EBADF, "not open") from None

    def pop(self, number: int) -> Handle:
        """Close it. Raises EBADF."""
        try:
            return self._open.pop(number)
        except KeyError:
            raise OSError(errno.EBADF, "not open") from None


class HandleTable(Generic[S]):
    """What is open."""

    def __init__(self) -> None:
        self.files: Handles[FileHandle] = Handles()
        self.directories: Handles[DirectoryHandle[S]] = Handles()
