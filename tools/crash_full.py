"""Fill the disk under mounts at work, make room again, and check everything.

    tools/crash_full.py [--rounds N] [--seed N] [--seconds N] [--keep FOLDER]

Two people, each with a store on a small ext4 image of its own (needs root): a writer with a mounted
drive, and a reader who has mounted it by key. Programs write files and fsync some of them, and read
at the reader's. In each round one of the two disks is filled by something else to the last bytes or
nearly so; then, in some rounds, the mount on it is killed as well; then there is room again:

- a program gets ENOSPC, and no other error, while the disk is full;
- what is there reads as it was written, also while the disk is full;
- once there is room writing works again, without mounting again;
- what was fsynced is there, at both ends, now and after mounting again.

A violation ends the run with exit code 1 and leaves the folder.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools.crash_checks import Violation, read_everything, status, wait_equal  # noqa: E402
from tools.crash_disk import Disk  # noqa: E402
from tools.crash_load import Journal, content  # noqa: E402
from tools.program import Person, ProgramError, people, wait_until  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

DISK_BYTES = 160 << 20
LARGEST = 400_000
# Files of one round; the oldest are removed, so that there is something to write for ever.
KEPT_FILES = 60
ROUNDS_OF_A_WORLD = 6
FULL = (errno.ENOSPC, errno.EDQUOT)


def write(folder: str, path: str, seed: str, first: str) -> None:
    """A child: files one after the other, each fsynced; an error is told, and the next tried."""
    top, journal, number = Path(folder), Journal(Path(path)), int(first) - 1
    while True:
        number += 1
        file = top / f"{number}.dat"
        try:
            data = content(int(seed), number, LARGEST)
            descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            try:
                done = 0
                while done < len(data):
                    done += os.write(descriptor, data[done : done + 100_000])
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            journal.say(durable=number)
            if number > KEPT_FILES:
                journal.say(removing=number - KEPT_FILES)
                (top / f"{number - KEPT_FILES}.dat").unlink(missing_ok=True)
        except OSError as error:
            journal.say(failed=number, code=error.errno or 0)
            time.sleep(0.02)


class World:
    """A writer and a reader, each on a small disk, below *top*."""

    def __init__(self, top: Path, people: list[Person], seed: int) -> None:
        self.top = top
        self.writer, self.reader = people
        self.random = random.Random(seed)
        self.number = 0
        self.child: subprocess.Popen[bytes] | None = None
        self.disks: dict[str, Disk] = {}

    def begin(self) -> None:
        """Make the drive and mount it twice."""
        for person in (self.writer, self.reader):
            disk = Disk(person.store, self.random, size=DISK_BYTES)
            self.disks[person.store.name] = disk
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{found.getsockname()[1]}"
        (self.top / "journals").mkdir()
        self.key = self.writer.ask("create", "photos").strip()
        self.mount_writer()
        self.mount_reader()

    def mount_writer(self) -> None:
        """Mount read-write, giving back what no version needs."""
        more = ("--listen", self.address, "--keep-last", "1")
        self.here = self.writer.mount("photos", self.top / "here", *more)

    def mount_reader(self) -> None:
        """Mount by key."""
        self.there = self.reader.mount(self.key, self.top / "there", "--peer", self.address)

    def end(self) -> None:
        """Leave no process and no mount."""
        self._stop()
        for person in (self.writer, self.reader):
            for mount in person.mounts:
                mount.clean_up()
        for disk in self.disks.values():
            with contextlib.suppress(ProgramError):
                disk.unmount()

    # -- a round -----------------------------------------------------------------------------------

    def round(self) -> str:
        """Work, fill a disk, perhaps kill, make room, check; a line about it.

        Raises:
          Violation: something is wrong.
        """
        self.number += 1
        self.folder = self.here.folder / str(self.number)
        self.folder.mkdir()
        self.seed = self.random.randrange(1 << 30)
        self.journal = Journal(self.top / "journals" / str(self.number))
        self._start(1)
        time.sleep(self.random.uniform(0.1, 2))
        who = self.random.choice(("writer", "writer", "reader"))
        person = self.writer if who == "writer" else self.reader
        ballast = person.store / "ballast"
        left = self.random.choice((0, 0, 20_000, 300_000, 2_000_000))
        self._fill(ballast, left)
        if who == "writer" and self.random.random() < 0.8:
            with contextlib.suppress(ProgramError):
                wait_until(lambda: self.journal.last("failed") >= 0, 15)
        time.sleep(self.random.uniform(0, 2))
        # What is there can be read although nothing can be written.
        self._check_files(self.folder, whole=False)
        killed = self.random.random() < 0.3
        if killed:
            (self.here if who == "writer" else self.there).kill()
        ballast.unlink()
        if killed:
            if who == "writer":
                self._stop()
                self.mount_writer()
                told = max(self.journal.last("durable"), self.journal.last("failed"), 0)
                self._start(told + 2)
            else:
                self.mount_reader()
        self._goes_on()
        self._stop()
        self._check_errors(killed=killed and who == "writer")
        self._check_files(self.folder, whole=True)
        self._check_equal()
        failed = sum("failed" in line for line in self.journal.lines())
        durable = self.journal.last("durable")
        for number, folder in enumerate(sorted(self.here.folder.iterdir())):
            if number < self.number - 1:
                shutil.rmtree(folder)
        return f"{who}{', killed' if killed else ''}: {durable} files, {failed} did not fit"

    def _start(self, first: int) -> None:
        words = ["write", self.folder, self.journal.path, self.seed, first]
        self.child = subprocess.Popen([sys.executable, __file__, *map(str, words)])

    def _fill(self, ballast: Path, left: int) -> None:
        state = os.statvfs(ballast.parent)
        size = state.f_bfree * state.f_frsize - left
        descriptor = os.open(ballast, os.O_CREAT | os.O_WRONLY)
        try:
            while size > 4096:
                try:
                    os.posix_fallocate(descriptor, os.fstat(descriptor).st_size, size)
                except OSError:
                    size //= 2
                else:
                    size = 0
        finally:
            os.close(descriptor)

    def _goes_on(self) -> None:
        """Writing works again, and soon."""
        before = self.journal.last("durable")
        try:
            wait_until(lambda: self.journal.last("durable") > before + 1, 20)
        except ProgramError:
            raise Violation(f"there is room, and nothing is written: {self._tail()}") from None

    def _stop(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.wait()
            self.child = None

    def _tail(self) -> str:
        return " ".join(map(str, list(self.journal.lines())[-5:]))

    # -- checks ------------------------------------------------------------------------------------

    def _check_errors(self, *, killed: bool) -> None:
        for line in self.journal.lines():
            code = line.get("code")
            if isinstance(code, int) and code not in FULL and not killed:
                raise Violation(f"errno {code} ({os.strerror(code)}): {line}")

    def _check_files(self, folder: Path, *, whole: bool) -> None:
        """Every fsynced file is as it was written; any other is a beginning of that."""
        durable = {line["durable"] for line in self.journal.lines() if "durable" in line}
        removed = {line["removing"] for line in self.journal.lines() if "removing" in line}
        for number in durable - removed if whole else ():
            if not (folder / f"{number}.dat").exists():
                raise Violation(f"{number} was fsynced and is gone")
        for path in folder.iterdir():
            number = int(path.stem)
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                continue
            wanted = content(self.seed, number, LARGEST)
            if number in durable and data != wanted:
                raise Violation(f"{number} was fsynced and has other bytes")
            if not wanted.startswith(data):
                raise Violation(f"{number} has bytes that nobody wrote")

    def _check_equal(self) -> None:
        """The counters are right, and the reader gets the same tree."""
        descriptor = os.open(self.here.folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        found = read_everything(self.here.folder)
        report = status(self.writer, self.here)
        if (report["files"], report["byte_length"]) != (found.files, found.bytes):
            raise Violation(f"it counts {report}, and has {found.files} with {found.bytes}")
        version = report["version"]
        assert isinstance(version, int)
        try:
            wait_until(lambda: int(str(status(self.reader, self.there)["version"])) >= version, 30)
        except ProgramError:
            raise Violation(f"the reader does not come to version {version}") from None
        wait_equal(self.here.folder, self.there.folder)


# -- runs ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def world(top: Path, seed: int, *, seconds: float = 600.0) -> Iterator[World]:
    """A new world below *top*; everything is taken down at the end."""
    with people(top, "alice", "bob", seconds=seconds) as persons:
        made = World(top, persons, seed)
        try:
            made.begin()
            yield made
        finally:
            made.end()


def run(top: Path, seed: int, rounds: int, seconds: float) -> int:
    """Rounds in as many worlds as it takes, for at most *seconds*; how many rounds it were.

    Raises:
      Violation: and the world's folder stays.
    """
    source = random.Random(seed)
    end = time.monotonic() + seconds
    done = 0
    while done < rounds and time.monotonic() < end:
        folder = top / f"world-{done}"
        folder.mkdir()
        with world(folder, source.randrange(1 << 30)) as made:
            for _ in range(ROUNDS_OF_A_WORLD):
                if done == rounds or time.monotonic() > end:
                    break
                try:
                    told = made.round()
                except Exception as error:
                    raise Violation(f"round {done} in {folder}: {error!r}") from error
                done += 1
                print(f"{done:4} {told}", flush=True)
        shutil.rmtree(folder)
    return done


def main() -> None:
    """Parse the options and run."""
    if sys.argv[1:2] == ["write"]:
        write(*sys.argv[2:])
    parser = argparse.ArgumentParser(description="Fill the disks under mounts at work.")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--seconds", type=float, default=3600.0, help="for all rounds together")
    parser.add_argument("--keep", type=Path, help="where the worlds are; default: a new folder")
    options = parser.parse_args()
    top = options.keep or Path(tempfile.mkdtemp(prefix="hyperfs-full-"))
    top.mkdir(exist_ok=True)
    print(f"seed {options.seed}, in {top}", flush=True)
    try:
        done = run(top, options.seed, options.rounds, options.seconds)
    except Violation as violation:
        print(f"VIOLATION, seed {options.seed}: {violation}")
        sys.exit(1)
    top.rmdir()
    print(f"{done} rounds, nothing lost, and writing went on")


if __name__ == "__main__":
    main()
