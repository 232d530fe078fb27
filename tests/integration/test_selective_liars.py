"""Peers that serve well most of the time, or promise everything: the reader comes through."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
import trio

from corestore.replication import answers
from corestore.replication.messages import Data, NoData, Range
from corestore.tree import build
from tests.support.builders import block
from tests.support.hostile import has, scene

COUNT = 400


async def serve(peer, channel, core, spoil):
    """Answer requests as the writer would, and let *spoil* change the answers it likes."""
    state = core._state
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while request := await peer.request():
            await trio.sleep(0.0005)
            proof = build(request.request, state.published, nodes=state, block=state.block)
            told = Data(request.id, proof, state.manifest if request.manifest else None)
            await peer.tell(channel, *spoil(told))


def bad_value(data):
    return replace(data, proof=replace(data.proof, block=replace(data.proof.block, value=b"bad")))


def bad_nodes(data):
    nodes = tuple(node._replace(hash=bytes(32)) for node in data.proof.block.nodes)
    return replace(data, proof=replace(data.proof, block=replace(data.proof.block, nodes=nodes)))


def every(number, spoil):
    """Spoil the answer of every so manieth block, and no other."""

    def answer(data):
        asked = data.proof.block
        return [data] if asked is None or asked.index % number else spoil(data)

    return answer


LIARS = {
    "one block in 50 is another": every(50, lambda data: [bad_value(data)]),
    "one proof in 50 is wrong": every(50, lambda data: [bad_nodes(data)]),
    "one block in 3 is not given": every(3, lambda data: [NoData(data.id, 1)]),
    "one block in 3 is not given and promised again": every(
        3, lambda data: [NoData(data.id, 1), Range(0, COUNT)]
    ),
    "one block in 3 is never answered": every(3, lambda data: []),
    "one block in 3 comes twice": every(3, lambda data: [data, data]),
}


@pytest.mark.parametrize("name", LIARS)
async def test_one_that_lies_now_and_then_does_not_keep_blocks_from_us(
    name, caplog, autojump_clock
):
    async with scene(caplog, count=COUNT) as found:
        for _ in range(3):
            peer, _ended = await found.attack()
            channel = await peer.open_core(found.core)
            await peer.tell(channel, has(COUNT), Range(0, COUNT))
            found.nursery.start_soon(serve, peer, channel, found.core, LIARS[name])
        await found.check()
        assert [await found.copy.get(i) for i in range(COUNT)] == [block(i) for i in range(COUNT)]


async def test_one_that_promises_without_end_what_it_refuses_is_dropped(
    caplog, autojump_clock, monkeypatch
):
    monkeypatch.setattr(answers, "MAX_REFUSALS", 200)
    async with scene(caplog, count=COUNT) as found:
        # The honest peer gives the head; what it has cleared only the liar offers.
        await found.copy.update()
        await found.core.clear(10, 20)
        peer, ended = await found.attack()
        channel = await peer.open_core(found.core)
        await peer.tell(channel, has(COUNT), Range(0, COUNT))

        def refuse(data):
            return [NoData(data.id, 1), Range(0, COUNT)]

        with trio.move_on_after(60):
            found.nursery.start_soon(serve_refusals, peer, channel, refuse)
            await found.copy.get(15)
        await ended.wait()
        monkeypatch.undo()
        await fill_again(found)
    assert "refusals of what was announced" in caplog.text


async def serve_refusals(peer, channel, refuse):
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while request := await peer.request():
            await trio.sleep(0.001)
            await peer.tell(channel, *refuse(request))


async def fill_again(found):
    """The scene ends with a full copy: give back what was cleared, as another history."""
    await found.core.truncate(10)
    await found.core.append(*[block(i) for i in range(10, COUNT)])
    await found.writing.sync()
