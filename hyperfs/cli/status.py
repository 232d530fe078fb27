"""`status`: what hyperfs processes run, and how their drives are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import trio

from hyperfs.cli import processes, remote
from hyperfs.cli.failures import Failure
from hyperfs.cli.flags import pass_settings
from hyperfs.cli.output import JsonValue, Output, size_text
from hyperfs.cli.serving import run

if TYPE_CHECKING:
    from hyperfs.cli.processes import ProcessInfo
    from hyperfs.cli.settings import Settings

ANSWER_SECONDS = 3.0


@click.command()
@pass_settings
def status(settings: Settings) -> None:
    """Show what is mounted and seeded by this user, with versions and peers."""
    run(_status, settings.output)


async def _status(output: Output) -> None:
    found = processes.running()
    reports: dict[int, dict[str, JsonValue]] = {}

    async def ask(info: ProcessInfo) -> None:
        with trio.move_on_after(ANSWER_SECONDS):
            try:
                async with remote.connect(info.socket) as client:
                    reports[info.pid] = await client.status()
            except Failure as error:
                reports[info.pid] = {"error": str(error)}

    async with trio.open_nursery() as nursery:
        for info in found:
            nursery.start_soon(ask, info)
    for info in found:
        report = reports.get(info.pid, {"error": "it does not answer"})
        if output.json:
            output.record(
                pid=info.pid,
                command=info.command,
                store=info.store,
                keys=list(info.keys),
                name=info.name,
                directory=info.directory,
                writable=info.writable,
                listening=list(info.listening),
                **report,
            )
        else:
            _tell(output, info, report)
    if not found and not output.json:
        output.say("nothing is mounted or seeded")


def _tell(output: Output, info: ProcessInfo, report: dict[str, JsonValue]) -> None:
    several = len(info.keys) > 1
    what = f"{len(info.keys)} drives" if several else f"{info.name or info.keys[0]}"
    where = f" on {info.directory}" if info.directory else ""
    mode = "read-write" if info.writable else "read-only"
    output.data(f"{what}{where}: {info.command}, {mode}, process {info.pid}")
    if "error" in report:
        output.data(f"  {report['error']}")
        return
    drives = report.get("drives")
    for drive in drives if several and isinstance(drives, list) else [report]:
        if isinstance(drive, dict):
            output.data(f"  hyper://{drive.get('key', info.keys[0])}")
            output.data(f"  {_state(drive)}")
            if drive.get("fork"):
                output.data("  STOPPED: its key has signed two histories")
            elif drive.get("held_for"):
                output.data(f"  not written here ({drive['held_for']}): hyperfs recover")
    if info.listening:
        output.data(f"  listens on {', '.join(info.listening)}")
    peers = report["peers"]
    count = len(peers) if isinstance(peers, list) else 0
    output.data(
        f"  {count} peer{'' if count == 1 else 's'}, {_size(report['bytes_received'])} received,"
        f" {_size(report['bytes_sent'])} sent"
    )


def _state(report: dict[str, JsonValue]) -> str:
    files = report["files"]
    # The root folder is not one in the drive.
    count = max(0, files - 1) if isinstance(files, int) else "?"
    size = _size(report["byte_length"])
    version = f"version {report['version']}, {count} files and folders, {size}; "
    if report["version"] is None:
        version = "encrypted, and its encryption key is not known here; "
    if report.get("complete"):
        return version + "all of it is here"
    if report["blocks"] is None:
        return version + "what is needed of it is being counted"
    return version + f"{report['blocks_stored']} of {report['blocks']} blocks of content are here"


def _size(value: JsonValue) -> str:
    return size_text(value) if isinstance(value, int) else "?"
