"""What every command is told by flags and environment: where the store is, how to speak."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

import corestore
import hyperfs
from corestore import Corestore, Key, Swarm
from hyperfs.cli.address import Address, AddressError, Endpoint
from hyperfs.cli.failures import Exit, Failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hyperfs.cli.output import Output

DEFAULT_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Settings:
    """The global options of one invocation."""

    store: Path
    output: Output


def default_store() -> Path:
    """`$XDG_DATA_HOME/hyperfs`, unless HYPERFS_STORE or --store says otherwise."""
    return Path(platformdirs.user_data_dir("hyperfs"))


@asynccontextmanager
async def open_store(settings: Settings, *, create: bool = True) -> AsyncIterator[Corestore]:
    """The store, with its folder's problems told in a sentence.

    Raises:
      Failure: the folder cannot be a store; with *create* false, it is none yet.
    """
    if not create and not settings.store.exists():
        raise Failure(
            f"there is no store in {settings.store} yet; `hyperfs create NAME` makes one with a"
            " drive, --store DIR names another",
            Exit.NOT_FOUND,
        )
    try:
        context = corestore.open(settings.store)
        store = await context.__aenter__()
    except (FileExistsError, NotADirectoryError):
        raise Failure(
            f"{settings.store} cannot be a folder, a file is in its place; choose --store DIR"
        ) from None
    except PermissionError:
        raise Failure(f"{settings.store} may not be written by you; choose --store DIR") from None
    try:
        yield store
    except BaseException as error:
        if not await context.__aexit__(type(error), error, error.__traceback__):
            raise
    else:
        await context.__aexit__(None, None, None)


def refuse_secret(store: Corestore, key: Key) -> None:
    """Stop when a secret of this store was given where a key belongs.

    Raises:
      AddressError: it is one.
    """
    if store.is_secret(bytes(key)):
        raise AddressError(
            "this is a secret of this store, not a key: keep it to yourself, and use the drive's"
            " key (`hyperfs drives` shows it)"
        )


def find_key(store: Corestore, address: Address) -> Key:
    """The key of the drive that *address* names.

    Raises:
      Failure: there is no drive of that name here.
    """
    if address.key is not None:
        refuse_secret(store, address.key)
        return address.key
    for info in hyperfs.drives(store):
        if info.name == address.name:
            return info.key
    raise Failure(
        f"there is no drive called {address.name} in {os.fspath(store_path(store))};"
        " `hyperfs drives` lists them",
        Exit.NOT_FOUND,
    )


def store_path(store: Corestore) -> Path:
    """The store's folder."""
    assert store.path is not None
    return Path(store.path)


async def reach(
    swarm: Swarm,
    key: Key,
    *,
    listen: tuple[Endpoint, ...],
    peers: tuple[Endpoint, ...],
) -> tuple[str, ...]:
    """Listen and dial for a drive; returns HOST:PORT of every listening socket.

    Raises:
      OSError: an address cannot be listened on.
    """
    bound = []
    for host, port in listen:
        try:
            where = await swarm.listen(host, port)
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"{host}:{port}") from None
        bound.append(f"{where[0]}:{where[1]}")
    for host, port in peers:
        swarm.connect(host, port)
    await swarm.join(key.discovery_key)
    return tuple(bound)
