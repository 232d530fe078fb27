"""`recover`: bring a drive of one's own up to date from its peers, and write it again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import trio

import corestore
import hyperfs
from corestore import Corestore
from hyperfs.cli.drives import NAME
from hyperfs.cli.failures import Exit, Failure
from hyperfs.cli.flags import pass_settings
from hyperfs.cli.options import listen_option, peer_option, timeout_option
from hyperfs.cli.serving import run
from hyperfs.cli.session import Network
from hyperfs.cli.settings import Settings, open_store, reach

if TYPE_CHECKING:
    from hyperfs.cli.address import Endpoint


@click.command()
@click.argument("name", type=NAME)
@click.option(
    "--alone",
    is_flag=True,
    help="Ask no peer: no other copy of this drive was written since. If that is wrong, its"
    " readers are lost.",
)
@click.option(
    "--settle",
    is_flag=True,
    help="The key has signed two histories: go on with the one that is here. Readers go"
    " over to it; what only the other one has is lost.",
)
@peer_option
@listen_option
@timeout_option
@pass_settings
def recover(
    settings: Settings,
    name: str,
    alone: bool,
    settle: bool,
    peers: tuple[Endpoint, ...],
    listen: tuple[Endpoint, ...],
    timeout: float,
) -> None:
    """Fetch the drive NAME, which is written here, as far as its peers have it.

    For a store that was restored from a backup, copied, or given the key by import-key: it writes
    again once it has all there is.
    """
    if settle:
        if alone or peers or listen:
            raise click.UsageError("--settle asks nobody: it stands alone")
        run(_settle, settings, name)
        return
    network = Network(peers, timeout, listens=bool(listen))
    run(_recover, settings, name, alone, network, listen)


async def _settle(settings: Settings, name: str) -> None:
    async with open_store(settings, create=False) as store:
        info = _find(store, name)
        async with await store.get(key=info.key) as metadata:
            before = metadata.fork
            version = await hyperfs.settle_drive(store, info.key)
            if metadata.fork == before and info.writable:
                raise Failure(f"nothing has to be settled: the key of {name} has one history")
    _tell(settings, info, version)


def _find(store: Corestore, name: str) -> hyperfs.DriveInfo:
    info = next((info for info in hyperfs.drives(store) if info.name == name), None)
    if info is None:
        raise Failure(
            f"there is no drive called {name}; `hyperfs drives` lists them", Exit.NOT_FOUND
        )
    return info


def _tell(settings: Settings, info: hyperfs.DriveInfo, version: int) -> None:
    if settings.output.json:
        settings.output.record(name=info.name, key=str(info.key), version=version)
    elif info.writable:
        settings.output.say(f"{info.name} is at version {version}, and is written here")
    else:
        settings.output.say(f"{info.name} is at version {version}, and follows its peers again")


async def _recover(
    settings: Settings,
    name: str,
    alone: bool,
    network: Network,
    listen: tuple[Endpoint, ...],
) -> None:
    async with open_store(settings, create=False) as store:
        info = _find(store, name)
        version = await recovered(settings, store, info, network, listen, alone=alone)
        info = _find(store, name)
    _tell(settings, info, version)


async def recovered(
    settings: Settings,
    store: Corestore,
    info: hyperfs.DriveInfo,
    network: Network,
    listen: tuple[Endpoint, ...],
    *,
    alone: bool,
) -> int:
    """Recover a drive and return its version.

    Raises:
      Failure: no peer had all of it in time.
    """
    if alone:
        return await hyperfs.recover_drive(store, info.key, alone=True)
    async with corestore.open_swarm(store) as swarm:
        for where in await reach(swarm, info.key, listen=listen, peers=network.peers):
            settings.output.say(f"listening on {where}")
        try:
            with (
                settings.output.waiting("fetching what peers have"),
                trio.fail_after(network.seconds),
            ):
                return await hyperfs.recover_drive(store, info.key)
        except trio.TooSlowError:
            async with await store.get(key=info.key) as metadata:
                newest = not metadata.length or metadata.has(metadata.length - 1)
                written = newest and metadata.held_for is None
            raise Failure(
                f"no peer had all of {info.name} within {network.seconds:g} s: it is"
                f" {'written here as before' if written else 'not written here yet'}; name one with"
                f" `hyperfs recover {info.name} --peer HOST:PORT`",
                Exit.NO_PEERS,
            ) from None
