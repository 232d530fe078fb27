"""Node peers as subprocesses: the reference implementation, told what to do by JSON lines.

The packages come from `tests/interop/node_modules` (`tools/test` installs them with `npm ci`), or
from the folder that HYPERFS_NODE_MODULES names; those of the generation before from
`tests/interop/v10/node_modules`. What is missing fails the test that needs it, in a sentence: a
skipped comparison would pass for a good one.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
import trio

from tests.support.limits import TEST_SECONDS

FOLDER = Path(__file__).parent.parent / "interop"


class NodeError(Exception):
    """Node could not do what it was asked; the message is its error."""


def node_modules(generation: int = 11) -> Path:
    """The folder of the installed packages: Hypercore 11 with what belongs to it, or 10.

    Fails the test when they, or node, are missing.
    """
    if shutil.which("node") is None:
        pytest.fail("the interop tests need node, and there is none in PATH: run tools/test once")
    if generation == 10:
        folder = FOLDER / "v10" / "node_modules"
    else:
        folder = Path(os.environ.get("HYPERFS_NODE_MODULES") or FOLDER / "node_modules")
    if not (folder / "hypercore" / "package.json").is_file():
        pytest.fail(
            f"the interop tests need the Node packages, which are not in {folder}: run tools/test "
            "once, or `npm ci` beside it"
        )
    return folder


class NodePeer:
    """A running `peer.js`. What it can be asked is listed there, under `actions`."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._next_id = 0
        self._answers: dict[int, dict] = {}
        self._arrived = trio.Event()
        self._ended = False
        self._stderr = b""
        # What it was asked and has not answered, by the number of the request.
        self.asked: dict[int, str] = {}

    @property
    def said(self) -> str:
        """What it wrote to stderr."""
        return self._stderr.decode(errors="replace").strip() or "nothing"

    async def __call__(self, action: str, **request) -> Any:
        """Ask for one action and return its result. Requests may run side by side.

        Raises:
          NodeError: the action failed, or the process ended.
        """
        self._next_id += 1
        id_ = self._next_id
        self.asked[id_] = action
        line = json.dumps({"id": id_, "do": action, **request}) + "\n"
        await self._process.stdin.send_all(line.encode())
        while id_ not in self._answers:
            if self._ended:
                raise NodeError(f"node ended before it answered {action!r}")
            await self._arrived.wait()
        del self.asked[id_]
        answer = self._answers.pop(id_)
        if "error" in answer:
            raise NodeError(f"{action}: {answer['error']}")
        return answer["result"]

    async def _read_answers(self) -> None:
        rest = b""
        async for data in self._process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                answer = json.loads(line)
                self._answers[answer["id"]] = answer
            self._wake()
        self._ended = True
        self._wake()

    async def _read_stderr(self) -> None:
        async for data in self._process.stderr:
            self._stderr += data

    def _wake(self) -> None:
        self._arrived.set()
        self._arrived = trio.Event()


@asynccontextmanager
async def node_peer(
    script: str = "peer.js", *, deadline: float = TEST_SECONDS, generation: int = 11
):
    """A Node peer for the length of a block. It is killed at the end, whatever happened.

    An error of the block says what Node wrote to stderr. A block that takes longer than *deadline*
    seconds fails, and says what it waited for.
    """
    command = ["node", str(FOLDER / script)]
    modules = str(node_modules(generation))
    environment = {**os.environ, "PEER_NODE_MODULES": modules, "NODE_PATH": modules}
    late = ""
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(
            command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment
        )
        peer = NodePeer(process)
        scope = trio.CancelScope()
        task = trio.lowlevel.current_task()

        async def watch() -> None:
            nonlocal late
            await trio.sleep(deadline)
            late = (
                f"not done after {deadline} seconds; the test waits at {_test_line(task)}; "
                f"node was asked for {', '.join(peer.asked.values()) or 'nothing'}; "
                f"node said on stderr: {peer.said}"
            )
            scope.cancel()

        nursery.start_soon(peer._read_answers)
        nursery.start_soon(peer._read_stderr)
        nursery.start_soon(watch)
        try:
            with scope:
                try:
                    yield peer
                except Exception as error:
                    error.add_note(f"node said on stderr: {peer.said}")
                    raise
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            nursery.cancel_scope.cancel()
    if late:
        raise pytest.fail.Exception(late, pytrace=False) from None


def _test_line(task: trio.lowlevel.Task) -> str:
    """Where in a test module a task waits."""
    lines = [
        f"{Path(frame.f_code.co_filename).name}:{line}"
        for frame, line in task.iter_await_frames()
        if Path(frame.f_code.co_filename).name.startswith("test_")
    ]
    return lines[-1] if lines else "a place outside of tests"
