"""Rounds of tools/crash_replication.py, which does the same for as long as one likes."""

from __future__ import annotations

import random

import pytest

from tools.crash_replication import world


@pytest.mark.slow
def test_killed_replicating_processes_lose_and_fork_nothing(tmp_path):
    with world(tmp_path, random.Random(1)) as made:
        for seconds in (0.1, 0.5, 1.0, 0.2):
            made.round(seconds)
        made.settle()
