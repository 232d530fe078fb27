"""Room on the disk that is kept for giving room back.

To clear a block on a full disk, the database has to note that it is cleared, and a download has
taken the last page. So a store keeps a file of nothing, which goes when a clearing finds no room,
and is made again after it. Its size is what the log needs for clearing 256 blocks, many times over.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

RESERVE_BYTES: Final = 512 << 10


class Reserve:
    """The file *path*, which takes up `RESERVE_BYTES` of the disk, or is missing on a full one."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def keep(self) -> None:
        """Make it if it is missing and there is room. Looked at each time: any process that has
        the store open may have used it."""
        if self._is_whole() or not hasattr(os, "posix_fallocate"):
            return
        with contextlib.suppress(OSError):
            fd = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, RESERVE_BYTES)
            except OSError:
                self._path.unlink(missing_ok=True)
            finally:
                os.close(fd)

    def release(self) -> bool:
        """Give its room to whoever needs it now; whether there was any."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True

    def _is_whole(self) -> bool:
        # Nothing, or less, is what a process leaves that dies while it makes the file.
        try:
            return self._path.stat().st_size >= RESERVE_BYTES
        except FileNotFoundError:
            return False
