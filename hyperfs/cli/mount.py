"""`mount`: a drive as a folder, shared with peers."""

from __future__ import annotations

import gc
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio

import corestore
import hyperfs
from hyperfs.cli import daemon
from hyperfs.cli.access import DriveAccess
from hyperfs.cli.failures import Exit, Failure, explain
from hyperfs.cli.flags import pass_settings
from hyperfs.cli.mountoptions import parse_options
from hyperfs.cli.options import (
    ADDRESS,
    COUNT,
    DATE,
    DIRECTORY,
    SECONDS,
    Moment,
    listen_option,
    peer_option,
    timeout_option,
)
from hyperfs.cli.processes import ProcessInfo
from hyperfs.cli.serving import Stop, report, run, spare_pauses, stoppable, visible
from hyperfs.cli.session import Network, cautions, first_version, shown_version, version_at
from hyperfs.cli.settings import Settings, find_key, open_store, reach
from hyperfs.cli.space import Bounds, cache_option, keep_options

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hyperfs.cli.address import Address, Endpoint
    from hyperfs.cli.output import JsonValue
    from hyperfs.fuse.serve import Mounted


@click.command()
@click.argument("drive", type=ADDRESS, metavar="NAME|KEY")
@click.argument("directory", type=DIRECTORY, metavar="DIR")
@listen_option
@peer_option
@click.option("--daemon", "background", is_flag=True, help="Return once the mount answers.")
@timeout_option
@click.option(
    "--read-timeout",
    type=SECONDS,
    default=10.0,
    metavar="SECONDS",
    help="How long a read waits while no peer sends anything; then ETIMEDOUT  [default: 10]."
    " Without --peer and --listen nobody is waited for.",
)
@click.option(
    "--verify-reads",
    is_flag=True,
    help="Hash content at each read from the disk, too, not only when it is received or written.",
)
@click.option(
    "--version",
    type=COUNT,
    metavar="N",
    help="Mount what the drive was, read-only.",
)
@click.option(
    "--at",
    type=DATE,
    metavar="DATE",
    help="The version of a date, or of a date and time: 2026-05-01, 2026-05-01T18:30. Local time,"
    " unless it ends in an offset or Z.",
)
@keep_options
@cache_option
@click.option(
    "-o",
    "options",
    multiple=True,
    metavar="OPTION[,OPTION...]",
    help="As for other file systems: ro, allow_other, default_permissions, dev, suid, noexec,"
    " sync, dirsync, uid=N, gid=N, umask=N, fsname=NAME, noatime.",
)
@pass_settings
def mount(
    settings: Settings,
    drive: Address,
    directory: Path,
    listen: tuple[Endpoint, ...],
    peers: tuple[Endpoint, ...],
    background: bool,
    timeout: float,
    read_timeout: float,
    verify_reads: bool,
    version: int | None,
    at: Moment | None,
    keep_last: int | None,
    keep_within: float | None,
    cache_max: int | None,
    options: tuple[str, ...],
) -> None:
    """Mount a drive on the empty folder DIR and share it with peers, until Ctrl-C.

    A drive made in this store is mounted read-write; one known by its KEY read-only and live:
    files appear as its writer saves them, and their content is fetched when it is read.
    """
    parse_options(options)
    if sum(given is not None for given in (drive.version, version, at)) > 1:
        raise click.UsageError("name one version: --version, --at, or in the link")
    if drive.path != b"/":
        raise click.UsageError(
            f"only a whole drive can be mounted: leave out {os.fsdecode(drive.path)}"
        )
    wanted = _Wanted(
        drive=replace(drive, version=version or drive.version),
        at=at,
        directory=directory,
        listen=listen,
        network=Network(peers, timeout, listens=bool(listen)),
        read_timeout=read_timeout,
        verify_reads=verify_reads,
        bounds=Bounds(keep_last, keep_within, cache_max),
        options=options,
    )
    if background and daemon.READY_VARIABLE not in os.environ:
        _tell_started(settings, daemon.start(_again(settings, wanted)))
        return
    try:
        run(_mount, settings, wanted)
    except BaseException as error:
        failure = explain(error)
        if failure is not None:
            daemon.report_failure(failure)
        raise


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is to be mounted, where and how: the command line. *options* are the texts of `-o`."""

    drive: Address
    at: Moment | None
    directory: Path
    listen: tuple[Endpoint, ...]
    network: Network
    read_timeout: float
    verify_reads: bool
    bounds: Bounds
    options: tuple[str, ...]

    @property
    def past(self) -> bool:
        """Whether a version was named."""
        return self.drive.version is not None or self.at is not None


def _again(settings: Settings, wanted: _Wanted) -> list[str]:
    """The same command for the background process."""
    arguments = ["--store", str(settings.store), *["-v"] * settings.output.verbose, "mount"]
    arguments += [str(wanted.drive), str(wanted.directory.absolute())]
    if wanted.drive.version is not None:
        arguments += ["--version", str(wanted.drive.version)]
    if wanted.at is not None:
        arguments += ["--at", wanted.at.text]
    for flag, endpoints in (("--listen", wanted.listen), ("--peer", wanted.network.peers)):
        for host, port in endpoints:
            arguments += [flag, f"{host}:{port}"]
    arguments += ["--timeout", str(wanted.network.timeout)]
    arguments += ["--read-timeout", str(wanted.read_timeout)]
    if wanted.verify_reads:
        arguments.append("--verify-reads")
    arguments += wanted.bounds.arguments()
    for option in wanted.options:
        arguments += ["-o", option]
    return arguments


def _tell_started(settings: Settings, answer: dict[str, JsonValue]) -> None:
    if settings.output.json:
        settings.output.record(**answer)
        return
    settings.output.say(f"{answer['url']}")
    told = answer["cautions"]
    for caution in told if isinstance(told, list) else []:
        settings.output.say(f"{caution}")
    listening = answer["listening"]
    for address in listening if isinstance(listening, list) else []:
        settings.output.say(f"listening on {address}")
    settings.output.say(f"ready: {answer['directory']}")


async def _mount(settings: Settings, wanted: _Wanted) -> None:
    options = parse_options(wanted.options)
    await trio.to_thread.run_sync(hyperfs.check_fuse)
    point = await trio.to_thread.run_sync(_check_directory, wanted.directory, settings.store)
    ready = trio.Event()
    async with (
        open_store(settings) as store,
        corestore.open_swarm(store) as swarm,
        hyperfs.open(
            store,
            key=find_key(store, wanted.drive),
            encryption_key=wanted.drive.encryption_key,
            read_timeout=0.0 if wanted.network.reaches_nobody else wanted.read_timeout,
            verify_reads=wanted.verify_reads,
        ) as drive,
        # The innermost: what is outside of it is still there to finish the work when it ends.
        stoppable() as stop,
    ):
        writable = drive.writable and not options.read_only and not wanted.past
        if writable:
            await drive.claim()
        wanted.bounds.check(drive)
        listening = await _reach(settings, swarm, drive, wanted)
        shown = await _shown(settings, drive, wanted)
        info = ProcessInfo(
            pid=os.getpid(),
            command="mount",
            store=str(settings.store),
            keys=(str(drive.key),),
            name=drive.name,
            directory=str(point),
            writable=writable,
            listening=listening,
            version=shown.version if wanted.past else None,
        )
        spare_pauses()
        async with _mounted(shown, point, options, stop, ready) as mounted:
            access = DriveAccess(shown, changed=mounted.changed_outside)
            async with visible(
                settings,
                info,
                {str(drive.key): access},
                partial(report, store, swarm, shown),
                stop,
                url=str(drive.link),
                cautions=cautions(drive),
            ):
                ready.set()
                async with trio.open_nursery() as holding:
                    holding.start_soon(wanted.bounds.hold, drive)
                    # Until the mount is gone (a plain umount works too) or `stop` is called.
                    await mounted.wait_unmounted()
                    holding.cancel_scope.cancel()
    if not ready.is_set():
        raise Failure("stopped before it was mounted", Exit.INTERRUPTED)
    settings.output.say(f"unmounted {point}")


async def _reach(
    settings: Settings, swarm: corestore.Swarm, drive: hyperfs.Drive, wanted: _Wanted
) -> tuple[str, ...]:
    """Listen and look for peers, and say what somebody should know; the addresses listened on."""
    output = settings.output
    bound = await reach(swarm, drive.key, listen=wanted.listen, peers=wanted.network.peers)
    output.say(str(drive.link))
    for caution in cautions(drive):
        output.say(caution)
    for where in bound:
        output.say(f"listening on {where}")
    return bound


async def _shown(settings: Settings, drive: hyperfs.Drive, wanted: _Wanted) -> hyperfs.Drive:
    """The version that is to be mounted, once it is known."""
    if not drive.writable:
        await first_version(drive, wanted.network, settings.output)
    address = wanted.drive
    if wanted.at is not None:
        version = await version_at(drive, wanted.at.time_ns, wanted.at.text)
        address = replace(address, version=version)
    return await shown_version(drive, address)


@asynccontextmanager
async def _mounted(
    drive: hyperfs.Drive,
    point: Path,
    options: hyperfs.MountOptions,
    stop: Stop,
    ready: trio.Event,
) -> AsyncIterator[Mounted]:
    """Serve a mount during the block. Should that fail, what fails before programs were told that
    it is *ready* leaves nothing behind."""
    async with trio.open_nursery() as nursery:
        mount = partial(
            hyperfs.mount,
            drive,
            point,
            options=options,
            stopped=lambda: stop.asked() or not ready.is_set(),
        )
        mounted = await nursery.start(mount)
        # What was made until now stays: the collector need not look at it again.
        gc.freeze()
        yield mounted


def _check_directory(directory: Path, store: Path) -> Path:
    """The mount point's real path, once it is known to be a good one.

    Raises:
      Failure: it is missing, no folder, not empty, or has to do with the store's own folder.
    """
    point = Path(os.path.abspath(directory))
    hyperfs.recover_mount_point(point)
    point = Path(os.path.realpath(point))
    if point == store or store in point.parents or point in store.parents:
        raise Failure(
            f"{directory} and the store ({store}) lie in one another; choose another folder",
            Exit.USAGE,
        )
    try:
        names = os.listdir(point)
    except FileNotFoundError:
        raise Failure(
            f"{directory} is not there; make it first: mkdir {directory}", Exit.NOT_FOUND
        ) from None
    except NotADirectoryError:
        raise Failure(f"{directory} is not a folder; choose an empty folder") from None
    if point.is_mount() and point != Path("/"):
        raise Failure(f"something is mounted on {directory} already; unmount it first")
    if names:
        raise Failure(f"{directory} is not empty; choose an empty folder")
    return point
