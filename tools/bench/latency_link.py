"""A large file over a link with latency: read through a mount, beside plain replication.

Both go through a relay in a process of its own, which holds every byte back for half the round
trip. The reader's process downloads the content core, or mounts the drive and reads the file in
order. The ratio says how much of the link's speed read-ahead reaches.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import deque
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio

import corestore
import hyperfs
from tools.bench.remote import fresh, reader
from tools.bench.report import MIB, report
from tools.program import people

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUND_TRIP_MS = 50
TURNS = 3
_RECEIVE_BYTES = 256 * 1024


# -- the link --------------------------------------------------------------------------------------


async def carry(source: trio.SocketStream, target: trio.SocketStream, delay: float) -> None:
    """Pass on what comes, *delay* seconds after it came; any amount may be under way."""
    under_way: deque[tuple[float, bytes | bytearray]] = deque()
    arrived = trio.Event()
    ended = False

    async def send() -> None:
        nonlocal arrived
        while True:
            while under_way:
                due, data = under_way.popleft()
                await trio.sleep_until(due)
                await target.send_all(data)
            if ended:
                await target.send_eof()
                return
            arrived = trio.Event()
            await arrived.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        try:
            async for data in source:
                under_way.append((trio.current_time() + delay, data))
                arrived.set()
        finally:
            ended = True
            arrived.set()


async def relay(port: int, delay: float) -> None:
    """Listen on a port of loopback, told on stdout, and connect what comes to another port."""

    async def serve(near: trio.SocketStream) -> None:
        try:
            far = await trio.open_tcp_stream("127.0.0.1", port)
            async with far, trio.open_nursery() as nursery:
                nursery.start_soon(carry, near, far, delay)
                nursery.start_soon(carry, far, near, delay)
        except* (OSError, trio.BrokenResourceError):
            pass  # one end went away, which ends the connection

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        print(listener.socket.getsockname()[1], flush=True)
        await nursery.start(trio.serve_listeners, serve, [listener])


@contextmanager
def link(address: str, round_trip: float) -> Iterator[str]:
    """The address of a relay to *address*; *round_trip* in seconds."""
    command = [sys.executable, "-m", "tools.bench.latency_link", "relay"]
    command += [address.rpartition(":")[2], str(round_trip / 2)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


# -- both ways to read -----------------------------------------------------------------------------


async def download(folder: Path, key: str, address: str) -> None:
    """Plain replication of the content core to disk; prints the seconds it took."""
    async with reader(folder, address, key) as (drive, _):
        content = drive.content
        assert content is not None
        await content.update()
        started = time.perf_counter()
        await content.download(0, content.length)
        print(json.dumps(time.perf_counter() - started))


def downloading(folder: Path, key: str, address: str) -> float:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "tools.bench.latency_link", "download"]
    done = subprocess.run(
        [*command, str(folder), key, address], stdout=subprocess.PIPE, text=True, check=True
    )
    return float(done.stdout)


def reading(top: Path, name: str, key: str, address: str) -> float:
    """Mount, and read the file from its beginning to its end."""
    with people(top, name) as (person,):
        mount = person.mount(key, top / f"{name} mount", "--peer", address)
        started = time.perf_counter()
        with (mount.folder / "large").open("rb", buffering=0) as file:
            while file.read(MIB):
                pass
        seconds = time.perf_counter() - started
        mount.interrupt()
    return seconds


async def make(store: Path, size: int) -> None:
    """A drive with a file."""
    async with corestore.open(store) as opened:
        await hyperfs.create(opened, "link")
        async with hyperfs.open(opened, name="link") as drive:
            await drive.write("/large", fresh(size))


def measure(top: Path, size: int, round_trip_ms: int) -> None:
    """Download and read in turn, each time by a reader that has nothing."""
    trio.run(make, top / "writer", size)
    with people(top, "writer") as (writer,):
        mount = writer.mount("link", top / "writer mount", "--listen", "127.0.0.1:0")
        key = str(mount.ready["key"])
        plain: list[float] = []
        read: list[float] = []
        with link(mount.address, round_trip_ms / 1000) as address:
            for turn in range(TURNS):
                seconds = downloading(top / f"plain {turn}", key, address)
                plain.append(size / seconds / 1e6)
                seconds = reading(top, f"reader {turn}", key, address)
                read.append(size / seconds / 1e6)
        mount.interrupt()
    label = f"over {round_trip_ms} ms"
    report(f"{label}: replication", statistics.median(plain), "MB/s")
    report(f"{label}: read through a mount", statistics.median(read), "MB/s")
    ratio = statistics.median(r / p for r, p in zip(read, plain, strict=True))
    report(f"{label}: mount, of replication's speed", 100 * ratio, "%")


def main() -> None:
    """Parse; measure, or be one of the processes that takes."""
    if sys.argv[1] == "relay":
        trio.run(relay, int(sys.argv[2]), float(sys.argv[3]))
    elif sys.argv[1] == "download":
        trio.run(download, Path(sys.argv[2]), sys.argv[3], sys.argv[4])
    else:
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("folder", type=Path)
        parser.add_argument("large", type=int, metavar="MIB")
        parser.add_argument("--round-trip", type=int, default=ROUND_TRIP_MS, metavar="MS")
        options = parser.parse_args()
        measure(options.folder, options.large * MIB, options.round_trip)


if __name__ == "__main__":
    main()
