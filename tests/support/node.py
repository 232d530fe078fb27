"""Node peers as subprocesses: the reference implementation, told what to do by JSON lines.

The packages come from `tests/interop/node_modules` (`tools/test` installs them with `npm ci`), or
from the folder that HYPERFS_NODE_MODULES names. What is missing fails the test that needs it, in a
sentence: a skipped comparison would pass for a good one.
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

FOLDER = Path(__file__).parent.parent / "interop"
# No test of a peer takes longer, so a hang ends as a failure that shows what Node said.
DEADLINE_SECONDS = 60


class NodeError(Exception):
    """Node could not do what it was asked; the message is its error."""


def node_modules() -> Path:
    """The folder of the installed packages. Fails the test when they, or node, are missing."""
    if shutil.which("node") is None:
        pytest.fail("the interop tests need node, and there is none in PATH: run tools/test once")
    folder = Path(os.environ.get("HYPERFS_NODE_MODULES") or FOLDER / "node_modules")
    if not (folder / "hypercore" / "package.json").is_file():
        pytest.fail(
            f"the interop tests need the Node packages, which are not in {folder}: run tools/test "
            "once, or `npm ci` in tests/interop"
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
        self.stderr = b""

    async def __call__(self, action: str, **request) -> Any:
        """Ask for one action and return its result. Requests may run side by side.

        Raises:
          NodeError: the action failed, or the process ended.
        """
        self._next_id += 1
        id_ = self._next_id
        line = json.dumps({"id": id_, "do": action, **request}) + "\n"
        await self._process.stdin.send_all(line.encode())
        while id_ not in self._answers:
            if self._ended:
                raise NodeError(f"node ended before it answered {action!r}")
            await self._arrived.wait()
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
            self.stderr += data

    def _wake(self) -> None:
        self._arrived.set()
        self._arrived = trio.Event()


@asynccontextmanager
async def node_peer(script: str = "peer.js", *, deadline: float = DEADLINE_SECONDS):
    """A Node peer for the length of a block. It is killed at the end, whatever happened.

    What it wrote to stderr is added to any error of the block, and printed for pytest to show.
    """
    command = ["node", str(FOLDER / script)]
    environment = {**os.environ, "NODE_PATH": str(node_modules())}
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(
            command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment
        )
        peer = NodePeer(process)
        try:
            with trio.fail_after(deadline):
                nursery.start_soon(peer._read_answers)
                nursery.start_soon(peer._read_stderr)
                yield peer
        except BaseException as error:
            error.add_note(f"node said on stderr: {peer.stderr.decode(errors='replace') or '-'}")
            raise
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            nursery.cancel_scope.cancel()
