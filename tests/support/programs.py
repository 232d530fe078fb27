"""The example programs in processes of their own: ours, and those of `tests/interop/programs`."""

from __future__ import annotations

import os
import re
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE

import trio

from tests.support.limits import HANG_SECONDS
from tests.support.node import FOLDER, node_modules

TOP = Path(__file__).parent.parent.parent


class Program:
    """A running program whose lines are read and who can be typed to."""

    def __init__(self, process) -> None:
        self._process = process
        self._lines = []
        self._read = 0
        self._arrived = trio.Event()
        self._ended = False
        self.errors = ""

    async def line(self, pattern):
        """Wait for the next line of stdout that matches *pattern*; what comes before is passed."""
        with trio.move_on_after(HANG_SECONDS):
            while True:
                while self._read < len(self._lines):
                    self._read += 1
                    match = re.fullmatch(pattern, self._lines[self._read - 1])
                    if match:
                        return match
                if self._ended:
                    break
                await self._arrived.wait()
        raise AssertionError(f"no line {pattern!r} in {self._lines}; stderr: {self.errors}")

    async def type(self, text):
        """Type *text*, at once."""
        await self._process.stdin.send_all(text.encode())

    async def close_input(self):
        """End what is typed."""
        await self._process.stdin.aclose()

    async def exit_code(self):
        """Wait for the end."""
        with trio.fail_after(HANG_SECONDS):
            return await self._process.wait()

    async def listening(self):
        """The port it listens on."""
        return (await self.line(r"listening on 127\.0\.0\.1:(\d+)"))[1]

    def interrupt(self):
        """Ctrl-C."""
        self._process.send_signal(2)

    async def _read_lines(self):
        rest = b""
        async for data in self._process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            self._lines += [line.decode() for line in lines]
            self._wake()
        self._ended = True
        self._wake()

    async def _read_errors(self):
        async for data in self._process.stderr:
            self.errors += data.decode(errors="replace")

    def _wake(self):
        self._arrived.set()
        self._arrived = trio.Event()


@asynccontextmanager
async def running(kind, name, *arguments):
    """The program *name* ("python" or "node") for the length of a block; then it is killed.

    An address is given as a port: `--listen` and `--peer` follow the *kind*'s way to write it.
    """
    command, environment = _command(kind, name, [str(each) for each in arguments])
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(
            command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env={**os.environ, **environment}
        )
        program = Program(process)
        nursery.start_soon(program._read_lines)
        nursery.start_soon(program._read_errors)
        try:
            yield program
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            nursery.cancel_scope.cancel()


def _command(kind, name, arguments):
    if kind == "node":
        command = ["node", str(FOLDER / "programs" / f"{name}.js"), *arguments]
        return command, {"PEER_NODE_MODULES": str(node_modules())}
    for at, word in enumerate(arguments[:-1]):
        if word in ("--listen", "--peer"):
            arguments[at + 1] = f"127.0.0.1:{arguments[at + 1]}"
    command = [sys.executable, str(TOP / "tools" / "examples" / f"{name}.py"), *arguments]
    return command, {"PYTHONPATH": str(TOP)}
