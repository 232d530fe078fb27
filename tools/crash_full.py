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

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools import crash_rounds, crash_world  # noqa: E402
from tools.crash_checks import read_everything, status, wait_equal  # noqa: E402
from tools.crash_load import Journal, content  # noqa: E402
from tools.crash_rounds import Violation  # noqa: E402
from tools.program import ProgramError, wait_until  # noqa: E402

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from tools.program import Person

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


class World(crash_world.World):
    """Both stores are on a small disk; the writer gives back what no version needs."""

    def __init__(self, top: Path, people: list[Person], seed: int) -> None:
        super().__init__(top, people, seed)
        self.child: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Make the disks too."""
        self.add_disks(DISK_BYTES)
        super().begin()

    def end(self) -> None:
        """End the program that writes, too."""
        self._stop()
        super().end()

    def mount_writer(self, *options: str) -> None:
        """Of the versions only the newest is kept."""
        super().mount_writer("--keep-last", "1", *options)

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


def world(top: Path, seed: int, *, seconds: float = 600.0) -> AbstractContextManager[World]:
    """A new world below *top*, ready for rounds; everything is taken down at the end."""
    return crash_world.world(top, lambda people: World(top, people, seed), seconds=seconds)


def main() -> None:
    """Parse the options and run."""
    if sys.argv[1:2] == ["write"]:
        write(*sys.argv[2:])
    options = crash_rounds.arguments("Fill the disks under mounts at work.", rounds=20).parse_args()
    crash_rounds.run(
        options,
        lambda folder, source: world(folder, source.randrange(1 << 30)),
        lambda made, source: made.round(),
        rounds_of_a_world=ROUNDS_OF_A_WORLD,
    )


if __name__ == "__main__":
    main()
