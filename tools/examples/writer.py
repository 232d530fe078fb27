"""Append what is typed to a log, and serve the log to its readers.

writer.py --listen 127.0.0.1:4000
"""

from __future__ import annotations

import trio
from peers import arguments, connect, run, say, stdin

import corestore


async def main() -> None:
    """Every piece of input becomes a block."""
    options = arguments("writer-storage")
    async with corestore.open(options.storage) as store, corestore.open_swarm(store) as swarm:
        # The default core is the same one each time. Its key lets one read it.
        core = await store.default()
        say(f"core key: {core.key}")
        # Its discovery key does not: it only finds others who might have the core.
        await swarm.join(core.discovery_key)
        await connect(swarm, options)
        async for data in stdin():
            await core.append(data)
        # There is no more to write, but readers may still come.
        await trio.sleep_forever()


if __name__ == "__main__":
    run(main)
