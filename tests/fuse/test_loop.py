"""The wait for requests: quick when there is one, and never at the cost of other tasks."""

from __future__ import annotations

import socket

import pytest
import trio
from trio.testing import assert_no_checkpoints, wait_all_tasks_blocked

pytest.importorskip("pyfuse3")

import trio.lowlevel

from hyperfs.fuse.loop import FastLowlevel

pytestmark = pytest.mark.fuse

FOREVER = 10**18


@pytest.fixture
def pair():
    a, b = socket.socketpair()
    with a, b:
        yield a, b


async def test_what_is_ready_is_returned_without_a_checkpoint(pair):
    here, there = pair
    waiting = FastLowlevel(yield_ns=FOREVER)
    there.send(b"x")
    await waiting.wait_readable(here.fileno())
    with assert_no_checkpoints():
        for _ in range(100):
            await waiting.wait_readable(here.fileno())


async def test_other_tasks_run_however_busy_it_is(pair):
    here, there = pair
    waiting = FastLowlevel(yield_ns=100_000)
    there.send(b"x")
    ran = 0

    async def other():
        nonlocal ran
        while ran < 50:
            await trio.lowlevel.checkpoint()
            ran += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        while ran < 50:
            await waiting.wait_readable(here.fileno())


async def test_what_comes_while_it_spins_is_returned(pair):
    here, there = pair
    waiting = FastLowlevel(spin_ns=FOREVER, yield_ns=FOREVER)
    there.send(b"x")
    await waiting.wait_readable(here.fileno())
    here.recv(1)
    async with trio.open_nursery() as nursery:

        async def send():
            await trio.to_thread.run_sync(there.send, b"y")

        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        await waiting.wait_readable(here.fileno())
    assert here.recv(1) == b"y"


async def test_it_sleeps_when_nothing_comes_and_is_woken_by_closing(pair):
    here, _ = pair
    waiting = FastLowlevel()
    woken = []

    async def wait():
        try:
            await waiting.wait_readable(here.fileno())
        except trio.ClosedResourceError:
            woken.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        waiting.notify_closing(here.fileno())
    assert woken == [True]
