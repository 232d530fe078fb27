"""`gc`, `compact` and `evict`: what drives take of the disk, given back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import click

from hyperfs.cli.failures import Exit, Failure
from hyperfs.cli.flags import pass_settings
from hyperfs.cli.options import ADDRESS, COUNT
from hyperfs.cli.output import size_text
from hyperfs.cli.quantities import DURATION, SIZE
from hyperfs.cli.serving import run
from hyperfs.cli.session import Network, open_access

if TYPE_CHECKING:
    from collections.abc import Callable

    from hyperfs import Drive
    from hyperfs.cli.address import Address
    from hyperfs.cli.settings import Settings

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a mount gives back in the background: versions of a drive of ours beyond those to keep,
    content of somebody else's beyond `cache_max` bytes. All None: nothing."""

    keep_last: int | None = None
    keep_within: float | None = None
    cache_max: int | None = None

    def arguments(self) -> list[str]:
        """The same as options."""
        out: list[str] = []
        if self.keep_last is not None:
            out += ["--keep-last", str(self.keep_last)]
        if self.keep_within is not None:
            out += ["--keep-within", str(self.keep_within)]
        if self.cache_max is not None:
            out += ["--cache-max", str(self.cache_max)]
        return out

    def check(self, drive: Drive) -> None:
        """Raises Failure if they are not for this drive."""
        keeps = self.keep_last is not None or self.keep_within is not None
        if keeps and not drive.writable:
            raise Failure(
                "--keep-last and --keep-within are for drives made here: only the writer says which"
                " versions are kept",
                Exit.USAGE,
            )
        if self.cache_max is not None and drive.writable:
            raise Failure(
                "--cache-max is for drives of others: what is written here nobody else need have",
                Exit.USAGE,
            )

    async def hold(self, drive: Drive) -> None:
        """Give back until cancelled; returns at once if there is nothing to."""
        if self.cache_max is not None:
            await drive.limit_cache(self.cache_max)
        elif self.keep_last is not None or self.keep_within is not None:
            await drive.keep(keep_last=self.keep_last, keep_within=self.keep_within)


# Nothing is fetched to give something back.
ALONE = Network((), 10.0)


def cache_option(function: Callable[P, R]) -> Callable[P, R]:
    """`--cache-max SIZE`."""
    return click.option(
        "--cache-max",
        type=SIZE,
        metavar="SIZE",
        help="Of somebody else's drive keep about this much content, say 20G: what was read longest"
        " ago is forgotten, and fetched again when it is read.",
    )(function)


def keep_options(function: Callable[P, R]) -> Callable[P, R]:
    """`--keep-last N` and `--keep-within TIME`."""
    last = click.option(
        "--keep-last",
        type=COUNT,
        metavar="N",
        help="Keep the newest N versions, and give back what only others need.",
    )
    within = click.option(
        "--keep-within",
        type=DURATION,
        metavar="TIME",
        help="Keep the versions of the last 30d, 12h, 90m, ... in the same way.",
    )
    return last(within(function))


@click.command()
@click.argument("drive", type=ADDRESS, metavar="NAME")
@keep_options
@pass_settings
def gc(
    settings: Settings, drive: Address, keep_last: int | None, keep_within: float | None
) -> None:
    """Give the disk back what no kept version of the drive NAME needs.

    With both options, what either keeps is kept; with none, the newest version alone. Other
    versions cannot be read any more, here or elsewhere.
    """
    whole(drive)
    if keep_last is None and keep_within is None:
        keep_last = 1
    run(_gc, settings, drive, keep_last, keep_within)


async def _gc(
    settings: Settings,
    drive: Address,
    keep_last: int | None,
    keep_within: float | None,
    compacting: bool = False,
) -> None:
    async with open_access(settings, drive, ALONE, write=True) as access:
        phase = "writing anew, then giving back" if compacting else "giving back"
        with settings.output.waiting(phase):
            collect = access.compact if compacting else access.collect
            freed, oldest = await collect(keep_last, keep_within)
    if settings.output.json:
        settings.output.record(bytes=freed, oldest=oldest)
    else:
        settings.output.data(f"{size_text(freed)} given back; the oldest version kept is {oldest}")


@click.command()
@click.argument("drive", type=ADDRESS, metavar="NAME")
@keep_options
@pass_settings
def compact(
    settings: Settings, drive: Address, keep_last: int | None, keep_within: float | None
) -> None:
    """Write what many changes have scattered anew in one piece, then give back as `gc` does.

    For files that were changed in place again and again, and drives that have lost many names.
    """
    whole(drive)
    if keep_last is None and keep_within is None:
        keep_last = 1
    run(_gc, settings, drive, keep_last, keep_within, True)


@click.command()
@click.argument("place", type=ADDRESS, metavar="KEY[:/PATH]")
@pass_settings
def evict(settings: Settings, place: Address) -> None:
    """Forget what was fetched of somebody else's drive, or of a folder or file in it.

    It is fetched again when it is read.
    """
    if place.version is not None:
        raise click.UsageError("content is evicted whatever versions it is in: leave it out")
    run(_evict, settings, place)


async def _evict(settings: Settings, place: Address) -> None:
    async with open_access(settings, place, ALONE) as access:
        with settings.output.waiting("giving back"):
            freed = await access.evict(place.path)
    if settings.output.json:
        settings.output.record(bytes=freed)
    else:
        settings.output.data(f"{size_text(freed)} given back")


def whole(drive: Address) -> None:
    """Raises UsageError if *drive* names a part of one."""
    if drive.path != b"/" or drive.version is not None:
        raise click.UsageError("name a whole drive, without path and version")
