"""A disk whose power can be cut: an ext4 image on a loop device. Needs root."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
from typing import TYPE_CHECKING

from tools.crash_load import sync
from tools.program import wait_until

if TYPE_CHECKING:
    import random
    from pathlib import Path

DISK_BYTES = 6 << 30
# EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH. Format: Linux, include/uapi/linux/ext4.h.
_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = 2


class Disk:
    """An ext4 image of *size* bytes on a loop device, mounted on *folder*."""

    def __init__(self, folder: Path, source: random.Random, *, size: int = DISK_BYTES) -> None:
        self.folder = folder
        self._image = folder.with_name(f"{folder.name}.img")
        self._source = source
        folder.mkdir()
        with self._image.open("wb") as file:
            file.truncate(size)
        lazy = "lazy_itable_init=1,lazy_journal_init=1"
        subprocess.run(["mkfs.ext4", "-q", "-F", "-E", lazy, self._image], check=True)
        self.mount()
        (folder / "lost+found").rmdir()

    def mount(self) -> None:
        """Give it power."""
        data = self._source.choice(("ordered", "writeback"))
        options = f"loop,commit={self._source.choice((1, 5, 300))},data={data}"
        subprocess.run(["mount", "-o", options, self._image, self.folder], check=True)

    def unmount(self) -> None:
        """Take it away; whoever used it has ended."""
        wait_until(
            lambda: (
                not subprocess.run(
                    ["umount", self.folder], check=False, capture_output=True
                ).returncode
            ),
            20,
        )

    def flush_something(self) -> None:
        """Make some file durable out of turn, as the kernel may at any moment."""
        files = [*self.folder.glob("data/*/*"), *self.folder.glob("*-wal")]
        if files:
            with contextlib.suppress(OSError):
                sync(self._source.choice(files))

    def cut_power(self) -> None:
        """From now on nothing reaches the disk, and what had not is gone."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(descriptor)
