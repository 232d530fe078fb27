"""Runs `async def` tests under trio, as trio's own test suite does.

A test may ask for `autojump_clock` (virtual time: sleeps cost nothing) and `nursery` (cancelled
when the test returns). Other fixtures are ordinary ones; what must be opened is opened in the test.
Without virtual time a test has a `PatientClock`: real time, of which no stall counts.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
from typing import Any

import hypothesis
import pytest
import trio
import trio.testing

from tests.support.clocks import PatientClock

# A run of the suite is repeatable; HYPOTHESIS_PROFILE=explore tries other values each time. What
# fails then joins the corpus as an example in the test.
# On a slow machine an example may take any time.
_PATIENT: Any = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("repeatable", derandomize=True, **_PATIENT)
hypothesis.settings.register_profile("explore", derandomize=False, **_PATIENT)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


class _NurseryPlaceholder:
    """Stands for the nursery until the test runs inside trio."""


@pytest.fixture
def nursery() -> _NurseryPlaceholder:
    return _NurseryPlaceholder()


@pytest.fixture
def autojump_clock(monkeypatch: pytest.MonkeyPatch) -> trio.testing.MockClock:
    """Virtual time, which stands still while a worker thread is at work.

    Trio's own clock takes a loop that waits for a thread for one with nothing to do, and jumps:
    on a busy machine a deadline of 1,000 s then passes before a thread has had its turn.
    """
    clock = trio.testing.MockClock(autojump_threshold=0)
    run_sync = trio.to_thread.run_sync
    at_work = 0

    @functools.wraps(run_sync)
    async def run_with_time_standing(*arguments: Any, **options: Any) -> Any:
        nonlocal at_work
        at_work += 1
        clock.autojump_threshold = math.inf
        try:
            return await run_sync(*arguments, **options)
        finally:
            at_work -= 1
            if not at_work:
                clock.autojump_threshold = 0

    monkeypatch.setattr(trio.to_thread, "run_sync", run_with_time_standing)
    return clock


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return
    function = pyfuncitem.obj
    clocks = [v for v in pyfuncitem.funcargs.values() if isinstance(v, trio.testing.MockClock)]

    @functools.wraps(function)
    def run(**arguments: Any) -> None:
        async def main() -> None:
            names = [n for n, v in arguments.items() if isinstance(v, _NurseryPlaceholder)]
            if not names:
                await function(**arguments)
                return
            async with trio.open_nursery() as opened:
                await function(**{**arguments, names[0]: opened})
                opened.cancel_scope.cancel()

        clock = clocks[0] if clocks else PatientClock()
        trio.run(main, clock=clock, strict_exception_groups=True)

    pyfuncitem.obj = run
