"""Mounting, unmounting, dying: the mount point is never left in a state that needs a person."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import subprocess
import sys
import time

import pytest
import trio

from hyperfs.errors import FuseUnavailable
from hyperfs.fuse import mountpoint, serve
from hyperfs.vfs.options import MountOptions
from tests.support.fakedrive import FakeDrive
from tests.support.limits import HANG_SECONDS
from tests.support.mounts import mounted

pytestmark = pytest.mark.fuse


def error_of(function, *arguments):
    with pytest.raises(OSError) as caught:
        function(*arguments)
    return caught.value.errno


@contextlib.contextmanager
def opened(path, mode):
    """As `open`, for files whose mount goes meanwhile: then they cannot even be closed."""
    file = open(path, mode, buffering=0)  # noqa: SIM115
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):
            file.close()


def is_mounted(path):
    return mountpoint.connection_of(str(path)) is not None


def test_sigterm_unmounts(tmp_path):
    with mounted(tmp_path / "m") as mount:
        (mount / "f").write_bytes(b"x")
        assert mount.stop() == 0
        assert not is_mounted(mount.path)
        assert os.listdir(mount.path) == []


def test_unmounting_from_outside_ends_the_process(tmp_path):
    with mounted(tmp_path / "m") as mount:
        subprocess.run(["fusermount3", "-u", mount.path], check=True)
        assert mount.process.wait(timeout=HANG_SECONDS) == 0


def test_a_mount_in_use_is_detached_and_its_users_get_errors(tmp_path):
    with mounted(tmp_path / "m") as mount, opened(mount / "f", "wb") as file:
        file.write(b"x")
        assert mount.stop() == 0
        assert not is_mounted(mount.path)
        assert error_of(file.write, b"y") in (errno.ENOTCONN, errno.ECONNABORTED)


def test_nothing_written_is_lost_by_sigterm(tmp_path):
    """Neither what was just written, nor what only a mapping holds, nor of files still open."""
    with mounted(tmp_path / "m", store=tmp_path / "s") as mount:
        (mount / "closed").write_bytes(b"closed")
        with opened(mount / "open", "w+b") as file:
            file.truncate(mmap.PAGESIZE)
            with mmap.mmap(file.fileno(), 0) as mapping:
                mapping[:6] = b"mapped"
                assert mount.stop() == 0
    with mounted(tmp_path / "m", store=tmp_path / "s") as mount:
        assert (mount / "closed").read_bytes() == b"closed"
        assert (mount / "open").read_bytes()[:6] == b"mapped"


def test_a_dead_mount_point_is_recovered(tmp_path):
    with mounted(tmp_path / "m", store=tmp_path / "s") as mount:
        with opened(mount / "f", "wb") as file:
            file.write(b"synced")
            os.fsync(file.fileno())
            mount.kill()
            assert error_of(os.stat, mount.path) == errno.ENOTCONN
        with mounted(tmp_path / "m", store=tmp_path / "s") as again:
            assert (again / "f").read_bytes() == b"synced"
        assert not is_mounted(mount.path)
        assert os.listdir(mount.path) == []


def test_stacked_dead_mounts_are_all_taken_off(tmp_path):
    with mounted(tmp_path / "m") as below:
        # Straight past the check that would refuse it.
        above = subprocess.Popen(
            [sys.executable, "-c", _MOUNT_ONLY, below.path], stdout=subprocess.PIPE
        )
        assert above.stdout.readline() == b"mounted\n"
        above.kill()
        above.communicate()
        below.kill()
        assert mountpoint.is_dead(str(below.path))
        assert mountpoint.recover(below.path) == 2
        assert os.listdir(below.path) == []


_MOUNT_ONLY = """
import sys, time
import pyfuse3
pyfuse3.init(pyfuse3.Operations(), sys.argv[1], {"fsname=hyperfs", "subtype=hyperfs"})
print("mounted", flush=True)
time.sleep(1000)
"""


def test_a_bug_in_a_handler_is_an_error_and_the_mount_goes_on(tmp_path, capfd):
    with mounted(tmp_path / "m") as mount:
        (mount / "f").write_bytes(b"x")
        mount.ask("break")
        assert error_of(os.stat, mount / "missing") == errno.EIO
        assert error_of(os.mkdir, mount / "d") == errno.EIO
        mount.ask("mend")
        os.mkdir(mount / "d")
        assert (mount / "f").read_bytes() == b"x"
    assert "a bug, on purpose" in capfd.readouterr().err


def test_all_lookups_are_given_back(tmp_path):
    """After a tree is gone and the kernel has dropped it, the table knows the root alone."""
    with mounted(tmp_path / "m") as mount:
        for i in range(300):
            folder = mount / f"d{i}"
            folder.mkdir()
            (folder / "f").write_bytes(b"x")
            os.link(folder / "f", folder / "g")
            os.rename(folder / "g", folder / "h")
            os.symlink("x", folder / "l")
        subprocess.run(["ls", "-lR", mount.path], check=True, stdout=subprocess.DEVNULL)
        assert mount.ask("counts")["inodes"] == 901
        for i in range(300):
            subprocess.run(["rm", "-r", mount / f"d{i}"], check=True)
        deadline = time.monotonic() + HANG_SECONDS
        while mount.ask("counts")["inodes"] > 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert mount.ask("counts") == {"inodes": 1, "files": 0, "told": 0}


def test_mount_refuses_a_directory_that_will_not_do(tmp_path):
    async def attempt(directory, drive=None):
        with trio.fail_after(HANG_SECONDS):
            await serve.mount(drive or FakeDrive(), directory)

    def refusal(*arguments):
        with pytest.raises(OSError) as caught:
            trio.run(attempt, *arguments)
        return type(caught.value), caught.value.errno

    assert refusal(tmp_path / "missing") == (FileNotFoundError, errno.ENOENT)
    (tmp_path / "file").write_bytes(b"")
    assert refusal(tmp_path / "file") == (NotADirectoryError, errno.ENOTDIR)
    (tmp_path / "full" / "x").mkdir(parents=True)
    assert refusal(tmp_path / "full") == (OSError, errno.ENOTEMPTY)
    drive = FakeDrive()
    drive.store_path = tmp_path / "full"
    assert refusal(tmp_path / "full" / "x", drive) == (OSError, errno.EINVAL)
    drive.store_path = tmp_path / "full" / "x" / "store"
    assert refusal(tmp_path / "full" / "x", drive) == (OSError, errno.EINVAL)
    with mounted(tmp_path / "m") as mount:
        assert refusal(mount.path) == (OSError, errno.EBUSY)


def test_one_process_serves_one_mount(tmp_path):
    async def main():
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        async with trio.open_nursery() as nursery:
            await nursery.start(serve.mount, FakeDrive(), tmp_path / "a")
            with pytest.raises(OSError, match="serves the mount") as caught:
                await serve.mount(FakeDrive(), tmp_path / "b")
            assert caught.value.errno == errno.EBUSY
            nursery.cancel_scope.cancel()
        # And after it another.
        async with trio.open_nursery() as nursery:
            await nursery.start(serve.mount, FakeDrive(), tmp_path / "b")
            nursery.cancel_scope.cancel()
        assert not is_mounted(tmp_path / "a")
        assert not is_mounted(tmp_path / "b")

    trio.run(main)


@pytest.mark.parametrize(
    ("missing", "says"),
    [("HELPER", "apt install fuse3"), ("DEVICE", "modprobe fuse")],
)
def test_a_machine_without_fuse_says_what_to_install(tmp_path, monkeypatch, missing, says):
    monkeypatch.setattr(mountpoint, missing, "/nowhere/at-all")
    with pytest.raises(FuseUnavailable, match=says):
        trio.run(serve.mount, FakeDrive(), tmp_path)


def test_options_are_what_the_kernel_shows(tmp_path):
    options = {"read_only": True, "noexec": True, "fsname": "photos", "subtype": "album"}
    with mounted(tmp_path / "m", sync=True, dirsync=True, **options) as mount:
        with open("/proc/self/mounts") as lines:
            (fields,) = [f for line in lines if (f := line.split())[1] == str(mount.path)]
        assert fields[0] == "photos"
        assert fields[2] == "fuse.album"
        assert {"ro", "noexec", "nosuid", "nodev", "sync", "dirsync"} <= set(fields[3].split(","))
        assert error_of(os.mkdir, mount / "d") == errno.EROFS


def test_without_xattrs_none_are_kept(tmp_path):
    with mounted(tmp_path / "m", xattrs=False) as mount:
        (mount / "f").write_bytes(b"x")
        assert error_of(os.setxattr, mount / "f", "user.a", b"") == errno.EOPNOTSUPP


def test_owners_and_modes_are_shown_as_asked(tmp_path):
    with mounted(tmp_path / "m", uid=1234, gid=4321, umask=0o027) as mount:
        (mount / "f").write_bytes(b"x")
        (mount / "d").mkdir()
        found = (mount / "f").stat()
        assert (found.st_uid, found.st_gid, found.st_mode) == (1234, 4321, 0o100750)
        assert (mount / "d").stat().st_mode == 0o040750


@pytest.mark.parametrize("fast", [True, False])
def test_both_loops_serve_many_at_once(tmp_path, fast):
    with mounted(tmp_path / "m", fast_loop=fast) as mount:
        work = "import os,sys\nfor i in range(200):\n p=f'{sys.argv[1]}/{os.getpid()}-{i}'\n"
        work += " open(p,'w').write('x'*i); assert len(open(p).read())==i; os.unlink(p)\n"
        processes = [subprocess.Popen([sys.executable, "-c", work, mount.path]) for _ in range(4)]
        assert [process.wait() for process in processes] == [0] * 4
        assert os.listdir(mount.path) == []


def test_pyfuse3_still_looks_its_scheduler_up_by_name(monkeypatch):
    """What `loop.install` relies on: a private detail, so the version is pinned."""
    import pyfuse3

    from hyperfs.fuse import loop

    monkeypatch.setattr(pyfuse3, "trio", pyfuse3.trio)
    loop.install(fast=True)
    assert isinstance(pyfuse3.trio, loop.FastTrio)
    loop.install(fast=False)
    assert pyfuse3.trio is trio


def test_options_with_commas_are_refused(tmp_path):
    with pytest.raises(ValueError, match="fsname"):
        trio.run(
            lambda: serve.mount(FakeDrive(), tmp_path, options=MountOptions(fsname="a,allow_other"))
        )
