"""Peers that claim ever more, and prove nothing of it: what is remembered of that is bounded."""

from __future__ import annotations

import contextlib
import tracemalloc

import pytest
import trio
import trio.testing

from corestore.replication.messages import BitfieldMessage, NoData, Range, Unwant, Want
from tests.support.hostile import GREATEST, has, scene

MEGABYTE = 1 << 20
ROUNDS = 8
AT_ONCE = 250
# The bound is 32 times as high; a page takes some 600 bytes with what holds it.
PAGES = 512
BOUND = MEGABYTE
WORDS = b"\x55" * 64


def lengths(n):
    return [has(1000 + n)]


def lengths_and_ranges(n):
    return [has(1000 + n * 1000), Range(0, 1000 + n * 1000)]


def forks(n):
    return [has(1000 + n, fork=n + 1), Range(0, 1000 + n)]


def ranges(n):
    return [Range(4096 * 9 * n + n % 4096, 1 + n % 5000)]


def far_ranges(n):
    return [Range((n * 0x9E3779B97F4A7C15) % (GREATEST - 10_000), 9000)]


def bitfields(n):
    return [BitfieldMessage(8192 * n, WORDS)]


def far_bitfields(n):
    return [BitfieldMessage((n * 0x9E3779B97F4A7C15) % (1 << 40) & ~31, WORDS)]


def given_and_taken(n):
    return [Range(3 * n, 2), Range(3 * n + 1, 1, drop=True)]


def wants(n):
    return [Want(n * 32, 32), Unwant(n * 32, 32)]


CLAIMS = [
    lengths,
    lengths_and_ranges,
    forks,
    ranges,
    far_ranges,
    bitfields,
    far_bitfields,
    given_and_taken,
    wants,
]


async def refuse_everything(peer, channel):
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while request := await peer.request():
            await peer.tell(channel, NoData(request.id, 1))


@pytest.mark.parametrize("claims", CLAIMS, ids=lambda claims: claims.__name__)
async def test_endless_claims_are_bounded_in_memory(claims, caplog, monkeypatch):
    monkeypatch.setattr("corestore.replication.peer.MAX_REMOTE_PAGES", PAGES)
    async with scene(caplog) as found:
        await found.copy.update()
        peer, ended = await found.attack()
        channel = await peer.open_core(found.core)
        await peer.tell(channel, has(GREATEST))
        found.nursery.start_soon(refuse_everything, peer, channel)
        # Somebody follows the log, and waits for blocks that only the liar claims to have.
        following = trio.CancelScope()

        async def follow():
            with following:
                await found.copy.download(0, 100_000_000, live=True)

        found.nursery.start_soon(follow)
        await trio.testing.wait_all_tasks_blocked()
        tracemalloc.start()
        try:
            for step in range(ROUNDS):
                if ended.is_set():
                    break
                numbers = range(step * AT_ONCE, (step + 1) * AT_ONCE)
                with contextlib.suppress(trio.BrokenResourceError):
                    await peer.tell(channel, *[told for n in numbers for told in claims(n)])
                await trio.testing.wait_all_tasks_blocked()
            # Whether it is still there or was dropped for it.
            assert tracemalloc.get_traced_memory()[0] < BOUND
        finally:
            tracemalloc.stop()
            following.cancel()
