"""`seed`: hold whole drives for others, without mounting them."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING

import click
import trio

import corestore
import hyperfs
from corestore import Corestore, Swarm
from hyperfs import Drive
from hyperfs.cli.access import DriveAccess
from hyperfs.cli.failures import Exit, Failure
from hyperfs.cli.flags import pass_settings
from hyperfs.cli.options import ADDRESS, listen_option, peer_option, timeout_option
from hyperfs.cli.output import size_text
from hyperfs.cli.processes import ProcessInfo
from hyperfs.cli.quantities import SIZE
from hyperfs.cli.serving import report, run, spare_pauses, stoppable, visible
from hyperfs.cli.session import Network, first_version
from hyperfs.cli.settings import Settings, find_key, open_store, reach

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hyperfs.cli.address import Address, Endpoint
    from hyperfs.cli.control import StatusReport
    from hyperfs.cli.output import JsonValue

# How often it is looked how far the fetching is.
_LOOK_SECONDS = 0.2


@click.command()
@click.argument("drives", type=ADDRESS, metavar="KEY...", nargs=-1, required=True)
@listen_option
@peer_option
@timeout_option
@click.option(
    "--cache-max",
    type=SIZE,
    metavar="SIZE",
    help="Hold about this much content of all the drives together, say 20G: of each an equal share,"
    " what was stored last in its newest version.",
)
@pass_settings
def seed(
    settings: Settings,
    drives: tuple[Address, ...],
    listen: tuple[Endpoint, ...],
    peers: tuple[Endpoint, ...],
    timeout: float,
    cache_max: int | None,
) -> None:
    """Fetch whole drives, keep up with them, and serve them to others, until Ctrl-C.

    What is held is all that the versions kept by the writer need; what it has given back is given
    back here, too. `hyperfs status` tells when all of it is here.
    """
    for drive in drives:
        if drive.path != b"/" or drive.version is not None:
            raise click.UsageError("whole drives are seeded: name them without path and version")
    run(_seed, settings, drives, listen, Network(peers, timeout, listens=bool(listen)), cache_max)


async def _seed(
    settings: Settings,
    addresses: tuple[Address, ...],
    listen: tuple[Endpoint, ...],
    network: Network,
    cache_max: int | None,
) -> None:
    ready = False
    async with open_store(settings) as store, AsyncExitStack() as opened:
        swarm = await opened.enter_async_context(corestore.open_swarm(store))
        drives = []
        bound: tuple[str, ...] = ()
        # Each once, however it was named.
        for key, secret in {find_key(store, a): a.encryption_key for a in addresses}.items():
            opening = hyperfs.open(store, key=key, encryption_key=secret)
            drives.append(await opened.enter_async_context(opening))
        stop = await opened.enter_async_context(stoppable())
        for number, drive in enumerate(drives):
            settings.output.say(str(drive.link))
            first = number == 0
            bound += await reach(
                swarm,
                drive.key,
                listen=listen if first else (),
                peers=network.peers if first else (),
            )
        for where in bound:
            settings.output.say(f"listening on {where}")
        if network.reaches_nobody:
            settings.output.say(
                "nobody is reached: --listen HOST:PORT accepts peers, --peer HOST:PORT names one"
            )
        for drive in drives:
            if not drive.writable and network.peers:
                with suppress(hyperfs.DriveEncrypted):
                    await first_version(drive, network, settings.output)
        info = ProcessInfo(
            pid=os.getpid(),
            command="seed",
            store=str(settings.store),
            keys=tuple(str(drive.key) for drive in drives),
            listening=bound,
        )
        spare_pauses()
        ready = True
        access = {str(drive.key): DriveAccess(drive) for drive in drives}
        status = partial(_report, store, swarm, drives)
        async with (
            visible(settings, info, access, status, stop, url=str(drives[0].link)),
            trio.open_nursery() as nursery,
        ):
            share = None if cache_max is None else cache_max // len(drives)
            for drive in drives:
                nursery.start_soon(partial(hold, settings, drive, share, alone=len(drives) == 1))
            nursery.start_soon(_tell_how_far, settings, drives)
    if not ready:
        raise Failure("stopped before it was ready", Exit.INTERRUPTED)


async def hold(settings: Settings, drive: Drive, share: int | None, *, alone: bool) -> None:
    """`Drive.hold`. What one writer has done does not keep other drives from being held."""
    try:
        await drive.hold(share)
    except* corestore.ForkConflict as errors:
        if alone:
            raise
        error: BaseException = errors
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        settings.output.error(f"{drive.name or drive.key} is held no further: {error}")


async def _tell_how_far(settings: Settings, drives: list[Drive]) -> None:
    """A bar until all is here, then a line a drive."""

    async def look() -> tuple[bool, int, int]:
        """Whether all is here; how many bytes there are, about, and how many of them are here."""
        await trio.sleep(_LOOK_SECONDS)
        every, total, done = True, 0, 0
        for drive in drives:
            content, whole = drive.content, drive.wholeness()
            every = every and whole is not None and whole.complete
            if content is not None and whole is not None and content.length:
                block_bytes = content.byte_length / content.length
                total += round(block_bytes * (whole.needed or content.length))
                done += round(block_bytes * (whole.held or 0))
        return every, total, done

    with settings.output.waiting("looking at what there is"):
        every, total, told = await look()
        while not every and not total:
            every, total, told = await look()
    if not every:
        with settings.output.progress("fetching", total) as meter:
            meter.add(told)
            while not every:
                every, total, done = await look()
                meter.set_total(total)
                meter.add(done - told)
                told = done
    for drive in drives:
        settings.output.say(f"all of {drive.name or drive.key} is here: {_what_is_held(drive)}")


def _what_is_held(drive: Drive) -> str:
    if drive.readable or drive.content is None:
        return f"version {drive.version}"
    logs = (drive.metadata, drive.content)
    blocks = sum(log.statistics().blocks_held for log in logs)
    size = size_text(sum(log.byte_length for log in logs))
    return f"{blocks} blocks, {size}, which cannot be read without the encryption key"


def _report(store: Corestore, swarm: Swarm, drives: list[Drive]) -> StatusReport:
    """The first drive's report, with the sums over all where a sum makes sense, and each drive's
    under "drives"."""
    reports = [report(store, swarm, drive) for drive in drives]
    summed = ("files", "byte_length", "blocks", "blocks_stored", "staged", "dirty_bytes")
    each = ("version", "complete", *summed)
    return {
        **reports[0],
        **{name: _sum(r[name] for r in reports) for name in summed},
        "complete": all(r["complete"] for r in reports),
        "drives": [
            {"key": str(drive.key), **{name: r[name] for name in each}}
            for drive, r in zip(drives, reports, strict=True)
        ],
    }


def _sum(values: Iterable[JsonValue]) -> int | None:
    """Of those that are known."""
    known = [value for value in values if isinstance(value, int)]
    return sum(known) if known else None
