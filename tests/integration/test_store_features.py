"""What a store offers besides keeping cores: encodings, events, listings, namespaces, storage."""

from __future__ import annotations

import struct

import pytest
import trio
import trio.testing

import corestore
from corestore import (
    Appended,
    BlockNotAvailable,
    BlockRequest,
    CoreNotFound,
    CoreOpened,
    DecodeError,
    DiskStorage,
    HashRequest,
    InvalidRequest,
    KeyPair,
    MemoryStorage,
    PeerAdded,
    Request,
    SeekRequest,
    UpgradeRequest,
)
from corestore.manifest import ManifestVerifier
from corestore.tree import EMPTY_HEAD, NodeOverlay
from corestore.tree.verify import verify
from tests.support.builders import block, fill, linked, two_stores

# -- encodings -------------------------------------------------------------------------------------


class Pair:
    """Two numbers in eight bytes: an encoding of an application."""

    def encode(self, value):
        return struct.pack("<II", *value)

    def decode(self, block):
        try:
            return struct.unpack("<II", block)
        except struct.error:
            raise DecodeError("a pair") from None


@pytest.mark.parametrize(
    ("encoding", "value", "stored"),
    [
        ("binary", b"bytes", b"bytes"),
        ("utf-8", "smörgås", "smörgås".encode()),
        ("json", {"a": [1, None]}, b'{"a":[1,null]}'),
        (Pair(), (1, 2), b"\1\0\0\0\2\0\0\0"),
    ],
)
async def test_values_are_encoded_when_appended_and_decoded_when_read(encoding, value, stored):
    async with corestore.open(None) as store:
        core = await store.get(name="log", encoding=encoding)
        assert await core.append(value, value) == 2
        async with store.transaction(core) as tx:
            await tx.append(core, value)
        assert await core.get(0) == core.get_nowait(1) == value
        assert [each async for each in core.blocks()] == [value] * 3
        assert await core.session().get(2) == await core.snapshot().get(2) == value
        # Another handle on the same core sees what lies in the log.
        plain = await store.get(name="log")
        assert [each async for each in plain.blocks()] == [stored] * 3
        assert await core.read(0, len(stored)) == stored
        assert core.byte_length == 3 * len(stored)


async def test_default_cores_have_encodings_too():
    async with corestore.open(None) as store:
        core = await store.namespace("app").default(encoding="json")
        await core.append({"first": 1})
        assert (
            await (await store.namespace("app").default(encoding="utf-8")).get(0) == '{"first":1}'
        )


async def test_a_block_of_another_encoding_is_refused_and_the_next_is_read():
    async with corestore.open(None) as store:
        await (await store.get(name="log")).append(b"\xff", b'"good"')
        core = await store.get(name="log", encoding="json")
        with pytest.raises(DecodeError):
            core.get_nowait(0)
        blocks = core.blocks()
        with pytest.raises(DecodeError):
            await anext(blocks)
        assert await anext(blocks) == "good"


async def test_a_value_that_cannot_be_encoded_is_refused_whole():
    async with corestore.open(None) as store:
        core = await store.get(name="log", encoding="json")
        with pytest.raises(TypeError):
            await core.append("fine", b"not JSON")
        async with store.transaction(core) as tx:
            with pytest.raises(ValueError, match="not JSON compliant"):
                await tx.append(core, float("nan"))
        assert core.length == 0
        with pytest.raises(ValueError, match="no encoding"):
            await store.get(name="log", encoding="xml")


async def test_a_reader_decodes_what_a_peer_sends():
    async with corestore.open(None) as writing, corestore.open(None) as reading:
        core = await writing.get(name="log", encoding="json")
        await core.append({"n": 1})
        await writing.sync()
        copy = await reading.get(key=core.key, encoding="json")
        async with linked(writing, reading):
            assert await copy.get(0) == {"n": 1}


# -- events, listings, namespaces ------------------------------------------------------------------


async def test_opening_is_told_with_what_was_asked_for():
    async with corestore.open(None) as store:
        app = store.namespace("app")
        with store.events() as events:
            pair = KeyPair.generate()
            asked = [
                (store, {"name": "log"}),
                (app, {"name": b"log", "create": True}),
                (app, {"key": bytes(range(32))}),
                (store, {"key_pair": pair}),
                (store, {}),
            ]
            for place, options in asked:
                core = await place.get(**options)
                assert events.receive_nowait() == CoreOpened(core, place, options)
            with_encoding = await app.default(encoding="json")
            assert events.receive_nowait() == CoreOpened(with_encoding, app, {"name": "default"})
            # Open already, or asked for by nobody here.
            await store.get(name="log")
            await with_encoding.aclose()
            with pytest.raises(CoreNotFound):
                await store.get(name="missing", create=False)
            assert events.receive_nowait() is None
            await app.default()
            assert events.receive_nowait().namespace is app


async def test_an_unknown_option_is_refused():
    async with corestore.open(None) as store:
        with pytest.raises(TypeError, match="colour"):
            await store.get(name="log", colour="red")


@pytest.mark.parametrize("disk", [False, True], ids=["memory", "disk"])
async def test_cores_are_listed_by_namespace(tmp_path, disk):
    async with corestore.open(tmp_path / "store" if disk else None) as store:
        app = store.namespace("app")
        mine = [await app.get(name="a"), await app.get(name="b"), await app.get()]
        inner = await app.namespace("inner").get(name="a")
        rest = [await store.get(name="a"), await store.get(key=bytes(range(32)))]
        given = await app.get(key_pair=KeyPair.generate())
        keys = [core.discovery_key for core in mine]
        assert list(store.cores(namespace="app")) == keys
        assert list(store.cores(namespace=app)) == list(app.cores(namespace=app)) == keys
        assert list(app.cores(namespace=b"inner")) == [inner.discovery_key]
        assert list(store.cores(namespace=store)) == [rest[0].discovery_key]
        everything = [core.discovery_key for core in (*mine, inner, *rest, given)]
        assert list(store.cores()) == list(app.cores()) == everything
        assert list(store.cores(namespace="nothing")) == []


async def test_a_namespace_does_all_that_its_store_does():
    async with corestore.open(None) as store, corestore.open(None) as other:
        app = store.namespace("app")
        assert app.primary_key == store.primary_key
        core = await app.default()
        assert core.key != (await store.default()).key
        async with app.transaction(core) as tx:
            await tx.append(core, b"x")
        await app.sync()
        assert core.published_length == 1
        assert (await app.get(discovery_key=core.discovery_key)).key == core.key
        app.set_user_data("app/setting", b"1")
        assert store.user_data("app/setting") == b"1"
        assert app.statistics().cores_open == 2
        copy = await other.namespace("elsewhere").get(key=core.key)
        near, far = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: app.replicate(near, initiator=True))
            nursery.start_soon(lambda: other.namespace("b").replicate(far, initiator=False))
            assert await copy.get(0) == b"x"
            nursery.cancel_scope.cancel()


async def test_the_default_core_is_found_again_without_its_key(tmp_path):
    keys = []
    for _ in range(2):
        async with corestore.open(tmp_path / "store") as store:
            core = await store.default()
            inner = await store.namespace("app").default()
            if not keys:
                await core.append(b"bootstrap")
                await inner.append(b"of the app")
            assert await core.get(0) == b"bootstrap"
            assert await inner.get(0) == b"of the app"
            keys.append((core.key, inner.key))
    assert keys[0] == keys[1]


async def test_cores_are_found_again_by_discovery_key(tmp_path):
    async with corestore.open(tmp_path / "store") as store:
        core = await store.get()
        await core.append(b"x")
        known, stranger = core.discovery_key, await store.get(key=bytes(range(32)))
    async with corestore.open(tmp_path / "store") as store:
        again = await store.get(discovery_key=known)
        assert again.key == core.key
        assert await again.append(b"y") == 2
        assert (await store.get(discovery_key=bytes(stranger.discovery_key))).length == 0


# -- storage ---------------------------------------------------------------------------------------


async def test_storage_may_be_given_by_a_function(tmp_path):
    kept = MemoryStorage()
    async with corestore.open(lambda: kept) as store:
        assert store.path is None
        await (await store.get(name="log")).append(b"x")
        assert kept.primary_key == store.primary_key
    # The store has closed it.
    async with corestore.open(lambda: DiskStorage(tmp_path / "disk")) as store:
        await (await store.get(name="log")).append(b"on disk")
    async with corestore.open(tmp_path / "disk") as store:
        assert await (await store.get(name="log")).get(0) == b"on disk"


async def test_a_function_that_fails_is_heard():
    def broken():
        raise OSError(5, "no such disk")

    with pytest.raises(OSError, match="no such disk"):
        async with corestore.open(broken):
            pass


# -- finding peers, remote events ------------------------------------------------------------------


async def test_update_waits_while_the_store_looks_for_peers(autojump_clock):
    async with two_stores(count=3) as (writing, reading, core):
        copy = await reading.get(key=core.key)
        idle = await reading.get(name="another")
        async with trio.open_nursery() as nursery:
            with reading.finding_peers():
                done = trio.Event()

                async def update():
                    assert await copy.update()
                    done.set()

                nursery.start_soon(update)
                await trio.sleep(100)
                assert not done.is_set()
                async with linked(writing, reading):
                    await done.wait()
            assert not await idle.update()


async def test_update_waits_while_one_core_s_peers_are_looked_for(autojump_clock):
    async with corestore.open(None) as store:
        core, other = await store.get(name="a"), await store.get(name="b")
        with core.finding_peers():
            assert not await other.update()
            with trio.move_on_after(10) as waiting:
                await core.update()
            assert waiting.cancelled_caught
        assert not await core.update()


async def test_remote_appends_are_events():
    async with two_stores() as (writing, reading, core), linked(writing, reading):
        copy = await reading.get(key=core.key)
        await copy.wait_peers()
        with copy.events() as events:
            for length in range(1, 4):
                await core.append(b"%d" % length)
                while (event := await events.receive()) != Appended(length):
                    assert not isinstance(event, Appended)
            assert await copy.wait_length(3) == 3


async def test_wait_peers_counts_those_who_have_the_core():
    async with two_stores(count=1) as (writing, reading, core):
        copy = await reading.get(key=core.key)
        with copy.events() as events:
            async with linked(writing, reading), linked(writing, reading):
                await copy.wait_peers(2)
                assert len(copy.peers) == 2
                assert isinstance(events.receive_nowait(), PeerAdded)
        await copy.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await copy.wait_peers()


# -- bytes as a stream -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, None),
        (0, 0),
        (1, 5),
        (99, 2),
        (100, 100),
        (150, None),
        (999, None),
        (1000, None),
        (0, 9999),
    ],
)
async def test_chunks_are_the_bytes_as_they_lie(offset, length):
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await fill(core, 5)
        await core.append(b"")
        await fill(core, 5, start=5)
        whole = b"".join(block(index) for index in range(10))
        parts = [part async for part in core.chunks(offset, length)]
        end = len(whole) if length is None else offset + length
        assert b"".join(parts) == whole[offset:end]
        assert all(0 < len(part) <= 100 for part in parts)


async def test_live_chunks_follow_the_log():
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await core.append(b"abc", b"def")
        chunks = core.chunks(4, live=True)
        assert await anext(chunks) == b"ef"
        async with trio.open_nursery() as nursery:

            async def append():
                await trio.testing.wait_all_tasks_blocked()
                await core.append(b"", b"ghi")

            nursery.start_soon(append)
            assert await anext(chunks) == b"ghi"
        bounded = core.chunks(0, 10, live=True)
        assert [await anext(bounded) for _ in range(3)] == [b"abc", b"def", b"ghi"]
        await core.append(b"jkl")
        assert [part async for part in bounded] == [b"j"]


@pytest.mark.parametrize(("offset", "length"), [(-1, None), (0, -1)])
async def test_chunks_of_negative_places_are_refused(offset, length):
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        with pytest.raises(ValueError, match="not negative"):
            core.chunks(offset, length)


async def test_chunks_and_reads_of_a_sparse_copy_fetch_what_they_need():
    async with (
        two_stores(count=300, size=777) as (writing, reading, core),
        linked(writing, reading),
    ):
        copy = await reading.get(key=core.key)
        await copy.update()
        whole = b"".join(block(index, 777) for index in range(300))
        assert await copy.read(100_000, 2000) == whole[100_000:102_000]
        assert sum(copy.has(index) for index in range(300)) <= 5
        parts = [part async for part in copy.chunks(200_000, 1000)]
        assert b"".join(parts) == whole[200_000:201_000]
        assert not copy.has(10)


# -- proofs to give away ---------------------------------------------------------------------------


def believed(core, proof):
    """What somebody who has nothing but the key and the manifest makes of *proof*."""

    class Nothing:
        def node(self, index):
            return None

    verifier = ManifestVerifier(core.manifest, core.key)
    return verify(proof, EMPTY_HEAD, nodes=NodeOverlay(Nothing()), verifier=verifier)


async def test_a_proof_convinces_who_has_only_the_key():
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await fill(core, 10)
        await store.sync()
        proof = core.proof(Request(block=BlockRequest(3, 0), upgrade=UpgradeRequest(0, 10)))
        batch = believed(core, proof)
        assert batch.block == (3, block(3))
        assert batch.head.tree_hash() == core.tree_hash()
        found = believed(
            core, core.proof(Request(upgrade=UpgradeRequest(0, 10), seek=SeekRequest(550, 0)))
        )
        assert found.head.length == 10
        assert core.proof(Request(hash=HashRequest(7, 0))).hash.nodes[0].index == 7


async def test_a_proof_shows_only_what_is_published():
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await fill(core, 3)
        assert core.published_length == 0
        with pytest.raises(InvalidRequest, match="0 blocks are published"):
            core.proof(Request(upgrade=UpgradeRequest(0, 3)))
        await store.sync()
        await core.append(b"not durable yet")
        assert core.proof(Request(upgrade=UpgradeRequest(0, 3))).upgrade.length == 3
        with pytest.raises(BlockNotAvailable):
            core.proof(Request(block=BlockRequest(3, 0)))


async def test_a_proof_of_what_is_not_there_is_refused():
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await fill(core, 4)
        await store.sync()
        with pytest.raises(InvalidRequest, match="fork"):
            core.proof(Request(fork=1, block=BlockRequest(0, 0)))
        with pytest.raises(InvalidRequest):
            core.proof(Request(upgrade=UpgradeRequest(4, 1)))
        with pytest.raises(BlockNotAvailable):
            core.proof(Request(block=BlockRequest(4, 0)))
        await core.clear(1, 2)
        with pytest.raises(BlockNotAvailable):
            core.proof(Request(block=BlockRequest(1, 0)))


@pytest.mark.parametrize("kind", ["manifest", "compat"])
async def test_the_signable_is_what_was_signed(kind):
    async with corestore.open(None) as store:
        if kind == "manifest":
            core, pair = await store.get(name="log"), store.key_pair("log")
        else:
            pair = KeyPair.generate()
            core = await store.get(key=pair.public_key, key_pair=pair)
        await fill(core, 3)
        first = core.signable()
        signature = pair.sign(first)
        await store.sync()
        assert core._head.signature.endswith(signature) or signature in core._head.signature
        await fill(core, 2)
        assert core.signable(3) == first != core.signable()
        with pytest.raises(ValueError, match=r"."):
            core.signable(6)


# -- keys stay secret ------------------------------------------------------------------------------


class Recorded(trio.abc.Stream):
    """A stream that remembers what was sent through it."""

    def __init__(self, stream, wire) -> None:
        self._stream = stream
        self._wire = wire

    async def send_all(self, data):
        self._wire += data
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self):
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes=None):
        return await self._stream.receive_some(max_bytes)

    async def aclose(self):
        await self._stream.aclose()


async def test_keys_are_never_sent(monkeypatch):
    """Neither in the clear, as the bytes of the stream, nor to the peer, as what it decrypts."""
    wire, plain = bytearray(), bytearray()
    send = corestore.wire.secretstream.SecureStream.send

    def listen(stream, message):
        plain.extend(message)
        send(stream, message)

    monkeypatch.setattr(corestore.wire.secretstream.SecureStream, "send", listen)
    async with two_stores(count=20) as (writing, reading, core):
        unknown = await writing.get(name="unknown to the reader")
        copy = await reading.get(key=core.key)
        near, far = trio.testing.memory_stream_pair()
        streams = (Recorded(near, wire), Recorded(far, wire))
        async with linked(writing, reading, streams=streams):
            await copy.update()
            await copy.download()
            assert await reading.get(key=bytes(range(32)))
            await writing.get(name="opened later")
    assert len(wire) > 20 * 100
    assert core.discovery_key in plain
    for secret in (core.key, unknown.key, writing.primary_key, bytes(range(32))):
        assert secret not in wire
        assert secret not in plain
    assert core.discovery_key not in wire
