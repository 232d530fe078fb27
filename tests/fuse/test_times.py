"""Times that no record can have: file systems round them, and refuse nothing."""

from __future__ import annotations

import os

import pytest

from tests.support.limits import TEST_SECONDS
from tools.program import people

pytestmark = pytest.mark.fuse

YEAR_2400 = 13_569_465_600
LAST = (1 << 63) - 1


@pytest.fixture
def alice(tmp_path):
    with people(tmp_path, "alice", seconds=TEST_SECONDS) as (person,):
        person.ask("create", "photos")
        yield person


@pytest.mark.parametrize("seconds", [YEAR_2400, -YEAR_2400])
def test_a_time_out_of_range_is_set_to_the_nearest_one(alice, tmp_path, seconds):
    mount = alice.mount("photos", tmp_path / "here")
    file = mount.folder / "file"
    file.touch()
    os.utime(file, (seconds, seconds))
    found = file.stat()
    assert found.st_mtime_ns == found.st_atime_ns
    assert abs(found.st_mtime_ns) >= LAST
    mount.interrupt()


def test_files_of_any_time_are_put_once(alice, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("text")
    (source / "link").symlink_to("file")
    for path in (source / "file", source / "link", source):
        os.utime(path, (YEAR_2400, YEAR_2400), follow_symlinks=False)
    assert source.stat().st_mtime > LAST // 10**9, "this file system has no such times"
    alice.ask("put", "-r", source, "photos:/copy")
    assert "2 the same" in alice.run("put", "-r", f"{source}/", "photos:/copy").stderr
