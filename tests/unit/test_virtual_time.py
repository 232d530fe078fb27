"""The tests' own clocks: what they count."""

from __future__ import annotations

import time

import trio
import trio.testing

from tests.support.clocks import SLICE_SECONDS
from tests.support.limits import HANG_SECONDS


async def test_virtual_time_stands_still_while_a_thread_works(autojump_clock):
    before = trio.current_time()
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            # The one short real sleep of the suite: a thread that is slow to finish.
            nursery.start_soon(trio.to_thread.run_sync, time.sleep, 0.05)
            await trio.to_thread.run_sync(time.sleep, 0.01)
    assert trio.current_time() == before


async def test_virtual_time_goes_on_once_the_thread_is_done(autojump_clock):
    before = trio.current_time()
    await trio.to_thread.run_sync(int)
    await trio.sleep(1000)
    assert trio.current_time() == before + 1000


async def test_of_a_stall_in_real_time_a_slice_counts(monkeypatch):
    stalled, looked = 0.0, time.perf_counter
    monkeypatch.setattr("time.perf_counter", lambda: looked() + stalled)
    with trio.fail_after(HANG_SECONDS):
        for _ in range(10):
            stalled += 100
            await trio.lowlevel.checkpoint()


async def test_patience_ends_in_real_time_too():
    with trio.move_on_after(2.5 * SLICE_SECONDS) as scope:
        await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_a_loop_in_real_time_comes_to_rest():
    await trio.testing.wait_all_tasks_blocked(0.02)
