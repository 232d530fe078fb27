"""Replicate a core of 64 KiB blocks between two processes over loopback TCP.

The reader verifies and stores every block; the clock runs in the reader, from the first connection
to the last block committed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import trio

import corestore
from tools.bench.report import MIB, arguments, incompressible, report

if TYPE_CHECKING:
    from pathlib import Path

BLOCK = 64 << 10


async def serve(folder: Path, large: int) -> None:
    """The writer's process: fill a core, print where and what, serve until stdin closes."""
    async with corestore.open(folder / "writer") as store, corestore.open_swarm(store) as swarm:
        core = await store.get(name="bench")
        for _ in range(large // MIB):
            await core.append(*(incompressible(BLOCK) for _ in range(MIB // BLOCK)))
        await store.sync()
        host, port = await swarm.listen("127.0.0.1", 0)
        await swarm.join(core.discovery_key)
        print(f"{host} {port} {core.key}", flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)


async def fetch(folder: Path, host: str, port: int, key: str) -> None:
    """The reader's process."""
    async with corestore.open(folder / "reader") as store, corestore.open_swarm(store) as swarm:
        core = await store.get(key=key)
        started = time.perf_counter()
        swarm.connect(host, port)
        await swarm.join(core.discovery_key)
        await core.update()
        await core.download()
        seconds = time.perf_counter() - started
        report("replicate 64 KiB blocks, two processes", core.byte_length / seconds / 1e6, "MB/s")


def main() -> None:
    """Start the writer, then be the reader."""
    folder, large = arguments()
    if len(sys.argv) > 3:
        trio.run(serve, folder, large)
        return
    with subprocess.Popen(
        [sys.executable, "-m", "tools.bench.replicate", folder, str(large // MIB), "serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdin is not None
        host, port, key = writer.stdout.readline().split()
        trio.run(fetch, folder, host, int(port), key)
        writer.stdin.close()


if __name__ == "__main__":
    main()
