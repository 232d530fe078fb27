"""The mount beside a file system in memory behind the same loop, a passthrough in C, and the disk.

Each job is run on all in turn, some times over, so that what else the machine does meets all of
them. Of the first two the ratio is told, too: how much of the reference's speed the mount has. What
the mount does later (it commits) is waited for before the next is measured, and not counted.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tools.bench.references import memory, passthrough
from tools.bench.report import MIB, arguments, incompressible, report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    # Given a folder and the number of the turn, does something there; (seconds, how much of it).
    Job = Callable[[Path, int], tuple[float, float]]

FILES = 2_000
TURNS = 3
HYPERFS = Path(sys.executable).with_name("hyperfs")
# After this long nothing that was written waits for its commit.
SETTLED_SECONDS = 0.2


def timed(action: Callable[[], object]) -> float:
    """How many seconds it takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


# -- large files -----------------------------------------------------------------------------------


def write_large(folder: Path, turn: int, *, size: int) -> tuple[float, float]:
    """1 MiB at a time, then fsync. No two blocks are the same."""
    blocks = [incompressible(MIB) for _ in range(size // MIB)]

    def write() -> None:
        with (folder / "large").open("wb", buffering=0) as file:
            for block in blocks:
                file.write(block)
            os.fsync(file.fileno())

    return timed(write), size / 1e6


def read_large(folder: Path, turn: int, *, cold: bool) -> tuple[float, float]:
    """1 MiB at a time, without or with the pages the kernel has."""
    with (folder / "large").open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if cold:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return timed(
            lambda: [os.pread(file.fileno(), MIB, at) for at in range(0, size, MIB)]
        ), size / 1e6


# -- many files ------------------------------------------------------------------------------------


def create(folder: Path, turn: int) -> tuple[float, float]:
    """Create, write 4 KiB, close."""
    data = incompressible(4096)
    many = folder / f"many {turn}"
    many.mkdir()

    def write() -> None:
        for number in range(FILES):
            with open(f"{many}/{number}", "wb", buffering=0) as file:
                file.write(number.to_bytes(8, "big") + data[8:])

    return timed(write), FILES


def look(folder: Path, turn: int) -> tuple[float, float]:
    """stat(2) of each, with what the kernel knows."""
    many = folder / f"many {turn}"
    return timed(lambda: [os.stat(f"{many}/{number}") for number in range(FILES)]), FILES


def listing(folder: Path, turn: int) -> tuple[float, float]:
    """readdir(3), and stat(2) of each."""

    def scan() -> None:
        with os.scandir(folder / f"many {turn}") as entries:
            for entry in entries:
                entry.stat()

    return timed(scan), FILES


def unlink(folder: Path, turn: int) -> tuple[float, float]:
    """unlink(2) of each."""
    many = folder / f"many {turn}"

    def remove_all() -> None:
        for number in range(FILES):
            os.unlink(f"{many}/{number}")

    return timed(remove_all), FILES


def statfs(folder: Path, turn: int) -> tuple[float, float]:
    """One request each."""
    return timed(lambda: [os.statvfs(folder) for _ in range(FILES)]), FILES


# -- programs --------------------------------------------------------------------------------------


def make_archive(path: Path) -> None:
    """FILES small files in folders of fifty, as an archive, and as a bare repository beside it."""
    tree = path.with_name("tree")
    for number in range(FILES):
        file = tree / f"folder {number // 50}" / f"{number}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(f"{number}\n".encode() * (number % 1000))
    with tarfile.open(path, "w") as archive:
        archive.add(tree, "tree")
    git = ["git", "-C", str(tree), "-c", "user.name=A", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], check=True)
    subprocess.run(["git", "clone", "-q", "--bare", tree, path.with_name("tree.git")], check=True)


def run(*words: object, cwd: Path) -> float:
    """How many seconds a program takes."""
    return timed(partial(subprocess.run, [str(word) for word in words], cwd=cwd, check=True))


def untar(folder: Path, turn: int, *, archive: Path) -> tuple[float, float]:
    """tar -x."""
    (folder / f"tar {turn}").mkdir()
    return run("tar", "-xf", archive, cwd=folder / f"tar {turn}"), FILES


def remove(folder: Path, turn: int) -> tuple[float, float]:
    """rm -r of the same."""
    return run("rm", "-r", f"tar {turn}", cwd=folder), FILES


def clone(folder: Path, turn: int, *, archive: Path) -> tuple[float, float]:
    """git clone, git status."""
    seconds = run("git", "clone", "-q", archive.with_name("tree.git"), f"{turn}", cwd=folder)
    return seconds + run("git", "status", "--porcelain", cwd=folder / f"{turn}"), FILES


# -- all of it -------------------------------------------------------------------------------------


def hyperfs(folder: Path, *words: object) -> None:
    """Run the program with a store in *folder*."""
    environment = {
        **os.environ,
        "HYPERFS_STORE": str(folder / "store"),
        "HYPERFS_RUNTIME_DIR": str(folder / "run"),
    }
    command = [str(HYPERFS), "-q", *map(str, words)]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def drive(folder: Path, *flags: str) -> Iterator[Path]:
    """The drive "bench", mounted."""
    point = folder / "mount"
    point.mkdir(exist_ok=True)
    hyperfs(folder, "mount", "--daemon", *flags, "bench", point)
    try:
        yield point
    finally:
        hyperfs(folder, "umount", point)


def measure_mounted_again(folder: Path, reference: float) -> None:
    """Read what the mount wrote once it is mounted again, without and with hashing, each turn in a
    new process: neither it nor the kernel's pages of the mount have seen the content. *reference*
    is memory's speed."""
    for flags in ((), ("--verify-reads",)):
        rates = []
        for turn in range(TURNS):
            with drive(folder, *flags) as point:
                seconds, amount = read_large(point, turn, cold=True)
            rates.append(amount / seconds)
        label = " ".join(("read, mounted again", *flags))
        report(f"{label}: mount", statistics.median(rates), "MB/s")
        share = 100 * statistics.median(rates) / reference
        report(f"{label}: mount, of memory's cold speed", share, "%")


def measure(label: str, unit: str, job: Job, places: dict[str, Path]) -> dict[str, float]:
    """Run *job* everywhere in turn, and report and return medians: a rate, or microseconds each."""
    found: dict[str, list[float]] = {where: [] for where in places}
    for turn in range(TURNS):
        for where, folder in places.items():
            seconds, amount = job(folder, turn)
            time.sleep(SETTLED_SECONDS)
            found[where].append(seconds / amount * 1e6 if unit == "us" else amount / seconds)
    medians = {where: statistics.median(values) for where, values in found.items()}
    for where, median in medians.items():
        report(f"{label}: {where}", median, unit)
    mine, reference = medians["mount"], medians["memory"]
    better = reference / mine if unit == "us" else mine / reference
    report(f"{label}: mount, of memory's speed", 100 * better, "%")
    return medians


def main() -> None:
    """Mount a new drive and the reference, measure there and on the disk beside them."""
    folder, large = arguments()
    archive = folder / "archive" / "tree.tar"
    archive.parent.mkdir()
    make_archive(archive)
    plain = folder / "plain"
    plain.mkdir()
    hyperfs(folder, "create", "bench")
    with ExitStack() as stack:
        places = {
            "mount": stack.enter_context(drive(folder)),
            "memory": stack.enter_context(memory(folder)),
            "disk": plain,
        }
        in_c = stack.enter_context(passthrough(folder))
        if in_c is not None:
            places["C"] = in_c
        measure("statfs", "us", statfs, places)
        measure("create, write 4 KiB, close", "us", create, places)
        measure("stat", "us", look, places)
        measure("list and stat, each", "us", listing, places)
        measure("list and stat again, each", "us", listing, places)
        measure("unlink", "us", unlink, places)
        measure("tar -x, each", "us", partial(untar, archive=archive), places)
        measure("rm -r, each", "us", remove, places)
        measure("git clone and status, each", "us", partial(clone, archive=archive), places)
        measure("write, then fsync", "MB/s", partial(write_large, size=large), places)
        cold = measure("read, cold", "MB/s", partial(read_large, cold=True), places)
        measure("read, warm", "MB/s", partial(read_large, cold=False), places)
    measure_mounted_again(folder, cold["memory"])
    shutil.rmtree(archive.parent)


if __name__ == "__main__":
    main()
