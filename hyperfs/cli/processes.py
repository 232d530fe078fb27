"""Which hyperfs processes run: one JSON file each in the user's runtime folder.

A process holds a kernel lock on its file as long as it lives. The lock, never the file, says that
it is alive: what a killed process left behind is unlocked, and removed by whoever sees it first.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import warnings
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """What a running process tells others about itself.

    Attributes:
      pid: its process number.
      command: the verb it was started with: `mount` or `seed`.
      store: the store's folder.
      keys: the drives it serves, as z-base-32.
      name: the drive's local name, if it has one.
      directory: where it is mounted, or None.
      writable: whether it is the drive's writer.
      listening: HOST:PORT of every socket it listens on.
      version: which version it shows, if that is not the newest at any time.
    """

    pid: int
    command: str
    store: str
    keys: tuple[str, ...]
    name: str | None = None
    directory: str | None = None
    writable: bool = False
    listening: tuple[str, ...] = ()
    version: int | None = None

    @property
    def socket(self) -> Path:
        """Where its control socket is."""
        return runtime_folder() / f"{self.pid}.sock"


def runtime_folder() -> Path:
    """The user's own folder for sockets and process files, made if it is missing (0700).

    Raises:
      PermissionError: it exists and belongs to somebody else.
    """
    named = os.environ.get("HYPERFS_RUNTIME_DIR")
    if named is None:
        with warnings.catch_warnings():
            # That XDG_RUNTIME_DIR will not do is no news for each command: it takes another.
            warnings.simplefilter("ignore")
            named = platformdirs.user_runtime_dir("hyperfs")
    folder = Path(named)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(1, "is not a folder of this user's", str(folder))
    if found.st_mode & 0o077:
        folder.chmod(0o700)
    return folder


@contextmanager
def announced(info: ProcessInfo) -> Iterator[None]:
    """Show this process to others while the block runs."""
    path = runtime_folder() / f"{info.pid}.json"
    # Locked before it has its name, so that nobody takes it for one left behind.
    draft = path.with_suffix(".new")
    with draft.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        json.dump(asdict(info), file)
        file.flush()
        draft.rename(path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            info.socket.unlink(missing_ok=True)


def running() -> list[ProcessInfo]:
    """Every live hyperfs process of this user; leftovers of dead ones are removed."""
    found = []
    for path in sorted(runtime_folder().glob("*.json")):
        info = _read(path)
        if info is not None:
            found.append(info)
    return found


def _read(path: Path) -> ProcessInfo | None:
    try:
        file = path.open()
    except FileNotFoundError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            try:
                fields = json.load(file)
                fields["keys"] = tuple(fields["keys"])
                fields["listening"] = tuple(fields["listening"])
                return ProcessInfo(**fields)
            except (ValueError, TypeError, KeyError):
                # Of another version of hyperfs: alive, but not ours to talk to.
                return None
        path.unlink(missing_ok=True)
        path.with_suffix(".sock").unlink(missing_ok=True)
        return None


def serving(key: str, *, store: Path) -> list[ProcessInfo]:
    """The processes that serve the drive *key* out of *store*; a writer before others, those that
    show an old version last."""
    found = [p for p in running() if key in p.keys and Path(p.store) == store]
    return sorted(found, key=lambda p: (p.version is not None, not p.writable))
