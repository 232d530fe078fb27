"""`export-key` and `import-key`: the drive is written in another store from now on."""

from __future__ import annotations

import getpass
import sys
from typing import TYPE_CHECKING

import click

import hyperfs
from hyperfs.cli.drives import NAME
from hyperfs.cli.failures import Exit, Failure
from hyperfs.cli.flags import pass_settings
from hyperfs.cli.options import listen_option, peer_option, timeout_option
from hyperfs.cli.recover import recovered
from hyperfs.cli.serving import run
from hyperfs.cli.session import Network
from hyperfs.cli.settings import Settings, open_store

if TYPE_CHECKING:
    from hyperfs.cli.address import Endpoint


@click.command("export-key")
@click.argument("name", type=NAME)
@click.option(
    "--keep",
    is_flag=True,
    help="Only make a backup: go on writing the drive here. Never use the backup while this store"
    " is in use.",
)
@pass_settings
def export_key(settings: Settings, name: str, keep: bool) -> None:
    """Print the secret key of the drive NAME, and stop writing it here.

    `hyperfs import-key` on another machine reads it; leave a process here serving the drive
    (`hyperfs seed NAME`) until the other has fetched it. Whoever has the secret can write the
    drive. `hyperfs recover NAME` takes the drive back.
    """
    run(_export, settings, name, keep)


async def _export(settings: Settings, name: str, keep: bool) -> None:
    async with open_store(settings, create=False) as store:
        try:
            secret = await hyperfs.export_secret(store, name, keep=keep)
        except hyperfs.NoSuchDrive as error:
            raise Failure(str(error), Exit.NOT_FOUND) from None
    if settings.output.json:
        settings.output.record(name=name, secret=str(secret), moved=not keep)
    else:
        settings.output.data(str(secret))
    if keep:
        settings.output.say("this is a backup; the drive is still written here, and only here")
    else:
        settings.output.say(
            f"{name} is not written here any more; `hyperfs import-key NAME` goes on elsewhere,"
            f" `hyperfs recover {name}` here"
        )


@click.command("import-key")
@click.argument("name", type=NAME)
@click.option(
    "--alone",
    is_flag=True,
    help="Ask no peer: nobody has written the drive since, and what is here is all of it.",
)
@peer_option
@listen_option
@timeout_option
@pass_settings
def import_key(
    settings: Settings,
    name: str,
    alone: bool,
    peers: tuple[Endpoint, ...],
    listen: tuple[Endpoint, ...],
    timeout: float,
) -> None:
    """Read a secret key from stdin: the drive is written here from now on, called NAME.

    First everything is fetched from a peer, for a second history would cut off all readers.
    Without a peer in reach the key is kept, and `hyperfs recover NAME` goes on later.
    """
    try:
        secret = hyperfs.DriveSecret.parse(_read_secret())
    except hyperfs.SecretError as error:
        raise Failure(str(error), Exit.USAGE) from None
    network = Network(peers, timeout, listens=bool(listen))
    run(_import, settings, name, secret, alone, network, listen)


def _read_secret() -> str:
    # Not an argument: those are seen by everybody on the machine, and kept in histories.
    if sys.stdin.isatty():
        # Not shown: somebody may look over a shoulder.
        return getpass.getpass("paste what export-key printed: ", stream=sys.stderr)
    return sys.stdin.readline()


async def _import(
    settings: Settings,
    name: str,
    secret: hyperfs.DriveSecret,
    alone: bool,
    network: Network,
    listen: tuple[Endpoint, ...],
) -> None:
    async with open_store(settings) as store:
        try:
            info = await hyperfs.import_secret(store, name, secret)
        except hyperfs.DriveExists as error:
            raise Failure(
                f"another drive is called {name} already; its key is {error.key}"
            ) from None
        version = await recovered(settings, store, info, network, listen, alone=alone)
    if settings.output.json:
        settings.output.record(name=info.name, key=str(info.key), version=version)
    else:
        settings.output.data(str(info.key))
