"""Reach a drive for a file command: through the process that has it, or by opening it here."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

import corestore
import hyperfs
from corestore import Key
from hyperfs.cli import processes, remote
from hyperfs.cli.access import Access, DriveAccess
from hyperfs.cli.failures import Exit, Failure
from hyperfs.cli.settings import Settings, find_key, open_store, reach

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hyperfs.cli.address import Address, Endpoint
    from hyperfs.cli.output import Output
    from hyperfs.cli.processes import ProcessInfo

# How long peers are waited for to tell of a newer version than the one that is here.
_NEWEST_SECONDS: Final = 5.0
# What is here is found in this time, on a busy machine too.
_ALONE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Network:
    """Where a command that opens a drive by itself finds peers, and how long it waits for them.
    *listens*: others may come by themselves."""

    peers: tuple[Endpoint, ...]
    timeout: float
    listens: bool = False

    @property
    def reaches_nobody(self) -> bool:
        """Whether there is nobody to wait for."""
        return not self.peers and not self.listens

    @property
    def seconds(self) -> float:
        """How long to wait for what may only be had from a peer, and may be here."""
        return min(self.timeout, _ALONE_SECONDS) if self.reaches_nobody else self.timeout


@asynccontextmanager
async def open_access(
    settings: Settings, address: Address, network: Network, *, write: bool = False
) -> AsyncIterator[Access]:
    """The files of a drive.

    A process of this user that serves the drive out of the same store is asked first: only it
    knows what is not committed yet, and only it may write.

    Raises:
      Failure: the drive is not there, no peer has it, or it may only be read.
    """
    if write and address.version is not None:
        raise Failure(
            f"what version {address.version} holds cannot be changed; leave +{address.version} out",
            Exit.USAGE,
        )
    async with open_store(settings, create=address.key is not None) as store:
        key = find_key(store, address)
        secret = address.encryption_key or store.encryption_key(key.discovery_key)

        def suits(process: ProcessInfo) -> bool:
            # A seed may hold the drive without being able to read it.
            reads = secret is None or process.command != "seed"
            return process.version is None and reads and (process.writable or not write)

        found = processes.serving(str(key), store=settings.store)
        # The store is closed before another process is asked: it may wait for us otherwise.
        process = next(filter(suits, found), None) if address.version is None else None
        if process is None:
            async with open_drive(
                store, key, address, network, settings.output, write=write
            ) as drive:
                yield DriveAccess(drive)
    if process is not None:
        if network.peers:
            settings.output.say(
                f"--peer is not used: process {process.pid} has this drive, and its own peers"
            )
        async with remote.connect(process.socket) as client:
            yield remote.ControlAccess(client, str(key))


@asynccontextmanager
async def open_drive(
    store: corestore.Corestore,
    key: Key,
    address: Address,
    network: Network,
    output: Output,
    *,
    write: bool = False,
) -> AsyncIterator[hyperfs.Drive]:
    """The drive, opened by this process: its newest version, or the one that was asked for.

    Raises:
      Failure: no peer has it, there is no such version, or it may only be read.
    """
    async with (
        corestore.open_swarm(store) as swarm,
        hyperfs.open(
            store,
            key=key,
            encryption_key=address.encryption_key,
            # Its own blocks a writer has; a reader's command must end when its peers are silent.
            read_timeout=0.0 if network.reaches_nobody else network.timeout,
        ) as drive,
    ):
        if write and not drive.writable:
            raise Failure(
                "this drive can only be read here: its secret key is on another machine",
                Exit.NOT_PERMITTED,
            )
        if write and drive.metadata.held_for is not None:
            # Says why not, before anything is copied.
            drive.metadata.lock()
        if not drive.writable:
            await reach(swarm, key, listen=(), peers=network.peers)
            await first_version(drive, network, output)
        yield await shown_version(drive, address)


def cautions(drive: hyperfs.Drive) -> list[str]:
    """What somebody should know who is about to use a drive, a line each."""
    found = []
    cores = [drive.metadata] if drive.content is None else [drive.metadata, drive.content]
    if any(core.conflict is not None for core in cores):
        found.append(
            "this drive's key has signed two histories: what is here is shown, and nothing new"
            " will come"
        )
    elif drive.metadata.held_for is not None and not drive.writable:
        found.append(
            "this drive is read-only here: its secret key was moved to another store (to write it"
            " here again, import the key)"
        )
    return found


async def shown_version(drive: hyperfs.Drive, address: Address) -> hyperfs.Drive:
    """The drive, or the version of it that was asked for.

    Raises:
      Failure: there is no such version.
    """
    if address.version is None:
        return drive
    try:
        return await drive.checkout(address.version)
    except ValueError as error:
        raise Failure(str(error), Exit.NOT_FOUND) from None


async def version_at(drive: hyperfs.Drive, time_ns: int, text: str) -> int:
    """The version a drive had at a time that was given as *text*.

    Raises:
      Failure: it is before the first, or its format does not tell.
    """
    version = await drive.version_at(time_ns)
    if not version:
        raise Failure(f"no version of this drive is known to be as old as {text}", Exit.NOT_FOUND)
    return version


async def first_version(drive: hyperfs.Drive, network: Network, output: Output) -> None:
    """Wait until a drive opened by key can be read: its newest known version is here.

    With peers to ask, the newest version they have is waited for as well, a little while.

    Raises:
      Failure: no peer has the drive, and nothing of it is in the store.
    """
    cached = drive.version > 0
    seconds = min(network.seconds, _NEWEST_SECONDS) if cached else network.seconds
    try:
        with output.waiting("waiting for a peer"), trio.fail_after(seconds):
            if network.peers:
                await drive.update()
            await drive.ready()
    except trio.TooSlowError:
        if cached:
            return
        if network.reaches_nobody:
            raise Failure(
                "nothing of this drive is in the store, and no peer was named: name one with"
                " --peer HOST:PORT",
                Exit.NO_PEERS,
            ) from None
        where = "is the address right?" if network.peers else "name one with --peer HOST:PORT"
        raise Failure(
            f"no peer with this drive answered within {network.timeout:g} s, and nothing of it is"
            f" in the store; {where}",
            Exit.NO_PEERS,
        ) from None
