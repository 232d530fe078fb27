"""Put files into a drive through the library: one large file, and many small ones."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

import corestore
import hyperfs
from tools.bench.report import MIB, arguments, incompressible, report

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SMALL_FILES = 5_000
SINGLE_FILES = 300


async def main() -> None:
    """A large file in pieces of 1 MiB; 1 KiB files in one batch, and one version each."""
    folder, large = arguments()
    async with corestore.open(folder / "store") as store:
        await hyperfs.create(store, "bench")
        async with hyperfs.open(store, name="bench") as drive:

            async def pieces() -> AsyncIterator[bytes]:
                for _ in range(large // MIB):
                    yield incompressible(MIB)

            made = time.perf_counter()
            async for _ in pieces():
                pass
            making = time.perf_counter() - made
            started = time.perf_counter()
            await drive.write("/large", pieces())
            await drive.commit()
            seconds = time.perf_counter() - started - making
            report("put one large file", large / seconds / 1e6, "MB/s")

            small = incompressible(1024)
            started = time.perf_counter()
            async with drive.batch() as batch:
                for number in range(SMALL_FILES):
                    data = number.to_bytes(4, "big") + small[4:]
                    await batch.write(f"/small/{number % 50}/{number}", data)
            seconds = time.perf_counter() - started
            report("put 1 KiB files, 5000 a batch", SMALL_FILES / seconds, "files/s")

            started = time.perf_counter()
            for number in range(SINGLE_FILES):
                data = number.to_bytes(5, "big") + small[5:]
                await drive.write(f"/single/{number}", data)
                await drive.commit()
            seconds = time.perf_counter() - started
            report("put 1 KiB files, a version each", SINGLE_FILES / seconds, "files/s")


if __name__ == "__main__":
    trio.run(main)
