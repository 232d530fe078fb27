"""`verify`: proves again what lies on the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hyperfs.cli.failures import Exit, Failure
from hyperfs.cli.flags import pass_settings
from hyperfs.cli.options import ADDRESS
from hyperfs.cli.output import size_text
from hyperfs.cli.serving import run
from hyperfs.cli.session import open_access
from hyperfs.cli.space import ALONE, whole

if TYPE_CHECKING:
    from hyperfs.cli.address import Address
    from hyperfs.cli.settings import Settings


@click.command()
@click.argument("drive", type=ADDRESS, metavar="NAME|KEY")
@pass_settings
def verify(settings: Settings, drive: Address) -> None:
    """Prove again everything that lies on the disk of a drive: it is compared with its hashes.

    What the disk has damaged is forgotten, and fetched again from a peer that has it when it is
    read; the exit code is then 13.
    """
    whole(drive)
    run(_verify, settings, drive)


async def _verify(settings: Settings, drive: Address) -> None:
    async with open_access(settings, drive, ALONE) as access:
        with settings.output.progress("verifying") as meter:
            blocks, size, damaged, unreadable = await access.verify(meter)
    if settings.output.json:
        settings.output.record(blocks=blocks, bytes=size, damaged=damaged, unreadable=unreadable)
    else:
        bad = f"{damaged} damaged" + (f", {unreadable} unreadable" if unreadable else "")
        settings.output.data(f"{blocks} blocks verified ({size_text(size)}), {bad}")
    if damaged:
        raise Failure(
            f"the disk has damaged {damaged} of {blocks} blocks; they were forgotten, and are"
            " fetched again from a peer that has them: mount or get it with --peer HOST:PORT",
            Exit.VERIFICATION,
        )
    if unreadable:
        raise Failure(
            f"the disk fails to read {unreadable} of {blocks} blocks; they are kept, for the disk"
            " may be read elsewhere",
            Exit.VERIFICATION,
        )
