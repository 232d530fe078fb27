"""What the example programs have in common: their arguments, and how they reach each other."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    import corestore

NO_PEERS = 4


def arguments(storage: str, *, key: bool = False) -> argparse.Namespace:
    """What the program was called with. There is no discovery yet: one side listens, one dials."""
    program = sys.modules["__main__"].__doc__
    parser = argparse.ArgumentParser(
        description=program, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if key:
        parser.add_argument("key", help="what the writer printed")
    parser.add_argument("--storage", default=storage, metavar="DIR", help=f"default: {storage}")
    parser.add_argument("--listen", type=_address, metavar="HOST:PORT")
    parser.add_argument("--peer", type=_address, metavar="HOST:PORT", action="append", default=[])
    parser.add_argument("--timeout", type=float, default=10, metavar="SECONDS")
    return parser.parse_args()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host or "127.0.0.1", int(port)


async def connect(swarm: corestore.Swarm, options: argparse.Namespace) -> None:
    """Listen and dial, as the arguments say."""
    if options.listen:
        host, port = await swarm.listen(*options.listen)
        say(f"listening on {host}:{port}")
    for host, port in options.peer:
        swarm.connect(host, port)


async def find_writer(core: corestore.Hypercore[Any], seconds: float) -> bool:
    """Wait for a peer that has *core*, and for what it knows of it; False if none comes."""
    with trio.move_on_after(seconds):
        await core.wait_peers()
        await core.update()
        return True
    print("Could not connect to the writer peer", file=sys.stderr)
    return False


async def stdin() -> AsyncIterator[bytes]:
    """What is typed, or piped in, as it comes."""
    while data := await trio.to_thread.run_sync(os.read, 0, 65536, abandon_on_cancel=True):
        yield data


def say(line: str) -> None:
    """Print a line now, though a pipe may read it."""
    print(line, flush=True)


def text(block: bytes) -> str:
    """A block as it was typed."""
    return block.decode(errors="replace").removesuffix("\n")


def run(main: Callable[[], Awaitable[int | None]]) -> None:
    """Run *main* until it is done or interrupted; its result is the exit code."""
    sys.exit(trio.run(_until_interrupted, main))


async def _until_interrupted(main: Callable[[], Awaitable[int | None]]) -> int | None:
    """Ctrl-C cancels. A KeyboardInterrupt would come up wherever the interpreter stands, in the
    middle of a commit too."""
    code: int | None = 130
    async with trio.open_nursery() as nursery:
        await nursery.start(_cancelled_by_interrupt, nursery.cancel_scope)
        code = await main()
        nursery.cancel_scope.cancel()
    return code


async def _cancelled_by_interrupt(
    scope: trio.CancelScope, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()
