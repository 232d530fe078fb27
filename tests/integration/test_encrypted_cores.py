"""Encrypted cores between stores of ours: what is stored, what is read, who must know what."""

from __future__ import annotations

import pytest
import trio

import corestore
from corestore import WrongEncryptionKey
from corestore.encryption import PADDING_BYTES, BlockCipher
from tests.support.builders import linked
from tests.support.limits import HANG_SECONDS

SECRET = b"s" * 32
OTHER = b"o" * 32
BLOCKS = [b"first", b"", b"the third block", b"x" * 300_000]
PLAIN = b"".join(BLOCKS)


def stored(core, index):
    """A block as it lies in the store and goes over the wire."""
    return core._state.block(index)


async def test_blocks_are_stored_encrypted_and_read_as_they_were():
    async with corestore.open(None) as store:
        core = await store.get(name="log", encryption_key=SECRET)
        await core.append(*BLOCKS[:3])
        await core.append(BLOCKS[3])
        cipher = BlockCipher.of_core(SECRET, core.key)
        for index, block in enumerate(BLOCKS):
            assert await core.get(index) == core.get_nowait(index) == block
            assert stored(core, index) == cipher.encrypt(index, 0, block)
        assert [block async for block in core.blocks()] == BLOCKS


async def test_lengths_and_offsets_are_those_of_what_is_read():
    async with corestore.open(None) as store:
        core = await store.get(name="log", encryption_key=SECRET)
        await core.append(*BLOCKS)
        assert core.byte_length == core.statistics().byte_length == len(PLAIN)
        assert core._head.byte_length == len(PLAIN) + PADDING_BYTES * len(BLOCKS)
        for offset in (0, 4, 5, 19, 20, 21, len(PLAIN) - 1):
            position = await core.seek(offset)
            assert BLOCKS[position.index][position.offset] == PLAIN[offset]
            assert await core.read(offset, 30) == PLAIN[offset : offset + 30]
        assert await core.seek(len(PLAIN)) == corestore.Position(4, 0)
        with pytest.raises(ValueError):
            await core.seek(len(PLAIN) + 1)


async def test_a_transaction_encrypts_and_counts_as_readers_do():
    async with corestore.open(None) as store:
        core = await store.get(name="log", encryption_key=SECRET)
        plain = await store.get(name="plain")
        async with store.transaction(core, plain) as transaction:
            await transaction.append(core, b"one")
            await transaction.append(core, b"two")
            await transaction.append(plain, b"three")
            assert transaction.byte_length(core) == 6
        assert [await core.get(0), await core.get(1)] == [b"one", b"two"]
        assert stored(plain, 0) == b"three"


async def test_leaves_of_blocks_that_are_encrypted_first_are_refused():
    async with corestore.open(None) as store:
        core = await store.get(name="log", encryption_key=SECRET)
        leaves = corestore.hash_leaves(0, [b"one"])
        async with store.transaction(core) as transaction:
            with pytest.raises(ValueError):
                await transaction.append(core, b"one", leaves=leaves)
        assert core.length == 0


async def test_a_block_written_again_after_a_truncation_meets_another_key_stream():
    async with corestore.open(None) as store:
        core = await store.get(name="log", encryption_key=SECRET)
        await core.append(b"kept", b"same")
        before = stored(core, 1)
        await core.truncate(1)
        await core.append(b"same")
        assert stored(core, 1) != before
        assert [await core.get(0), await core.get(1)] == [b"kept", b"same"]


@pytest.mark.parametrize("append_first", [False, True])
async def test_a_core_of_ours_remembers_its_encryption_key(tmp_path, append_first):
    async with corestore.open(tmp_path) as store:
        core = await store.get(name="log", encryption_key=SECRET)
        if append_first:
            await core.append(b"before")
    async with corestore.open(tmp_path) as store:
        core = await store.get(name="log")
        assert core.encryption_key == store.encryption_key(core.discovery_key) == SECRET
        await core.append(b"after")
        assert b"after" not in stored(core, core.length - 1)
        assert await core.get(core.length - 1) == b"after"


async def test_a_compat_core_is_encrypted_as_such():
    pair = corestore.KeyPair.from_seed(b"k" * 32)
    async with corestore.open(None) as store, corestore.open(None) as reader:
        core = await store.get(key=pair.public_key, key_pair=pair, encryption_key=SECRET)
        await core.append(b"block")
        cipher = BlockCipher.of_core(SECRET, core.key, compat=True)
        assert stored(core, 0) == cipher.encrypt(0, 0, b"block")
        await store.sync()
        copy = await reader.get(key=core.key, encryption_key=SECRET)
        async with linked(store, reader):
            assert await copy.get(0) == b"block"


async def test_a_reader_reads_and_a_seeder_without_the_key_passes_on():
    async with (
        corestore.open(None) as writer,
        corestore.open(None) as seeder,
        corestore.open(None) as reader,
    ):
        core = await writer.get(name="log", encryption_key=SECRET)
        await core.append(*BLOCKS)
        await writer.sync()
        held = await seeder.get(key=core.key)
        copy = await reader.get(key=core.key, encryption_key=SECRET)
        async with linked(writer, seeder):
            await held.wait_length(4)
            await held.download()
        assert [held.get_nowait(i) for i in range(4)] == [stored(core, i) for i in range(4)]
        assert held.byte_length == core._head.byte_length
        assert held.encryption_key is None
        async with linked(seeder, reader):
            await copy.wait_length(4)
            assert copy.byte_length == len(PLAIN)
            assert await copy.read(3, 10) == PLAIN[3:13]
            await copy.download()
        assert [block async for block in copy.blocks()] == BLOCKS


async def test_a_sparse_reader_seeks_over_the_wire_in_bytes_it_reads():
    blocks = [bytes([i]) * (i % 7) for i in range(200)]
    plain = b"".join(blocks)
    async with corestore.open(None) as writer, corestore.open(None) as reader:
        core = await writer.get(name="log", encryption_key=SECRET)
        await core.append(*blocks)
        await writer.sync()
        copy = await reader.get(key=core.key, encryption_key=SECRET)
        async with linked(writer, reader):
            await copy.wait_length(200)
            for offset in (len(plain) // 2, 0, len(plain) - 1, 17):
                position = await copy.seek(offset)
                assert position == await core.seek(offset)
                assert await copy.read(offset, 9) == plain[offset : offset + 9]
        assert copy.statistics().blocks_held < 20


async def test_a_key_given_once_is_kept_when_a_block_bore_it_out(tmp_path):
    async with corestore.open(None) as writer:
        core = await writer.get(name="log", encryption_key=SECRET)
        await core.append(b"block")
        await writer.sync()
        async with corestore.open(tmp_path) as reader:
            copy = await reader.get(key=core.key, encryption_key=SECRET)
            assert reader.encryption_key(core.discovery_key) is None
            async with linked(writer, reader):
                assert await copy.get(0) == b"block"
            assert reader.encryption_key(core.discovery_key) == SECRET
        async with corestore.open(tmp_path) as reader:
            assert await (await reader.get(key=core.key)).get(0) == b"block"
            with pytest.raises(WrongEncryptionKey):
                await reader.get(key=core.key, encryption_key=OTHER)


async def test_a_wrong_key_is_told_and_forgotten(tmp_path):
    async with corestore.open(None) as writer, corestore.open(tmp_path) as reader:
        core = await writer.get(name="log", encryption_key=SECRET)
        await core.append(b"block")
        await writer.sync()
        copy = await reader.get(key=core.key, encryption_key=OTHER)
        async with linked(writer, reader):
            with trio.fail_after(HANG_SECONDS), pytest.raises(WrongEncryptionKey):
                await copy.get(0)
        assert copy.encryption_key is None
        assert reader.encryption_key(core.discovery_key) is None
        with pytest.raises(WrongEncryptionKey):
            await reader.get(key=core.key, encryption_key=OTHER)
        again = await reader.get(key=core.key, encryption_key=SECRET)
        assert again.get_nowait(0) == copy.get_nowait(0) == b"block"


async def test_a_key_for_a_core_that_is_not_encrypted_is_refused():
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await core.append(b"short", b"a longer block that could be encrypted")
        with pytest.raises(WrongEncryptionKey):
            await store.get(name="log", encryption_key=SECRET)
        assert await core.get(0) == b"short"
        await core.clear(0, 1)
        with pytest.raises(WrongEncryptionKey):
            await store.get(name="log", encryption_key=SECRET)


async def test_an_encryption_key_has_32_bytes():
    async with corestore.open(None) as store:
        with pytest.raises(ValueError):
            await store.get(name="log", encryption_key=b"short")


async def test_an_encryption_key_given_for_a_key_is_known_as_a_secret():
    async with corestore.open(None) as store:
        core = await store.get(name="log", encryption_key=SECRET)
        assert store.is_secret(SECRET)
        assert not store.is_secret(core.key)
        assert not store.is_secret(OTHER)
