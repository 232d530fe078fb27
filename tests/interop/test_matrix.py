"""Every job, in both directions, with both generations of Node, whoever dialled and whoever is
initiator: all of them on one stream, each with a core of its own.

What either generation cannot do is told by a test of its own at the end.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import trio

from corestore import KeyPair, Manifest, Signer
from tests.support.interop import digest, hexes, made_blocks, peers, tree_hash
from tests.support.limits import HANG_SECONDS
from tests.support.node import NodeError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from corestore import Corestore, Hypercore
    from tests.support.node import NodePeer

pytestmark = pytest.mark.interop

SECRET = bytes(range(32))
SEED = bytes([7]) * 32
PAIR = KeyPair.from_seed(SEED)
# The core as Node makes it, and its manifest; None for one from before manifests.
KINDS: dict[str, tuple[dict[str, object], Manifest | None]] = {
    "version 0": ({"version": 0}, Manifest(version=0, signers=(Signer(PAIR.public_key),))),
    "version 1": ({"version": 1}, Manifest(version=1, signers=(Signer(PAIR.public_key),))),
    "version 2": ({"version": 2}, Manifest(version=2, signers=(Signer(PAIR.public_key),))),
    "compat": ({"compat": True}, None),
}
OFFSETS = (0, 1, 776, 777, 100_000, 300 * 777 - 1)


@dataclass
class Side:
    """What a job has to do with; Node's cores get numbers in the order of opening."""

    store: Corestore
    node: NodePeer
    generation: int
    folder: Path

    async def theirs(self, name: str, count: int, size: int, **options) -> tuple[int, Hypercore]:
        """A core of Node with blocks: its number there, and our handle."""
        secret = {"encryption_key": SECRET} if options.get("encryption") else {}
        info = await self.node("core", name=name, **options)
        number = info["core"]
        if count:
            await self.node("appendMany", core=number, seed=name, count=count, size=size)
        core = await self.store.get(key=info["key"], **secret)
        await core.wait_length(count)
        return number, core

    async def ours(self, name: str, count: int, size: int, **options) -> tuple[int, Hypercore]:
        """A core of ours with blocks: its number at Node, which knows of all blocks."""
        secret = {"encryption_key": SECRET} if options.get("encryption") else {}
        core = await self.store.get(name=name, **secret)
        await core.append(*made_blocks(name, count, size))
        await self.store.sync()
        number = (await self.node("core", key=core.key.hex(), **options))["core"]
        await self.node("waitLength", core=number, length=count)
        return number, core

    async def add(self, core: Hypercore, *blocks: bytes) -> None:
        """Append, and show it."""
        await core.append(*blocks)
        await self.store.sync()

    async def forked_here(self, core: Hypercore, fork: int, length: int) -> None:
        """Wait until our copy is on a fork and has a length."""
        with core.events() as events:
            while (core.fork, core.length) != (fork, length):
                await events.receive()

    async def forked_there(self, number: int, fork: int, length: int) -> None:
        """Wait until Node's copy is on a fork and has a length."""
        while True:
            # While Node reorganises, it may not find its own roots.
            with contextlib.suppress(NodeError):
                info = await self.node("info", core=number)
                if (info["fork"], info["length"]) == (fork, length):
                    return
            await trio.sleep(0.01)


# -- Node writes, we read --------------------------------------------------------------------------


async def we_download(side: Side) -> None:
    number, core = await side.theirs("download", 80, 3000)
    await core.download()
    assert [core.get_nowait(i) for i in range(80)] == made_blocks("download", 80, 3000)
    assert tree_hash(core) == (await side.node("info", core=number))["treeHash"]


async def we_follow(side: Side) -> None:
    number, core = await side.theirs("live", 0, 0)
    for length in range(5):
        await side.node("append", core=number, blocks=hexes(b"live %d" % length))
        await core.wait_length(length + 1)
        assert await core.get(length) == b"live %d" % length
    assert tree_hash(core) == (await side.node("info", core=number))["treeHash"]


async def we_read_sparsely(side: Side) -> None:
    _, core = await side.theirs("sparse", 400, 2000)
    blocks = made_blocks("sparse", 400, 2000)
    for index in (399, 0, 250, 251, 3):
        assert await core.get(index) == blocks[index]
    assert core.statistics().blocks_held == 5
    assert core.contiguous_length == 1


async def we_seek(side: Side) -> None:
    _, core = await side.theirs("seek", 300, 777)
    for offset in OFFSETS:
        position = await core.seek(offset)
        assert (position.index, position.offset) == divmod(offset, 777)
    assert core.statistics().blocks_held <= len(OFFSETS)


async def we_follow_a_fork(side: Side) -> None:
    number, core = await side.theirs("fork", 100, 300)
    await core.download()
    received = core.statistics().blocks_received
    await side.node("truncate", core=number, length=65)
    info = await side.node("appendMany", core=number, seed="new", count=10, size=300)
    await side.forked_here(core, 1, 75)
    await core.download()
    assert [b async for b in core.blocks()] == (
        made_blocks("fork", 65, 300) + made_blocks("new", 10, 300)
    )
    assert tree_hash(core) == info["treeHash"]
    assert core.statistics().blocks_received - received < 30
    # And once more, to nothing: that has no signature, so it is told with the next block.
    await side.node("truncate", core=number, length=0)
    await side.node("append", core=number, blocks=hexes(b"again"))
    await side.forked_here(core, 2, 1)
    assert await core.get(0) == b"again"


async def we_do_without_what_was_cleared(side: Side) -> None:
    number, core = await side.theirs("clear", 100, 100)
    blocks = made_blocks("clear", 100, 100)
    await side.node("clear", core=number, start=10, end=90)
    assert await core.get(95) == blocks[95]
    with trio.move_on_after(0.05) as waiting:
        await core.get(50)
    assert waiting.cancelled_caught
    assert await core.get(5) == blocks[5]
    await side.node("append", core=number, blocks=hexes(b"after"))
    assert await core.get(100) == b"after"


async def we_read_an_encrypted_core(side: Side) -> None:
    number, core = await side.theirs("secret", 300, 777, encryption=SECRET.hex())
    for offset in OFFSETS:
        position = await core.seek(offset)
        assert (position.index, position.offset) == divmod(offset, 777)
    await core.download()
    assert [b async for b in core.blocks()] == made_blocks("secret", 300, 777)
    await side.node("append", core=number, blocks=hexes(b"", b"live"))
    assert [await core.get(300), await core.get(301)] == [b"", b"live"]
    await side.node("truncate", core=number, length=10)
    info = await side.node("append", core=number, blocks=hexes(b"on another fork"))
    await side.forked_here(core, 1, 11)
    assert await core.get(10) == b"on another fork"
    assert tree_hash(core) == info["treeHash"]


def we_read_a_kind(kind: str, *, encrypted: bool) -> Callable[[Side], Awaitable[None]]:
    options, manifest = KINDS[kind]

    async def job(side: Side) -> None:
        secret, hidden = ({"encryption_key": SECRET}, SECRET.hex()) if encrypted else ({}, None)
        folder = str(side.folder / f"{kind} {encrypted}")
        seed = bytes([8 + encrypted]) * 32
        made = {"seed": seed.hex(), **options}
        info = await side.node("hypercore", folder=folder, encryption=hidden, **made)
        number = info["core"]
        await side.node("appendMany", core=number, seed=kind, count=20, size=100)
        await side.node("share", core=number)
        core = await side.store.get(key=info["key"], **secret)
        await core.wait_length(20)
        await core.download()
        assert [b async for b in core.blocks()] == made_blocks(kind, 20, 100)
        info = await side.node("append", core=number, blocks=hexes(b"live"))
        assert await core.get(20) == b"live"
        assert tree_hash(core) == info["treeHash"]
        if manifest is not None:
            assert core.manifest is not None
            assert core.manifest.version == manifest.version
        else:
            assert core.key == KeyPair.from_seed(seed).public_key

    job.__name__ = f"we_read_{kind}{'_encrypted' if encrypted else ''}".replace(" ", "_")
    return job


# -- we write, Node reads --------------------------------------------------------------------------


async def node_downloads(side: Side) -> None:
    blocks = [b"", b"x", *made_blocks("download", 60, 1000), *made_blocks("large", 3, 65536)]
    core = await side.store.get(name="download")
    await side.add(core, *blocks)
    number = (await side.node("core", key=core.key.hex()))["core"]
    await side.node("waitLength", core=number, length=len(blocks))
    info = await side.node("download", core=number, end=len(blocks))
    assert info["contiguousLength"] == len(blocks)
    assert info["treeHash"] == tree_hash(core)
    assert await side.node("digest", core=number) == digest(blocks)


async def node_follows(side: Side) -> None:
    number, core = await side.ours("live", 1, 10)
    for index in range(1, 5):
        await side.add(core, b"live %d" % index)
        assert (await side.node("waitLength", core=number, length=index + 1))["length"] == index + 1
        assert await side.node("get", core=number, index=index) == (b"live %d" % index).hex()
    assert (await side.node("info", core=number))["treeHash"] == tree_hash(core)


async def node_reads_sparsely(side: Side) -> None:
    number, core = await side.ours("sparse", 400, 2000)
    blocks = made_blocks("sparse", 400, 2000)
    for index in (399, 0, 250, 251, 3):
        assert await side.node("get", core=number, index=index) == blocks[index].hex()
    assert (await side.node("info", core=number))["contiguousLength"] == 1
    assert not await side.node("has", core=number, start=100)
    assert core.statistics().blocks_sent <= 6


async def node_seeks(side: Side) -> None:
    number, core = await side.ours("seek", 300, 777)
    for offset in OFFSETS:
        assert await side.node("seek", core=number, offset=offset) == list(divmod(offset, 777))
    assert core.statistics().blocks_sent <= len(OFFSETS) + 1


async def node_follows_a_fork(side: Side) -> None:
    number, core = await side.ours("fork", 100, 300)
    await side.node("download", core=number, end=100)
    await core.truncate(65)
    sent = core.statistics().blocks_sent
    await side.add(core, *made_blocks("new", 10, 300))
    await side.forked_there(number, 1, 75)
    await side.node("download", core=number, end=75)
    blocks = made_blocks("fork", 65, 300) + made_blocks("new", 10, 300)
    assert await side.node("digest", core=number) == digest(blocks)
    assert (await side.node("info", core=number))["treeHash"] == tree_hash(core)
    assert core.statistics().blocks_sent - sent <= 12
    await core.truncate(0)
    await side.add(core, b"again")
    await side.forked_there(number, 2, 1)
    assert await side.node("get", core=number, index=0) == b"again".hex()


async def node_does_without_what_was_cleared(side: Side) -> None:
    number, core = await side.ours("clear", 100, 100)
    blocks = made_blocks("clear", 100, 100)
    await core.clear(10, 90)
    assert await side.node("get", core=number, index=95) == blocks[95].hex()
    assert await side.node("get", core=number, index=5) == blocks[5].hex()
    await side.add(core, b"after")
    assert await side.node("get", core=number, index=100) == b"after".hex()
    # Last: after one that was given up, Node may not send its next request.
    with pytest.raises(NodeError):
        await side.node("get", core=number, index=50, options={"timeout": 50})


async def node_reads_an_encrypted_core(side: Side) -> None:
    number, core = await side.ours("secret", 300, 777, encryption=SECRET.hex())
    for offset in OFFSETS:
        assert await side.node("seek", core=number, offset=offset) == list(divmod(offset, 777))
    assert await side.node("digest", core=number) == digest(made_blocks("secret", 300, 777))
    assert (await side.node("info", core=number))["byteLength"] == core.byte_length
    await side.add(core, b"", b"live")
    await side.node("waitLength", core=number, length=302)
    assert await side.node("get", core=number, index=300) == ""
    assert await side.node("get", core=number, index=301) == b"live".hex()
    await core.truncate(10)
    await side.add(core, b"on another fork")
    await side.forked_there(number, 1, 11)
    assert await side.node("get", core=number, index=10) == b"on another fork".hex()
    assert (await side.node("info", core=number))["treeHash"] == tree_hash(core)


def node_reads_a_kind(kind: str, *, encrypted: bool) -> Callable[[Side], Awaitable[None]]:
    _, manifest = KINDS[kind]

    async def job(side: Side) -> None:
        pair = KeyPair.from_seed(bytes([8 + encrypted]) * 32)
        secret, hidden = ({"encryption_key": SECRET}, SECRET.hex()) if encrypted else ({}, None)
        if manifest is None:
            core = await side.store.get(key=pair.public_key, key_pair=pair, **secret)
        else:
            whose = Manifest(version=manifest.version, signers=(Signer(pair.public_key),))
            core = await side.store.get(manifest=whose, key_pair=pair, **secret)
        await side.add(core, *made_blocks(kind, 20, 100))
        opened = await side.node("core", key=core.key.hex(), encryption=hidden)
        number = opened["core"]
        await side.node("waitLength", core=number, length=20)
        assert await side.node("digest", core=number) == digest(made_blocks(kind, 20, 100))
        await side.add(core, b"live")
        assert await side.node("get", core=number, index=20) == b"live".hex()
        assert (await side.node("info", core=number))["treeHash"] == tree_hash(core)

    job.__name__ = f"node_reads_{kind}{'_encrypted' if encrypted else ''}".replace(" ", "_")
    return job


WE_READ = [
    we_download,
    we_follow,
    we_read_sparsely,
    we_seek,
    we_follow_a_fork,
    we_do_without_what_was_cleared,
    we_read_an_encrypted_core,
    *(we_read_a_kind(kind, encrypted=each) for kind in KINDS for each in (False, True)),
]
NODE_READS = [
    node_downloads,
    node_follows,
    node_reads_sparsely,
    node_seeks,
    node_follows_a_fork,
    node_does_without_what_was_cleared,
    node_reads_an_encrypted_core,
    *(node_reads_a_kind(kind, encrypted=each) for kind in KINDS for each in (False, True)),
]
JOBS = {"we read": WE_READ, "node reads": NODE_READS}
# What one generation cannot do, see below.
CANNOT = {
    ("node reads", 10): {"node_reads_version_2", "node_reads_version_2_encrypted"},
    ("node reads", 11): {"node_reads_compat_encrypted"},
}


@pytest.mark.parametrize("generation", [10, 11])
@pytest.mark.parametrize("dial", [True, False], ids=["we dial", "node dials"])
@pytest.mark.parametrize("initiator", [True, False], ids=["we initiate", "node initiates"])
@pytest.mark.parametrize("direction", ["we read", "node reads"])
async def test_every_job_is_done(tmp_path, generation, dial, initiator, direction):
    cannot = CANNOT.get((direction, generation), set())
    async with peers(tmp_path / "store", generation=generation, initiator=initiator, dial=dial) as (
        store,
        node,
        connect,
    ):
        await connect()
        side = Side(store, node, generation, tmp_path)
        for job in JOBS[direction]:
            if job.__name__ in cannot:
                continue
            try:
                with trio.fail_after(HANG_SECONDS):
                    await job(side)
            except BaseException as error:
                error.add_note(f"in the job {job.__name__}")
                raise


# -- what cannot be done ---------------------------------------------------------------------------


# -- what cannot be done ---------------------------------------------------------------------------


async def test_hypercore_10_hangs_up_when_it_is_shown_a_manifest_of_version_2(tmp_path):
    """The stream ends for all cores. (It can make such a core, and serve it: see the matrix.)"""
    async with peers(tmp_path, generation=10) as (store, node, connect):
        await connect()
        other = await store.get(name="other")
        await other.append(b"one")
        await store.sync()
        await node("core", key=other.key.hex())
        assert await node("get", core=0, index=0) == b"one".hex()
        manifest = Manifest(version=2, signers=(Signer(PAIR.public_key),))
        core = await store.get(manifest=manifest, key_pair=PAIR)
        await core.append(b"two")
        await store.sync()
        with other.events() as events:
            info = await node("core", key=core.key.hex())
            while other.peers:
                await events.receive()
        assert (await node("info", core=info["core"]))["length"] == 0
        assert "Unknown version: 2" in node.said
        # Without that core everything else goes on.
        await node("close", core=info["core"])
        await core.aclose()
        await connect()
        await other.append(b"three")
        await store.sync()
        assert await node("get", core=0, index=1) == b"three".hex()


async def test_hypercore_11_cannot_decrypt_a_compat_core_of_somebody_else(tmp_path):
    """It has the blocks, and finds out too late that the core is of that kind. (10 can.)"""
    async with peers(tmp_path) as (store, node, connect):
        await connect()
        core = await store.get(key=PAIR.public_key, key_pair=PAIR, encryption_key=SECRET)
        await core.append(b"one")
        await store.sync()
        await node("core", key=core.key.hex(), encryption=SECRET.hex())
        with pytest.raises(NodeError, match="typed array"):
            await node("get", core=0, index=0)
        await node("core", key=core.key.hex())
        stored = bytes.fromhex(await node("get", core=1, index=0))
        assert stored == core._state.block(0)
