"""`-o sync` and `-o dirsync`: what a call has changed is durable when it returns."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from types import SimpleNamespace

import pytest

from hyperfs.records import ROOT_ID
from hyperfs.vfs.filesystem import FileSystem
from hyperfs.vfs.history import History
from tests.support.mounts import mounted
from tests.support.vfs import file_system

pytestmark = pytest.mark.fuse

# Each follows those before it; what "sync" alone waits for is marked. They return descriptors.
CHANGES = {
    "mkdir": lambda top: os.mkdir(top / "d"),
    "create": lambda top: os.open(top / "d/f", os.O_CREAT | os.O_WRONLY),
    "write (sync)": lambda top: written(top / "d/f", b"content", 0),
    "large write (sync)": lambda top: written(top / "d/f", b"more" * 100_000, 1 << 20),
    "truncate (sync)": lambda top: os.truncate(top / "d/f", 7),
    "chmod (sync)": lambda top: os.chmod(top / "d/f", 0o640),
    "utime (sync)": lambda top: os.utime(top / "d/f", (5, 5)),
    "setxattr (sync)": lambda top: os.setxattr(top / "d/f", "user.a", b"1"),
    "removexattr (sync)": lambda top: os.removexattr(top / "d/f", "user.a"),
    "link": lambda top: os.link(top / "d/f", top / "linked"),
    "symlink": lambda top: os.symlink("d/f", top / "pointer"),
    "mknod": lambda top: os.mkfifo(top / "pipe"),
    "rename": lambda top: os.rename(top / "linked", top / "renamed"),
    "unlink": lambda top: os.unlink(top / "d/f"),
    "truncating open (sync)": lambda top: os.open(top / "renamed", os.O_WRONLY | os.O_TRUNC),
    "rmdir": lambda top: os.rmdir(top / "d"),
}


def written(path, data, offset):
    """Write and leave open: closing has it committed soon."""
    descriptor = os.open(path, os.O_WRONLY)
    os.pwrite(descriptor, data, offset)
    return descriptor


def end(mount, descriptors):
    """kill -9, with files open."""
    mount.kill()
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)


@pytest.mark.parametrize("option", ["sync", "dirsync"])
def test_each_change_is_a_version_when_its_call_returns(tmp_path, option):
    with mounted(tmp_path / "m", store=tmp_path / "s", **{option: True}) as mount:
        descriptors = []
        for name, change in CHANGES.items():
            before = int(os.getxattr(mount.path, "user.hyperfs.version"))
            descriptor = change(mount.path)
            after = int(os.getxattr(mount.path, "user.hyperfs.version"))
            if option == "sync" or "(sync)" not in name:
                assert after > before, name
            if descriptor is not None:
                descriptors.append(descriptor)
        end(mount, descriptors)
    with mounted(tmp_path / "m", store=tmp_path / "s") as mount:
        assert sorted(os.listdir(mount.path)) == ["pipe", "pointer", "renamed"]
        if option == "sync":
            found = os.stat(mount / "renamed")
            assert (found.st_size, found.st_mode & 0o777, found.st_nlink) == (0, 0o640, 1)


@pytest.mark.parametrize("options", [{}, {"sync": True}])
def test_a_synchronous_write_is_there_after_a_kill(tmp_path, options):
    """With O_SYNC on any mount: what `sync` rests on."""
    flags = os.O_CREAT | os.O_WRONLY | (0 if options else os.O_SYNC)
    with mounted(tmp_path / "m", store=tmp_path / "s", **options) as mount:
        descriptor = os.open(mount / "f", flags)
        for number in range(5):
            os.write(descriptor, b"%d" % number)
        end(mount, [descriptor])
    with mounted(tmp_path / "m", store=tmp_path / "s") as mount:
        assert (mount / "f").read_bytes() == b"01234"


async def test_what_could_not_be_made_durable_is_an_error_and_not_counted():
    pyfuse3 = pytest.importorskip("pyfuse3")
    from hyperfs.fuse.durable import DurableChanges
    from hyperfs.fuse.operations import shown

    async def failing():
        raise OSError(errno.ENOSPC, "full")

    who = SimpleNamespace(uid=0, gid=0, pid=1)
    async with file_system() as waiting:
        fs = FileSystem(waiting.drive, shown)
        handlers = DurableChanges(fs, History(fs, lambda drive: fs), xattrs=True)
        made = await handlers.mknod(ROOT_ID, b"old", stat.S_IFREG | 0o644, 0, who)
        known = len(fs.inodes)
        sync, fs.drive.sync = fs.drive.sync, failing
        for request in (
            handlers.create(ROOT_ID, b"f", 0o644, os.O_WRONLY, who),
            handlers.mkdir(ROOT_ID, b"d", 0o755, who),
            handlers.symlink(ROOT_ID, b"s", b"f", who),
            handlers.open(made.st_ino, os.O_WRONLY | os.O_TRUNC, who),
        ):
            with pytest.raises(pyfuse3.FUSEError) as caught:
                await request
            assert caught.value.errno == errno.ENOSPC
        fs.drive.sync = sync
        assert (len(fs.inodes), len(fs.handles.files)) == (known, 0)
