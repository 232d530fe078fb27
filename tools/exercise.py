"""Random operations on a mount, each compared with what plain bytes in memory would hold.

    tools/exercise.py [--operations N] [--seed N] [--mmap] [--direct] [--processes N] [--remote]
                      [--size BYTES] [--folder FOLDER]

Each process works in a folder of its own, on a few files at once: reads and writes anywhere, also
beyond the end, appends, truncation down and up, fsync, reopening, dropping the kernel's pages,
renaming over each other, second names, and removing what is still open. --mmap adds shared
mappings (read, written, with and without msync), --direct O_DIRECT. Every byte read is compared,
and all files after each hundred operations. At the end the drive is mounted again, and with
--remote also by key from another store, and everything must be there.

--folder exercises an existing folder instead of a new drive, to compare file systems. A difference
ends the run with exit code 1, and the seed that shows it again. Needs the project installed.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools import sample_tree  # noqa: E402
from tools.program import Mount, Person, people, wait_until  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = mmap.PAGESIZE
FILES = 3
CHECK_EVERY = 100
LARGEST_REQUEST = 70_000
# The operations and how often each is chosen.
PLAIN = {
    "write": 20,
    "read": 20,
    "append": 4,
    "truncate": 6,
    "truncate_open": 3,
    "reopen": 4,
    "sync": 1,
    "forget_pages": 2,
    "copy": 2,
    "rename": 1,
    "link": 1,
    "remove_open": 1,
}
MAPPED = {"map_read": 12, "map_write": 12, "map_private": 2}
DIRECT = {"direct_read": 8, "direct_write": 8}


class Difference(Exception):
    """The file system did not do what the model did."""


class Exerciser:
    """Files in *folder*, and what they must hold.

    `step` does one operation; `check` compares everything.
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        *,
        size: int = 60 * PAGE,
        mapped: bool = False,
        direct: bool = False,
    ) -> None:
        self.folder = folder
        self.size = size
        self.random = random.Random(seed)
        weights = PLAIN | (MAPPED if mapped else {}) | (DIRECT if direct else {})
        self._kinds: list[Callable[[], None]] = [getattr(self, f"_{name}") for name in weights]
        self._weights = list(weights.values())
        self._names = {f"file {number}": bytearray() for number in range(FILES)}
        self._open = {name: self._open_file(name, os.O_CREAT) for name in self._names}
        self._history: list[str] = []

    def close(self) -> None:
        """Close the files."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    @property
    def contents(self) -> dict[str, bytes]:
        """What each file must hold, by name."""
        return {name: bytes(data) for name, data in self._names.items()}

    def run(self, operations: int) -> None:
        """Do so many operations.

        Raises:
          Difference: with what was done last.
        """
        for number in range(operations):
            try:
                self.step()
                if number % CHECK_EVERY == CHECK_EVERY - 1:
                    self.check()
            except (Difference, OSError) as error:
                last = "\n  ".join(self._history[-12:])
                raise Difference(f"operation {number}: {error}\n  {last}") from error

    def step(self) -> None:
        """One operation.

        Raises:
          Difference: it had another result than in the model.
        """
        self.random.choices(self._kinds, self._weights)[0]()

    def check(self) -> None:
        """Read all files by name.

        Raises:
          Difference: one is not as it must be.
        """
        if sorted(os.listdir(self.folder)) != sorted(self._names):
            raise Difference(f"names: {sorted(os.listdir(self.folder))}")
        for name, data in self._names.items():
            path = self.folder / name
            if path.stat().st_size != len(data):
                raise Difference(f"{name} says {path.stat().st_size} bytes, not {len(data)}")
            self._compare(f"the whole of {name}", path.read_bytes(), bytes(data))

    # -- helpers -----------------------------------------------------------------------------------

    def _open_file(self, name: str, flags: int = 0) -> int:
        return os.open(self.folder / name, os.O_RDWR | flags)

    def _choose(self) -> tuple[str, bytearray, int]:
        name = self.random.choice(sorted(self._names))
        return name, self._names[name], self._open[name]

    def _range(self) -> tuple[int, int]:
        offset = self.random.randrange(self.size)
        most = min(LARGEST_REQUEST, self.size - offset)
        length = int(most ** self.random.random()) if self.random.random() < 0.5 else most
        return offset, max(1, min(most, self.random.randrange(length + 1)))

    def _note(self, text: str) -> None:
        self._history.append(text)
        del self._history[:-50]

    @staticmethod
    def _put(data: bytearray, offset: int, piece: bytes) -> None:
        data.extend(bytes(max(0, offset + len(piece) - len(data))))
        data[offset : offset + len(piece)] = piece

    @staticmethod
    def _compare(what: str, found: bytes, expected: bytes) -> None:
        if found == expected:
            return
        if len(found) != len(expected):
            raise Difference(f"{what}: {len(found)} bytes instead of {len(expected)}")
        pairs = zip(found, expected, strict=True)
        wrong = [place for place, (one, other) in enumerate(pairs) if one != other]
        raise Difference(f"{what}: {len(wrong)} bytes from {wrong[0]} to {wrong[-1]} are wrong")

    # -- reading and writing -----------------------------------------------------------------------

    def _write(self) -> None:
        name, data, descriptor = self._choose()
        offset, length = self._range()
        piece = self.random.randbytes(length)
        self._note(f"write {name} {offset}+{length}")
        self._put(data, offset, piece)
        if os.pwrite(descriptor, piece, offset) != length:
            raise Difference("a short write")

    def _read(self) -> None:
        name, data, descriptor = self._choose()
        offset, length = self._range()
        self._note(f"read {name} {offset}+{length}")
        found = os.pread(descriptor, length, offset)
        self._compare(f"{name} at {offset}", found, bytes(data[offset : offset + length]))

    def _append(self) -> None:
        name, data, _ = self._choose()
        piece = self.random.randbytes(self.random.randrange(1, 5000))
        if len(data) + len(piece) > self.size:
            return
        self._note(f"append {name} {len(data)}+{len(piece)}")
        data += piece
        descriptor = self._open_file(name, os.O_APPEND)
        try:
            os.write(descriptor, piece)
            if os.lseek(descriptor, 0, os.SEEK_CUR) != len(data):
                raise Difference(f"{name} was not appended to at its end")
        finally:
            os.close(descriptor)

    def _truncate(self) -> None:
        name, data, descriptor = self._choose()
        size = self.random.randrange(self.size)
        self._note(f"truncate {name} {len(data)} to {size}")
        del data[size:]
        data.extend(bytes(size - len(data)))
        if self.random.random() < 0.5:
            os.ftruncate(descriptor, size)
        else:
            os.truncate(self.folder / name, size)

    def _truncate_open(self) -> None:
        name, data, _ = self._choose()
        if self.random.random() < 0.7:
            return  # files that are always short find nothing
        self._note(f"open {name} with O_TRUNC")
        data.clear()
        os.close(self._open_file(name, os.O_TRUNC))

    def _reopen(self) -> None:
        name, data, descriptor = self._choose()
        self._note(f"reopen {name}")
        os.close(descriptor)
        descriptor = self._open[name] = self._open_file(name)
        if os.fstat(descriptor).st_size != len(data):
            raise Difference(f"{name} says {os.fstat(descriptor).st_size} bytes, not {len(data)}")

    def _sync(self) -> None:
        name, _, descriptor = self._choose()
        self._note(f"sync {name}")
        self.random.choice((os.fsync, os.fdatasync))(descriptor)

    def _forget_pages(self) -> None:
        name, _, descriptor = self._choose()
        self._note(f"drop the pages of {name}")
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def _copy(self) -> None:
        name, data, descriptor = self._choose()
        other, target, second = self._choose()
        offset, length = self._range()
        if name == other:
            return
        at = self.random.randrange(self.size - length + 1)
        piece = bytes(data[offset : offset + length])
        self._note(f"copy {name} {offset}+{length} to {other} {at}")
        if piece:
            self._put(target, at, piece)
        done = 0
        while done < len(piece):
            got = os.copy_file_range(
                descriptor, second, len(piece) - done, offset + done, at + done
            )
            if not got:
                raise Difference(f"copy_file_range ended after {done} of {len(piece)} bytes")
            done += got

    # -- names -------------------------------------------------------------------------------------

    def _rename(self) -> None:
        name, data, descriptor = self._choose()
        other = self.random.choice(sorted(self._names))
        if name == other:
            return
        self._note(f"rename {name} over {other}, which is made again")
        os.rename(self.folder / name, self.folder / other)
        os.close(self._open[other])
        self._names[other], self._open[other] = data, descriptor
        self._names[name] = bytearray()
        self._open[name] = self._open_file(name, os.O_CREAT | os.O_EXCL)

    def _link(self) -> None:
        name, data, descriptor = self._choose()
        second = self.folder / "second name"
        self._note(f"link {name}, look, remove the first name, rename back")
        os.link(self.folder / name, second)
        if os.fstat(descriptor).st_nlink != 2:
            raise Difference(f"{name} has {os.fstat(descriptor).st_nlink} names")
        os.unlink(self.folder / name)
        self._compare(f"the second name of {name}", second.read_bytes(), bytes(data))
        os.rename(second, self.folder / name)

    def _remove_open(self) -> None:
        name, data, descriptor = self._choose()
        offset, length = self._range()
        piece = self.random.randbytes(length)
        self._note(f"remove {name} while it is open, write {offset}+{length}, make it again")
        os.unlink(self.folder / name)
        self._put(data, offset, piece)
        os.pwrite(descriptor, piece, offset)
        found = os.pread(descriptor, len(data) + 1, 0)
        self._compare(f"{name}, which has no name", found, bytes(data))
        os.close(descriptor)
        self._names[name] = bytearray()
        self._open[name] = self._open_file(name, os.O_CREAT | os.O_EXCL)

    # -- mappings ----------------------------------------------------------------------------------

    def _map_read(self) -> None:
        name, data, descriptor = self._choose()
        if not data:
            return
        offset, length = self._range()
        self._note(f"read the mapping of {name} {offset}+{length}")
        with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as mapping:
            found = mapping[offset : offset + length]
        self._compare(f"{name} mapped", found, bytes(data[offset : offset + length]))

    def _map_write(self) -> None:
        name, data, descriptor = self._choose()
        if not data:
            return
        offset, length = self._range()
        offset %= len(data)
        length = min(length, len(data) - offset)
        flush = self.random.random() < 0.5
        piece = self.random.randbytes(length)
        self._note(f"write the mapping of {name} {offset}+{length}, msync {flush}")
        data[offset : offset + length] = piece
        with mmap.mmap(descriptor, 0) as mapping:
            mapping[offset : offset + length] = piece
            if flush:
                mapping.flush()

    def _map_private(self) -> None:
        name, data, descriptor = self._choose()
        if not data:
            return
        self._note(f"scribble on a private mapping of {name}")
        with mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY) as mapping:
            mapping[0 : min(100, len(data))] = b"?" * min(100, len(data))

    # -- O_DIRECT ----------------------------------------------------------------------------------

    def _direct_read(self) -> None:
        name, data, _ = self._choose()
        offset, length = self._pages()
        self._note(f"read {name} {offset}+{length} directly")
        descriptor = self._open_file(name, os.O_DIRECT)
        try:
            with mmap.mmap(-1, length) as buffer:
                count = os.preadv(descriptor, [buffer], offset)
                found = buffer[:count]
        finally:
            os.close(descriptor)
        self._compare(f"{name} at {offset}", found, bytes(data[offset : offset + length]))

    def _direct_write(self) -> None:
        name, data, _ = self._choose()
        offset, length = self._pages()
        piece = self.random.randbytes(length)
        self._note(f"write {name} {offset}+{length} directly")
        self._put(data, offset, piece)
        descriptor = self._open_file(name, os.O_DIRECT)
        try:
            with mmap.mmap(-1, length) as buffer:
                buffer[:] = piece
                if os.pwritev(descriptor, [buffer], offset) != length:
                    raise Difference("a short write")
        finally:
            os.close(descriptor)

    def _pages(self) -> tuple[int, int]:
        first = self.random.randrange(self.size // PAGE)
        count = self.random.randrange(1, 6)
        return first * PAGE, min(count, self.size // PAGE - first) * PAGE


# -- runs ------------------------------------------------------------------------------------------


def work(folder: str, seed: str, operations: str, size: str, *options: str) -> None:
    """A child process: exercise *folder*, leave a copy of the model beside the mount."""
    place = Path(folder)
    place.mkdir()
    exerciser = Exerciser(
        place, int(seed), size=int(size), mapped="mmap" in options, direct="direct" in options
    )
    exerciser.run(int(operations))
    exerciser.check()
    exerciser.close()
    model = Path(options[-1])
    model.mkdir()
    for name, data in exerciser.contents.items():
        (model / name).write_bytes(data)


def exercise(folder: Path, models: Path, options: argparse.Namespace) -> None:
    """Run the child processes in *folder*; what they must have left there is in *models* then.

    Raises:
      Difference: one of them has found one.
    """
    kinds = [kind for kind in ("mmap", "direct") if getattr(options, kind)]
    children = []
    for number in range(options.processes):
        each = options.operations // options.processes
        words = [folder / f"p{number}", options.seed + number, each, options.size, *kinds]
        words.append(models / f"p{number}")
        children.append(
            subprocess.Popen(
                [sys.executable, __file__, "work", *map(str, words)],
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    told = [child.communicate()[1] for child in children]
    for number, child in enumerate(children):
        if child.returncode:
            raise Difference(f"process {number}: {told[number]}")


def compare(folder: Path, models: Path, where: str) -> None:
    """Every process's files are what they must be.

    Raises:
      Difference: they are not.
    """
    for model in models.iterdir():
        for path in model.iterdir():
            if (folder / model.name / path.name).read_bytes() != path.read_bytes():
                raise Difference(f"{model.name}/{path.name} is another one {where}")


def on_a_drive(top: Path, options: argparse.Namespace) -> None:
    """Exercise a new drive, then look at it again.

    Raises:
      Difference: something is wrong.
    """
    models = top / "models"
    models.mkdir()
    with people(top, "alice", "bob", seconds=options.seconds) as (alice, bob):
        key = alice.ask("create", "exercise").strip()
        mount = alice.mount("exercise", top / "here", "--listen", "127.0.0.1:0")
        there = bob.mount(key, top / "there", "--peer", mount.address) if options.remote else None
        exercise(mount.folder, models, options)
        compare(mount.folder, models, "at the end")
        if there is not None:
            _wait_equal(alice, mount, bob, there)
            compare(there.folder, models, "on the remote mount")
            found = sample_tree.differences(mount.folder, there.folder)
            if found:
                raise Difference("the remote mount: " + "\n".join(found[:10]))
            there.interrupt()
        mount.interrupt()
        again = alice.mount("exercise", top / "here")
        compare(again.folder, models, "after mounting again")
        again.interrupt()


def _wait_equal(alice: Person, mount: Mount, bob: Person, there: Mount) -> None:
    descriptor = os.open(mount.folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    version = _version(alice, mount)
    wait_until(lambda: _version(bob, there) >= version, 60)


def _version(person: Person, mount: Mount) -> int:
    """The version a mount shows."""
    for line in person.ask("--json", "status").splitlines():
        report = json.loads(line)
        if report["pid"] == mount.process.pid and "version" in report:
            return int(report["version"])
    raise Difference(f"status does not know process {mount.process.pid}")


def main() -> None:
    """Parse the options and run."""
    if sys.argv[1:2] == ["work"]:
        try:
            work(*sys.argv[2:])
        except Difference as difference:
            sys.exit(str(difference))
        return
    parser = argparse.ArgumentParser(description="Random operations on a mount, against a model.")
    parser.add_argument("--operations", type=int, default=100_000, help="by all processes together")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--mmap", action="store_true", help="shared mappings too")
    parser.add_argument("--direct", action="store_true", help="O_DIRECT too")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--remote", action="store_true", help="a remote mount, equal at the end")
    parser.add_argument("--size", type=int, default=60 * PAGE, help="the most a file has, in bytes")
    parser.add_argument("--seconds", type=float, default=3600.0, help="a hang is ended then")
    parser.add_argument("--folder", type=Path, help="an existing folder instead of a new drive")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="hyperfs-exercise-") as name:
            if options.folder is None:
                on_a_drive(Path(name), options)
            else:
                exercise(options.folder, Path(name), options)
                compare(options.folder, Path(name), "at the end")
    except Difference as difference:
        print(f"DIFFERENCE, seed {options.seed}: {difference}")
        sys.exit(1)
    seconds = time.monotonic() - began
    print(f"{options.operations} operations in {seconds:.0f} s, all as in memory")


if __name__ == "__main__":
    main()
