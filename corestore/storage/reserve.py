"""Room on the disk that is kept for giving room back.

To clear a block on a full disk, the database has to note that it is cleared; and before something
can be cleared at all, the version that does without it has to be written, signed and synced. What
fills a disk takes its last page. So a store keeps a file of nothing, which gets smaller when such a
change finds no room, and is filled again as far as there is room. The last part of it is for
clearings alone: what the log needs for clearing 256 blocks, many times over.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

RESERVE_BYTES: Final = 2 << 20
LAST_BYTES: Final = 512 << 10
# It is filled by no less than this.
_LEAST_BYTES: Final = 64 << 10


class Reserve:
    """The file *path*, which takes up `RESERVE_BYTES` of the disk, or what a full one leaves it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def keep(self) -> None:
        """Make it, or make it larger, as far as there is room. Looked at each time: any process
        that has the store open may have used it."""
        size = self._size()
        if size >= RESERVE_BYTES or not hasattr(os, "posix_fallocate"):
            return
        with contextlib.suppress(OSError):
            fd = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            try:
                _fill(fd, size)
            finally:
                os.close(fd)

    def release(self, least: int = 0) -> bool:
        """Give its room, but for *least* bytes, to whoever needs it now; whether there was any."""
        if self._size() <= least:
            return False
        try:
            os.truncate(self._path, least)
        except OSError:
            return False
        return True

    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except OSError:
            return 0


def _fill(fd: int, size: int) -> None:
    step = RESERVE_BYTES - size
    while step >= _LEAST_BYTES:
        try:
            os.posix_fallocate(fd, size, step)
        except OSError:
            # Some of it may be there.
            os.ftruncate(fd, size)
            step //= 2
        else:
            size += step
            step = min(step, RESERVE_BYTES - size)
