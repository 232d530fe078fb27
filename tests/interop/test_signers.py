"""Cores that two of three must sign, with signers, and readers, on both sides."""

from __future__ import annotations

from functools import partial

import pytest

from corestore import KeyPair, Manifest, Node, PartialSignature, Signer
from tests.support.interop import hexes, peers, tree_hash
from tests.support.node import NodeError

pytestmark = pytest.mark.interop

SEEDS = [bytes([number]) * 32 for number in range(3)]
PAIRS = [KeyPair.from_seed(seed) for seed in SEEDS]
GENERATIONS = pytest.mark.parametrize("generation", [10, 11])
VERSIONS = pytest.mark.parametrize("version", [0, 1])
BLOCKS = [b"block %d" % number for number in range(13)]


def manifest(version, *, patch=False):
    signers = tuple(Signer(pair.public_key) for pair in PAIRS)
    return Manifest(version=version, quorum=2, signers=signers, allow_patch=patch)


def ours_to_theirs(part):
    nodes = [{"index": n.index, "size": n.size, "hash": n.hash.hex()} for n in part.nodes]
    signature = part.signature.hex()
    return {"signer": part.signer, "signature": signature, "patch": part.patch, "nodes": nodes}


def theirs_to_ours(part):
    nodes = tuple(Node(n["index"], n["size"], bytes.fromhex(n["hash"])) for n in part["nodes"])
    signature = bytes.fromhex(part["signature"])
    return PartialSignature(part["signer"], signature, part["patch"], nodes)


async def opened(node, folder, version, *, patch=False):
    """Node's core 0, that is shown, and the drafts of its signers 0 and 1 as cores 1 and 2."""
    options = {
        "seeds": [seed.hex() for seed in SEEDS],
        "quorum": 2,
        "version": version,
        "allowPatch": patch,
    }
    info = await node("signed", folder=str(folder / "shown"), **options)
    for signer in range(2):
        draft = str(folder / f"draft {signer}")
        await node("signed", folder=draft, signer=signer, **options)
    return info


@GENERATIONS
@VERSIONS
async def test_node_commits_what_a_signer_there_and_one_here_have_signed(
    tmp_path, generation, version
):
    async with peers(tmp_path / "s", generation=generation) as (store, node, connect):
        # 1. Node has the core, signer 0 is there, signer 2 is here.
        info = await opened(node, tmp_path, version)
        core = await store.get(manifest=manifest(version))
        assert core.key.hex() == info["key"]
        await connect()
        await node("share", core=0)
        for start, end in ((0, 1), (1, 6), (6, 13)):
            blocks = BLOCKS[start:end]
            # 2. Both sign the same blocks, apart; Node puts the parts together.
            await node("append", core=1, blocks=hexes(*blocks))
            theirs = await node("part", core=1, signer=0, length=end)
            ours = ours_to_theirs((await core.propose(*blocks)).sign(PAIRS[2]))
            info = await node("commit", core=0, blocks=hexes(*blocks), parts=[theirs, ours])
            # 3. We read it, live.
            await core.wait_length(end)
            await core.download()
            assert [block async for block in core.blocks()] == BLOCKS[:end]
            assert tree_hash(core) == info["treeHash"]
        # 4. One signer is not enough. Hypercore 10 does not look; we do, and hang up.
        part = ours_to_theirs((await core.propose(b"x")).sign(PAIRS[2]))
        commit = partial(node, "commit", core=0, blocks=hexes(b"x"), parts=[part, part])
        if generation == 10:
            with core.events() as events:
                await commit()
                while core.peers:
                    await events.receive()
        else:
            with pytest.raises(NodeError, match="INVALID_SIGNATURE"):
                await commit()
        assert core.length == 13


@GENERATIONS
@VERSIONS
async def test_we_commit_what_a_signer_there_and_one_here_have_signed(
    tmp_path, generation, version
):
    async with peers(tmp_path / "s", generation=generation) as (store, node, connect):
        await opened(node, tmp_path, version)
        core = await store.get(manifest=manifest(version))
        await connect()
        await node("share", core=0)
        for start, end in ((0, 1), (1, 6), (6, 13)):
            blocks = BLOCKS[start:end]
            await node("append", core=2, blocks=hexes(*blocks))
            theirs = theirs_to_ours(await node("part", core=2, signer=1, length=end))
            proposal = await core.propose(*blocks)
            await proposal.commit([proposal.sign(PAIRS[2]), theirs])
            info = await node("waitLength", core=0, length=end)
            assert info["treeHash"] == tree_hash(core)
            assert await node("get", core=0, index=end - 1) == blocks[-1].hex()


@GENERATIONS
async def test_signers_that_are_ahead_sign_with_patches(tmp_path, generation):
    """Each side in turn has signed a longer log than the other, and each side commits."""
    async with peers(tmp_path / "s", generation=generation) as (store, node, connect):
        await opened(node, tmp_path, 1, patch=True)
        core = await store.get(manifest=manifest(1, patch=True))
        await connect()
        await node("share", core=0)
        # 1. Node's signer 0 has signed 6 blocks, ours 5; we commit 5.
        await node("append", core=1, blocks=hexes(*BLOCKS[:6]))
        theirs = theirs_to_ours(await node("part", core=1, signer=0, length=5))
        assert theirs.patch == 1
        proposal = await core.propose(*BLOCKS[:5])
        await proposal.commit([theirs, proposal.sign(PAIRS[2])])
        info = await node("waitLength", core=0, length=5)
        assert info["treeHash"] == tree_hash(core)
        assert await node("get", core=0, index=4) == BLOCKS[4].hex()
        # 2. Ours has signed 13 blocks, Node's signer 0 has still 6; Node commits those.
        ahead = await core.propose(*BLOCKS[5:])
        ours = ours_to_theirs(ahead.sign(PAIRS[2], patch=7))
        theirs = await node("part", core=1, signer=0, length=6)
        await node("commit", core=0, blocks=hexes(BLOCKS[5]), parts=[ours, theirs])
        await core.wait_length(6)
        assert await core.get(5) == BLOCKS[5]


@GENERATIONS
async def test_a_truncation_takes_two_signers_as_well(tmp_path, generation):
    async with peers(tmp_path / "s", generation=generation) as (store, node, connect):
        await opened(node, tmp_path, 1)
        core = await store.get(manifest=manifest(1))
        await connect()
        await node("share", core=0)
        proposal = await core.propose(*BLOCKS)
        await proposal.commit([proposal.sign(pair) for pair in PAIRS[:2]])
        await node("waitLength", core=0, length=13)
        await node("download", core=0, start=0, end=13)
        # 1. We cut it, and Node follows.
        proposal = await core.propose_truncation(7)
        await proposal.commit([proposal.sign(pair) for pair in PAIRS[1:]])
        proposal = await core.propose(b"other")
        await proposal.commit([proposal.sign(pair) for pair in PAIRS[1:]])
        info = await node("waitFork", core=0, fork=1, length=8)
        assert await node("get", core=0, index=7) == b"other".hex()
        assert info["treeHash"] == tree_hash(core)
        # 2. Node cuts it, and we follow.
        await core.download()
        proposal = await core.propose_truncation(5)
        parts = [ours_to_theirs(proposal.sign(pair)) for pair in PAIRS[:2]]
        info = await node("commit", core=0, truncate=5, fork=2, parts=parts)
        with core.events() as events:
            while (core.fork, core.length) != (2, 5):
                await events.receive()
        assert info["treeHash"] == tree_hash(core)
        assert [block async for block in core.blocks()] == BLOCKS[:5]
