"""Invalidations while requests are under way: each of these hung for ever when it was done inside a
request or on the loop's thread, so that only breaking the connection helped."""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import time

import pytest

from tests.support.limits import HANG_SECONDS
from tests.support.mounts import mounted

pytestmark = pytest.mark.fuse


@pytest.fixture
def mount(tmp_path):
    with mounted(tmp_path / "m") as mount:
        yield mount


def wait_told(mount, count):
    deadline = time.monotonic() + HANG_SECONDS
    while mount.ask("counts")["told"] < count:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_invalidation_of_a_file_with_dirty_mapped_pages(mount):
    path = mount / "f"
    path.write_bytes(bytes(64 * mmap.PAGESIZE))
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        for round in range(20):
            mapping[:] = bytes([round]) * len(mapping)
            mount.ask("invalidate inode", ino=path.stat().st_ino, attr_only=False)
            wait_told(mount, round + 1)
            assert os.pread(file.fileno(), 1, 0) == bytes([round])
            assert mapping[0] == round


def test_invalidation_while_a_read_is_under_way(mount):
    path = mount / "f"
    path.write_bytes(b"x" * 100_000)
    ino = path.stat().st_ino
    # Nothing cached, or the read would not reach us.
    mount.ask("invalidate inode", ino=ino, attr_only=False)
    wait_told(mount, 1)
    mount.ask("close gate")
    found = []
    reader = threading.Thread(target=lambda: found.append(path.read_bytes()))
    reader.start()
    mount.ask("invalidate inode", ino=ino, attr_only=False)
    mount.ask("invalidate entry", parent=1, name="f")
    # The mount answers others meanwhile.
    (mount / "other").write_bytes(b"y")
    mount.ask("open gate")
    reader.join(HANG_SECONDS)
    assert found == [b"x" * 100_000]
    wait_told(mount, 3)


def test_invalidation_of_names_while_they_are_made_and_removed(mount):
    done = threading.Event()

    def work(number):
        while not done.is_set():
            for name in ("a", "b"):
                path = mount / f"{name}{number}"
                path.write_bytes(b"x")
                os.rename(path, mount / f"c{number}")
                os.unlink(mount / f"c{number}")

    workers = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for worker in workers:
        worker.start()
    count = 0
    for _ in range(200):
        for name in ("a0", "b1", "c2"):
            mount.ask("invalidate entry", parent=1, name=name)
            count += 1
        mount.ask("invalidate inode", ino=1, attr_only=True)
        count += 1
    wait_told(mount, count)
    done.set()
    for worker in workers:
        worker.join(HANG_SECONDS)
    assert sorted(os.listdir(mount.path)) == []


def test_invalidation_while_the_mount_goes(mount):
    path = mount / "f"
    path.write_bytes(bytes(mmap.PAGESIZE))
    ino = path.stat().st_ino
    file = open(path, "r+b", buffering=0)  # noqa: SIM115
    with mmap.mmap(file.fileno(), 0) as mapping:
        mapping[:1] = b"x"
        for _ in range(500):
            mount.ask("invalidate inode", ino=ino, attr_only=False)
        assert mount.stop() == 0
    with contextlib.suppress(OSError):
        file.close()


def test_many_waiting_reads_leave_room_for_others(mount):
    count = 20
    for i in range(count):
        (mount / f"f{i}").write_bytes(b"x" * 5000)
        ino = (mount / f"f{i}").stat().st_ino
        mount.ask("invalidate inode", ino=ino, attr_only=False)
    wait_told(mount, count)
    mount.ask("close gate")
    found = []
    readers = [
        threading.Thread(target=lambda i=i: found.append((mount / f"f{i}").read_bytes()))
        for i in range(count)
    ]
    for reader in readers:
        reader.start()
    (mount / "d").mkdir()
    assert len(os.listdir(mount.path)) == count + 1
    mount.ask("open gate")
    for reader in readers:
        reader.join(HANG_SECONDS)
    assert found == [b"x" * 5000] * count
