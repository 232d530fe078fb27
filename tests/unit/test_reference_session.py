"""A conversation of two reference peers, in which each part is played by our machine in turn."""

from __future__ import annotations

from dataclasses import replace

from corestore.encoding import Reader
from corestore.replication.messages import (
    Data,
    Range,
    RequestMessage,
    Sync,
    decode,
)
from corestore.tree import batch as tree
from corestore.tree.types import (
    EMPTY_HEAD,
    UpgradeRequest,
)
from tests.support.machine import (
    Machine,
)
from tests.support.network import MemoryCore
from tests.support.vectors import load, unhex


def recorded(side):
    """The messages of the vector's first core that one side sent, in order."""
    session = load("replication-session")
    channel = {"A": 2, "B": 1}[side]
    for frame in session["frames"]:
        if frame["from"] != side:
            continue
        reader = Reader(unhex(frame["hex"]))
        first, second = reader.uint(), reader.uint()
        parts = []
        if (first, second) == (0, 0):
            at = reader.uint()
            while reader.remaining:
                length = reader.uint()
                if not length:
                    at = reader.uint()
                    continue
                item = Reader(reader.fixed(length))
                parts.append((at, item.uint(), item.rest()))
        else:
            parts.append((first, second, reader.rest()))
        for at, type_, body in parts:
            if at == channel:
                yield decode(type_, body)


def lengths(messages):
    return [(m.length, m.remote_length) for m in messages if isinstance(m, Sync)]


def session_core():
    """The recorded writer's core; its secret key was not recorded, its signatures were."""
    session = load("replication-session")
    manifest = next(m.manifest for m in recorded("A") if isinstance(m, Data) and m.manifest)
    core = MemoryCore(MemoryCore.create().key)
    core.key = type(core.key)(unhex(session["key"]))
    core.manifest = manifest
    data = [m for m in recorded("A") if isinstance(m, Data)]
    upgrades = [m.proof.upgrade for m in data if m.proof.upgrade is not None]
    content = [block.encode() for block in session["blocks"]]
    return core, content, [upgrade.signature for upgrade in upgrades]


class SigningCore(MemoryCore):
    """Writes with recorded signatures."""

    writable = True

    def extend(self, content, signature):
        batch = tree.append(self.head, content)
        before = self.head.length
        self.head = self.published = batch.head(signature)
        self.nodes.update((node.index, node) for node in batch.nodes)
        self.blocks.update((s.index, bytes(s.data)) for s in batch.blocks)
        self.bitfield.set(before, batch.length)


def test_as_writer_it_says_what_the_reference_said():
    plain, content, signatures = session_core()
    core = SigningCore(plain.key)
    core.manifest = plain.manifest
    assert core.head == EMPTY_HEAD
    core.extend(content[:5], signatures[0])
    machine = Machine(core)
    heard = list(recorded("B"))
    expected = list(recorded("A"))
    said = machine.open()
    for message in heard:
        if isinstance(message, RequestMessage) and message.request.upgrade == UpgradeRequest(5, 1):
            core.extend(content[5:], signatures[1])
            machine.machine.stored(5, 6)
            machine.machine.published(core.published)
            said += machine.drain()
        if isinstance(message, RequestMessage):
            said.append(machine.answer(message))
        else:
            said += machine.hear(message)

    def essentials(messages):
        return [m for m in messages if isinstance(m, (Data, Range))]

    assert essentials(said) == essentials(expected)
    # The reference repeats itself where the other's flags change, and is silent where the other has
    # caught up; we are not, but what it says we say, in its order.
    assert set(lengths(expected)) <= set(lengths(said))
    flags = {(m.uploading, m.downloading, m.has_manifest) for m in said if isinstance(m, Sync)}
    assert flags == {(True, True, True)}


def test_as_reader_it_asks_what_the_reference_asked():
    core, content, _ = session_core()
    machine = Machine(core)
    core.manifest = None
    said = machine.open()
    for message in recorded("A"):
        if isinstance(message, Data):
            # The reference uses its first id for every request.
            asked = [m for m in said if isinstance(m, RequestMessage)][-1]
            message = replace(message, id=asked.id)
        said += machine.hear(message)
        if core.head.length == 5 and not core.blocks:
            machine.machine.want_block(3)
        if core.head.length == 6 and 5 not in core.blocks:
            machine.machine.want_block(5)
        said += machine.drain()
    assert core.blocks == {3: content[3], 5: content[5]}

    def essentials(messages):
        return [(m.request, m.manifest) for m in messages if isinstance(m, RequestMessage)]

    assert essentials(said) == essentials(recorded("B"))
    # And we acknowledge a new length before asking for it, not only after.
    assert [pair for pair in lengths(said) if pair != (5, 6)] == lengths(recorded("B"))
    core.check()
