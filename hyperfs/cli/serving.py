"""What `mount` and `seed` share: being a process that others can see, ask and stop."""

from __future__ import annotations

import gc
import os
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeVarTuple, Unpack

import trio

from hyperfs import Wholeness
from hyperfs.cli import control, daemon
from hyperfs.cli.failures import Exit, Failure
from hyperfs.cli.processes import ProcessInfo, announced

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from corestore import Corestore, Swarm
    from hyperfs import Drive
    from hyperfs.cli.access import Access
    from hyperfs.cli.output import JsonValue
    from hyperfs.cli.settings import Settings

Ts = TypeVarTuple("Ts")


def run(command: Callable[[Unpack[Ts]], Awaitable[None]], *arguments: *Ts) -> None:
    """Run a command; a signal to end cancels it, so that it ends in order and nothing is torn.

    A KeyboardInterrupt would come up wherever the interpreter stood, in the middle of a commit too.

    Raises:
      Failure: INTERRUPTED; or as the command.
    """

    async def stopped_by_signals() -> None:
        async with stoppable() as stop:
            await command(*arguments)
        if stop.asked():
            raise Failure("interrupted", Exit.INTERRUPTED)

    trio.run(stopped_by_signals)


class Stop:
    """Called to stop the block of `stoppable`, by cancelling `scope`."""

    def __init__(self, scope: trio.CancelScope) -> None:
        self.scope = scope
        self._called = False

    def __call__(self) -> None:
        self._called = True
        self.scope.cancel()

    def asked(self) -> bool:
        """Whether somebody wanted the block to end; when it is cancelled and nobody did, something
        in it has failed."""
        return self._called


# Objects made and not freed before the youngest are looked at; how many such looks before the
# middle ones are, and then the old ones. By default 700, 10, 10. A look at 10,000 takes 0.3 ms.
_GARBAGE_THRESHOLDS: Final = (10_000, 10, 50)
# So many signals end the process at once, whatever it still does.
PATIENCE_SIGNALS: Final = 3


@asynccontextmanager
async def stoppable() -> AsyncIterator[Stop]:
    """Run the block until it ends, a signal to end comes, or the yielded `Stop` is called.

    A stop cancels the block; it is no error. The signals are SIGINT, SIGTERM and, unless it is
    ignored (nohup), SIGHUP, which a terminal sends when it is closed.
    """
    # Until all is taken down: a second Ctrl-C would tear that apart.
    listening = trio.CancelScope(shield=True)
    async with trio.open_nursery() as nursery:
        stop = Stop(trio.CancelScope())

        async def until_signal(
            task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
        ) -> None:
            numbers = [signal.SIGINT, signal.SIGTERM]
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
                numbers.append(signal.SIGHUP)
            with listening, trio.open_signal_receiver(*numbers) as signals:
                task_status.started()
                count = 0
                async for _ in signals:
                    count += 1
                    stop()
                    if count >= PATIENCE_SIGNALS:
                        # As safe as a power cut, and asked for.
                        os._exit(Exit.INTERRUPTED)

        await nursery.start(until_signal)
        try:
            with stop.scope:
                yield stop
        finally:
            listening.cancel()


def describe(info: ProcessInfo, url: str) -> dict[str, JsonValue]:
    """What `--json` prints when the process is ready."""
    return {
        "ready": True,
        "pid": info.pid,
        "key": info.keys[0],
        "keys": list(info.keys),
        "url": url,
        "name": info.name,
        "directory": info.directory,
        "writable": info.writable,
        "listening": list(info.listening),
    }


@asynccontextmanager
async def visible(
    settings: Settings,
    info: ProcessInfo,
    drives: Mapping[str, Access],
    status: Callable[[], control.StatusReport],
    stop: Callable[[], None],
    *,
    url: str,
    cautions: Sequence[str] = (),
) -> AsyncIterator[None]:
    """Say that all is ready, and be seen by `status`, `umount` and the others during the block.

    *cautions* are what somebody should know who uses it. *url* is the first drive's link. Other
    processes are not told: it may have an encryption key.
    """
    async with trio.open_nursery() as nursery:
        await nursery.start(control.serve, info.socket, drives, status, stop)
        with announced(info):
            if settings.output.json:
                settings.output.record(**describe(info, url), cautions=list(cautions))
            settings.output.say(f"ready: {info.directory}" if info.directory else "ready: seeding")
            daemon.report_ready({**describe(info, url), "cautions": list(cautions)})
            yield
        nursery.cancel_scope.cancel()


def spare_pauses() -> None:
    """Have the garbage collector look at what is new, mostly: a look at everything, which it takes
    every few seconds under load, stops a new mount for 10 to 20 ms, and one with large caches for
    more. To be called before anybody waits."""
    gc.collect()
    # Modules, classes, commands: they stay as long as the process.
    gc.freeze()
    gc.set_threshold(*_GARBAGE_THRESHOLDS)


def report(store: Corestore, swarm: Swarm, drive: Drive) -> control.StatusReport:
    """What `status` shows of a drive served here."""
    numbers = drive.statistics()
    traffic = store.statistics()
    whole = drive.wholeness() or _stored(drive)
    readable = drive.readable
    return {
        "version": numbers.version if readable else None,
        "files": numbers.files if readable else None,
        "byte_length": numbers.byte_length if readable else None,
        "staged": numbers.staged,
        "dirty_bytes": numbers.dirty_bytes,
        "fork": _stopped(drive),
        "held_for": held.name.lower() if (held := drive.metadata.held_for) else None,
        "complete": whole.complete,
        "blocks": whole.needed,
        "blocks_stored": whole.held,
        "bytes_received": traffic.bytes_received,
        "bytes_sent": traffic.bytes_sent,
        "peers": [
            {
                "address": peer.address,
                "bytes_received": peer.bytes_received,
                "bytes_sent": peer.bytes_sent,
            }
            for peer in swarm.peers
        ],
    }


def _stopped(drive: Drive) -> bool:
    """Whether the key of the drive has signed two histories."""
    cores = [drive.metadata] if drive.content is None else [drive.metadata, drive.content]
    return any(core.conflict is not None for core in cores)


def _stored(drive: Drive) -> Wholeness:
    """Of a drive of which only what is read is fetched: how much of the log is here."""
    if drive.content is None:
        return Wholeness(False, 0, 0)
    numbers = drive.content.statistics()
    if drive.metadata.writable:
        # What is not here was given back: no version that is kept needs it.
        return Wholeness(True, numbers.blocks_held, numbers.blocks_held)
    return Wholeness(numbers.blocks_held == numbers.length, numbers.length, numbers.blocks_held)
