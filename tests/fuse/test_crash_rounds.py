"""Rounds of tools/crash_mount.py and tools/crash_full.py, which do more of it for hours."""

from __future__ import annotations

import os

import pytest

from tests.support.limits import TEST_SECONDS
from tools import crash_full
from tools.crash_mount import world
from tools.program import people

pytestmark = pytest.mark.fuse

LOOP = os.geteuid() == 0 and os.path.exists("/dev/loop-control")


@pytest.mark.slow
def test_kills_at_random_moments_lose_and_fork_nothing(tmp_path):
    with world(tmp_path, 1, seconds=TEST_SECONDS) as made:
        for kind in ("writer", "reader", "both", "alone", "restarts", "term"):
            made.round(kind, 1.0)


@pytest.mark.slow
@pytest.mark.skipif(not LOOP, reason="needs root, and loop devices")
def test_mounts_whose_disk_is_full_go_on_when_there_is_room(tmp_path):
    with crash_full.world(tmp_path, 2, seconds=TEST_SECONDS) as made:
        for _ in range(3):
            made.round()


def test_a_dead_mount_point_is_recovered_while_the_kernel_remembers_its_attributes(tmp_path):
    with people(tmp_path, "alice", seconds=TEST_SECONDS) as (alice,):
        alice.ask("create", "photos")
        here = alice.mount("photos", tmp_path / "here")
        os.listdir(here.folder)
        os.stat(here.folder)
        here.kill()
        again = alice.mount("photos", here.folder)
        assert os.listdir(again.folder) == []
