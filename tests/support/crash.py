"""Writes to a store until it is killed, and checks what is left of it.

Three cores: *content* and *metadata* of ours, written together as a drive does, so that the last
block of metadata tells how long content is; and one of somebody else's, downloaded in random order
and cleared again. Every block is known from its number, so anything stored can be checked.
"""

from __future__ import annotations

import os
import random
import threading
from typing import TYPE_CHECKING

from corestore import crypto
from corestore.commit import Commit, Run
from corestore.storage import DiskStorage
from corestore.storage.base import sync
from tests.support.storage import RemoteLog, append, append_in_two, held, record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from corestore.storage import CoreStorage, Storage, SyncTicket

CONTENT, METADATA, REMOTE = 0, 1, 2
REMOTE_LENGTH = 300
SIZES = (40, 700, 5000, 70_000)


def block(core: int, index: int) -> bytes:
    """The bytes of a block of content or of the remote core."""
    source = random.Random(core << 32 | index)
    return source.randbytes(source.choice(SIZES))


def remote_log() -> RemoteLog:
    """The whole log that is downloaded."""
    return RemoteLog([block(REMOTE, index) for index in range(REMOTE_LENGTH)])


class Writer:
    """Random operations on a store; `say` is told of what happened, line by line.

    `commit C M` after a transaction, `ack C M` after a sync, with the lengths of content and
    metadata; `clear A B` before content blocks are cleared.
    """

    def __init__(
        self, storage: Storage, source: random.Random, log: RemoteLog, say: Callable[[str], None]
    ) -> None:
        self.storage = storage
        self.source = source
        self.log = log
        self.say = say
        self.content = storage.create_core(record(CONTENT))
        self.metadata = storage.create_core(record(METADATA))
        self.remote = storage.create_core(record(REMOTE, ours=False))
        if self.remote.head.length == 0:
            storage.commit([(self.remote, log.upgrade())])

    def write(self) -> None:
        """One random commit."""
        kind = self.source.random()
        if kind < 0.6:
            self._append()
        elif kind < 0.95:
            indices = self.source.sample(range(REMOTE_LENGTH), self.source.randrange(1, 6))
            self.storage.commit([(self.remote, self.log.fetched(indices))])
        else:
            self._clear()

    def _append(self) -> None:
        length = self.content.head.length
        count = self.source.randrange(0, 6)
        blocks = [block(CONTENT, length + i) for i in range(count)]
        extra = [b"node %d" % i for i in range(self.source.randrange(3))]
        root = b"root %d " % (length + count) + bytes(self.source.randrange(200))
        commits = [(self.metadata, append(self.metadata.head, [*extra, root]))]
        if count > 2:
            # As what is too large for one transaction; some of them are given up.
            ahead, rest = append_in_two(self.content.head, blocks, self.source.randrange(1, count))
            self.storage.commit([(self.content, ahead)])
            if self.source.random() < 0.3:
                return
            commits.append((self.content, rest))
        elif blocks:
            commits.append((self.content, append(self.content.head, blocks)))
        self.storage.commit(commits)
        self._tell("commit")

    def _clear(self) -> None:
        if self.source.random() < 0.5:
            start = self.source.randrange(REMOTE_LENGTH)
            run = Run(start, start + self.source.randrange(20), held=False)
            self.storage.commit([(self.remote, Commit(runs=[run]))])
            return
        start = self.source.randrange(self.content.head.length + 1)
        end = min(start + self.source.randrange(9), self.content.head.length)
        self.say(f"clear {start} {end}")
        self.storage.commit([(self.content, Commit(runs=[Run(start, end, held=False)]))])

    def begin_sync(self) -> SyncTicket | None:
        """The first step; the others are the storage's."""
        return self.storage.begin_sync()

    def finish_sync(self, ticket: SyncTicket) -> None:
        """The last step, and the news of it."""
        self.storage.finish_sync(ticket)
        self.say(f"ack {self.content.published.length} {self.metadata.published.length}")

    def _tell(self, what: str) -> None:
        self.say(f"{what} {self.content.head.length} {self.metadata.head.length}")


def write_until_killed(path: str, seed: int, pipe: int) -> None:
    """What the child process does: commits, with syncs and checkpoints in other threads."""
    storage = DiskStorage(path)
    source = random.Random(seed)
    say = lambda line: os.write(pipe, line.encode() + b"\n")  # noqa: E731
    writer = Writer(storage, source, remote_log(), say)
    stepped = threading.Event()
    step: list[Callable[[], None]] = []

    def run_steps() -> None:
        while True:
            stepped.wait()
            stepped.clear()
            step[0]()
            step.clear()

    threading.Thread(target=run_steps, daemon=True).start()

    def in_thread(call: Callable[[], None]) -> None:
        step.append(call)
        stepped.set()
        while step:
            writer.write()

    while True:
        ticket = writer.begin_sync()
        if ticket is not None:
            in_thread(lambda ticket=ticket: storage.flush(ticket))  # type: ignore[misc]
            storage.mark_synced(ticket)
            in_thread(lambda ticket=ticket: storage.flush_log(ticket))  # type: ignore[misc]
            writer.finish_sync(ticket)
        if storage.checkpoint_due() or source.random() < 0.1:
            in_thread(storage.checkpoint)
        writer.write()


def write_beside_others(path: str, number: int, count: int) -> None:
    """One of several processes on one store: *count* commits to a core of its own and to the remote
    core, which the others download and clear as well, with a sync now and then."""
    storage = DiskStorage(path)
    source = random.Random(number)
    log = remote_log()
    own = storage.create_core(record(10 + number))
    remote = storage.create_core(record(REMOTE, ours=False))
    storage.commit([(remote, log.upgrade())])
    for _ in range(count):
        kind = source.random()
        if kind < 0.3:
            storage.commit([(own, append(own.head, [block(CONTENT, own.head.length)]))])
        elif kind < 0.8:
            indices = source.sample(range(REMOTE_LENGTH), source.randrange(1, 20))
            storage.commit([(remote, log.fetched(indices))])
        elif kind < 0.9:
            start = source.randrange(REMOTE_LENGTH)
            run = Run(start, start + source.randrange(40), held=False)
            storage.commit([(remote, Commit(runs=[run]))])
        else:
            sync(storage)
            storage.checkpoint()
        index = source.randrange(REMOTE_LENGTH)
        found = remote.block(index)
        _require(found is None or found == log.data[index], f"read a wrong block {index}")
    storage.close()


class Said:
    """What a writer told before it died."""

    def __init__(self) -> None:
        self.committed = (0, 0)
        self.acknowledged = (0, 0)
        self.cleared: set[int] = set()

    def hear(self, line: str) -> None:
        """Take in a line of `Writer.say`."""
        what, one, two = line.split()
        if what == "commit":
            self.committed = (int(one), int(two))
        elif what == "ack":
            self.acknowledged = max(self.acknowledged, (int(one), int(two)))
        else:
            self.cleared |= set(range(int(one), int(two)))


class Lost(AssertionError):
    """The store does not hold what it had promised."""


def check(path: Path, said: Said, log: RemoteLog, *, killed: bool) -> tuple[int, int]:
    """Open the store (which recovers it) and check everything in it.

    After a kill (*killed*) every commit is still there; after a power cut every acknowledged one.
    Returns the lengths of content and metadata.

    Raises:
      Lost: something is missing, wrong, or half there.
    """
    storage = DiskStorage(path)
    try:
        content, metadata, remote = (
            storage.create_core(record(number, ours=number != REMOTE)) for number in range(3)
        )
        lengths = (content.head.length, metadata.head.length)
        least = said.committed if killed else said.acknowledged
        _require(lengths >= least, f"{lengths} is less than {least}")
        for core in (content, metadata, remote):
            _check_blocks(core)
        for index in held(content):
            _require(content.block(index) == block(CONTENT, index), f"content block {index}")
        missing = set(range(lengths[0])) - set(held(content)) - said.cleared
        _require(not missing, f"content blocks {sorted(missing)[:10]} are gone")
        _require(held(metadata) == list(range(lengths[1])), "metadata blocks are gone")
        if lengths[1]:
            root = metadata.block(lengths[1] - 1) or b""
            _require(root.startswith(b"root %d " % lengths[0]), f"{root[:20]!r}, not {lengths[0]}")
        for index in held(remote):
            _require(remote.block(index) == log.data[index], f"remote block {index}")
        published = (content.published, metadata.published)
        _require(published == (content.head, metadata.head), "not published after recovery")
    finally:
        storage.close()
    return lengths


def _check_blocks(core: CoreStorage) -> None:
    for index in held(core):
        leaf, data = core.node(2 * index), core.block(index)
        good = leaf is not None and data is not None and crypto.leaf_hash(data) == leaf.hash
        _require(good, f"block {index} does not have its hash")
    for root in core.head.roots:
        _require(core.node(root.index) == root, f"root {root.index} is gone")


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise Lost(what)


if __name__ == "__main__":
    import sys

    if len(sys.argv) == 3:
        write_until_killed(sys.argv[1], int(sys.argv[2]), 1)
    else:
        write_beside_others(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
