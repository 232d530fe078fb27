"""Replicate a core of 64 KiB blocks between two processes over loopback TCP.

The reader verifies and stores every block; the clock runs in the reader, from the first connection
to the last block committed. Peak memory is what the system counted for either process until then;
the writer's includes filling the core. Where the Node packages are at hand, one side is Node in two
further rows; the Node program gives its own rate for those, which is what they are compared with.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio

import corestore
from tools.bench.report import MIB, arguments, incompressible, peak_memory, report

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 64 << 10
NAME = "replicate 64 KiB blocks"
NODE_SCRIPT = Path(__file__).parent / "node" / "replicate.js"


async def serve(folder: Path, large: int) -> None:
    """The writer's process: fill a core, print where and what, serve until stdin closes."""
    async with corestore.open(folder / "writer") as store, corestore.open_swarm(store) as swarm:
        core = await store.get(name="bench")
        for _ in range(large // MIB):
            await core.append(*(incompressible(BLOCK) for _ in range(MIB // BLOCK)))
        await store.sync()
        _, port = await swarm.listen("127.0.0.1", 0)
        await swarm.join(core.discovery_key)
        print(f"{port} {core.key.hex()}", flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)


async def fetch(folder: Path, port: int, key: str) -> float:
    """The reader: MB/s."""
    async with corestore.open(folder / "reader") as store, corestore.open_swarm(store) as swarm:
        core = await store.get(key=key)
        started = time.perf_counter()
        swarm.connect("127.0.0.1", port)
        await swarm.join(core.discovery_key)
        await core.update()
        await core.download()
        return core.byte_length / (time.perf_counter() - started) / 1e6


@contextmanager
def writer(command: list[str]) -> Iterator[tuple[int, int, str]]:
    """A writer's process: its id, its port, the key of its core."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        port, key = process.stdout.readline().split()
        yield process.pid, int(port), key
        process.stdin.close()


def main() -> None:
    """Start the writer, then be the reader; then the same with Node as one of them."""
    folder, large = arguments()
    if sys.argv[3:] == ["serve"]:
        trio.run(serve, folder, large)
        return
    size = str(large // MIB)
    python = [sys.executable, "-m", "tools.bench.replicate"]
    with writer([*python, str(folder), size, "serve"]) as (process, port, key):
        rate = trio.run(fetch, folder, port, key)
        report(f"{NAME}, two processes", rate, "MB/s")
        report(f"{NAME}: peak memory of the reader", peak_memory("self") / MIB, "MiB")
        report(f"{NAME}: peak memory of the writer", peak_memory(process) / MIB, "MiB")
    if "HYPERFS_NODE_MODULES" not in os.environ:
        return
    node = ["node", str(NODE_SCRIPT)]
    with writer([*python, str(folder / "to"), size, "serve"]) as (_, port, key):
        arguments_ = [str(folder / "node"), size, "fetch", str(port), key]
        done = subprocess.run([*node, *arguments_], stdout=subprocess.PIPE, text=True, check=True)
        report(f"{NAME}, Python to Node", float(done.stdout), "MB/s")
    with writer([*node, str(folder / "from"), size, "serve"]) as (_, port, key):
        report(f"{NAME}, Node to Python", trio.run(fetch, folder / "from", port, key), "MB/s")


if __name__ == "__main__":
    main()
