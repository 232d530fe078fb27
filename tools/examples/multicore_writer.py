"""Append what is typed to one of two logs, found through a third.

multicore_writer.py --listen 127.0.0.1:4000
"""

from __future__ import annotations

import trio
from peers import arguments, connect, run, say, stdin

import corestore

SHORT = 5


async def main() -> None:
    """Short input goes to core 2, long input to core 3; core 1 says which those are."""
    options = arguments("multicore-writer-storage")
    async with corestore.open(options.storage) as store, corestore.open_swarm(store) as swarm:
        # A name stands for a key pair, so these are all writable; readers never see it.
        core1 = await store.get(name="core-1", encoding="json")
        core2 = await store.get(name="core-2")
        core3 = await store.get(name="core-3")
        say(f"main core key: {core1.key.hex()}")
        # A stream carries every core that both sides know, but keys are never exchanged: those of
        # the others are told in block 0 of the main core.
        if core1.length == 0:
            await core1.append({"otherKeys": [core.key.hex() for core in (core2, core3)]})
        await swarm.join(core1.discovery_key)
        await connect(swarm, options)
        async for data in stdin():
            if len(data) < SHORT:
                say("appending short data to core2")
                await core2.append(data)
            else:
                say("appending long data to core3")
                await core3.append(data)
        await trio.sleep_forever()


if __name__ == "__main__":
    run(main)
