"""Append to one core on disk, each append awaited, none waiting for the disk.

On either side an append that has returned survives a kill -9, and not yet a power cut: Node has
written a batch to RocksDB's log in a thread, we a transaction to SQLite's, neither has synced it.
Node signs each append and leaves syncing to the system. We sign and sync many together, every
10 ms, in the background and within the time measured.
"""

from __future__ import annotations

import time

import trio

import corestore
from tools.bench.report import MIB, arguments, incompressible, report

SMALL = 200
SMALL_BATCHED = 20_000
SMALL_SINGLE = 3_000
BLOCK = 64 << 10


async def main() -> None:
    """Large blocks in batches of 1 MiB; small ones in batches of 100, and singly."""
    folder, large = arguments()
    async with corestore.open(folder / "store") as store:
        core = await store.get(name="large")
        blocks = [incompressible(BLOCK) for _ in range(MIB // BLOCK)]
        started = time.perf_counter()
        for _ in range(large // MIB):
            await core.append(*blocks)
        seconds = time.perf_counter() - started
        report("append 64 KiB blocks, 1 MiB a batch", large / seconds / 1e6, "MB/s")

        core = await store.get(name="batched")
        small = [incompressible(SMALL) for _ in range(100)]
        started = time.perf_counter()
        for _ in range(SMALL_BATCHED // 100):
            await core.append(*small)
        seconds = time.perf_counter() - started
        report("append 200 B blocks, 100 a batch", SMALL_BATCHED / seconds, "blocks/s")

        core = await store.get(name="single")
        started = time.perf_counter()
        for _ in range(SMALL_SINGLE):
            await core.append(small[0])
        seconds = time.perf_counter() - started
        report("append 200 B blocks, singly", SMALL_SINGLE / seconds, "blocks/s")


if __name__ == "__main__":
    trio.run(main)
