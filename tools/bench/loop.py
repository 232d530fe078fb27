"""What a request costs: our wait for requests, pyfuse3's own, and libfuse's loop in C.

statfs(2) is one request each time. The first two are the same file system in memory, so that they
differ in the wait alone. First all processes, this one too, run on one processor: to be woken on
another one costs more than anything measured here, and differs from machine to machine.
"""

from __future__ import annotations

import os
import statistics
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tools.bench.references import memory, passthrough
from tools.bench.report import arguments, report

if TYPE_CHECKING:
    from pathlib import Path

REQUESTS = 2_000
TURNS = 7


def statfs(point: Path) -> float:
    """Microseconds a request."""
    started = time.perf_counter()
    for _ in range(REQUESTS):
        os.statvfs(point)
    return (time.perf_counter() - started) / REQUESTS * 1e6


def measure(label: str, places: dict[str, Path]) -> None:
    """Medians of turns, and how much less ours takes than pyfuse3's."""
    found: dict[str, list[float]] = {where: [] for where in places}
    for _ in range(TURNS):
        for where, point in places.items():
            found[where].append(statfs(point))
    medians = {where: statistics.median(values) for where, values in found.items()}
    for where, median in medians.items():
        report(f"{label}: {where}", median, "us")
    report(f"{label}: pyfuse3's takes", medians["pyfuse3's loop"] / medians["our loop"], "times")


def main() -> None:
    """Mount them, and ask in turn."""
    folder, _ = arguments()
    processors = os.sched_getaffinity(0)
    for label, chosen in (("one processor", {min(processors)}), ("any processor", processors)):
        below = folder / label
        below.mkdir()
        # Before the mounts are started, which inherit it.
        os.sched_setaffinity(0, chosen)
        with ExitStack() as stack:
            places = {
                "our loop": stack.enter_context(memory(below)),
                "pyfuse3's loop": stack.enter_context(memory(below, "--stock")),
            }
            in_c = stack.enter_context(passthrough(below))
            if in_c is not None:
                places["C, libfuse's loop"] = in_c
            measure(f"statfs, {label}", places)


if __name__ == "__main__":
    main()
