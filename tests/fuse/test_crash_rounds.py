"""Rounds of tools/crash_mount.py, which does the same for hours and with the power cut."""

from __future__ import annotations

import os

import pytest

from tools.crash_mount import world
from tools.program import people

pytestmark = pytest.mark.fuse


@pytest.mark.slow
def test_kills_at_random_moments_lose_and_fork_nothing(tmp_path):
    with world(tmp_path, 1, seconds=240) as made:
        for kind in ("writer", "reader", "both", "alone", "restarts"):
            made.round(kind, 1.0)


def test_a_dead_mount_point_is_recovered_while_the_kernel_remembers_its_attributes(tmp_path):
    with people(tmp_path, "alice", seconds=100) as (alice,):
        alice.ask("create", "photos")
        here = alice.mount("photos", tmp_path / "here")
        os.listdir(here.folder)
        os.stat(here.folder)
        here.kill()
        again = alice.mount("photos", here.folder)
        assert os.listdir(again.folder) == []
