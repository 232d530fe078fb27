"""How long single operations take on a mount, alone and while a whole drive goes through it.

A writer's mount serves a second process that downloads everything; then a reader's mount downloads
everything itself, because a program on it reads it. Each operation is one that reaches the mount:
what the kernel answers by itself says nothing. Between two operations there is a pause, as between
those of a person's programs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from tools.bench.report import MIB, arguments, incompressible, report
from tools.program import Person, people, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SMALL_FILES = 200
# Each in a block of its own, so that reading one on a reader's mount fetches it.
FAR_FILES = 1000
FAR_BYTES = 64 << 10
SCATTERED_BYTES = 64 << 20
CHANGES = 5000
ALONE_SECONDS = 2.0
# A download that is over sooner is begun again, in a new store.
BUSY_SECONDS = 4.0
PAUSE_SECONDS = 0.002
Samples = dict[str, list[float]]


class Operations:
    """What a person's programs do, each operation timed. *writes*: the mount is a writer's."""

    def __init__(self, folder: Path, *, writes: bool) -> None:
        self._folder = folder
        # Names that nobody has looked up before, whatever ran here.
        self._tag = time.monotonic_ns()
        self._numbers = count()
        self._jobs: dict[str, Callable[[int], object]] = {
            "stat, not cached": self._stat,
            "list 200 names": lambda _: os.listdir(folder / "small"),
            "read 4 KiB": self._read,
        }
        if writes:
            self._jobs |= {"create": self._create, "write 4 KiB, close": self._write}
        else:
            self._jobs["read 4 KiB, not here"] = self._fetch

    def _stat(self, number: int) -> None:
        try:
            os.stat(self._folder / "small" / f"missing {self._tag} {number}")
        except FileNotFoundError:
            return

    def _read(self, number: int) -> None:
        path = self._folder / "small" / f"{number % SMALL_FILES}"
        with path.open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            os.pread(file.fileno(), 4096, 0)

    def _fetch(self, number: int) -> None:
        with (self._folder / "far" / f"{number % FAR_FILES}").open("rb", buffering=0) as file:
            os.pread(file.fileno(), 4096, 0)

    def _create(self, number: int) -> None:
        os.close(
            os.open(
                self._folder / f"new {self._tag} {number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY
            )
        )

    def _write(self, number: int) -> None:
        with (self._folder / f"changed {number % 50}").open("wb", buffering=0) as file:
            file.write(number.to_bytes(4096, "big"))

    def run(self, samples: Samples, busy: Callable[[], bool]) -> None:
        """Add to *samples* while *busy*."""
        while busy():
            number = next(self._numbers)
            for label, job in self._jobs.items():
                started = time.perf_counter()
                job(number)
                samples.setdefault(label, []).append(time.perf_counter() - started)
                time.sleep(PAUSE_SECONDS)


def tell(label: str, samples: Samples) -> None:
    """Percentiles, of each operation and of all."""
    tell_one(f"{label}, all", [each for seconds in samples.values() for each in seconds])
    for operation, seconds in samples.items():
        tell_one(f"{label}, {operation}", seconds)


def tell_one(label: str, seconds: list[float]) -> None:
    """The middle, the 99th of a hundred, the worst."""
    ordered = sorted(seconds)
    for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
        at = min(len(ordered) - 1, int(share * len(ordered)))
        report(f"{label}: {name}", ordered[at] * 1000, "ms")


def for_seconds(seconds: float) -> Callable[[], bool]:
    """True for so long from now on."""
    until = time.perf_counter() + seconds
    return lambda: time.perf_counter() < until


def is_running(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has not ended."""
    return process.poll() is None


def fill(folder: Path, size: int) -> None:
    """Small files to work with, and *size* bytes to download."""
    (folder / "small").mkdir()
    for number in range(SMALL_FILES):
        (folder / "small" / f"{number}").write_bytes(incompressible(8192))
    (folder / "far").mkdir()
    for number in range(FAR_FILES):
        (folder / "far" / f"{number}").write_bytes(incompressible(FAR_BYTES))
    with (folder / "large").open("wb", buffering=0) as file:
        for _ in range(size // MIB):
            file.write(incompressible(MIB))
        os.fsync(file.fileno())


@contextmanager
def download(folder: Path, key: str, address: str) -> Iterator[Callable[[], bool]]:
    """A new store that fetches the whole drive; yields what tells whether it is still at it."""
    person = Person(Path(tempfile.mkdtemp(dir=folder)) / "store")
    process = subprocess.Popen(
        person.command("seed", key, "--peer", address),
        env=person.environment(),
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    os.set_blocking(process.stderr.fileno(), False)
    told = b""

    def heard(words: bytes) -> bool:
        nonlocal told
        assert process.stderr is not None
        told += process.stderr.read() or b""
        return words in told

    try:
        wait_until(lambda: heard(b"ready"))
        yield lambda: not heard(b"all of")
    finally:
        process.terminate()
        process.wait()
        process.stderr.close()


def measure_writer(folder: Path, writer: Path, key: str, address: str) -> None:
    """Operations on the writer's mount, without and with a download from it."""
    operations = Operations(writer, writes=True)
    alone: Samples = {}
    operations.run(alone, for_seconds(ALONE_SECONDS))
    tell("writer, alone", alone)
    samples: Samples = {}
    seconds = amount = 0.0
    while seconds < BUSY_SECONDS:
        with download(folder, key, address) as busy:
            started = time.perf_counter()
            operations.run(samples, busy)
            seconds += time.perf_counter() - started
            amount += (writer / "large").stat().st_size / 1e6
    tell("writer, while it is downloaded from", samples)
    report("writer, while it is downloaded from: rate", amount / seconds, "MB/s")


def scatter(folder: Path) -> None:
    """Leave much to give back: a file changed in place, many versions, many names removed."""
    with (folder / "scattered").open("wb", buffering=0) as file:
        for _ in range(SCATTERED_BYTES // MIB):
            file.write(incompressible(MIB))
        os.fsync(file.fileno())
        for number in range(CHANGES):
            os.pwrite(file.fileno(), incompressible(4096), number * 7919 * 4096 % SCATTERED_BYTES)
            if number % 5 == 0:
                os.fsync(file.fileno())
    shutil.rmtree(folder / "far")
    os.sync()


def measure_space(alice: Person, writer: Path) -> None:
    """Operations on the writer's mount while space is given back."""
    operations = Operations(writer, writes=True)
    for label, command in (("compact", ("compact", "--keep-last", "1000")), ("gc", ("gc",))):
        scatter(writer)
        started = time.perf_counter()
        samples: Samples = {}
        words = alice.command(command[0], "bench", *command[1:])
        with subprocess.Popen(
            words, env=alice.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            operations.run(samples, partial(is_running, process))
        tell(f"writer, while {label} runs", samples)
        report(f"writer, while {label} runs: took", time.perf_counter() - started, "s")
        (writer / "far").mkdir()


def measure_reader(bob: Person, folder: Path, key: str, address: str) -> None:
    """Operations on a reader's mount, without and with everything being read on it."""
    samples: Samples = {}
    alone: Samples = {}
    seconds = sizes = 0.0
    for turn in count():
        person = Person(folder / f"reader {turn}" / "store")
        person.store.parent.mkdir()
        bob.mounts.append(mount := person.mount(key, folder / f"bob {turn}", "--peer", address))
        operations = Operations(mount.folder, writes=False)
        for number in range(SMALL_FILES):
            (mount.folder / "small" / f"{number}").read_bytes()
        if turn == 0:
            operations.run(alone, for_seconds(ALONE_SECONDS))
        started = time.perf_counter()
        with subprocess.Popen(["cat", mount.folder / "large"], stdout=subprocess.DEVNULL) as cat:
            operations.run(samples, partial(is_running, cat))
        seconds += time.perf_counter() - started
        sizes += (mount.folder / "large").stat().st_size
        mount.interrupt()
        if seconds > BUSY_SECONDS:
            break
    tell("reader, alone", alone)
    tell("reader, while it downloads", samples)
    report("reader, while it downloads: rate", sizes / seconds / 1e6, "MB/s")


def main() -> None:
    """One drive, two mounts."""
    folder, large = arguments()
    with ExitStack() as stack:
        alice, bob = stack.enter_context(people(folder, "alice", "bob"))
        key = json.loads(alice.ask("--json", "create", "bench"))["key"]
        writer = alice.mount("bench", folder / "alice's", "--listen", ":0")
        fill(writer.folder, large)
        measure_writer(folder, writer.folder, key, writer.address)
        measure_reader(bob, folder, key, writer.address)
        measure_space(alice, writer.folder)
        writer.interrupt()


if __name__ == "__main__":
    main()
