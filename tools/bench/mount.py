"""The mount: sequential write and read, create, stat, listing; and ext4 beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tools.bench.report import MIB, arguments, incompressible, report

FILES = 2_000
HYPERFS = Path(sys.executable).with_name("hyperfs")


def measure(folder: Path, large: int, where: str) -> None:
    """The same operations on any folder."""
    data = incompressible(MIB)
    started = time.perf_counter()
    with (folder / "large").open("wb", buffering=0) as file:
        for number in range(large // MIB):
            file.write(number.to_bytes(8, "big") + data[8:])
        os.fsync(file.fileno())
    seconds = time.perf_counter() - started
    report(f"{where}: write 1 MiB at a time, then fsync", large / seconds / 1e6, "MB/s")

    descriptor = os.open(folder / "large", os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    for label in ("cold", "warm"):
        started = time.perf_counter()
        for number in range(large // MIB):
            os.pread(descriptor, MIB, number * MIB)
        seconds = time.perf_counter() - started
        report(f"{where}: read 1 MiB at a time, {label}", large / seconds / 1e6, "MB/s")
    os.close(descriptor)

    small = data[:4096]
    many = folder / "many"
    many.mkdir()
    started = time.perf_counter()
    for number in range(FILES):
        (many / str(number)).write_bytes(number.to_bytes(8, "big") + small[8:])
    seconds = time.perf_counter() - started
    report(f"{where}: create and write 4 KiB", seconds / FILES * 1e6, "us")

    started = time.perf_counter()
    for number in range(FILES):
        os.stat(many / str(number))
    seconds = time.perf_counter() - started
    report(f"{where}: stat", seconds / FILES * 1e6, "us")

    started = time.perf_counter()
    with os.scandir(many) as scan:
        names = sum(1 for entry in scan if entry.stat().st_size)
    seconds = time.perf_counter() - started
    report(f"{where}: list and stat, each", seconds / names * 1e6, "us")

    started = time.perf_counter()
    for number in range(FILES):
        os.unlink(many / str(number))
    seconds = time.perf_counter() - started
    report(f"{where}: unlink", seconds / FILES * 1e6, "us")

    started = time.perf_counter()
    for _ in range(FILES):
        os.statvfs(folder)
    seconds = time.perf_counter() - started
    report(f"{where}: statfs, one request", seconds / FILES * 1e6, "us")


def main() -> None:
    """Mount a new drive, measure there and on the disk beside it."""
    folder, large = arguments()
    point, plain = folder / "mount", folder / "plain"
    point.mkdir()
    plain.mkdir()
    environment = {
        **os.environ,
        "HYPERFS_STORE": str(folder / "store"),
        "HYPERFS_RUNTIME_DIR": str(folder / "run"),
    }
    subprocess.run(
        [HYPERFS, "create", "bench"], env=environment, check=True, stdout=subprocess.DEVNULL
    )
    subprocess.run(
        [HYPERFS, "-q", "mount", "--daemon", "bench", point], env=environment, check=True
    )
    try:
        measure(point, large, "mount")
    finally:
        subprocess.run([HYPERFS, "-q", "umount", point], env=environment, check=True)
    measure(plain, large, "disk")


if __name__ == "__main__":
    main()
