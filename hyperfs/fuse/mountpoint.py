"""The directory a drive is mounted on: whether it will do, and mounts that died on it.

Everything here may block on the disk (or on somebody's dead mount), so the event loop calls it
only through a thread. None of it needs pyfuse3.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import os
import shutil
import subprocess
from typing import Final

from hyperfs.errors import FuseUnavailable

DEVICE: Final = "/dev/fuse"
HELPER: Final = "fusermount3"
CONNECTIONS: Final = "/sys/fs/fuse/connections"
# Dead mounts that lie on one another, each from a mount that did not clean up the one before.
_MOST_STACKED: Final = 64
_PACKAGES: Final = "apt install fuse3 libfuse3-dev pkg-config gcc python3-dev"


def check_available() -> None:
    """Raise FuseUnavailable unless this process can mount."""
    try:
        importlib.import_module("pyfuse3")
    except ImportError as error:
        # Not there, or there without the library it was built with.
        raise FuseUnavailable(
            f"mounting needs pyfuse3 ({error}): {_PACKAGES}, then pip install 'hyperfs[fuse]'"
        ) from None
    if shutil.which(HELPER) is None:
        raise FuseUnavailable(f"mounting needs {HELPER}: apt install fuse3")
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        raise FuseUnavailable(
            f"there is no {DEVICE}: load the kernel module (modprobe fuse), or pass the device into"
            " the container"
        ) from None
    except OSError as error:
        raise FuseUnavailable(
            f"{DEVICE} cannot be opened ({error.strerror}): let this user use it, or run as root"
        ) from None


def prepare(directory: str, *, store: str | None) -> str:
    """The real path of *directory*, on which a drive can be mounted now.

    A mount whose process died is taken away first.

    Raises:
      FileNotFoundError, NotADirectoryError: it must be an existing directory.
      OSError: ENOTEMPTY; EBUSY when a drive is mounted there; EINVAL when it has to do with
        *store*, the folder that holds the drive's own data.
    """
    recover(directory)
    point = os.path.realpath(directory)
    try:
        names = os.listdir(point)
    except NotADirectoryError:
        raise NotADirectoryError(errno.ENOTDIR, "it is not a folder", point) from None
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "there is no such folder", point) from None
    if store is not None and _related(os.path.realpath(point), os.path.realpath(store)):
        raise OSError(
            errno.EINVAL, "a drive cannot be mounted on, in or above the store that holds it", point
        )
    if mounted_type(point) is not None:
        raise OSError(errno.EBUSY, "something is mounted there already", point)
    if names:
        raise OSError(errno.ENOTEMPTY, "the folder is not empty", point)
    return point


def _related(a: str, b: str) -> bool:
    return os.path.commonpath([a, b]) in (a, b)


def is_dead(point: str) -> bool:
    """Whether a FUSE mount lies on *point* whose process is gone."""
    try:
        # Not stat: of that the kernel may have an answer from better days.
        os.statvfs(point)
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def recover(point: str | os.PathLike[str]) -> int:
    """Take dead mounts off *point*, however many lie there; how many there were.

    Raises:
      OSError: ENOTCONN with the helper's reason, if one cannot be taken off.
    """
    path = os.path.abspath(os.fspath(point))
    for count in range(_MOST_STACKED):
        if not is_dead(path):
            return count
        reason = unmount(path, lazy=True)
        if reason is not None:
            raise OSError(errno.ENOTCONN, f"a dead mount cannot be taken off: {reason}", path)
    raise OSError(errno.ENOTCONN, "too many dead mounts lie there", path)


def unmount(point: str, *, lazy: bool) -> str | None:
    """Unmount; the helper's reason if it cannot. *lazy* detaches a mount that is in use."""
    flags = "-uz" if lazy else "-u"
    done = subprocess.run(
        [HELPER, flags, "--", point],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return None if done.returncode == 0 else done.stderr.strip() or f"{HELPER} failed"


def mounted_type(point: str) -> str | None:
    """The file system type of the FUSE mount on *point*, None if there is no FUSE mount.

    What else may be mounted there (a disk, a bind mount) is a folder like any other.
    """
    found = None
    for fields, kind in _mounts():
        if fields[4] == point and kind.startswith("fuse"):
            found = kind
    return found


def connection_of(point: str) -> int | None:
    """The number of the FUSE connection that serves *point*, as under `CONNECTIONS`."""
    found = None
    for fields, kind in _mounts():
        if fields[4] == point and kind.startswith("fuse"):
            found = int(fields[2].partition(":")[2])
    return found


def _mounts() -> list[tuple[list[str], str]]:
    """(fields, type) of each line of mountinfo; the mount point is field 4, unescaped."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields = line.split()
            fields[4] = _unescape(fields[4])
            found.append((fields, fields[fields.index("-") + 1]))
    return found


def _unescape(text: str) -> str:
    """Blanks and backslashes are written as octal numbers."""
    for code in ("040", "011", "012", "134"):
        text = text.replace("\\" + code, chr(int(code, 8)))
    return text


def write_back(point: str) -> None:
    """Have the kernel write out what is dirty in mappings of files of the mount on *point*.

    Returns when all of it was answered; so not for the thread that serves it. Raises OSError.
    """
    # As a foreign function: the thread that serves needs the interpreter lock meanwhile.
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if libc.syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), point)
    finally:
        os.close(descriptor)


def abort(connection: int) -> bool:
    """Break a connection, so that everybody who waits for it fails; False if that is not allowed.

    The last resort: it also ends waits in the kernel that no signal ends.
    """
    try:
        with open(f"{CONNECTIONS}/{connection}/abort", "w") as file:
            file.write("1")
    except OSError:
        return False
    return True
