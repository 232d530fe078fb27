"""Follow a log from its end, wherever the writer is.

  reader.py KEY --peer 127.0.0.1:4000

With --listen it serves other readers too.
"""

from __future__ import annotations

from peers import NO_PEERS, arguments, connect, find_writer, run, say, text

import corestore


async def main() -> int | None:
    """Skip what is there, print what comes."""
    options = arguments("reader-storage", key=True)
    async with corestore.open(options.storage) as store, corestore.open_swarm(store) as swarm:
        core = await store.get(key=options.key)
        await swarm.join(core.discovery_key)
        await connect(swarm, options)
        if not await find_writer(core, options.timeout):
            return NO_PEERS
        position = core.length
        say(f"Skipping {position} earlier blocks...")
        async for block in core.blocks(start=position, live=True):
            say(f"Block {position}: {text(block)}")
            position += 1
    return None


if __name__ == "__main__":
    run(main)
