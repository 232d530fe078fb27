"""Cores with several signers: proposed, signed apart, committed with a quorum, replicated."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

import corestore
from corestore import (
    DecodeError,
    InvalidSignature,
    KeyPair,
    Manifest,
    NotWritable,
    PartialSignature,
    Prologue,
    Signer,
    StorageConflict,
)

PAIRS = [KeyPair.from_seed(bytes([number]) * 32) for number in range(3)]
SIGNERS = tuple(Signer(pair.public_key) for pair in PAIRS)
TWO_OF_THREE = Manifest(version=1, quorum=2, signers=SIGNERS, allow_patch=True)


def signed(proposal, *who):
    return [proposal.sign(PAIRS[number]) for number in who]


@asynccontextmanager
async def linked(one, other):
    near, far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(one.replicate, near, initiator=True))
        nursery.start_soon(partial(other.replicate, far, initiator=False))
        yield
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("version", [0, 1, 2])
async def test_two_of_three_signers_make_a_log_grow_and_its_readers_follow(version):
    manifest = Manifest(version=version, quorum=2, signers=SIGNERS)
    async with corestore.open(None) as store, corestore.open(None) as reading:
        core = await store.get(manifest=manifest)
        copy = await reading.get(key=core.key)
        assert not core.writable
        async with linked(store, reading):
            proposal = await core.propose(b"one", b"two")
            assert (proposal.length, proposal.fork, core.length) == (2, 0, 0)
            assert await proposal.commit(signed(proposal, 2, 0)) == 2
            assert [await copy.get(0), await copy.get(1)] == [b"one", b"two"]
            # Live, and by another two.
            proposal = await core.propose(b"three")
            await proposal.commit(signed(proposal, 1, 2))
            await copy.wait_length(3)
            assert await copy.get(2) == b"three"
            assert copy.manifest == manifest
            # Cut, which takes the same.
            proposal = await core.propose_truncation(1)
            await proposal.commit(signed(proposal, 0, 1))
            proposal = await core.propose(b"other")
            await proposal.commit(signed(proposal, 0, 1))
            with copy.events() as events:
                while (copy.fork, copy.length) != (1, 2):
                    await events.receive()
            assert [await copy.get(0), await copy.get(1)] == [b"one", b"other"]


async def test_signers_on_three_machines_sign_the_same_and_any_of_them_commits():
    async with (
        corestore.open(None) as first,
        corestore.open(None) as second,
        corestore.open(None) as third,
    ):
        cores = [await store.get(manifest=TWO_OF_THREE) for store in (first, second, third)]
        async with linked(first, second), linked(second, third):
            for number in range(4):
                proposals = [await core.propose(b"%d" % number) for core in cores[:2]]
                parts = [proposals[i].sign(PAIRS[i]) for i in range(2)]
                await (await cores[2].propose(b"%d" % number)).commit(parts)
                for core in reversed(cores):
                    assert await core.get(number) == b"%d" % number


def as_mailed(part):
    return PartialSignature.decode_untrusted(part.encode())


@pytest.mark.parametrize("secret", [None, bytes(range(32))])
async def test_signers_send_each_other_bytes(secret):
    async with corestore.open(None) as one, corestore.open(None) as other:
        mine, his = [
            await store.get(manifest=TWO_OF_THREE, encryption_key=secret) for store in (one, other)
        ]
        steps = [
            lambda: mine.propose(b"one", b"two"),
            lambda: mine.propose(b"three"),
            lambda: mine.propose_truncation(1),
            lambda: mine.propose(bytes(300_000)),
        ]
        for step in steps:
            proposal = await step()
            read = await his.read_proposal(proposal.encode())
            assert (read.length, read.fork) == (proposal.length, proposal.fork)
            assert read.blocks() == proposal.blocks()
            parts = [as_mailed(read.sign(PAIRS[2])), as_mailed(proposal.sign(PAIRS[0]))]
            await proposal.commit(parts)
            await read.commit(parts)
            assert his.tree_hash() == mine.tree_hash()
        assert read.blocks() == [bytes(300_000)]
        assert [await his.get(0), await his.get(1)] == [b"one", bytes(300_000)]


async def test_a_part_with_a_patch_is_sent_as_bytes():
    async with corestore.open(None) as store, corestore.open(None) as other:
        mine, his = [await each.get(manifest=TWO_OF_THREE) for each in (store, other)]
        ahead = await his.propose(*[b"%d" % number for number in range(11)])
        proposal = await mine.propose(*[b"%d" % number for number in range(6)])
        parts = [as_mailed(ahead.sign(PAIRS[2], patch=5)), as_mailed(proposal.sign(PAIRS[0]))]
        assert await proposal.commit(parts) == 6


async def test_a_proposal_is_read_only_where_its_log_is():
    async with corestore.open(None) as one, corestore.open(None) as other:
        mine, his = [await store.get(manifest=TWO_OF_THREE) for store in (one, other)]
        sent = (await mine.propose(b"one")).encode()
        proposal = await his.read_proposal(sent)
        await proposal.commit(signed(proposal, 0, 1))
        with pytest.raises(StorageConflict, match="1 blocks on fork 0 here"):
            await his.read_proposal(sent)
        # Two of three can sign two histories of one length.
        proposal = await mine.propose(b"uno")
        await proposal.commit(signed(proposal, 1, 2))
        with pytest.raises(StorageConflict, match="another history"):
            await his.read_proposal((await mine.propose(b"due")).encode())
        strange = await one.get(manifest=Manifest(version=1, quorum=1, signers=SIGNERS))
        with pytest.raises(ValueError, match="another core"):
            await strange.read_proposal(sent)
        with pytest.raises(DecodeError):
            await his.read_proposal(sent[:-1])


async def test_a_signer_who_is_ahead_signs_with_a_patch():
    async with corestore.open(None) as store, corestore.open(None) as reading:
        core = await store.get(manifest=TWO_OF_THREE)
        ahead = await core.propose(*[b"%d" % number for number in range(11)])
        for length in (1, 5, 8, 10):
            proposal = await core.propose(*[b"%d" % n for n in range(core.length, length)])
            ahead = await core.propose(*[b"%d" % number for number in range(core.length, 11)])
            parts = [ahead.sign(PAIRS[2], patch=11 - length), proposal.sign(PAIRS[0])]
            await proposal.commit(parts)
        copy = await reading.get(key=core.key)
        async with linked(store, reading):
            await copy.wait_length(10)
            assert await copy.get(9) == b"9"
    strict = Manifest(version=1, quorum=2, signers=SIGNERS)
    async with corestore.open(None) as store:
        ahead = await (await store.get(manifest=strict)).propose(b"1", b"2")
        with pytest.raises(ValueError, match="allow patches"):
            ahead.sign(PAIRS[0], patch=1)
        loose = await (await store.get(manifest=TWO_OF_THREE)).propose(b"1", b"2")
        for patch in (-1, 2, 3):
            with pytest.raises(ValueError, match="left out"):
                loose.sign(PAIRS[0], patch=patch)


async def test_what_is_no_quorum_changes_nothing():
    async with corestore.open(None) as store:
        core = await store.get(manifest=TWO_OF_THREE)
        proposal = await core.propose(b"one")
        stranger = KeyPair.generate()
        with pytest.raises(NotWritable):
            proposal.sign(stranger)
        one, other = signed(proposal, 0, 1)
        another = await core.propose(b"another")
        for parts in ([], [one], [one, one], [one, another.sign(PAIRS[1])]):
            with pytest.raises(InvalidSignature):
                await proposal.commit(parts)
        assert core.length == 0
        await proposal.commit([one, other])
        with pytest.raises(StorageConflict):
            await another.commit(signed(another, 0, 1))
        assert await core.get(0) == b"one"
        with pytest.raises(ValueError, match="truncation"):
            await core.propose_truncation(0)
        with pytest.raises(ValueError, match="nothing"):
            await core.propose()


async def test_what_was_committed_is_there_after_a_restart(tmp_path):
    async with corestore.open(tmp_path) as store:
        core = await store.get(manifest=TWO_OF_THREE, encryption_key=bytes(range(32)))
        proposal = await core.propose(b"secret")
        await proposal.commit(signed(proposal, 0, 1))
        key = core.key
    async with corestore.open(tmp_path) as store:
        core = await store.get(key=key, encryption_key=bytes(range(32)))
        assert await core.get(0) == b"secret"
        proposal = await core.propose(b"more")
        await proposal.commit(signed(proposal, 1, 2))
        assert await core.get(1) == b"more"


async def test_a_core_that_never_changes_needs_no_signatures():
    async with corestore.open(None) as store, corestore.open(None) as reading:
        draft = await store.get(name="draft")
        await draft.append(b"for", b"ever")
        manifest = Manifest(quorum=0, prologue=Prologue(draft.tree_hash(), 2))
        core = await store.get(manifest=manifest)
        with pytest.raises(InvalidSignature):
            await (await core.propose(b"for", b"now")).commit()
        assert await (await core.propose(b"for", b"ever")).commit() == 2
        with pytest.raises(InvalidSignature):
            await (await core.propose(b"more")).commit()
        copy = await reading.get(key=core.key)
        async with linked(store, reading):
            assert [await copy.get(0), await copy.get(1)] == [b"for", b"ever"]


@pytest.mark.parametrize("sync", ["group", "always", "none"])
async def test_a_prologue_is_committed_whenever_the_store_syncs(tmp_path, sync):
    async with corestore.open(tmp_path, sync=sync) as store:
        draft = await store.get(name="draft")
        await draft.append(b"for", b"ever")
        manifest = Manifest(quorum=0, prologue=Prologue(draft.tree_hash(), 2))
        core = await store.get(manifest=manifest)
        assert await (await core.propose(b"for", b"ever")).commit() == 2
        assert core.published_length == 2
