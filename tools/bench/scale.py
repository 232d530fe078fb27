"""A drive of very many files, and very large files: what must not grow with them.

Run by itself it takes the number of files:

    python -m tools.bench.scale FOLDER 1024 --files 1000000 --writes 100000
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import trio

import corestore
import hyperfs
from tools import large_drive
from tools.bench.remote import fresh, reader
from tools.bench.report import MIB, incompressible, report
from tools.program import people

if TYPE_CHECKING:
    from tools.program import Mount, Person

# Small enough for the ordinary run of all benches.
FILES = 20_000
WRITES = 10_000
LOOKUPS = 40
PAGE = 4096
SPARSE_BYTES = 20 << 30
# How many writes lie between two fsyncs.
SYNC_EVERY = 20


def timed(*words: object, cwd: Path | None = None) -> float:
    """How many seconds a program takes, whose output nobody reads."""
    started = time.perf_counter()
    command = [str(word) for word in words]
    subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def memory(mount: Mount, field: str) -> float:
    """A field of the mount's /proc status, in MB."""
    for line in Path(f"/proc/{mount.process.pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise LookupError(field)


def mounted(person: Person, what: str, folder: Path, *more: object) -> tuple[Mount, float]:
    """Mount; the seconds from the start of the program until the mount answers."""
    started = time.perf_counter()
    mount = person.mount(what, folder, *more)
    return mount, time.perf_counter() - started


# -- many files ------------------------------------------------------------------------------------


def names(files: int) -> int:
    """How many files there are in all."""
    return files + large_drive.LISTED + large_drive.RENAMED


async def make(store: Path, files: int) -> str:
    """The drive; its key."""
    started = time.perf_counter()
    key = await large_drive.make(store, "large", files, lambda names: None)
    report("make files in batches", names(files) / (time.perf_counter() - started), "files/s")
    async with corestore.open(store) as opened, hyperfs.open(opened, name="large") as drive:
        # So that there is an overlay over the tree, as mostly.
        for number in range(30):
            await drive.write(f"/changed/{number}", b"changed")
    return key


async def look_up(address: str, key: str, files: int) -> None:
    """Random paths, each by a reader that knows nothing, and then by one that has looked around."""
    source = random.Random(1)
    cold: list[int] = []
    for _ in range(LOOKUPS):
        async with reader(None, address, key) as (drive, metadata):
            await drive.entry(large_drive.tree_path(source.randrange(files)))
            cold.append(metadata.statistics().blocks_received)
    report("cold look-up, metadata blocks, median", statistics.median(cold), "blocks")
    report("cold look-up, metadata blocks, most", max(cold), "blocks")
    async with reader(None, address, key) as (drive, metadata):
        await settle(metadata)
        report("nodes above the leaves", metadata.statistics().blocks_received, "blocks")
        warm: list[int] = []
        for _ in range(LOOKUPS):
            before = metadata.statistics().blocks_received
            await drive.entry(large_drive.tree_path(source.randrange(files)))
            warm.append(metadata.statistics().blocks_received - before)
    report("look-up with these, metadata blocks, median", statistics.median(warm), "blocks")
    report("look-up with these, metadata blocks, most", max(warm), "blocks")


async def settle(metadata: corestore.Hypercore) -> None:
    """Wait until nothing has come for a while."""
    received = -1
    while metadata.statistics().blocks_received != received:
        received = metadata.statistics().blocks_received
        await trio.sleep(2)


def many_files(top: Path, files: int) -> None:
    """Everything that is told of a drive with many files."""
    key = trio.run(make, top / "alice", files)
    with people(top, "alice", "bob") as (alice, bob):
        local, seconds = mounted(alice, "large", top / "local", "--listen", "127.0.0.1:0")
        report("mount, local", seconds * 1000, "ms")
        trio.run(look_up, local.address, key, files)
        remote, seconds = mounted(bob, key, top / "remote", "--peer", local.address)
        report("mount by key, fresh reader", seconds * 1000, "ms")
        seconds = timed("ls", "-l", remote.folder / "ten-thousand")
        report("ls -l of 10,000, fresh remote mount", seconds * 1000, "ms")
        for where, mount in (("local", local), ("remote", remote)):
            report(f"memory before find, {where}", memory(mount, "VmRSS"), "MB")
            seconds = timed("find", mount.folder, "-size", "+1G")
            report(f"find everything, {where}", names(files) / seconds, "files/s")
            report(f"memory after find, {where}", memory(mount, "VmRSS"), "MB")
            report(f"memory after find, {where}, most", memory(mount, "VmHWM"), "MB")
        rename(local.folder)
        remote.interrupt()
        local.interrupt()


def rename(folder: Path) -> None:
    """The directory of 100,000 names, there and back."""
    times: list[float] = []
    before, after = folder / "hundred-thousand", folder / "folder 0000" / "renamed"
    for old, new in ((before, after), (after, before)) * 5:
        started = time.perf_counter()
        os.rename(old, new)
        times.append(time.perf_counter() - started)
    report("rename a directory of 100,000", statistics.median(times) * 1000, "ms")


# -- large files -----------------------------------------------------------------------------------


def sparse(top: Path) -> None:
    """A file of 20 GiB with a few spots in it, written and read through mounts."""
    spots = {at: incompressible(PAGE) for at in range(0, SPARSE_BYTES, SPARSE_BYTES // 64 + PAGE)}
    with people(top, "carol", "dave") as (carol, dave):
        carol.ask("create", "sparse")
        local = carol.mount("sparse", top / "large", "--listen", "127.0.0.1:0")
        started = time.perf_counter()
        with (local.folder / "sparse").open("wb", buffering=0) as file:
            file.truncate(SPARSE_BYTES)
            for at, data in spots.items():
                os.pwrite(file.fileno(), data, at)
            os.fsync(file.fileno())
        report("20 GiB sparse: 64 writes, fsync", (time.perf_counter() - started) * 1000, "ms")
        key = str(local.ready["key"])
        remote = dave.mount(key, top / "far", "--peer", local.address)
        for where, mount in (("local", local), ("remote", remote)):
            path = mount.folder / "sparse"
            started = time.perf_counter()
            with path.open("rb", buffering=0) as file:
                found = {at: os.pread(file.fileno(), PAGE, at) for at in spots}
                zeros = os.pread(file.fileno(), MIB, SPARSE_BYTES // 2 + 3 * MIB)
            seconds = time.perf_counter() - started
            if found != spots or zeros.strip(b"\0") or path.stat().st_size != SPARSE_BYTES:
                raise SystemExit(f"{where}: other bytes than were written")
            report(f"20 GiB sparse: 65 reads, {where}", seconds * 1000, "ms")
            report(f"20 GiB sparse: memory, {where}", memory(mount, "VmHWM"), "MB")
        remote.interrupt()
        local.interrupt()


async def rewrite(store: Path, size: int, writes: int) -> None:
    """Pages of one file written at random, a sync each few; what the syncs append with time."""
    source = random.Random(2)
    async with corestore.open(store) as opened:
        key = await hyperfs.create(opened, "pages")
        metadata = await opened.get(key=key)
        async with hyperfs.open(opened, name="pages") as drive:
            await drive.write("/file", fresh(size))
            await drive.sync()
            report("read in order, new", await speed(drive), "MB/s")
            expected: dict[int, bytes] = {}
            grown: list[int] = []
            times: list[float] = []
            entry = await drive.entry("/file")
            file = drive.open_file(entry, ((await drive.entry("/")).id, b"file"))
            data = incompressible(PAGE - 8)
            for number in range(writes):
                at = source.randrange(size // PAGE) * PAGE
                expected[at] = number.to_bytes(8, "big") + data
                await file.write(at, expected[at])
                if number % SYNC_EVERY == SYNC_EVERY - 1:
                    before, started = metadata.byte_length, time.perf_counter()
                    await drive.sync()
                    times.append(time.perf_counter() - started)
                    grown.append(metadata.byte_length - before)
            file.release()
            tenth = len(grown) // 10
            for label, part in (("first", grown[:tenth]), ("last", grown[-tenth:])):
                average = sum(part) / len(part)
                report(f"{SYNC_EVERY} pages: metadata a sync, {label} tenth", average, "bytes")
            for label, taken in (("first", times[:tenth]), ("last", times[-tenth:])):
                report(f"{SYNC_EVERY} pages: sync, {label} tenth", sum(taken) / tenth * 1000, "ms")
            await check(drive, expected)
            report("read in order, rewritten", await speed(drive), "MB/s")
            started = time.perf_counter()
            await drive.compact(keep_last=1)
            report("compact", (time.perf_counter() - started) * 1000, "ms")
            await check(drive, expected)
            report("read in order, compacted", await speed(drive), "MB/s")


async def check(drive: hyperfs.Drive, expected: dict[int, bytes]) -> None:
    """Every page that was written last."""
    for at, data in expected.items():
        if await drive.read("/file", at, PAGE) != data:
            raise SystemExit(f"other bytes than were written at {at}")


async def speed(drive: hyperfs.Drive) -> float:
    """Read the file from its beginning to its end, in MB/s."""
    entry = await drive.entry("/file")
    started = time.perf_counter()
    for at in range(0, entry.size, 4 * MIB):
        await drive.read("/file", at, 4 * MIB)
    return entry.size / (time.perf_counter() - started) / 1e6


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("large", type=int, metavar="MIB")
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--writes", type=int, default=WRITES)
    parser.add_argument("--skip", choices=("files", "large"), action="append", default=[])
    options = parser.parse_args()
    if "files" not in options.skip:
        many_files(options.folder, options.files)
    if "large" not in options.skip:
        sparse(options.folder)
        trio.run(rewrite, options.folder / "pages", options.large * MIB, options.writes)


if __name__ == "__main__":
    main()
