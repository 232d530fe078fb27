"""Open a store that holds 10,000 cores, and read a block of one: in this process, warm cache."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import trio

import corestore
from tools.bench.report import arguments, report

if TYPE_CHECKING:
    from pathlib import Path

CORES = 10_000
BATCH = 100
TIMES = 20


async def fill(path: Path) -> None:
    """Cores by name, one block each."""
    async with corestore.open(path, sync="none") as store:
        for first in range(0, CORES, BATCH):
            cores = [await store.get(name=f"core {n}") for n in range(first, first + BATCH)]
            async with store.transaction(*cores) as tx:
                for number, core in enumerate(cores, first):
                    await tx.append(core, b"block of core %d" % number)
            for core in cores:
                await core.aclose()


async def open_and_read(path: Path, number: int) -> float:
    """Seconds until the block is here, from nothing."""
    started = time.perf_counter()
    async with corestore.open(path) as store:
        core = await store.get(name=f"core {number}")
        block = await core.get(0)
        seconds = time.perf_counter() - started
    assert block == b"block of core %d" % number
    return seconds


async def main() -> None:
    """Make it, then open it again and again, each time for another core."""
    folder, _ = arguments()
    path = folder / "store"
    await fill(path)
    taken = [await open_and_read(path, n * CORES // TIMES) for n in range(TIMES)]
    report("open a store of 10,000 cores, read one", statistics.median(taken) * 1e3, "ms")

    async with corestore.open(path) as store:
        started = time.perf_counter()
        count = len(list(store.cores()))
        seconds = time.perf_counter() - started
        assert count == CORES
        report("list 10,000 cores", seconds * 1e3, "ms")
        started = time.perf_counter()
        for n in range(TIMES):
            core = await store.get(name=f"core {n * CORES // TIMES}")
            await core.get(0)
        seconds = time.perf_counter() - started
        report("open a core of 10,000, read a block", seconds / TIMES * 1e6, "us")


if __name__ == "__main__":
    trio.run(main)
