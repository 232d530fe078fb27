"""Thousands of random operations on files, each compared with bytes in memory.

Longer runs of the same, in parallel and with a remote mount: tools/exercise.py.
"""

from __future__ import annotations

import pytest

from tests.support.mounts import mounted
from tools.exercise import Exerciser

pytestmark = pytest.mark.fuse

STEPS = 3000


@pytest.mark.parametrize("seed", [1, 2])
def test_random_reads_and_writes_agree_with_a_bytearray(tmp_path, seed):
    with mounted(tmp_path / "m", store=tmp_path / "store") as mount:
        exercisers = []
        for number in range(2):
            (mount / f"{number}").mkdir()
            more = seed * 10 + number
            exercisers.append(Exerciser(mount / f"{number}", more, mapped=True, direct=True))
        for _ in range(STEPS // 100):
            for exerciser in exercisers:
                exerciser.run(100)
        for exerciser in exercisers:
            exerciser.close()
    with mounted(tmp_path / "m", store=tmp_path / "store"):
        for exerciser in exercisers:
            exerciser.check()
