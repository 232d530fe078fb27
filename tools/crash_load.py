"""What programs do to a drive while it is killed, and the check of what is left of their work.

Each `Load` works in a folder of its own and keeps a journal *outside* of the drive: what it was
about to do, and, after fsync returned, what must never be lost. `work` goes on until the mount
fails under it; `check` reads the folder after the remount and returns what is wrong.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
from typing import TYPE_CHECKING

from tools import sample_tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20


class Journal:
    """Facts of a load, one JSON object a line; a line is written by one system call."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def say(self, **facts: object) -> None:
        """Add a line."""
        with self.path.open("ab", buffering=0) as file:
            file.write(json.dumps(facts).encode() + b"\n")

    def lines(self) -> Iterator[dict[str, object]]:
        """All whole lines."""
        if self.path.exists():
            for line in self.path.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):
                    yield json.loads(line)

    def last(self, name: str, default: int = -1) -> int:
        """The newest number said under *name*."""
        found = default
        for line in self.lines():
            value = line.get(name)
            if isinstance(value, int):
                found = value
        return found


def sync(path: Path) -> None:
    """fsync(2) of a file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def content(seed: int, number: int, largest: int) -> bytes:
    """The bytes that are known from a seed and a number."""
    source = random.Random(seed << 32 | number)
    return source.randbytes(int(largest ** source.random()))


class Load:
    """One program's work. *source* is a tree to copy; only `Copy` needs it."""

    def __init__(self, folder: Path, journal: Journal, seed: int, source: Path) -> None:
        self.folder = folder
        self.journal = journal
        self.seed = seed
        self.source = source
        self.random = random.Random(seed)

    def work(self) -> None:
        """Go on until the mount fails; OSError and others then."""
        raise NotImplementedError

    def check(self) -> list[str]:
        """What is wrong with the folder."""
        raise NotImplementedError

    def seen(self) -> dict[str, int]:
        """Progress that a reader can see and that must not go back."""
        return {}

    def wrong(self, text: str) -> str:
        """A violation, with where it is."""
        return f"{type(self).__name__} in {self.folder}: {text}"


class SmallFiles(Load):
    """Many small files, some of them fsynced."""

    def work(self) -> None:
        self.folder.mkdir()
        number = 0
        while True:
            path = self._path(number)
            path.parent.mkdir(exist_ok=True)
            with path.open("wb") as file:
                file.write(content(self.seed, number, 30_000))
                if self.random.random() < 0.05:
                    file.flush()
                    os.fsync(file.fileno())
                    self.journal.say(durable=number)
            number += 1

    def _path(self, number: int) -> Path:
        return self.folder / str(number // 40) / f"{number}.txt"

    def check(self) -> list[str]:
        found = []
        for line in self.journal.lines():
            number = line.get("durable")
            if not isinstance(number, int):
                continue
            path = self._path(number)
            if not path.exists():
                found.append(self.wrong(f"{number} was fsynced and is missing"))
            elif path.read_bytes() != content(self.seed, number, 30_000):
                found.append(self.wrong(f"{number} was fsynced and has other content"))
        if self.folder.exists():
            for path in self.folder.glob("*/*.txt"):
                data = path.read_bytes()
                if not content(self.seed, int(path.stem), 30_000).startswith(data):
                    found.append(self.wrong(f"{path.name} holds what nobody wrote"))
        return found


class AtomicSave(Load):
    """One document, saved as editors do: a draft, fsync, rename over; then fsync of the folder."""

    LARGEST = 300_000

    def work(self) -> None:
        self.folder.mkdir()
        for number in range(1 << 30):
            draft = self.folder / "draft"
            with draft.open("wb") as file:
                file.write(self._text(number))
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, self.folder / "document")
            if self.random.random() < 0.5:
                sync(self.folder)
                self.journal.say(durable=number)

    def _text(self, number: int) -> bytes:
        return b"%d\n" % number + content(self.seed, number, self.LARGEST)

    def _number(self) -> int:
        """Which save the document is; -1 for none there, -2 for something else."""
        try:
            data = (self.folder / "document").read_bytes()
        except FileNotFoundError:
            return -1
        first, _, _ = data.partition(b"\n")
        if not first.isdigit() or data != self._text(int(first)):
            return -2
        return int(first)

    def seen(self) -> dict[str, int]:
        return {"save": self._number()}

    def check(self) -> list[str]:
        number, durable = self._number(), self.journal.last("durable")
        if number == -2:
            return [self.wrong("the document is neither the old nor the new one")]
        if number < durable:
            return [self.wrong(f"the document is save {number}, {durable} was fsynced")]
        return []


class Append(Load):
    """A log that grows line by line, fsynced now and then."""

    LARGEST = 3_000
    FILE = "log"

    def work(self) -> None:
        self.folder.mkdir()
        number = size = 0
        with (self.folder / self.FILE).open("wb", buffering=0) as file:
            while True:
                data = content(self.seed, number, self.LARGEST)
                file.write(data)
                size += len(data)
                number += 1
                if self.random.random() < 0.1:
                    os.fsync(file.fileno())
                    self.journal.say(durable=size)

    def _good(self) -> tuple[int, int]:
        """(size of the file, how much of it from its beginning is right); -1 for no file."""
        try:
            file = (self.folder / self.FILE).open("rb")
        except FileNotFoundError:
            return -1, -1
        with file:
            size = os.fstat(file.fileno()).st_size
            good = number = 0
            while good < size:
                data = content(self.seed, number, self.LARGEST)[: size - good]
                if file.read(len(data)) != data:
                    break
                good += len(data)
                number += 1
            return size, good

    def seen(self) -> dict[str, int]:
        size, good = self._good()
        return {self.FILE: -2 if size != good else size}

    def check(self) -> list[str]:
        size, good = self._good()
        durable = self.journal.last("durable")
        if size != good:
            return [self.wrong(f"of {size} bytes only the first {good} are right")]
        if size < durable:
            return [self.wrong(f"{size} bytes are left of {durable} fsynced")]
        return []


class Stream(Append):
    """A large file written in one go: content is appended long before its record."""

    FILE = "stream"

    def work(self) -> None:
        self.folder.mkdir()
        with (self.folder / self.FILE).open("wb", buffering=0) as file:
            number = size = 0
            while size < 96 * MIB:
                pieces = bytearray()
                while len(pieces) < MIB:
                    pieces += content(self.seed, number, self.LARGEST)
                    number += 1
                file.write(pieces)
                size += len(pieces)
                if self.random.random() < 0.03:
                    os.fsync(file.fileno())
                    self.journal.say(durable=size)
            os.fsync(file.fileno())
            self.journal.say(durable=size)

    LARGEST = 200_000


class Copy(Load):
    """A tree, copied by one of the programs people copy trees with."""

    def work(self) -> None:
        self.folder.mkdir()
        for number in range(1 << 30):
            target = self.folder / str(number)
            how = self.random.randrange(3)
            if how == 0:
                subprocess.run(
                    ["cp", "-a", self.source, target], check=True, stderr=subprocess.DEVNULL
                )
            elif how == 1:
                subprocess.run(
                    ["rsync", "-a", f"{self.source}/", f"{target}/"],
                    check=True,
                    stderr=subprocess.DEVNULL,
                )
            else:
                target.mkdir()
                with subprocess.Popen(
                    ["tar", "-C", self.source, "--format=posix", "-cf", "-", "."],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                ) as pack:
                    subprocess.run(
                        ["tar", "-C", target, "-xf", "-"],
                        stdin=pack.stdout,
                        check=True,
                        stderr=subprocess.DEVNULL,
                    )
            sync(target)
            self.journal.say(durable=number)

    def check(self) -> list[str]:
        durable, found = self.journal.last("durable"), []
        for number in range(durable + 1):
            target = self.folder / str(number)
            if not target.is_dir():
                found.append(self.wrong(f"copy {number} was fsynced and is missing"))
            else:
                found += map(self.wrong, sample_tree.differences(self.source, target)[:5])
        partial = self.folder / str(durable + 1)
        if partial.is_dir():
            for path, state in sample_tree.walk(partial):
                original = self.source / path.relative_to(partial)
                # rsync's drafts have other names, and what is sparse is not written in order.
                if path.is_symlink() or not path.is_file() or path.name == "sparse":
                    continue
                if original.is_file() and not _begins(original, path, state.st_size):
                    found.append(self.wrong(f"{path.name} holds what nobody wrote"))
        return found


def _begins(original: Path, part: Path, size: int) -> bool:
    with original.open("rb") as one, part.open("rb") as other:
        return one.read(size) == other.read() and size <= original.stat().st_size


class Remove(Load):
    """rm -r of a tree that was there before (the folder; it is not made)."""

    def work(self) -> None:
        shutil.rmtree(self.folder)
        sync(self.folder.parent)
        self.journal.say(durable=1)

    def check(self) -> list[str]:
        if self.journal.last("durable") == 1 and self.folder.exists():
            return [self.wrong("it was removed for good and is back")]
        return []


class Git(Load):
    """Commits to a repository, with git's own fsyncs and one of its folder after each."""

    def _git(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        options = ("core.fsync=all", "core.fsyncMethod=fsync", "gc.auto=0", "user.name=a")
        words = [word for option in (*options, "user.email=a@b") for word in ("-c", option)]
        return subprocess.run(
            ["git", *words, "-C", str(self.folder), *arguments],
            check=check,
            capture_output=True,
            text=True,
            env={**os.environ, "GIT_CEILING_DIRECTORIES": str(self.folder.parent)},
        )

    def work(self) -> None:
        self.folder.mkdir()
        self._git("init", "-q", "-b", "main")
        for number in range(1 << 30):
            for _ in range(self.random.randrange(1, 8)):
                path = self.folder / f"file{self.random.randrange(30)}"
                path.write_bytes(self.random.randbytes(int(20_000 ** self.random.random())))
            self._git("add", "-A")
            self._git("commit", "-q", "--allow-empty", "-m", str(number))
            commit = self._git("rev-parse", "HEAD").stdout.strip()
            sync(self.folder / ".git" / "refs" / "heads")
            self.journal.say(commit=commit)
            if self.random.random() < 0.1:
                self._git("gc", "-q")

    def check(self) -> list[str]:
        commits = [line["commit"] for line in self.journal.lines() if "commit" in line]
        if not (self.folder / ".git" / "refs").is_dir():
            return [self.wrong("the repository is gone")] if commits else []
        head = self._git("rev-parse", "-q", "--verify", "HEAD", check=False)
        if head.returncode and not commits:
            return []
        found = []
        fsck = self._git("fsck", "--full", "--strict", check=False)
        if fsck.returncode:
            found.append(self.wrong(f"git fsck: {fsck.stdout}{fsck.stderr}"))
        if commits:
            last = str(commits[-1])
            if self._git("merge-base", "--is-ancestor", last, "HEAD", check=False).returncode:
                found.append(self.wrong(f"commit {last} is not in the history any more"))
        return found


class Database(Load):
    """Transactions of SQLite, with a rollback journal or a write-ahead log, synced by SQLite."""

    def work(self) -> None:
        self.folder.mkdir()
        mode = self.random.choice(("DELETE", "TRUNCATE", "PERSIST", "WAL", "WAL"))
        with sqlite3.connect(self.folder / "database", isolation_level=None) as database:
            database.execute(f"PRAGMA journal_mode={mode}")
            # FULL does not sync the folder after the journal was deleted, which is the commit.
            database.execute("PRAGMA synchronous=EXTRA")
            database.execute("PRAGMA wal_autocheckpoint=50")
            database.execute("CREATE TABLE data (number INTEGER PRIMARY KEY, bytes BLOB)")
            database.execute("CREATE TABLE total (bytes INTEGER)")
            database.execute("INSERT INTO total VALUES (0)")
            sync(self.folder)
            for number in range(1 << 30):
                data = content(self.seed, number, 20_000)
                database.execute("BEGIN IMMEDIATE")
                database.execute("INSERT INTO data VALUES (?, ?)", (number, data))
                database.execute("UPDATE total SET bytes = bytes + ?", (len(data),))
                database.execute("COMMIT")
                self.journal.say(durable=number)

    def check(self) -> list[str]:
        durable = self.journal.last("durable")
        path = self.folder / "database"
        if not path.exists():
            return [self.wrong("the database is gone")] if durable >= 0 else []
        database = sqlite3.connect(path, isolation_level=None)
        try:
            return self._check(database, durable)
        except sqlite3.Error as error:
            young = durable < 0 and "no such table" in str(error)
            return [] if young else [self.wrong(f"{error}")]
        finally:
            database.close()

    def _check(self, database: sqlite3.Connection, durable: int) -> list[str]:
        (told,) = database.execute("PRAGMA integrity_check").fetchone()
        if told != "ok":
            return [self.wrong(f"integrity_check: {told}")]
        rows = database.execute("SELECT number, bytes FROM data ORDER BY number").fetchall()
        if len(rows) <= durable:
            return [self.wrong(f"{len(rows)} transactions are left of {durable + 1}")]
        for place, (number, data) in enumerate(rows):
            if place != number or data != content(self.seed, number, 20_000):
                return [self.wrong(f"row {place} is wrong")]
        total = database.execute("SELECT sum(bytes) FROM total").fetchone()[0] or 0
        if total != sum(len(data) for _, data in rows):
            return [self.wrong("a transaction is there by half")]
        return []
