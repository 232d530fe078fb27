"""`create`, and `drives` with `rename` and `remove`."""

from __future__ import annotations

from pathlib import Path

import click

import hyperfs
from hyperfs.cli import processes
from hyperfs.cli.address import AddressError, parse_name
from hyperfs.cli.failures import Exit, Failure
from hyperfs.cli.flags import pass_settings, settings_of
from hyperfs.cli.output import table
from hyperfs.cli.serving import run
from hyperfs.cli.settings import Settings, open_store


class NameType(click.ParamType[str]):
    """A local name of a drive."""

    name = "name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return parse_name(value)
        except AddressError as error:
            raise click.UsageError(str(error), ctx) from None


NAME = NameType()


@click.command()
@click.argument("name", type=NAME)
@click.option(
    "--encrypted",
    is_flag=True,
    help="Encrypt everything: readers need the link that is printed, those who only hold the drive"
    " for others the key in it.",
)
@pass_settings
def create(settings: Settings, name: str, encrypted: bool) -> None:
    """Make a drive called NAME and print its key.

    The key is what others need to read the drive; only this store can write it.
    """
    run(_create, settings, name, encrypted)


async def _create(settings: Settings, name: str, encrypted: bool) -> None:
    async with open_store(settings) as store:
        try:
            key = await hyperfs.create(store, name, encrypted=encrypted)
        except hyperfs.DriveExists as error:
            raise Failure(
                f"a drive called {name} is there already; its key is {error.key}"
            ) from None
        link = hyperfs.DriveLink(key, store.encryption_key(key.discovery_key))
    if settings.output.json:
        settings.output.record(name=name, key=str(key), url=str(link), encrypted=encrypted)
    else:
        settings.output.data(str(link) if encrypted else str(key))


@click.group(invoke_without_command=True)
@click.pass_context
def drives(context: click.Context) -> None:
    """List the drives that have a name here."""
    if context.invoked_subcommand is None:
        run(_list, settings_of(context))


async def _list(settings: Settings) -> None:
    here = [p for p in processes.running() if Path(p.store) == settings.store and p.directory]
    mounted = {key: p.directory for p in here for key in p.keys}
    found = []
    if settings.store.exists():
        async with open_store(settings) as store:
            found = hyperfs.drives(store)
    if settings.output.json:
        for info in found:
            settings.output.record(
                name=info.name,
                key=str(info.key),
                writable=info.writable,
                url=str(info.link),
                encrypted=info.encryption_key is not None,
                directory=mounted.get(str(info.key)),
            )
        return
    rows = [
        (
            info.name,
            str(info.key if info.encryption_key is None else info.link),
            "read-write" if info.writable else "read-only",
            mounted.get(str(info.key)) or "",
        )
        for info in found
    ]
    for line in table(rows):
        settings.output.data(line.rstrip())
    if not found:
        settings.output.say("no drives yet; `hyperfs create NAME` makes one")


@drives.command()
@click.argument("old", type=NAME)
@click.argument("new", type=NAME)
@pass_settings
def rename(settings: Settings, old: str, new: str) -> None:
    """Call the drive OLD by the name NEW. Its key stays."""
    run(_rename, settings, old, new)


async def _rename(settings: Settings, old: str, new: str) -> None:
    async with open_store(settings, create=False) as store:
        try:
            await hyperfs.rename_drive(store, old, new)
        except hyperfs.DriveExists as error:
            raise Failure(
                f"a drive called {new} is there already; its key is {error.key}"
            ) from None
        except hyperfs.NoSuchDrive:
            raise _no_such_drive(old) from None


@drives.command()
@click.argument("name", type=NAME)
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_settings
def remove(settings: Settings, name: str, yes: bool) -> None:
    """Delete the drive NAME with everything in it from this store.

    A drive made here can never be written again: a new one of the same name has another key.
    """
    if not yes:
        run(_remove, settings, name, False)
        _confirm(f"Delete the drive {name} and all its files from this store?")
    run(_remove, settings, name, True)


async def _remove(settings: Settings, name: str, sure: bool) -> None:
    """Remove a drive; without *sure* only look whether that can be done."""
    async with open_store(settings, create=False) as store:
        info = next((info for info in hyperfs.drives(store) if info.name == name), None)
        if info is None:
            raise _no_such_drive(name)
        for process in processes.serving(str(info.key), store=settings.store):
            pid = process.pid
            how = f"hyperfs umount {process.directory}" if process.directory else f"kill {pid}"
            raise Failure(f"process {pid} is serving this drive; stop it: `{how}`", Exit.LOCKED)
        if sure:
            with settings.output.waiting("deleting"):
                await hyperfs.remove_drive(store, name)


def _confirm(question: str) -> None:
    try:
        click.confirm(question, abort=True, err=True)
    except click.Abort:
        raise Failure("nothing was deleted; --yes deletes without asking") from None


def _no_such_drive(name: str) -> Failure:
    return Failure(f"there is no drive called {name}; `hyperfs drives` lists them", Exit.NOT_FOUND)
