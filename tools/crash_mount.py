"""Kill mounts at work, cut the power, and check everything afterwards.

    tools/crash_mount.py [--rounds N] [--seed N] [--seconds N] [--kind KIND] [--power]
                         [--keep FOLDER]

A world is two people: a writer with a mounted drive, and a reader who has mounted it by key and is
connected. In each round random programs (tools/crash_load.py) work on the writer's mount while
somebody looks at the reader's; at a random moment one of these happens:

- `writer`, `reader`, `both`: kill -9;
- `alone`: kill -9 of both, and the reader comes back without the writer;
- `restarts`: kill -9 of the writer, and of its successors while they start;
- `term`: SIGTERM to the writer, which must end cleanly and lose nothing, synced or not;
- `writer-power`, `reader-power`, `both-power` (with --power, as root): the store's disk, an ext4
  image on a loop device, loses all it has not made durable, then the process is killed;
- `twice-power`: kill -9 of the writer, and the power is cut soon after it was mounted again.

Then the drive is mounted again and must be consistent, with all that was fsynced; what the reader
had been shown must still be true; the reader must become equal; nothing may ever have been forked.
A violation ends the run with exit code 1 and leaves the world's folder. Needs the project
installed.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools import crash_rounds, crash_world, sample_tree  # noqa: E402
from tools.crash_checks import (  # noqa: E402
    heads,
    length_of,
    read_everything,
    read_file,
    status,
    wait_equal,
)
from tools.crash_exerciser import Exerciser  # noqa: E402
from tools.crash_load import (  # noqa: E402
    Append,
    AtomicSave,
    Copy,
    Database,
    Git,
    Journal,
    Load,
    Remove,
    SmallFiles,
    Stream,
    sync,
)
from tools.crash_rounds import Violation  # noqa: E402
from tools.program import Mount, wait_until  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from tools.crash_disk import Disk
    from tools.program import Person

LOADS: dict[str, type[Load]] = {
    "small": SmallFiles,
    "save": AtomicSave,
    "append": Append,
    "stream": Stream,
    "copy": Copy,
    "git": Git,
    "database": Database,
    "exerciser": Exerciser,
    "remove": Remove,
}
KILLS = ("writer", "writer", "restarts", "both", "reader", "alone", "term")
CUTS = ("writer-power", "writer-power", "twice-power", "both-power", "reader-power")
WRITER_DIES = (
    "writer",
    "both",
    "alone",
    "restarts",
    "term",
    "writer-power",
    "twice-power",
    "both-power",
)
READER_DIES = ("reader", "both", "alone", "reader-power", "both-power")
WATCHED = ("save", "append", "stream")
# A world's drive only grows; a new one begins before its disk is full.
ROUNDS_OF_A_WORLD = 8
KEPT_FOLDERS = 4


# -- the world -------------------------------------------------------------------------------------


class World(crash_world.World):
    """With *power*, both stores are on disks whose power can be cut."""

    def __init__(self, top: Path, people: list[Person], seed: int, *, power: bool) -> None:
        super().__init__(top, people, seed)
        self.power = power
        # Folders of earlier rounds, nobody writes there: everything in them, as it must stay.
        self.settled: dict[str, dict[str, tuple[int, int, int, str]]] = {}
        self.children: list[subprocess.Popen[bytes]] = []

    def begin(self) -> None:
        """Make the disks and what is copied from, too."""
        if self.power:
            self.add_disks()
        self.source = self.top / "source"
        sample_tree.make(self.source, large_bytes=4 << 20, real_names=300)
        super().begin()

    def end(self) -> None:
        """End the programs at work, too."""
        self._stop_children()
        super().end()

    def _start_writer(self) -> None:
        """As `mount_writer`, without waiting until it is mounted."""
        more = ("--listen", self.address)
        self.here = Mount(self.writer, "photos", self.top / "here", more)
        self.writer.mounts.append(self.here)

    def version(self, person: Person, mount: Mount) -> int:
        """The version a mount shows."""
        version = status(person, mount)["version"]
        assert isinstance(version, int)
        return version

    # -- a round ---------------------------------------------------------------------------------

    def round(self, kind: str, seconds: float) -> str:
        """Work for *seconds*, let *kind* happen, check; a line about it.

        Raises:
          Violation: something is wrong.
        """
        self.number += 1
        loads = self._start_loads()
        seeds = [f"{kind}={load.seed}" for kind, load in loads.items()]
        watch = self._start("watch", self.top / "there", self._journal("watch"), *seeds)
        # Programs take a while to start; the moment of the crash is counted from their beginning.
        new = [load.folder for kind, load in loads.items() if kind != "remove"]
        wait_until(lambda: all(folder.exists() for folder in new), 10)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(min(0.2, max(0.0, end - time.monotonic())))
            if self.power and self.random.random() < 0.3:
                self.random.choice(list(self.disks.values())).flush_something()
        self._check_alive(loads)
        shown = self.version(self.reader, self.there)
        self._strike(kind)
        self._stop_children()
        watched = self._journal("watch")
        told = self._remount(kind, shown, watched)
        self._check_loads(loads, watched)
        self._check_tree()
        self._check_equal()
        self._settle(loads)
        assert watch.returncode is not None
        acks = sum(
            1 for name in loads for line in self._journal(name).lines() if "ended" not in line
        )
        return f"{'+'.join(loads)}, {acks} lines said; version {told}"

    def _journal(self, name: str) -> Journal:
        return Journal(self.top / "journals" / f"{self.number}-{name}")

    def _start(
        self, kind: str, folder: Path, journal: Journal, *more: str
    ) -> subprocess.Popen[bytes]:
        words = [sys.executable, __file__, kind, str(folder), str(journal.path), *more]
        errors = (self.top / "journals" / f"{journal.path.name}.stderr").open("wb")
        with errors:
            child = subprocess.Popen(words, stderr=errors, start_new_session=True)
        self.children.append(child)
        return child

    def _start_loads(self) -> dict[str, Load]:
        kinds = self.random.sample(sorted(set(LOADS) - {"remove"}), self.random.randrange(2, 5))
        loads = {kind: self.top / "here" / f"{self.number}-{kind}" for kind in kinds}
        if len(self.settled) > KEPT_FOLDERS or (self.settled and self.random.random() < 0.3):
            name = self.random.choice(sorted(self.settled))
            del self.settled[name]
            loads["remove"] = self.top / "here" / name
        found = {}
        for kind, folder in loads.items():
            seed = self.random.randrange(1 << 30)
            journal = self._journal(kind)
            self._start(kind, folder, journal, str(seed), str(self.source))
            found[kind] = LOADS[kind](folder, journal, seed, self.source)
        return found

    def _check_alive(self, loads: dict[str, Load]) -> None:
        """Nothing fails while the mount is up."""
        for name in loads:
            for line in self._journal(name).lines():
                if "ended" in line:
                    raise Violation(f"{name} failed on a mount that was up: {line['ended']}")

    def _stop_children(self) -> None:
        end = time.monotonic() + 20
        for child in self.children:
            # What works on a dead mount ends by itself, but for what looks at the other one.
            if self.here.process.poll() is None or "watch" in child.args:  # type: ignore[operator]
                child.terminate()
        for child in self.children:
            try:
                child.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        for child in self.children:
            # What a load has started itself.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, 9)
        self.children.clear()

    def _strike(self, kind: str) -> None:
        if kind == "twice-power":
            self.here.kill()
            self._stop_children()
            self._start_writer()
            time.sleep(self.random.uniform(0, 1.5))
        if kind == "restarts":
            self.here.kill()
            self._stop_children()
            for _ in range(self.random.randrange(1, 4)):
                self._start_writer()
                time.sleep(self.random.uniform(0, 1.0))
                self.here.kill()
        if kind == "term":
            self._terminate()
        for disk in self._cut(kind):
            disk.cut_power()
        if kind.endswith("-power"):
            time.sleep(self.random.choice((0, 0, 0.05, 0.5)))
        if kind in WRITER_DIES:
            self.here.kill()
        if kind in READER_DIES:
            self.there.kill()

    def _terminate(self) -> None:
        """End the writer's mount under its users; then what they did counts as durable."""
        process = self.here.process
        process.terminate()
        try:
            code = process.wait(120)
        except subprocess.TimeoutExpired:
            raise Violation("it did not end after SIGTERM") from None
        if code:
            raise Violation(f"it ended with code {code}: {self.here.errors.read_text()}")
        self._stop_children()
        journal = self._journal("exerciser")
        # The last operation it told of is the one that failed.
        if (done := journal.last("number")) > 0:
            journal.say(durable=done - 1)

    def _cut(self, kind: str) -> list[Disk]:
        """The disks that lose their power."""
        names = (["alice"] * (kind in WRITER_DIES)) + (["bob"] * (kind in READER_DIES))
        return [self.disks[name] for name in names] if kind.endswith("-power") else []

    def _remount(self, kind: str, shown: int, watched: Journal) -> str:
        """Bring back what was killed, and hold it to what the reader has been shown."""
        for disk in self._cut(kind):
            disk.unmount()
            disk.mount()
        if kind == "alone":
            self._reader_alone(shown, watched)
        time.sleep(0.1)
        known = heads(self.reader, self.key)
        if self.here.process.poll() is not None:
            self.mount_writer()
        ours = heads(
            self.writer, self.key, *(length_of(known[name]) for name in ("metadata", "content"))
        )
        for name, head in known.items():
            other = ours[name]
            if other["fork"] != 0 or head["fork"] != 0:
                raise Violation(f"{name} was forked: {head} and {other}")
            if length_of(other) < length_of(head):
                raise Violation(f"a peer was shown {name} {head}, and the writer has {other}")
            if other["hash"] != head["hash"]:
                raise Violation(f"two histories of {name}: {head} and {other}")
        version = self.version(self.writer, self.here)
        if version < shown:
            raise Violation(f"a peer was shown version {shown}, and the writer has {version}")
        if self.there.process.poll() is not None:
            self.mount_reader()
            again = self.version(self.reader, self.there)
            # What was downloaded last may be lost in a power cut, and comes again.
            if again < shown and not self._cut(kind):
                raise Violation(f"the reader showed version {shown} and now {again}")
        return f"{version}, the reader had {shown}"

    def _reader_alone(self, shown: int, watched: Journal) -> None:
        """What a reader has read it has, without any peer."""
        self.mount_reader("--read-timeout", "0.5")
        again = self.version(self.reader, self.there)
        if again < shown:
            raise Violation(f"the reader showed version {shown} and, alone, {again}")
        for line in watched.lines():
            name, digest = line.get("read"), line.get("digest")
            if isinstance(name, str) and name.split("/")[0] in self.settled:
                try:
                    _, found = read_file(self.there.folder / name)
                except OSError as error:
                    raise Violation(f"{name} was read, and alone: {error!r}") from error
                if found != digest:
                    raise Violation(f"{name} was read and has other bytes now")
        self.there.interrupt()

    # -- checks ----------------------------------------------------------------------------------

    def _check_loads(self, loads: dict[str, Load], watched: Journal) -> None:
        found = []
        for load in loads.values():
            found += load.check()
        for kind, load in loads.items():
            if kind not in WATCHED:
                continue
            (now,) = load.seen().values()
            for line in watched.lines():
                value = line.get(kind)
                if value == -2:
                    found.append(f"the reader saw a {kind} that never was")
                elif isinstance(value, int) and value > now:
                    found.append(f"the reader saw {kind} at {value}, it is {now} now")
        if found:
            raise Violation("\n".join(found))

    def _check_tree(self) -> None:
        """The whole tree reads, what is old is as it was, and the counters are right."""
        sync(self.here.folder)
        found = read_everything(self.here.folder)
        for folder, names in self.settled.items():
            now = {
                name: entry
                for name, entry in found.names.items()
                if name == folder or name.startswith(f"{folder}/")
            }
            if now != names:
                changed = [name for name in {*now, *names} if now.get(name) != names.get(name)]
                raise Violation(f"nobody writes in {folder}, and these changed: {changed[:10]}")
        report = status(self.writer, self.here)
        if (report["files"], report["byte_length"]) != (found.files, found.bytes):
            raise Violation(
                f"it counts {report['files']} files with {report['byte_length']} bytes and has"
                f" {found.files} with {found.bytes}"
            )

    def _check_equal(self) -> None:
        """The reader catches up and has the same tree and the same logs."""
        version = self.version(self.writer, self.here)
        wait_until(lambda: self.version(self.reader, self.there) >= version)
        wait_equal(self.here.folder, self.there.folder)

    def _settle(self, loads: dict[str, Load]) -> None:
        for kind, load in loads.items():
            if kind == "remove" and load.folder.exists():
                shutil.rmtree(load.folder)
            elif load.folder.exists():
                self.settled[load.folder.name] = {}
        sync(self.here.folder)
        for name, entries in self.settled.items():
            if not entries:
                top = self.here.folder
                state = os.lstat(top / name)
                entries[name] = (state.st_mode, state.st_size, state.st_mtime_ns, "")
                entries.update(read_everything(top, top / name).names)


# -- child processes ----------------------------------------------------------------------------


def work(kind: str, folder: str, journal: str, seed: str, source: str) -> None:
    """Work until the mount fails."""
    load = LOADS[kind](Path(folder), Journal(Path(journal)), int(seed), Path(source))
    os.umask(0o022)
    try:
        load.work()
    except (OSError, sqlite3.Error, subprocess.CalledProcessError) as error:
        load.journal.say(ended=repr(error))


def watch(folder: str, path: str, *kinds: str) -> None:
    """Look at the reader's mount: how far the loads are, and files that do not change."""
    top, journal, source = Path(folder), Journal(Path(path)), random.Random(path)
    loads = Path(path).name.partition("-")[0]
    seeds = dict(word.partition("=")[::2] for word in kinds)
    while True:
        for kind, seed in seeds.items():
            if kind in WATCHED:
                load = LOADS[kind](top / f"{loads}-{kind}", journal, int(seed), top)
                with contextlib.suppress(OSError):
                    journal.say(**{kind: next(iter(load.seen().values()))})
        with contextlib.suppress(OSError):
            files = [
                name
                for name, state in sample_tree.walk(top)
                if stat.S_ISREG(state.st_mode) and state.st_size
            ]
            for name in source.sample(files, min(len(files), 20)):
                _, digest = read_file(name)
                journal.say(read=name.relative_to(top).as_posix(), digest=digest)
        time.sleep(0.05)


# -- runs ---------------------------------------------------------------------------------------


def world(
    top: Path, seed: int, *, power: bool = False, seconds: float = 600.0
) -> AbstractContextManager[World]:
    """A new world below *top*, ready for rounds; everything is taken down at the end."""
    make = partial(World, top, seed=seed, power=power)
    return crash_world.world(top, make, seconds=seconds)


def play(made: World, source: random.Random, kinds: Sequence[str]) -> str:
    """A round of one of *kinds*, or of any; a line about it."""
    kind = source.choice(kinds or (CUTS if made.power and source.random() < 0.7 else KILLS))
    working = min(6.0, source.expovariate(0.8))
    began = time.monotonic()
    told = made.round(kind, working)
    return f"{kind:12} {working:3.1f} of {time.monotonic() - began:4.1f} s: {told}"


def main() -> None:
    """Parse the options and run."""
    if sys.argv[1:2] == ["watch"]:
        watch(*sys.argv[2:])
        return
    if sys.argv[1:2] and sys.argv[1] in LOADS:
        work(*sys.argv[1:])
        return
    parser = crash_rounds.arguments("Kill mounts at work and check what is left.", rounds=100)
    parser.add_argument(
        "--kind", action="append", choices=sorted({*KILLS, *CUTS}), help="only these"
    )
    parser.add_argument("--power", action="store_true", help="cut the power too (needs root)")
    options = parser.parse_args()
    crash_rounds.run(
        options,
        lambda folder, source: world(folder, source.randrange(1 << 30), power=options.power),
        lambda made, source: play(made, source, options.kind or ()),
        rounds_of_a_world=ROUNDS_OF_A_WORLD,
    )


if __name__ == "__main__":
    main()
