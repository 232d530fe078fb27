"""Space given back under a mount, by the program: deleted files, and what a reader has fetched."""

from __future__ import annotations

import json
import os
import random

import pytest

from tests.fuse.test_end_to_end import sync
from tests.support.limits import TEST_SECONDS
from tools.program import people, wait_until

pytestmark = pytest.mark.fuse

LARGE = random.Random(21).randbytes(20_000_000)
OPEN = random.Random(22).randbytes(500_000)


def disk_bytes(folder):
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())


def test_deleted_files_free_the_disk_under_a_mount(tmp_path):
    with people(tmp_path, "alice", "bob", seconds=TEST_SECONDS) as (alice, bob):
        key = alice.ask("create", "d").strip()
        here = alice.mount("d", tmp_path / "here", "--listen", "127.0.0.1:0")
        (here.folder / "large").write_bytes(LARGE)
        (here.folder / "small").write_bytes(b"small" * 1000)
        (here.folder / "open").write_bytes(OPEN)
        sync(here.folder)
        full = disk_bytes(alice.store)
        with (here.folder / "open").open("rb", buffering=0) as held:
            (here.folder / "large").unlink()
            (here.folder / "open").unlink()
            found = json.loads(alice.ask("--json", "gc", "d", "--keep-last", "1"))
            assert found["bytes"] >= len(LARGE)
            assert disk_bytes(alice.store) < full - 18_000_000
            # statfs tells of the disk that has the room now.
            assert os.statvfs(here.folder).f_blocks == os.statvfs(alice.store).f_blocks
            # What is open is there, though it has no name.
            os.posix_fadvise(held.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert held.read() == OPEN
        assert alice.run("ls", f"hyper://{key}+{found['oldest'] - 1}/").returncode == 10
        # Its last bytes may share a block with the small file.
        assert json.loads(alice.ask("--json", "gc", "d"))["bytes"] > 480_000
        assert (here.folder / "small").read_bytes() == b"small" * 1000

        there = bob.mount(key, tmp_path / "there", "--peer", here.address, "--cache-max", "5M")
        (here.folder / "again").write_bytes(LARGE)
        sync(here.folder)
        wait_until(lambda: (there.folder / "again").exists())
        assert (there.folder / "again").read_bytes() == LARGE
        wait_until(lambda: disk_bytes(bob.store) < 10_000_000)
        assert json.loads(bob.ask("--json", "evict", f"{key}:/again"))["bytes"] <= 5_000_000
        with (there.folder / "again").open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert file.read(1_000_000) == LARGE[:1_000_000]
        assert bob.run("gc", key).returncode == 12
        there.interrupt()
        here.interrupt()


@pytest.mark.parametrize("in_use", [False, True])
def test_versions_that_were_looked_at_are_given_back_unless_they_are_in_use(tmp_path, in_use):
    def given_back():
        return json.loads(alice.ask("--json", "gc", "d", "--keep-last", "1"))["bytes"]

    with people(tmp_path, "alice", seconds=TEST_SECONDS) as (alice,):
        alice.ask("create", "d")
        here = alice.mount("d", tmp_path / "here")
        (here.folder / "large").write_bytes(LARGE)
        sync(here.folder)
        control = here.folder / ".hyperfs"
        version = json.loads((control / "status.json").read_text())["version"]
        past = control / "versions" / str(version) / "large"
        assert past.read_bytes() == LARGE
        (here.folder / "large").unlink()
        if in_use:
            with past.open("rb"):
                assert given_back() < 100_000
                assert past.read_bytes() == LARGE
        assert given_back() >= len(LARGE)
        assert not past.exists()
        here.interrupt()


def test_a_mount_gives_versions_back_by_itself(tmp_path):
    with people(tmp_path, "alice", seconds=TEST_SECONDS) as (alice,):
        alice.ask("create", "d")
        file = tmp_path / "file"
        for n in range(3):
            file.write_bytes(LARGE[n * 4_000_000 : (n + 1) * 4_000_000])
            alice.ask("put", str(file), "d:/file")
        full = disk_bytes(alice.store)
        here = alice.mount("d", tmp_path / "here", "--keep-within", "0s")
        wait_until(lambda: disk_bytes(alice.store) < full - 7_000_000)
        assert (here.folder / "file").read_bytes() == LARGE[8_000_000:12_000_000]
        (here.folder / "small").write_bytes(b"small")
        assert "given back" in alice.ask("compact", "d")
        assert (here.folder / "file").read_bytes() == LARGE[8_000_000:12_000_000]
        here.interrupt()
        assert alice.ask("ls", "d:/").split() == ["file", "small"]
        done = alice.run("mount", "d", str(tmp_path / "here"), "--cache-max", "1G")
        assert done.returncode == 2
        assert "--cache-max" in done.stderr
