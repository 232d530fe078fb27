"""How long single operations take on a mount, and how soon a reader's mount shows a change.

One mount writes, another one, of a process with a store of its own, reads the same drive over the
loopback interface. Nothing else is done meanwhile, and between two operations there is a pause, as
between those of a person's programs. Percentiles are reported; histograms are printed for whoever
runs this by itself:

    python -m tools.bench.latency EMPTY-FOLDER 0
"""

from __future__ import annotations

import math
import os
import random
import time
from typing import TYPE_CHECKING

from tools.bench.report import arguments, incompressible, report
from tools.program import people, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SAMPLES = 300
CHANGES = 150
# Between operations, and between changes, in seconds: at random, so as to be in step with nothing.
PAUSE = (0.0005, 0.003)
CHANGE_PAUSE = (0.01, 0.12)
LOOK_SECONDS = 0.0002
GIVE_UP_SECONDS = 10.0
BAR = 48


class Operations:
    """What a program does, each operation timed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = incompressible(4096)
        self.jobs: dict[str, Callable[[int], object]] = {
            "create": self.create,
            "write 4 KiB": self.write,
            "close": lambda _: os.close(self.descriptor),
            "stat, just written": lambda n: os.stat(self.folder / f"{n}"),
            "stat, known": lambda n: os.stat(self.folder / f"{n}"),
            "look up, missing": self.miss,
            "open, read 4 KiB, close": self.read,
            "chmod": lambda n: os.chmod(self.folder / f"{n}", 0o600),
            "rename": lambda n: os.rename(self.folder / f"{n}", self.folder / f"to {n}"),
            "list 100 names": lambda _: os.listdir(self.folder / "hundred"),
            "write 4 KiB, fsync": self.sync,
            "unlink": lambda n: os.unlink(self.folder / f"to {n}"),
        }
        self.descriptor = -1

    def create(self, number: int) -> None:
        path = self.folder / f"{number}"
        self.descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)

    def write(self, number: int) -> None:
        os.write(self.descriptor, number.to_bytes(8, "big") + self.data[8:])

    def miss(self, number: int) -> None:
        try:
            os.stat(self.folder / f"missing {number}")
        except FileNotFoundError:
            return

    def read(self, number: int) -> None:
        descriptor = os.open(self.folder / f"{number}", os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.pread(descriptor, 4096, 0)
        os.close(descriptor)

    def sync(self, number: int) -> None:
        descriptor = os.open(self.folder / "synced", os.O_CREAT | os.O_WRONLY, 0o644)
        os.pwrite(descriptor, number.to_bytes(8, "big") + self.data[8:], number % 16 * 4096)
        os.fsync(descriptor)
        os.close(descriptor)

    def run(self) -> dict[str, list[float]]:
        """Seconds of each operation."""
        (self.folder / "hundred").mkdir()
        for number in range(100):
            (self.folder / "hundred" / f"{number}").write_bytes(b"")
        samples: dict[str, list[float]] = {label: [] for label in self.jobs}
        for number in range(SAMPLES):
            for label, job in self.jobs.items():
                time.sleep(random.uniform(*PAUSE))
                started = time.perf_counter()
                job(number)
                samples[label].append(time.perf_counter() - started)
        return samples


def until_seen(look: Callable[[], bool]) -> None:
    """Return when *look* says yes; it is asked again and again, as a program would."""
    until = time.perf_counter() + GIVE_UP_SECONDS
    while not look():
        if time.perf_counter() > until:
            raise TimeoutError("the reader's mount does not show the change")
        time.sleep(LOOK_SECONDS)


def new_files(written: Path, read: Path) -> list[float]:
    """Seconds from the close of a new file to its content being read by name elsewhere."""
    found = []
    for number in range(CHANGES):
        time.sleep(random.uniform(*CHANGE_PAUSE))
        data = incompressible(4096)
        # That it is missing is known to the reader's kernel, as it is to whoever waits for a file.
        there = read / f"new {number}"
        assert not there.exists()
        (written / f"new {number}").write_bytes(data)
        started = time.perf_counter()
        until_seen(there.exists)
        assert there.read_bytes() == data
        found.append(time.perf_counter() - started)
    return found


def changed_files(written: Path, read: Path) -> list[float]:
    """Seconds from the close of a file that was written again to its new content being read, the
    old one being in the reader's page cache."""
    found = []
    here, there = written / "changed", read / "changed"
    here.write_bytes(b"\0" * 4096)
    until_seen(there.exists)
    for number in range(1, CHANGES + 1):
        time.sleep(random.uniform(*CHANGE_PAUSE))
        there.read_bytes()
        data = number.to_bytes(4096, "big")
        with here.open("r+b", buffering=0) as file:
            file.write(data)
        started = time.perf_counter()
        until_seen(lambda data=data: there.read_bytes() == data)  # type: ignore[misc]
        found.append(time.perf_counter() - started)
    return found


def tell(label: str, seconds: list[float], unit: str) -> None:
    """Percentiles, and how often it took how long."""
    scale = 1e3 if unit == "ms" else 1e6
    values = sorted(each * scale for each in seconds)
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("most", 1.0)):
        at = min(len(values) - 1, int(share * len(values)))
        report(f"{label}: {name}", values[at], unit)
    print_histogram(label, values, unit)


def print_histogram(label: str, values: list[float], unit: str) -> None:
    """One line for each doubling's half: 1, 1.4, 2, 2.8, 4 ..."""
    steps = [math.floor(2 * math.log2(max(value, 1e-3))) for value in values]
    most = max(steps.count(step) for step in set(steps))
    print(f"\n{label}, {len(values)} times")
    for step in range(min(steps), max(steps) + 1):
        count = steps.count(step)
        low, high = 2 ** (step / 2), 2 ** ((step + 1) / 2)
        print(f"{low:9.3g} to {high:7.3g} {unit} {count:5} {'#' * math.ceil(BAR * count / most)}")
    print()


def main() -> None:
    """Mount a drive twice, measure."""
    folder, _ = arguments()
    with people(folder, "writer-store", "reader-store") as (alice, bob):
        alice.ask("create", "bench")
        writer = alice.mount("bench", folder / "writer", "--listen", "127.0.0.1:0")
        for label, seconds in Operations(writer.folder).run().items():
            tell(label, seconds, "us")
        reader = bob.mount(str(writer.ready["key"]), folder / "reader", "--peer", writer.address)
        wait_until(lambda: (reader.folder / "synced").exists())
        pair = writer.folder, reader.folder
        tell("a new file is read elsewhere", new_files(*pair), "ms")
        tell("a changed file is read elsewhere", changed_files(*pair), "ms")


if __name__ == "__main__":
    main()
