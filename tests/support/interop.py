"""A store of ours and a Node peer, connected the way a test wants it."""

from __future__ import annotations

import hashlib
from contextlib import asynccontextmanager
from functools import partial

import trio

import corestore
from tests.support.node import node_peer


@asynccontextmanager
async def peers(folder, *, initiator=True, dial=True, mode="replicate", generation=11):
    """(our store, a Node peer with a store in *folder*, an async function that connects them).

    *dial* and *initiator* are said of us. With another *mode* (`peer.js` lists them) Node gets no
    store.
    """
    async with (
        node_peer(generation=generation) as node,
        corestore.open(None) as store,
        trio.open_nursery() as nursery,
    ):
        if mode == "replicate":
            await node("store", folder=str(folder))

        async def connect():
            stream, dialled = await _connected(node, initiator, dial, mode, nursery)
            nursery.start_soon(partial(store.replicate, stream, initiator=initiator))
            await dialled.wait()

        yield store, node, connect
        nursery.cancel_scope.cancel()


async def _connected(node, initiator, dial, mode, nursery):
    """A stream to Node, and an event for when Node's side knows that it is connected."""
    dialled = trio.Event()
    if dial:
        port = await node("listen", initiator=not initiator, mode=mode)
        dialled.set()
        return await trio.open_tcp_stream("127.0.0.1", port), dialled
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def ask_to_dial():
        port = listener.socket.getsockname()[1]
        await node("dial", port=port, initiator=not initiator, mode=mode)
        dialled.set()

    async with listener:
        nursery.start_soon(ask_to_dial)
        return await listener.accept(), dialled


@asynccontextmanager
async def connected(store, node):
    """Connects one more Node peer to *store* for the length of a block; Node listens."""
    port = await node("listen", initiator=False)
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(store.replicate, stream, initiator=True))
        yield
        nursery.cancel_scope.cancel()


def made_blocks(seed, count, size):
    """What `appendMany` of the Node peer makes."""
    return [
        (hashlib.sha256(f"{seed}-{i}".encode()).digest() * (size // 32 + 1))[:size]
        for i in range(count)
    ]


def digest(blocks):
    """What `digest` of the Node peer says of these blocks."""
    return hashlib.sha256(b"".join(blocks)).hexdigest()


def hexes(*blocks):
    """Blocks as JSON carries them."""
    return [block.hex() for block in blocks]


def tree_hash(core):
    """The hash of the whole tree of one of our cores."""
    return core._head.tree_hash().hex()
