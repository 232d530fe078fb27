"""Kill processes that replicate, at both ends, and check what is left.

    tools/crash_replication.py [--rounds N] [--seed N] [--seconds N] [--keep FOLDER]

Three processes on loopback TCP: a *writer*, whose transactions append to two cores; a *reader*,
who dials the writer and downloads both; and a *far* reader, who knows only the first. They tell
over a pipe what they have done: `commit` after a transaction, `ack` after a sync, `held` after a
sync of a reader. In each round some of them are killed (signal 9) at a random moment, some of those
again while they start, and then:

- what the writer had committed is there, whole transactions of it, with the bytes it had then;
- what a reader held it holds, and every block is the writer's;
- no reader is ahead of the writer, and where two of the logs have a common length they, and all
  that was seen of them before, have one tree hash; no fork was ever made.

Now and then everybody is left alone until the readers have everything. A violation ends the run
with exit code 1 and leaves the folder.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import corestore  # noqa: E402
from tools import crash_rounds  # noqa: E402
from tools.crash_rounds import Violation, free_ports  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = ("content", "metadata")
SIZES = (40, 700, 5000, 70_000)
ROLES = ("writer", "reader", "far")
# Logs only grow; a new world begins before checking them takes long.
ROUNDS_OF_A_WORLD = 20
START_SECONDS = 120.0
QUIET_SECONDS = 120.0
Lengths = tuple[int, int]


def block(core: int, index: int) -> bytes:
    """The bytes of a block of content; the blocks of metadata are `root`."""
    source = random.Random(core << 32 | index)
    return source.randbytes(source.choice(SIZES))


def root(content_length: int) -> bytes:
    """The block of metadata that belongs to a length of content."""
    return b"root %d " % content_length + bytes(content_length % 200)


# -- the child processes -----------------------------------------------------------------------


def say(*words: object) -> None:
    """One line, in one system call: a killed process says it whole or not at all."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def _serve(swarm: corestore.Swarm, port: int) -> None:
    with trio.fail_after(START_SECONDS):
        while True:
            # The port of a process killed a moment ago.
            with contextlib.suppress(OSError):
                await swarm.listen("127.0.0.1", port)
                return
            await trio.sleep(0.02)


async def write(path: str, port: int, seed: int, *, quiet: bool) -> None:
    """The writer: transactions and syncs until it is killed; nothing new if *quiet*."""
    source = random.Random(seed)
    async with corestore.open(path) as store, corestore.open_swarm(store) as swarm:
        content, metadata = [await store.get(name=name) for name in NAMES]
        await _serve(swarm, port)
        for core in (content, metadata):
            await swarm.join(core.discovery_key)
        say("keys", content.key, metadata.key)
        if quiet:
            await store.sync()
            say("ack", content.published_length, metadata.published_length)
            await trio.sleep_forever()
        while True:
            count = source.choice((0, 1, 1, 3, 10, 40))
            async with store.transaction(content, metadata) as tx:
                start = tx.length(content)
                await tx.append(content, *(block(0, start + i) for i in range(count)))
                await tx.append(metadata, root(start + count))
            say("commit", content.length, metadata.length)
            if source.random() < 0.2:
                await store.sync()
                say("ack", content.published_length, metadata.published_length)
            await trio.sleep(source.choice((0, 0, 0.001, 0.01, 0.05)))


async def read(path: str, port: int, peer: int, *keys: str) -> None:
    """A reader: downloads both cores live, and tells what it has after each sync."""
    async with corestore.open(path) as store, corestore.open_swarm(store) as swarm:
        cores = [await store.get(key=key) for key in keys]
        await _serve(swarm, port)
        for core in cores:
            await swarm.join(core.discovery_key)
        swarm.connect("127.0.0.1", peer)
        say("ready")
        async with trio.open_nursery() as nursery:
            for core in cores:
                nursery.start_soon(partial(core.download, live=True))
            before = [-1, -1]
            while True:
                held = [core.contiguous_length for core in cores]
                if held != before:
                    await store.sync()
                    say("held", *held)
                    before = held
                await trio.sleep(0.02)


# -- the processes, seen from outside ----------------------------------------------------------


@dataclass
class Person:
    """A role's process, and what it has said in all its lives."""

    role: str
    store: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    keys: tuple[str, ...] = ()
    committed: Lengths = (0, 0)
    acknowledged: Lengths = (0, 0)
    held: Lengths = (0, 0)
    ready: threading.Event = field(default_factory=threading.Event)
    listener: threading.Thread | None = None

    def start(self, *arguments: object) -> None:
        """Run it; *arguments* are those of `write` or `read`."""
        self.ready.clear()
        words = [sys.executable, __file__, self.role, self.store, self.port, *arguments]
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [str(word) for word in words], stdout=subprocess.PIPE, stderr=errors
            )
        self.listener = threading.Thread(target=self._listen)
        self.listener.start()

    @property
    def errors(self) -> Path:
        """What it wrote to stderr in all its lives."""
        return self.store.with_name(f"{self.role}.stderr")

    def _listen(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    self._hear(line.decode().split())

    def _hear(self, words: list[str]) -> None:
        match words:
            case ["keys", *keys]:
                self.keys = tuple(keys)
                self.ready.set()
            case ["ready"]:
                self.ready.set()
            case ["commit", one, two]:
                self.committed = (int(one), int(two))
            case ["ack", one, two]:
                self.acknowledged = (int(one), int(two))
            case ["held", one, two]:
                self.held = (int(one), int(two))

    def kill(self) -> None:
        """Signal 9; returns when all it had said was heard.

        Raises:
          Violation: it had ended by itself.
        """
        if self.process is None:
            return
        process, self.process = self.process, None
        process.send_signal(signal.SIGKILL)
        code = process.wait()
        assert self.listener is not None
        self.listener.join()
        if code != -signal.SIGKILL:
            raise Violation(f"the {self.role} ended with code {code}: {self.errors.read_text()}")


# -- the world ---------------------------------------------------------------------------------


class World:
    """Three persons below *top*, and one round after the other."""

    def __init__(self, top: Path, source: random.Random) -> None:
        self.random = source
        ports = free_ports(len(ROLES))
        self.people = {
            role: Person(role, top / role, port) for role, port in zip(ROLES, ports, strict=True)
        }
        # By core: all heads ever seen at any end, length to tree hash.
        self.heads: list[dict[int, bytes]] = [{}, {}]
        # Blocks of each store up to here were compared already.
        self.compared: dict[str, list[int]] = {role: [0, 0] for role in ROLES}

    def start(self, role: str, *, quiet: bool = False) -> None:
        """Run a role that is dead."""
        writer, person = self.people["writer"], self.people[role]
        if role == "writer":
            person.start(self.random.randrange(1 << 30), *(["quiet"] if quiet else []))
            return
        if not writer.keys:
            self._wait(writer)
        peer = self.people["writer" if role == "reader" else "reader"]
        person.start(peer.port, *writer.keys)

    def round(self, seconds: float) -> str:
        """Let them work for *seconds*, kill some, check; which were killed.

        Raises:
          Violation: something is wrong.
        """
        for role in ROLES:
            if self.people[role].process is None:
                self.start(role)
        for role in ROLES:
            self._wait(self.people[role])
        time.sleep(seconds)
        victims = self.random.choice((["writer"], ["reader"], ["far"], ["writer", "reader"], ROLES))
        for role in self.random.sample(victims, len(victims)):
            self.people[role].kill()
            # Its successors may die while they recover the store.
            while self.random.random() < 0.3:
                self.start(role)
                time.sleep(self.random.uniform(0.1, 0.8))
                self.people[role].kill()
        self.check()
        return "+".join(victims)

    def check(self, *, everything: bool = False) -> None:
        """Look at all three stores, beside those who are alive.

        Raises:
          Violation: something is wrong.
        """
        # What is said before a look is surely there then; the writer is looked at last, as it is
        # ahead of whoever follows it.
        for role in reversed(ROLES):
            if everything:
                self.compared[role] = [0, 0]
            trio.run(self._look, self.people[role])

    async def _look(self, person: Person) -> None:
        keys = self.people["writer"].keys
        said = {name: getattr(person, name) for name in ("committed", "acknowledged", "held")}
        async with corestore.open(person.store) as store:
            cores = [await store.get(key=key) for key in keys]
            for number, core in enumerate(cores):
                where = f"the {person.role}'s {NAMES[number]}"
                if core.fork:
                    raise Violation(f"{where} has fork {core.fork}")
                least = max(said["committed"][number], said["acknowledged"][number])
                if person.role == "writer" and core.length < least:
                    raise Violation(f"{where} has {core.length} blocks, {least} were committed")
                if core.contiguous_length < said["held"][number]:
                    raise Violation(
                        f"{where} has {core.contiguous_length} blocks, {said['held'][number]} were"
                        " held"
                    )
                self._compare_hashes(person, number, core, where)
                await self._compare_blocks(person, number, core, where)
            if person.role == "writer":
                content, metadata = cores
                last = await metadata.get(metadata.length - 1) if metadata.length else root(0)
                # Beside a living writer the two are read one after the other.
                if person.process is None and last != root(content.length):
                    raise Violation(f"content has {content.length} blocks, not {last[:20]!r}")

    def _compare_hashes(
        self, person: Person, number: int, core: corestore.Hypercore, where: str
    ) -> None:
        """Note the head; the writer, who has all nodes, must have all heads ever seen."""
        if person.role == "writer":
            for length, seen in self.heads[number].items():
                if core.length < length:
                    raise Violation(f"{where} has {core.length} blocks, a peer was shown {length}")
                if core.tree_hash(length) != seen:
                    raise Violation(f"{where} has another history before block {length}")
        if core.length:
            self.heads[number][core.length] = core.tree_hash()

    async def _compare_blocks(
        self, person: Person, number: int, core: corestore.Hypercore, where: str
    ) -> None:
        start = self.compared[person.role][number]
        self.compared[person.role][number] = core.contiguous_length
        if person.role == "writer" and core.contiguous_length < core.length:
            raise Violation(f"{where} has lost block {core.contiguous_length}")
        for run in core.held(start, core.length):
            for index in range(*run):
                data = await core.get(index)
                if (number == 0 and data != block(0, index)) or not data:
                    raise Violation(f"{where} has other bytes in block {index}")

    def settle(self) -> None:
        """Everybody gets everything, with a writer that appends no more.

        Raises:
          Violation: somebody does not, or something is wrong then.
        """
        writer = self.people["writer"]
        writer.kill()
        writer.acknowledged = (0, 0)
        self.start("writer", quiet=True)
        for role in ROLES[1:]:
            if self.people[role].process is None:
                self.start(role)
        end = time.monotonic() + QUIET_SECONDS
        while not all(
            self.people[role].held == writer.acknowledged != (0, 0) for role in ROLES[1:]
        ):
            if time.monotonic() > end:
                told = {role: person.held for role, person in self.people.items()}
                raise Violation(f"the writer has {writer.acknowledged}, the others {told}")
            time.sleep(0.02)
        self.check(everything=True)

    def _wait(self, person: Person) -> None:
        if not person.ready.wait(START_SECONDS):
            raise Violation(f"the {person.role} does not start: {person.errors.read_text()}")

    def end(self) -> None:
        """Leave no process."""
        for person in self.people.values():
            with contextlib.suppress(Violation):
                person.kill()


@contextlib.contextmanager
def world(top: Path, source: random.Random) -> Iterator[World]:
    """A new world below *top*; its processes are gone at the end."""
    made = World(top, source)
    try:
        yield made
    finally:
        made.end()


def play(made: World, source: random.Random) -> str:
    """A round; a line about it."""
    told = made.round(min(3.0, source.expovariate(3)))
    lengths = [max(heads, default=0) for heads in made.heads]
    return f"{told:18} {lengths[0]}+{lengths[1]} blocks"


def main() -> None:
    """Parse the options and run."""
    match sys.argv[1:]:
        case ["writer", path, port, seed, *quiet]:
            trio.run(lambda: write(path, int(port), int(seed), quiet=bool(quiet)))
            return
        case [("reader" | "far"), path, port, peer, *keys]:
            trio.run(lambda: read(path, int(port), int(peer), *keys))
            return
    about = "Kill replicating processes and check what is left."
    crash_rounds.run(
        crash_rounds.arguments(about, rounds=200).parse_args(),
        world,
        play,
        rounds_of_a_world=ROUNDS_OF_A_WORLD,
        settle=World.settle,
    )


if __name__ == "__main__":
    main()
