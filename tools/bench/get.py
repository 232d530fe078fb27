"""Get cached blocks in random order from one core on disk."""

from __future__ import annotations

import random
import time

import trio

import corestore
from tools.bench.report import MIB, arguments, incompressible, report

GETS = 5_000


async def main() -> None:
    """64 KiB blocks and 200 B blocks."""
    folder, large = arguments()
    source = random.Random(1)
    async with corestore.open(folder / "store") as store:
        for label, size, total in (("64 KiB", 64 << 10, large), ("200 B", 200, 4 * MIB)):
            core = await store.get(name=label)
            count = total // size
            for start in range(0, count, 1000):
                await core.append(*(incompressible(size) for _ in range(min(1000, count - start))))
            order = [source.randrange(count) for _ in range(GETS)]
            for index in range(0, count, 7):
                await core.get(index)
            started = time.perf_counter()
            for index in order:
                await core.get(index)
            seconds = time.perf_counter() - started
            report(f"get cached {label} blocks, random", seconds / GETS * 1e6, "us")


if __name__ == "__main__":
    trio.run(main)
