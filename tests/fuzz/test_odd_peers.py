"""Peers that know the key and the log, and say anything in any order: truth, half-truth, nonsense.

Whatever they say, it ends at the worst in their link being dropped; nothing is a surprise to who
hears it, and everybody else goes on (`scene` looks at both).
"""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace

import pytest
import trio

import corestore
from corestore import BlockNotAvailable, Manifest
from corestore.replication import messages
from corestore.replication.messages import (
    BitfieldMessage,
    Cancel,
    Data,
    Extension,
    NoData,
    Range,
    RequestMessage,
    Sync,
    Unwant,
    Want,
)
from corestore.tree import InvalidRequest
from corestore.tree.types import (
    BlockRequest,
    HashProof,
    HashRequest,
    Node,
    Proof,
    Request,
    SeekProof,
    SeekRequest,
    UpgradeRequest,
)
from corestore.wire.mux import ChannelMessage
from tests.support.hostile import GREATEST, has, scene

COUNT = 200
EDGES = (0, 1, 2, 3, 31, 32, 63, 64, 127, 128, 199, 200, 201, 4095, 4096, 1 << 21, 1 << 32, 1 << 40)
ANOTHER = Manifest.default(bytes(32))


class Babbler:
    """What one such peer says about *core*, drawn from *rng*."""

    def __init__(self, core, rng) -> None:
        self.core = core
        self.rng = rng

    def maybe(self, chance=0.5):
        return self.rng.random() < chance

    def number(self):
        rng = self.rng
        return rng.choice(
            (*EDGES, GREATEST - 1, GREATEST, rng.randrange(COUNT), rng.getrandbits(53))
        )

    def nodes(self):
        rng = self.rng
        made = []
        for _ in range(rng.choice((0, 1, 3, 10, 64, 100))):
            node = self.core._state.node(rng.randrange(2 * COUNT)) if self.maybe() else None
            node = node or Node(self.number(), self.number(), rng.randbytes(32))
            made.append(node._replace(size=self.number()) if self.maybe(0.2) else node)
        return tuple(made)

    def truth(self, request):
        with contextlib.suppress(InvalidRequest, BlockNotAvailable):
            return self.core.proof(request)
        return Proof(0)

    # -- answers -----------------------------------------------------------------------------------

    def answer(self, asked):
        """What is said to a request."""
        proof = self.truth(asked.request)
        manifest = self.core.manifest if asked.manifest else None
        what = self.rng.random()
        if what < 0.1:
            return [NoData(asked.id, self.rng.choice((1, 2)))]
        if what < 0.2:
            return []
        if what < 0.65:
            for _ in range(self.rng.choice((1, 1, 2, 3))):
                proof = self.rng.choice(self.CHANGES)(self, proof)
            manifest = self.rng.choice((manifest, manifest, self.core.manifest, None, ANOTHER))
        return [Data(asked.id, proof, manifest)] * self.rng.choice((1, 1, 1, 2, 40))

    def _block(self, proof):
        own = proof.block
        if own is None or self.maybe(0.2):
            request = BlockRequest(self.rng.randrange(COUNT), self.rng.randrange(9))
            return replace(proof, block=self.truth(Request(0, request)).block)
        what = self.rng.randrange(4)
        if what == 0:
            own = replace(own, nodes=own.nodes + self.nodes())
        elif what == 1:
            own = replace(own, nodes=own.nodes[:-1])
        elif what == 2:
            own = replace(own, nodes=tuple(n._replace(size=GREATEST) for n in own.nodes))
        else:
            own = replace(own, value=self.rng.randbytes(self.rng.choice((0, 1, 70_000))))
        return replace(proof, block=own)

    def _upgrade(self, proof):
        own = proof.upgrade
        if own is None or self.maybe(0.2):
            request = Request(0, upgrade=UpgradeRequest(0, COUNT))
            return replace(proof, upgrade=self.truth(request).upgrade)
        what = self.rng.randrange(5)
        if what == 0:
            own = replace(own, nodes=own.nodes + self.nodes())
        elif what == 1:
            own = replace(own, additional_nodes=own.additional_nodes + self.nodes())
        elif what == 2:
            own = replace(own, start=self.number())
        elif what == 3:
            own = replace(own, length=self.number())
        else:
            own = replace(own, nodes=tuple(n._replace(size=GREATEST) for n in own.nodes))
        return replace(proof, upgrade=own)

    def _seek(self, proof):
        return replace(proof, seek=SeekProof(self.number(), self.nodes()))

    def _hash(self, proof):
        return replace(proof, hash=HashProof(self.number(), self.nodes()))

    def _fork(self, proof):
        return replace(proof, fork=self.number())

    CHANGES = (_block, _block, _block, _upgrade, _upgrade, _upgrade, _seek, _hash, _fork)

    # -- unasked -----------------------------------------------------------------------------------

    def told(self):
        """Something that nobody asked for."""
        return self.rng.choice(self.SAYINGS)(self)

    def _request(self):
        rng = self.rng
        parts = {}
        if self.maybe():
            parts["block"] = BlockRequest(self.number(), self.number())
        elif self.maybe():
            parts["hash"] = HashRequest(self.number(), self.number())
        if self.maybe(0.4):
            parts["seek"] = SeekRequest(self.number(), rng.choice((0, 8, GREATEST)))
        if self.maybe(0.4):
            parts["upgrade"] = UpgradeRequest(self.number(), self.number())
        request = Request(rng.choice((0, 0, 0, 1, GREATEST)), **parts)
        return RequestMessage(rng.choice((0, 1, 2, GREATEST)), request, self.maybe(), self.number())

    def _requests(self):
        return [self._request() for _ in range(self.rng.choice((1, 1, 10, 70)))]

    def _state(self):
        flags = [self.maybe(0.7) for _ in range(5)]
        fork = self.rng.choice((0, 0, 0, 1, GREATEST))
        return [Sync(fork, self.number(), self.number(), *flags)]

    def _honest(self):
        return [Range(0, COUNT), has(self.rng.choice((COUNT, COUNT + 1, 1000)))]

    def _range(self):
        start = self.number()
        return [Range(start, min(self.number(), GREATEST - start), self.maybe())]

    def _bits(self):
        start = min(self.number(), GREATEST - (1 << 22)) & ~31
        return [BitfieldMessage(start, self.rng.randbytes(4) * self.rng.choice((1, 8, 60_000)))]

    def _cancels(self):
        return [Cancel(self.number()) for _ in range(self.rng.choice((1, 300)))]

    def _wants(self):
        length = 1 << self.rng.randrange(5, 22)
        kind = self.rng.choice((Want, Unwant))
        return [kind(self.number() & ~(length - 1), length, self.maybe())] * self.rng.choice(
            (1, 50)
        )

    def _unasked(self):
        request = Request(0, BlockRequest(self.rng.randrange(COUNT), 8))
        return [Data(self.number(), self.truth(request)), NoData(self.number(), 1)]

    def _extension(self):
        return [Extension(self.rng.choice(("", "x", "y" * 2000)), bytes(5000))] * 20

    SAYINGS = (
        _requests,
        _state,
        _state,
        _honest,
        _range,
        _bits,
        _cancels,
        _wants,
        _unasked,
        _extension,
    )


async def babble(found, victim, rng):
    """Be such a peer, until it was dropped or has said enough."""
    peer, ended = await found.attack(victim=victim)
    babbler = Babbler(found.core, rng)
    with contextlib.suppress(
        trio.BrokenResourceError, trio.ClosedResourceError, corestore.CorestoreError, AssertionError
    ):
        channel = await peer.open_core(found.core)
        await peer.tell(channel, *babbler._honest())
        for _ in range(rng.choice((10, 50))):
            with trio.move_on_after(rng.choice((0, 0, 0.002))):
                if not await peer.receive():
                    break
            while peer.events:
                event = peer.events.pop(0)
                if isinstance(event, ChannelMessage):
                    asked = messages.decode(event.type, event.body)
                    if isinstance(asked, RequestMessage):
                        await peer.tell(channel, *babbler.answer(asked))
            if babbler.maybe(0.7):
                await peer.tell(channel, *babbler.told())
            elif babbler.maybe(0.2):
                channel.close()
                channel = await peer.open_core(found.core)
    if babbler.maybe() or ended.is_set():
        await peer.hang_up()


async def want(copy, rng):
    """Be a reader who wants one thing or another."""
    uses = (
        lambda: copy.download(0, COUNT),
        lambda: copy.download(blocks=rng.sample(range(COUNT), 20)),
        lambda: copy.download(live=True),
        lambda: copy.get(rng.randrange(COUNT)),
        lambda: copy.seek(rng.randrange(copy.byte_length + 1)),
        lambda: copy.update(),
    )
    # The store closes under it.
    with contextlib.suppress(trio.ClosedResourceError):
        await rng.choice(uses)()


@pytest.mark.parametrize("seed", range(16))
async def test_whatever_peers_say_everybody_else_goes_on(seed, caplog, autojump_clock):
    rng = random.Random(seed)
    async with scene(caplog, count=COUNT) as found:
        if rng.random() < 0.5:
            await found.copy.update()
        for _ in range(rng.randrange(3)):
            found.nursery.start_soon(want, found.copy, rng)
        victim = rng.choice((found.reading, found.reading, found.writing))
        with trio.move_on_after(60):
            async with trio.open_nursery() as nursery:
                for _ in range(rng.choice((1, 2, 3))):
                    nursery.start_soon(babble, found, victim, rng)
