"""A drive of somebody else, and what is written into one's own: shared by the benches of drives."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

import corestore
import hyperfs
from tools.bench.report import MIB, incompressible

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@asynccontextmanager
async def reader(
    folder: Path | None, address: str, key: str
) -> AsyncIterator[tuple[hyperfs.Drive, corestore.Hypercore]]:
    """A reader of the drive *key* at *address*, with its metadata core. What it fetches goes into
    *folder*, or is kept in memory."""
    host, _, port = address.rpartition(":")
    async with corestore.open(folder) as store, corestore.open_swarm(store) as swarm:
        metadata = await store.get(key=key)
        await swarm.join(metadata.discovery_key)
        swarm.connect(host, int(port))
        async with hyperfs.open(store, key=key) as drive:
            with trio.fail_after(30):
                await drive.ready()
            yield drive, metadata


async def fresh(size: int) -> AsyncIterator[bytes]:
    """About *size* bytes that nobody has, MiB by MiB."""
    for _ in range(size // MIB):
        yield incompressible(MIB)
