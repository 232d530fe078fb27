"""Random operations on a folder of a drive, and a model of it: what a crash leaves is one instant.

See `tools/crash_load.py`. The model's tree is told, as a hash, before each operation.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from typing import TYPE_CHECKING

from tools import sample_tree
from tools.crash_load import Journal, Load, sync

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Exerciser(Load):
    """Random operations, and a model of the tree after each of them.

    A version of a drive is one instant of its tree, so what a crash leaves must be *exactly* the
    tree after some operation, not before the last one that was fsynced.
    """

    DIRECTORIES = ("", "a", "b", "a/c")
    NAMES = ("0", "1", "2", "3", "4")
    LARGEST = 60_000  # written by one request

    def __init__(self, folder: Path, journal: Journal, seed: int, source: Path) -> None:
        super().__init__(folder, journal, seed, source)
        self.directories: set[str] = {""}
        self.links: dict[str, str] = {}
        self.names: dict[str, int] = {}
        self.files: dict[int, bytearray] = {}
        self.modes: dict[int, int] = {}
        self.number = 0
        # The last operation if it was a write: the file, where, and what the file was before.
        self.put: tuple[int, int, bytes] | None = None

    def state(self) -> str:
        """The model's tree as a hash."""
        lines = [f"{name} d" for name in self.directories]
        lines += [f"{name} l {target}" for name, target in self.links.items()]
        first: dict[int, str] = {}
        for name in sorted(self.names):
            first.setdefault(self.names[name], name)
        for name, file in self.names.items():
            digest = hashlib.sha256(self.files[file]).hexdigest()
            lines.append(f"{name} f {self.modes[file]:o} {first[file]} {digest}")
        return _hash(lines)

    def real(self) -> str:
        """The folder's tree as a hash."""
        if not self.folder.exists():
            return "none"
        lines = [" d"]
        first: dict[int, str] = {}
        for path, state in sorted(
            (path.relative_to(self.folder).as_posix(), state)
            for path, state in sample_tree.walk(self.folder)
        ):
            whole = self.folder / path
            if whole.is_symlink():
                lines.append(f"{path} l {os.readlink(whole)}")
            elif whole.is_dir():
                lines.append(f"{path} d")
            else:
                group = first.setdefault(state.st_ino, path)
                digest = hashlib.sha256(whole.read_bytes()).hexdigest()
                lines.append(f"{path} f {state.st_mode & 0o7777:o} {group} {digest}")
        return _hash(lines)

    def work(self) -> None:
        self.journal.say(number=0, state=self.state())
        self.folder.mkdir()
        while True:
            act = self._next()
            if isinstance(act, str):
                sync(self.folder / act)
                self.journal.say(durable=self.number)
            else:
                self.journal.say(number=self.number, state=self.state())
                act()

    def _next(self) -> Callable[[], None] | str:
        """Change the model by one operation and return what does the same to the folder; or what is
        to be synced. The model changes first: what is in flight at the crash may be there or not.
        """
        steps: list[Callable[[], Callable[[], None] | None]] = [
            *([self._create] * 3),
            *([self._write] * 8),
            *([self._append] * 3),
            self._truncate,
            self._mapped,
            *([self._rename] * 2),
            self._unlink,
            self._mkdir,
            self._rmdir,
            self._link,
            self._symlink,
            self._chmod,
        ]
        while True:
            if self.random.random() < 0.03:
                return self.random.choice(["", *sorted(self.names)])
            self.put = None
            act = self.random.choice(steps)()
            if act is not None:
                self.number += 1
                return act

    def check(self) -> list[str]:
        durable = self.journal.last("durable")
        states = {"none": -1} if durable < 0 else {}
        last = -1
        for line in self.journal.lines():
            number = line.get("number")
            if isinstance(number, int):
                last = number
                if number >= durable:
                    states[str(line["state"])] = number
        if not states:
            return []
        real = self.real()
        if real in states or real in self._parts(durable, last):
            return []
        return [self.wrong(f"it is no state from step {durable} on")]

    def _parts(self, durable: int, last: int) -> Iterator[str]:
        """The states in the middle of writes: the kernel makes one request of a write as a rule,
        and more of them if a page of the program's cannot be had at once. They end with a page of
        the file."""
        again = type(self)(self.folder, self.journal, self.seed, self.source)
        while again.number < last:
            if isinstance(again._next(), str) or again.put is None or again.number <= durable:
                continue
            file, offset, before = again.put
            after = again.files[file]
            ends = range((offset // 4096 + 1) * 4096, len(after), 4096)
            for end in ends:
                again.files[file] = after[:end] + before[end:]
                yield again.state()
            again.files[file] = after

    # Each changes the model and returns what does the same to the folder, in one request that
    # changes anything; None if it cannot be done now.

    def _some(self) -> str:
        directory = self.random.choice(sorted(self.directories))
        return f"{directory}/{self.random.choice(self.NAMES)}".lstrip("/")

    def _taken(self, name: str) -> bool:
        return name in self.names or name in self.links or name in self.directories

    def _existing(self) -> str | None:
        return self.random.choice(sorted(self.names)) if self.names else None

    def _create(self) -> Callable[[], None] | None:
        name = self._some()
        if self._taken(name):
            return None
        file = self.names[name] = self.number + 1
        self.files[file] = bytearray()
        self.modes[file] = mode = self.random.choice((0o600, 0o644, 0o755))

        def act() -> None:
            os.close(os.open(self.folder / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))

        return act

    def _write(self) -> Callable[[], None] | None:
        name = self._existing()
        if name is None:
            return None
        size = len(self.files[self.names[name]])
        return self._put(name, self.random.randrange(size + self.random.choice((1, 10, 100_000))))

    def _append(self) -> Callable[[], None] | None:
        name = self._existing()
        return None if name is None else self._put(name, len(self.files[self.names[name]]))

    def _put(self, name: str, offset: int) -> Callable[[], None] | None:
        data = self.random.randbytes(int(self.LARGEST ** self.random.random()))
        file = self.files[self.names[name]]
        if offset + len(data) > 400_000:
            return None
        self.put = (self.names[name], offset, bytes(file))
        if offset > len(file):
            file += bytes(offset - len(file))
        file[offset : offset + len(data)] = data

        def act() -> None:
            descriptor = os.open(self.folder / name, os.O_WRONLY)
            try:
                os.pwrite(descriptor, data, offset)
            finally:
                os.close(descriptor)

        return act

    def _truncate(self) -> Callable[[], None] | None:
        name = self._existing()
        if name is None:
            return None
        file = self.files[self.names[name]]
        size = self.random.randrange(len(file) + self.random.choice((1, 5_000)))
        if size < len(file):
            del file[size:]
        else:
            file += bytes(size - len(file))
        return lambda: os.truncate(self.folder / name, size)

    def _mapped(self) -> Callable[[], None] | None:
        name = self._existing()
        if name is None or not self.files[self.names[name]]:
            return None
        file = self.files[self.names[name]]
        offset = self.random.randrange(len(file))
        # Within a page: one request writes it.
        end = min(len(file), (offset // 4096 + 1) * 4096, offset + 1000)
        data = self.random.randbytes(end - offset)
        file[offset:end] = data

        def act() -> None:
            descriptor = os.open(self.folder / name, os.O_RDWR)
            try:
                with mmap.mmap(descriptor, 0) as mapped:
                    mapped[offset:end] = data
                    mapped.flush()
            finally:
                os.close(descriptor)

        return act

    def _rename(self) -> Callable[[], None] | None:
        old, new = self._existing(), self._some()
        if old is None or new in self.directories or new == old:
            return None
        if self.names.get(new) == self.names[old]:
            return None  # two names of one file: POSIX does nothing
        self.links.pop(new, None)
        self.names[new] = self.names.pop(old)
        return lambda: os.rename(self.folder / old, self.folder / new)

    def _unlink(self) -> Callable[[], None] | None:
        names = sorted([*self.names, *self.links])
        if not names:
            return None
        name = self.random.choice(names)
        self.names.pop(name, None)
        self.links.pop(name, None)
        return lambda: os.unlink(self.folder / name)

    def _mkdir(self) -> Callable[[], None] | None:
        name = self.random.choice(self.DIRECTORIES)
        parent = name.rpartition("/")[0]
        if self._taken(name) or parent not in self.directories:
            return None
        self.directories.add(name)
        return lambda: os.mkdir(self.folder / name)

    def _rmdir(self) -> Callable[[], None] | None:
        name = self.random.choice(self.DIRECTORIES)
        inside = [*self.names, *self.links, *self.directories]
        if not name or name not in self.directories:
            return None
        if any(other.startswith(name + "/") for other in inside):
            return None
        self.directories.discard(name)
        return lambda: os.rmdir(self.folder / name)

    def _link(self) -> Callable[[], None] | None:
        old, new = self._existing(), self._some()
        if old is None or self._taken(new):
            return None
        self.names[new] = self.names[old]
        return lambda: os.link(self.folder / old, self.folder / new)

    def _symlink(self) -> Callable[[], None] | None:
        name, target = self._some(), f"target {self.number}"
        if self._taken(name):
            return None
        self.links[name] = target
        return lambda: os.symlink(target, self.folder / name)

    def _chmod(self) -> Callable[[], None] | None:
        name = self._existing()
        if name is None:
            return None
        mode = self.modes[self.names[name]] = self.random.choice((0o600, 0o640, 0o777))
        return lambda: os.chmod(self.folder / name, mode)


def _hash(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
