"""Kill writers and cut the power, for longer than the tests do: tools/crash_storage.py [SECONDS].

Half of the time child processes that write to one store are killed (signal 9) at random moments
and the store is opened and checked; half of the time power cuts are simulated, with the seed
printed when one finds something. Needs the project installed; run from anywhere.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.integration.test_storage_crash import write_and_cut  # noqa: E402
from tests.support.crash import Said, check, remote_log  # noqa: E402


def kill_rounds(folder: Path, seconds: float, source: random.Random) -> tuple[int, tuple[int, int]]:
    """Kill writers of one store for *seconds*; (rounds, lengths at the end)."""
    log, said = remote_log(), Said()
    end = time.monotonic() + seconds
    rounds, lengths = 0, (0, 0)
    while time.monotonic() < end:
        seed = str(source.randrange(1 << 30))
        command = [sys.executable, "-m", "tests.support.crash", str(folder / "killed"), seed]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
        assert child.stdout is not None
        time.sleep(0.2 + source.expovariate(3))
        child.send_signal(signal.SIGKILL)
        text, _ = child.communicate()
        for line in text.decode().splitlines(keepends=True):
            if line.endswith("\n"):
                said.hear(line)
        lengths = check(folder / "killed", said, log, killed=True)
        rounds += 1
    return rounds, lengths


def power_rounds(folder: Path, seconds: float, source: random.Random) -> int:
    """Cut the power for *seconds*; the number of cuts."""
    end = time.monotonic() + seconds
    cuts = 0
    while time.monotonic() < end:
        seed = source.randrange(1 << 30)
        place = folder / "power"
        place.mkdir()
        try:
            write_and_cut(place, seed)
        except Exception:
            print(f"power cut, seed {seed}")
            raise
        shutil.rmtree(place)
        cuts += 3
    return cuts


def main() -> None:
    """Run both halves and print what was done."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    source = random.Random()
    with tempfile.TemporaryDirectory() as name:
        rounds, lengths = kill_rounds(Path(name), seconds / 2, source)
        print(f"{rounds} kills, nothing lost; content {lengths[0]}, metadata {lengths[1]} blocks")
        print(f"{power_rounds(Path(name), seconds / 2, source)} power cuts, nothing lost")


if __name__ == "__main__":
    main()
