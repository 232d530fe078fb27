"""Ten readers of one writer, all at once, each connected to all others over loopback TCP.

Prints how many copies of the log left the writer (one is the least there can be), how many blocks
came twice, and how long it took until the last reader had everything. All stores are in one
process, so the time says little; the copies are what counts.
"""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import trio

import corestore
from tools.bench.report import MIB, arguments, incompressible, report

if TYPE_CHECKING:
    from pathlib import Path

READERS = 10
BLOCK = 64 << 10
BYTES = 100 * MIB


async def run(folder: Path, size: int) -> None:
    """Fill the writer, start the readers together, wait for all of them."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        store = await enter(corestore.open(folder / "writer"))
        core = await store.get(name="bench")
        for _ in range(size // MIB):
            await core.append(*(incompressible(BLOCK) for _ in range(MIB // BLOCK)))
        await store.sync()
        swarm = await enter(corestore.open_swarm(store))
        addresses = [await swarm.listen("127.0.0.1", 0)]
        copies = []
        for number in range(READERS):
            reading = await enter(corestore.open(folder / f"reader-{number}"))
            copies.append(await reading.get(key=core.key))
            dialling = await enter(corestore.open_swarm(reading))
            for host, port in addresses:
                dialling.connect(host, port)
            addresses.append(await dialling.listen("127.0.0.1", 0))
        for copy in copies:
            await copy.wait_length(core.length)
            await copy.wait_peers(READERS)
        started = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for copy in copies:
                nursery.start_soon(copy.download)
        seconds = time.perf_counter() - started
        name = f"{READERS} readers of one writer at once, 64 KiB blocks"
        received = sum(copy.statistics().blocks_received for copy in copies)
        blocks = core.length
        report(f"{name}: from the writer", core.statistics().blocks_sent / blocks, "copies")
        report(f"{name}: received", received / blocks / READERS, "times")
        report(f"{name}: all of them", READERS * core.byte_length / seconds / 1e6, "MB/s")


def main() -> None:
    """Run it."""
    folder, large = arguments()
    trio.run(run, folder, min(large, BYTES))


if __name__ == "__main__":
    main()
