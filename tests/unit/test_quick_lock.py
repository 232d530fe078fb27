"""The lock that is no checkpoint while it is free."""

from __future__ import annotations

import random

import trio
from trio.testing import assert_no_checkpoints, wait_all_tasks_blocked

from hyperfs.fuse.locks import QuickLock


async def test_a_free_lock_is_taken_without_a_checkpoint():
    lock = QuickLock()
    with assert_no_checkpoints():
        async with lock:
            pass


async def test_one_task_at_a_time_is_inside(autojump_clock):
    lock, inside, rng = QuickLock(), [], random.Random(1)

    async def work():
        for _ in range(20):
            async with lock:
                assert not inside
                inside.append(1)
                await trio.sleep(rng.random())
                inside.pop()
            if rng.random() < 0.5:
                await trio.sleep(rng.random())

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(work)


async def test_a_cancelled_waiter_takes_no_wake_up_with_it():
    lock, got = QuickLock(), []

    async def wait(name, scope):
        with scope:
            async with lock:
                got.append(name)

    async with trio.open_nursery() as nursery:
        first, second = trio.CancelScope(), trio.CancelScope()
        async with lock:
            nursery.start_soon(wait, "first", first)
            await wait_all_tasks_blocked()
            nursery.start_soon(wait, "second", second)
            await wait_all_tasks_blocked()
            first.cancel()
            await wait_all_tasks_blocked()
        await wait_all_tasks_blocked()
    assert got == ["second"]


async def test_a_waiter_that_is_cancelled_just_when_woken_still_leaves_it_free():
    lock = QuickLock()
    scope = trio.CancelScope()

    async def wait():
        with scope:
            async with lock:
                await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        async with lock:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
        scope.cancel()
    with assert_no_checkpoints():
        async with lock:
            pass


async def test_an_error_inside_frees_the_lock():
    lock = QuickLock()
    try:
        async with lock:
            raise KeyError
    except KeyError:
        pass
    with assert_no_checkpoints():
        async with lock:
            pass
