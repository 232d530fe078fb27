"""A replication machine driven by hand, message by message."""

from __future__ import annotations

import random

from corestore.replication.actions import CommitBatch, Drop, Send, Serve, Settle
from corestore.replication.machine import Replicator
from corestore.replication.messages import (
    Range,
    RequestMessage,
    Sync,
)
from tests.support.network import MemoryCore

PEER = 7
# Blocks 0, 1, 2 and 99, as a bitfield carries them.
TWO_WORDS = b"\7" + bytes(11) + b"\x08\0\0\0"


def blocks(count, size=10):
    return [b"%0*d" % (size, number) for number in range(count)]


class Machine:
    """A machine and its core, driven by hand. `sent` are the messages of the last drain."""

    def __init__(self, core, *, commit=True) -> None:
        self.core = core
        self.machine = Replicator(core.key, core, rng=random.Random(0))
        self.commit = commit
        self.now = 100.0
        self.actions = []
        self.commits = []

    def drain(self):
        self.actions = []
        while new := self.machine.actions(self.now):
            self.actions += new
            for action in new:
                if isinstance(action, CommitBatch):
                    self.commits.append(action)
            if self.commit:
                self.write()
        return self.sent

    def write(self):
        """Commit everything that waits for it."""
        while self.commits:
            commit = self.commits.pop(0)
            self.core.commit(commit)
            self.machine.committed(commit)

    @property
    def sent(self):
        return [a.message for a in self.actions if isinstance(a, Send) and a.peer == PEER]

    def sent_to(self, peer):
        return [a.message for a in self.actions if isinstance(a, Send) and a.peer == peer]

    def of(self, kind):
        return [a for a in self.actions if isinstance(a, kind)]

    @property
    def drops(self):
        return self.of(Drop)

    @property
    def outcomes(self):
        return {a.ticket: a.outcome for a in self.of(Settle)}

    def open(self, peer=PEER, allowance=None):
        self.machine.peer_opened(peer, seeks=True, allowance=allowance)
        return self.drain()

    def hear(self, *messages, peer=PEER):
        for message in messages:
            self.machine.receive(peer, message, self.now)
        return self.drain()

    def answer(self, request, peer=PEER):
        self.machine.receive(peer, request, self.now)
        self.drain()
        assert Serve(peer, request) in self.actions
        return self.machine.answer(peer, request, block=self.core.block)


def writer(count=5):
    core = MemoryCore.create()
    if count:
        core.append(*blocks(count))
    return Machine(core)


def reader(source, **options):
    return Machine(MemoryCore(source.core.key), **options)


def sync(length, remote=0, **flags):
    options = {
        "fork": 0,
        "can_upgrade": True,
        "uploading": True,
        "downloading": True,
        "has_manifest": True,
    }
    return Sync(length=length, remote_length=remote, **{**options, **flags})


def synced_reader(source, *, have=True, allowance=None, **options):
    """A reader that holds the head and no blocks, with one open peer that has everything."""
    target = reader(source, **options)
    target.open(allowance=allowance)
    length = source.core.head.length
    target.hear(sync(length))
    (request,) = [m for m in target.sent if isinstance(m, RequestMessage)]
    source.open()
    data = source.answer(request)
    target.commit, commit = True, target.commit
    target.hear(data)
    target.commit = commit
    target.hear(sync(length, length))
    if have:
        target.hear(Range(0, length))
    return target
