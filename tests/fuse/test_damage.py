"""What a disk damages under a mount: an error for the writer, fetched anew by readers."""

from __future__ import annotations

import errno
import os
import random

import pytest

from tests.fuse.test_end_to_end import sync
from tests.integration.test_damage import data_files, flip
from tests.support.limits import TEST_SECONDS
from tools.program import people

pytestmark = pytest.mark.fuse

DATA = random.Random(31).randbytes(2_000_000)


def test_with_verify_reads_programs_read_no_byte_that_the_disk_has_changed(tmp_path):
    with people(tmp_path, "alice", "bob", seconds=TEST_SECONDS) as (alice, bob):
        key = alice.ask("create", "d").strip()
        here = alice.mount("d", tmp_path / "here", "--listen", "127.0.0.1:0")
        (here.folder / "folder").mkdir()
        (here.folder / "folder" / "file").write_bytes(DATA)
        sync(here.folder)
        there = bob.mount(key, tmp_path / "there", "--peer", here.address)
        assert (there.folder / "folder" / "file").read_bytes() == DATA
        for mount in (here, there):
            mount.interrupt()
        # 1. The writer is told, by an error and in its log; the bytes beside it are read.
        flip(data_files(alice.store)[-1], [1_000_000])
        here = alice.mount("d", here.folder, "--listen", "127.0.0.1:0", "--verify-reads")
        with (here.folder / "folder" / "file").open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            assert os.pread(file.fileno(), 4096, 0) == DATA[:4096]
            with pytest.raises(OSError, match="error") as caught:
                os.pread(file.fileno(), 4096, 1_000_000 // 4096 * 4096)
            assert caught.value.errno == errno.EIO
        log = here.errors.read_text()
        assert "read /folder/file failed: the disk has damaged block" in log
        # 2. A reader has it sent again.
        flip(data_files(bob.store)[-1], [500_000])
        there = bob.mount(key, there.folder, "--peer", here.address, "--verify-reads")
        assert (there.folder / "folder" / "file").read_bytes() == DATA
        assert "is fetched again: the disk has damaged block" in there.errors.read_text()


def test_verify_finds_what_the_disk_has_changed_and_has_it_fetched_again(tmp_path):
    with people(tmp_path, "alice", "bob", seconds=TEST_SECONDS) as (alice, bob):
        key = alice.ask("create", "d").strip()
        here = alice.mount("d", tmp_path / "here", "--listen", "127.0.0.1:0")
        (here.folder / "file").write_bytes(DATA)
        sync(here.folder)
        there = bob.mount(key, tmp_path / "there", "--peer", here.address)
        assert (there.folder / "file").read_bytes() == DATA
        # 1. Through the mount that has the drive.
        assert "0 damaged" in alice.ask("verify", "d")
        for mount in (there, here):
            mount.interrupt()
        # 2. Without one; then a mount fetches it again.
        flip(data_files(bob.store)[-1], [500_000])
        done = bob.run("verify", key)
        assert done.returncode == 13
        assert "1 damaged" in done.stdout
        assert "--peer" in done.stderr
        assert bob.run("verify", key).returncode == 0
        here = alice.mount("d", here.folder, "--listen", "127.0.0.1:0")
        there = bob.mount(key, there.folder, "--peer", here.address)
        assert (there.folder / "file").read_bytes() == DATA
