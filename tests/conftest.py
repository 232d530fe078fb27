"""Runs `async def` tests under trio, as trio's own test suite does.

A test may ask for `autojump_clock` (virtual time: sleeps cost nothing) and `nursery` (cancelled
when the test returns). Other fixtures are ordinary ones; what must be opened is opened in the test.
"""

from __future__ import annotations

import functools
import inspect
import os
from typing import Any

import hypothesis
import pytest
import trio
import trio.testing

# A run of the suite is repeatable; HYPOTHESIS_PROFILE=explore tries other values each time. What
# fails then joins the corpus as an example in the test.
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.register_profile("explore", derandomize=False)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


class _NurseryPlaceholder:
    """Stands for the nursery until the test runs inside trio."""


@pytest.fixture
def nursery() -> _NurseryPlaceholder:
    return _NurseryPlaceholder()


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=0)


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

        trio.run(main, clock=clocks[0] if clocks else None, strict_exception_groups=True)

    pyfuncitem.obj = run
