"""`log`: the versions of a drive."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING

import click

import hyperfs
from hyperfs.cli.flags import pass_settings
from hyperfs.cli.options import ADDRESS, COUNT, peer_option, timeout_option
from hyperfs.cli.output import size_text
from hyperfs.cli.serving import run
from hyperfs.cli.session import Network, open_drive
from hyperfs.cli.settings import Settings, find_key, open_store

if TYPE_CHECKING:
    from hyperfs.cli.address import Address, Endpoint
    from hyperfs.cli.output import JsonValue, Output

KINDS = ("added", "changed", "removed")


@click.command()
@click.argument("drive", type=ADDRESS, metavar="NAME|KEY")
@click.option(
    "-n",
    "--number",
    type=COUNT,
    default=20,
    show_default=True,
    metavar="COUNT",
    help="How many versions to list.",
)
@peer_option
@timeout_option
@pass_settings
def log(
    settings: Settings,
    drive: Address,
    number: int,
    peers: tuple[Endpoint, ...],
    timeout: float,
) -> None:
    """List the versions of a drive, the newest first: when each was made, what it holds, and how
    many names were added, changed and removed.

    `hyperfs ls DRIVE+N:/` lists what version N held, and so for other commands; `mount --version`
    and `.hyperfs/versions/` in a mount show it, too.
    """
    if drive.path != b"/":
        raise click.UsageError("versions are those of a whole drive: name it without a path")
    run(_log, settings, drive, number, Network(peers, timeout))


async def _log(settings: Settings, address: Address, number: int, network: Network) -> None:
    async with open_store(settings, create=address.key is not None) as store:
        key = find_key(store, address)
        async with open_drive(store, key, address, network, settings.output) as drive:
            shown: hyperfs.Drive | None = drive
            while shown is not None and shown.version and number:
                before = await _before(shown)
                await _tell(settings.output, shown, before)
                shown, number = before, number - 1


async def _before(drive: hyperfs.Drive) -> hyperfs.Drive | None:
    """The version before; None for the first one that is kept."""
    version = drive.previous()
    if not version:
        return None
    try:
        return await drive.checkout(version)
    except (ValueError, hyperfs.VersionCleared):
        return None


async def _tell(output: Output, drive: hyperfs.Drive, before: hyperfs.Drive | None) -> None:
    numbers = drive.statistics()
    counts: Counter[str] = Counter()
    if before is not None:
        with output.waiting("comparing versions"):
            async for change in drive.diff(before):
                counts[change.kind] += 1
    if output.json:
        fields: dict[str, JsonValue] = {kind: counts[kind] for kind in KINDS}
        output.record(
            version=drive.version,
            time_ns=drive.time_ns,
            files=numbers.files,
            byte_length=numbers.byte_length,
            **(fields if before is not None else dict.fromkeys(KINDS)),
        )
        return
    # Of drives of other formats no time is told.
    made = datetime.fromtimestamp(drive.time_ns / 1e9).isoformat(" ", "seconds")
    time = made if drive.time_ns else "-"
    what = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind])
    output.data(
        f"{drive.version:8}  {time}  {_names(numbers.files - 1)}, {size_text(numbers.byte_length)}"
        f"{': ' if what else ''}{what}"
    )


def _names(count: int) -> str:
    """Without the root directory, which has none. Not every format tells."""
    return "1 name" if count == 1 else f"{max(0, count)} names"
