"""Ctrl-C at one line after the other of what opens and closes a store and a drive.

`python -m tests.support.interrupted` runs a small program again and again, each time with the
signal at another line, and tells how each run ended.
"""

from __future__ import annotations

import signal
import sys
from inspect import iscode

import trio

import corestore
import hyperfs
from corestore import store
from hyperfs import opening

OPENING = {each.__wrapped__.__code__ for each in (store.open, store.running, opening.open)}
# And the tasks that they define.
OURS = OPENING | {const for each in OPENING for const in each.co_consts if iscode(const)}


async def program():
    async with corestore.open(None) as opened:
        core = await opened.get(name="log")
        try:
            await core.append(b"block")
            async with hyperfs.open(opened, name="photos", create=True) as drive:
                await drive.write("/file", b"bytes")
        finally:
            # Needs what runs in the background.
            with trio.CancelScope(shield=True):
                await opened.sync()


def run(interrupted):
    """Run the program, with Ctrl-C at the line whose number that is; how many lines there were."""
    lines = 0

    def at_line(frame, event, _):
        nonlocal lines
        if event == "line":
            lines += 1
            if lines == interrupted:
                signal.raise_signal(signal.SIGINT)
        return at_line

    sys.settrace(lambda frame, event, _: at_line if frame.f_code in OURS else None)
    try:
        trio.run(program)
    finally:
        sys.settrace(None)
    return lines


def main():
    # What was started in the background by a shell has the signal ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for line in range(1, run(None) + 1):
        try:
            run(line)
        # What the program ends with is what is told.
        except BaseException as error:
            told = error
            while isinstance(told, BaseExceptionGroup):
                told = told.exceptions[0]
            print(type(told).__name__, flush=True)
        else:
            print("nothing", flush=True)


main()
