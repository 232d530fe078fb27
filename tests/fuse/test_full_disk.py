"""A mount whose store has filled its own disk: what is removed there makes room again."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import subprocess

import pytest

from tests.fuse.test_end_to_end import sync
from tests.support.limits import TEST_SECONDS
from tools.crash_disk import Disk
from tools.program import people, wait_until

LOOP = os.geteuid() == 0 and os.path.exists("/dev/loop-control")

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(not LOOP, reason="needs root, and loop devices"),
]

DISK_BYTES = 64 << 20
KEPT = random.Random(31).randbytes(10_000_000)
NEXT = random.Random(32).randbytes(30_000_000)


class Memory(Disk):
    """As `Disk`, a file system in memory: one that keeps nothing for the superuser."""

    def __init__(self, folder, source, *, size) -> None:
        self.folder = folder
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], check=True)


@contextlib.contextmanager
def writer(folder, kind, *options):
    """Somebody with a mounted drive, a file in it, and a store on a disk of its own."""
    with people(folder, "alice", seconds=TEST_SECONDS) as (alice,):
        disk = kind(alice.store, random.Random(33), size=DISK_BYTES)
        try:
            alice.ask("create", "d")
            here = alice.mount("d", folder / "here", *options)
            (here.folder / "kept").write_bytes(KEPT)
            sync(here.folder)
            yield alice, here
        finally:
            for mount in alice.mounts:
                mount.clean_up()
            disk.unmount()


def fill_with_one(path):
    """Write a file that is larger than the disk; some of it is in no version."""

    def write():
        with path.open("wb") as file:
            for _ in range(80):
                file.write(os.urandom(1 << 20))
            os.fsync(file.fileno())

    with pytest.raises(OSError, match="No space left"):
        write()


def fill_with_many(folder):
    """Make files until one does not fit, all others being in a version."""

    def write():
        for number in itertools.count():
            (folder / str(number)).write_bytes(os.urandom(100_000))
            if number % 10 == 0:
                sync(folder)

    folder.mkdir()
    with pytest.raises(OSError, match="No space left"):
        write()


def free_bytes(folder):
    found = os.statvfs(folder)
    return found.f_bfree * found.f_frsize


def check_that_it_goes_on(here):
    """There is room for a good part of what did not fit."""
    (here / "next").write_bytes(NEXT)
    sync(here)
    assert (here / "next").read_bytes() == NEXT
    assert (here / "kept").read_bytes() == KEPT


@pytest.mark.parametrize("kind", [Disk, Memory])
def test_a_file_that_did_not_fit_gives_its_room_back_when_it_is_removed(tmp_path, kind):
    with writer(tmp_path, kind) as (alice, here):
        fill_with_one(here.folder / "large")
        (here.folder / "large").unlink()
        sync(here.folder)
        alice.ask("gc", "d", "--keep-last", "1")
        assert free_bytes(alice.store) > 30_000_000
        check_that_it_goes_on(here.folder)
        here.interrupt()


@pytest.mark.parametrize("committed", [False, True])
def test_what_waits_for_room_gets_that_of_a_file_that_was_removed(tmp_path, committed):
    with writer(tmp_path, Memory) as (alice, here):
        fill_with_one(here.folder / "large")
        (here.folder / "large").unlink()
        if committed:
            sync(here.folder)
        # Less than what may wait, so that it is taken.
        with contextlib.suppress(OSError):
            (here.folder / "waits").write_bytes(NEXT)
        with pytest.raises(OSError, match="No space left"):
            sync(here.folder)
        alice.ask("gc", "d", "--keep-last", "1")
        sync(here.folder)
        assert (here.folder / "waits").read_bytes() == NEXT
        here.interrupt()


def test_while_something_does_not_fit_nothing_is_given_back_and_that_is_said(tmp_path):
    with writer(tmp_path, Memory) as (alice, here):
        fill_with_one(here.folder / "large")
        (here.folder / "kept").unlink()
        done = alice.run("gc", "d", "--keep-last", "1")
        assert done.returncode == 1
        assert "MB written last, which can be removed" in done.stderr
        (here.folder / "large").unlink()
        sync(here.folder)
        alice.ask("gc", "d", "--keep-last", "1")
        (here.folder / "next").write_bytes(NEXT)
        sync(here.folder)
        assert os.listdir(here.folder) == ["next"]
        here.interrupt()


@pytest.mark.parametrize("kind", [Disk, Memory])
def test_files_that_fill_a_disk_give_it_back_when_they_are_removed(tmp_path, kind):
    with writer(tmp_path, kind) as (alice, here):
        fill_with_many(here.folder / "many")
        for path in (here.folder / "many").iterdir():
            path.unlink()
        (here.folder / "many").rmdir()
        sync(here.folder)
        alice.ask("gc", "d", "--keep-last", "1")
        check_that_it_goes_on(here.folder)
        here.interrupt()


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("kind", [Disk, Memory])
def test_a_store_that_was_left_on_a_full_disk_gives_back_what_was_removed(tmp_path, kind, killed):
    with writer(tmp_path, kind) as (alice, here):
        fill_with_one(here.folder / "large")
        (here.folder / "large").unlink()
        sync(here.folder)
        if killed:
            here.kill()
        else:
            here.interrupt()
        with contextlib.suppress(OSError), (alice.store / "ballast").open("wb", 0) as ballast:
            while True:
                ballast.write(bytes(4096))
        alice.ask("gc", "d", "--keep-last", "1")
        assert "0 damaged" in alice.ask("verify", "d")
        (alice.store / "ballast").unlink(missing_ok=True)
        again = alice.mount("d", here.folder)
        assert os.listdir(again.folder) == ["kept"]
        check_that_it_goes_on(again.folder)
        again.interrupt()


@pytest.mark.slow
def test_a_mount_gives_back_by_itself_what_was_removed_on_a_full_disk(tmp_path):
    with writer(tmp_path, Memory, "--keep-last", "1") as (alice, here):
        fill_with_one(here.folder / "large")
        (here.folder / "large").unlink()
        wait_until(lambda: free_bytes(alice.store) > 30_000_000, TEST_SECONDS)
        check_that_it_goes_on(here.folder)
        here.interrupt()
