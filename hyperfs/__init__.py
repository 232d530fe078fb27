"""Drives: file systems over signed logs, written in one place and read anywhere by their key.

```python
async with (
    corestore.open("~/photos.store") as store,
    hyperfs.open(store, name="photos", create=True) as drive,
):
    await drive.write("/2026/beach.jpg", jpeg)
    async for found in drive.walk("/2026"):
        print(found.path, found.entry.size)
```

A drive is opened by name (one of this store's) or by key (anybody's). `mount` shows it as a
directory; it is the only part that needs FUSE, and loads it when called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from hyperfs.batch import Batch
from hyperfs.changes import Changed, DriveStatistics, EntryChange, PathChange
from hyperfs.collect import Collected
from hyperfs.damage import Checked, check_drive
from hyperfs.drive import Drive
from hyperfs.errors import (
    DriveEncrypted,
    DriveExists,
    FuseUnavailable,
    HyperfsError,
    NoSuchDrive,
    NotADrive,
    RestoreMismatch,
    SecretError,
    UnsupportedFormat,
    VersionCleared,
)
from hyperfs.links import DriveLink
from hyperfs.moving import (
    DriveSecret,
    export_secret,
    import_secret,
    recover_drive,
    settle_drive,
)
from hyperfs.opening import create, open, remove_drive, rename_drive
from hyperfs.records import Entry
from hyperfs.registry import DriveInfo, drives
from hyperfs.vfs.options import MountOptions
from hyperfs.walk import PathEntry
from hyperfs.watch import Watch, Watched
from hyperfs.whole import Wholeness
from hyperfs.writer import OpenFile

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from hyperfs.fuse.serve import Mounted

__all__ = [
    "Batch",
    "Changed",
    "Checked",
    "Collected",
    "Drive",
    "DriveEncrypted",
    "DriveExists",
    "DriveInfo",
    "DriveLink",
    "DriveSecret",
    "DriveStatistics",
    "Entry",
    "EntryChange",
    "FuseUnavailable",
    "HyperfsError",
    "MountOptions",
    "NoSuchDrive",
    "NotADrive",
    "OpenFile",
    "PathChange",
    "PathEntry",
    "RestoreMismatch",
    "SecretError",
    "UnsupportedFormat",
    "VersionCleared",
    "Watch",
    "Watched",
    "Wholeness",
    "check_drive",
    "check_fuse",
    "create",
    "drives",
    "export_secret",
    "import_secret",
    "mount",
    "open",
    "recover_drive",
    "recover_mount_point",
    "remove_drive",
    "rename_drive",
    "settle_drive",
]


async def mount(
    drive: Drive,
    directory: str | os.PathLike[str],
    *,
    options: MountOptions | None = None,
    stopped: Callable[[], bool] | None = None,
    task_status: trio.TaskStatus[Mounted] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Mount *drive* on an empty directory and serve it until it is unmounted, or cancelled.

    Should it be cancelled while *stopped* says no, something beside it has failed: the mount point
    is left an error then, where programs would find an empty folder otherwise.

    `mounted = await nursery.start(hyperfs.mount, drive, "/mnt/photos")` returns once the mount
    answers. A process serves one mount. See `hyperfs.fuse.serve.mount` for what it raises.
    """
    from hyperfs.fuse import serve

    await serve.mount(drive, directory, options=options, stopped=stopped, task_status=task_status)


def check_fuse() -> None:
    """Raise FuseUnavailable, which says what to install or allow, if this process cannot mount."""
    from hyperfs.fuse import mountpoint

    mountpoint.check_available()


def recover_mount_point(directory: str | os.PathLike[str]) -> int:
    """Take the mounts of processes that are gone off *directory*; how many there were.

    Raises:
      OSError: ENOTCONN, if one cannot be taken off.
    """
    from hyperfs.fuse import mountpoint

    return mountpoint.recover(directory)
