"""Follow all logs that a multicore_writer writes, knowing the key of its main one.

multicore_reader.py KEY --peer 127.0.0.1:4000
"""

from __future__ import annotations

import sys

import trio
from peers import NO_PEERS, arguments, connect, find_writer, run, say, text

import corestore


async def main() -> int | None:
    """Find the other logs' keys in the main one, then print what is appended to them."""
    options = arguments("multicore-reader-storage", key=True)
    async with corestore.open(options.storage) as store, corestore.open_swarm(store) as swarm:
        main_core = await store.get(key=options.key, encoding="json")
        await swarm.join(main_core.discovery_key)
        await connect(swarm, options)
        if not await find_writer(main_core, options.timeout):
            return NO_PEERS
        keys = other_keys(await main_core.get(0))
        async with trio.open_nursery() as nursery:
            for key in keys:
                nursery.start_soon(follow, store, key)
    return None


def other_keys(block: object) -> list[str]:
    """The keys in block 0. Whoever has the key may have written anything there."""
    match block:
        case {"otherKeys": [*keys]} if all(isinstance(key, str) for key in keys):
            return keys
    sys.exit("block 0 of this core does not name other cores")


async def follow(store: corestore.Corestore, key: str) -> None:
    """On every append, fetch the latest block and print it."""
    core = await store.get(key=key)
    with core.events() as events:
        async for event in events:
            if isinstance(event, corestore.Appended):
                index = core.length - 1
                block = await core.get(index)
                say(f"Block {index} in Core {core.key.hex()}: {text(block)}")


if __name__ == "__main__":
    run(main)
