"""The tests' own clock: what it counts as idle."""

from __future__ import annotations

import time

import trio


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
