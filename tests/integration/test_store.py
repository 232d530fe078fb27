"""`Corestore` on disk: identities, what survives, several processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import trio
import trio.testing

import corestore
from corestore import (
    Appended,
    CoreNotFound,
    CoreOpened,
    KeyPair,
    Manifest,
    MustRecover,
    Reason,
    Signer,
    manifest_key,
)
from corestore.staging import Staged
from corestore.storage import DiskStorage
from corestore.storage.memory import MemoryStorage
from corestore.tree import Head, Request, UpgradeRequest
from corestore.tree.verify import verify
from tests.support.builders import block, fill, linked, open_with
from tests.support.limits import HANG_SECONDS
from tests.support.vectors import load, unhex

KEY_OF_SOMEBODY = bytes(range(32))


# -- naming ----------------------------------------------------------------------------------------


VECTORS = [case for case in load("corestore")["vectors"] if "key" in case]


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["name"])
async def test_names_lead_to_the_reference_s_cores(case):
    async with open_with(MemoryStorage(unhex(case["primaryKey"]))) as store:
        namespace = store
        for name in case["namespaces"]:
            namespace = namespace.namespace(name)
        core = await namespace.get(name=case["name"])
        assert namespace.key_pair(case["name"]).secret_key == unhex(case["secretKey"])
        assert core.key == unhex(case["key"])
        assert core.discovery_key == unhex(case["discoveryKey"])
        assert core.manifest.encode() == unhex(case["manifest"])
        assert str(core.key) == case["id"]


async def test_a_name_means_another_core_in_each_namespace():
    async with corestore.open(None) as store:
        places = [
            store,
            store.namespace("a"),
            store.namespace(b"a").namespace("b"),
            store.raw_namespace(bytes(31) + b"1"),
        ]
        keys = {(await place.get(name="log")).key for place in places}
        keys |= {(await place.default()).key for place in places}
        assert len(keys) == 8
        assert (await store.namespace("a").default()).key in keys


async def test_every_way_to_name_a_core_leads_to_it():
    async with corestore.open(None) as store:
        core = await store.get(name="log")
        await core.append(b"x")
        ways = [
            {"key": core.key},
            {"key": str(core.key)},
            {"key": core.key.hex()},
            {"key": bytes(core.key)},
            {"discovery_key": core.discovery_key},
            {"manifest": core.manifest},
            {"key_pair": store.key_pair("log")},
            {"key": core.key, "key_pair": store.key_pair("log")},
        ]
        for way in ways:
            same = await store.get(**way)
            assert (same.key, same.length, same.writable) == (core.key, 1, True)


async def test_get_of_nothing_makes_a_new_core_each_time():
    async with corestore.open(None) as store:
        a, b = await store.get(), await store.get()
        assert a.key != b.key
        assert a.writable
        assert (await store.get(key=a.key)).writable


async def test_get_makes_known_only_what_it_may():
    async with corestore.open(None) as store:
        for way in ({"name": "log"}, {"key": KEY_OF_SOMEBODY}, {}):
            with pytest.raises(CoreNotFound):
                await store.get(**way, create=False)
        with pytest.raises(CoreNotFound):
            await store.get(discovery_key=bytes(32))
        assert list(store.cores()) == []
        core = await store.get(key=KEY_OF_SOMEBODY)
        assert list(store.cores()) == [core.discovery_key]
        assert (await store.get(key=KEY_OF_SOMEBODY, create=False)).key == core.key


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "a", "key": KEY_OF_SOMEBODY},
        {"key": "too short"},
        {"name": "a", "key_pair": KeyPair.generate()},
        {"key": KEY_OF_SOMEBODY, "key_pair": KeyPair.generate()},
        {"key": KEY_OF_SOMEBODY, "manifest": Manifest.default(bytes(32))},
        {"manifest": Manifest.default(bytes(32)), "key_pair": KeyPair.generate()},
    ],
)
async def test_arguments_that_contradict_each_other_are_refused(arguments):
    async with corestore.open(None) as store:
        with pytest.raises(ValueError, match=r"."):
            await store.get(**arguments)
        assert list(store.cores()) == []


async def test_a_core_whose_key_is_its_signer_s_is_written_and_read():
    pair = KeyPair.generate()
    async with corestore.open(None) as writing, corestore.open(None) as reading:
        core = await writing.get(key=pair.public_key, key_pair=pair)
        await core.append(b"as before manifests")
        assert core.manifest is None
        copy = await reading.get(key=core.key)
        async with linked(writing, reading):
            with trio.fail_after(HANG_SECONDS):
                assert await copy.get(0) == b"as before manifests"


async def test_a_given_manifest_decides_the_key():
    pair = KeyPair.generate()
    manifest = Manifest.of_signers(
        [Signer(pair.public_key), Signer(KeyPair.generate().public_key)], quorum=1
    )
    async with corestore.open(None) as writing, corestore.open(None) as reading:
        core = await writing.get(manifest=manifest, key_pair=pair)
        assert core.key == manifest_key(manifest)
        await core.append(b"signed by one of two")
        copy = await reading.get(key=core.key)
        async with linked(writing, reading):
            with trio.fail_after(HANG_SECONDS):
                assert await copy.get(0) == b"signed by one of two"
            assert copy.manifest == manifest


async def test_opening_a_core_is_told_once():
    async with corestore.open(None) as store:
        with store.events() as events:
            core = await store.get(name="log")
            await store.get(name="log")
            await store.namespace("a").get(name="log")
        seen = [event async for event in events]
        assert [type(event) for event in seen] == [CoreOpened, CoreOpened]
        assert seen[0].core.key == core.key


async def test_a_removed_core_is_gone(tmp_path):
    async with corestore.open(tmp_path) as store:
        core = await store.get(name="log")
        await fill(core, 3)
        with pytest.raises(ValueError, match="is open"):
            await store.remove(core.discovery_key)
        await core.aclose()
        await store.remove(core.discovery_key)
        assert list(store.cores()) == []
        with pytest.raises(CoreNotFound):
            await store.remove(core.discovery_key)


# -- what survives ---------------------------------------------------------------------------------


async def test_a_store_is_found_again_as_it_was_left(tmp_path):
    async with corestore.open(tmp_path) as store:
        primary_key = store.primary_key
        core = await store.default()
        await fill(core, 100, size=1000)
        await core.set_user_data("k", b"v")
        await core.clear(10, 20)
        store.set_user_data("drive/photos", b"key")
        given = KeyPair.generate()
        other = await store.get(key_pair=given)
        await other.append(b"x")
        tree_hash = core.tree_hash()
    async with corestore.open(str(tmp_path)) as store:
        assert store.primary_key == primary_key
        assert store.path == tmp_path
        assert store.user_data_items("drive/") == [("drive/photos", b"key")]
        core = await store.default()
        assert (core.length, core.published_length, core.tree_hash()) == (100, 100, tree_hash)
        assert await core.get(99) == block(99, 1000)
        assert core.user_data("k") == b"v"
        assert not core.has(10)
        assert core.contiguous_length == 10
        again = await store.get(key=other.key)
        assert again.writable
        assert await again.append(b"y") == 2
        assert await core.append(b"more") == 101
        assert store.recovered == []


async def unsigned_log(store):
    """A core of four blocks, of which the last was just committed and is not signed yet."""
    core = await store.get(name="log")
    await fill(core, 3)
    await store.sync()
    staged = Staged(core._state)
    await staged.append([b"last"])
    core._driver.commit([(core._state, staged.commit())])
    return core


async def test_what_a_killed_process_had_not_signed_is_signed_at_the_next_open(tmp_path):
    left = tmp_path / "left"
    async with corestore.open(tmp_path / "store") as store:
        core = await unsigned_log(store)
        # Nothing was awaited, so no sync has begun: so it is left by a kill -9.
        shutil.copytree(tmp_path / "store", left, ignore=shutil.ignore_patterns("store.db-shm"))
        assert core.length == 4
        tree_hash = core.tree_hash()
    async with corestore.open(lambda: DiskStorage(left)) as store:
        assert store.recovered == []
        core = await store.get(name="log")
        assert (core.length, core.published_length, core.tree_hash()) == (4, 4, tree_hash)
        proof = core.proof(Request(upgrade=UpgradeRequest(0, 4)))
        assert verify(
            proof, Head(), nodes=core._state, verifier=core._state.verifier(core.manifest)
        ).head
        # It is not locked: the next writer may be another process.
        async with corestore.open(lambda: DiskStorage(left)) as other:
            assert await (await other.get(name="log")).append(b"more") == 5


async def test_what_was_appended_before_a_hold_is_signed(tmp_path):
    async with corestore.open(tmp_path) as store:
        core = await unsigned_log(store)
        await core.hold(Reason.MOVED)
        assert core.published_length == 4
        with pytest.raises(MustRecover):
            await core.append(b"more")


async def test_many_commits_share_a_signature(tmp_path, monkeypatch):
    signed = []
    monkeypatch.setattr(KeyPair, "sign", lambda _, message: signed.append(message) or bytes(64))
    async with corestore.open(tmp_path) as store:
        core = await store.get(name="log")
        await core.append(b"first")
        await store.sync()
        signed.clear()
        # Not a moment for a sync in between.
        for _ in range(5):
            staged = Staged(core._state)
            await staged.append([b"more"])
            core._driver.commit([(core._state, staged.commit())])
        assert not signed
        await store.sync()
        assert len(signed) == 1
        assert core.published_length == 6


async def test_a_copy_resumes_after_reopening(tmp_path):
    async with corestore.open(None) as writing:
        core = await writing.get(name="log")
        await fill(core, 200, size=1000)
        await writing.sync()
        async with corestore.open(tmp_path) as reading, linked(writing, reading):
            copy = await reading.get(key=core.key)
            await copy.update()
            await copy.download(50, 150)
        async with corestore.open(tmp_path) as reading:
            copy = await reading.get(key=core.key)
            assert (copy.length, copy.has(50, 150), copy.has(49)) == (200, True, False)
            assert copy.manifest == core.manifest
            async with linked(writing, reading):
                await copy.download()
            assert copy.statistics().blocks_received == 100
            assert copy.tree_hash() == core.tree_hash()


@pytest.mark.parametrize("on_disk", [True, False])
async def test_a_closed_store_says_so_and_nothing_waits_for_it(tmp_path, on_disk):
    async with corestore.open(tmp_path / "s" if on_disk else None) as store:
        core = await store.get(name="log")
    end, _ = trio.testing.memory_stream_pair()
    for ask in (
        lambda: store.get(name="log"),
        store.default,
        store.sync,
        lambda: store.remove(core.discovery_key),
        lambda: store.replicate(end, initiator=True),
        core.update,
    ):
        with pytest.raises(trio.ClosedResourceError):
            await ask()
    with pytest.raises(trio.ClosedResourceError):
        store.events()
    with pytest.raises(trio.ClosedResourceError):
        store.set_user_data("name", b"value")


async def test_an_exception_in_the_block_is_seen_as_it_is(tmp_path):
    async def fail():
        async with corestore.open(tmp_path) as store:
            core = await store.get(name="log")
            await core.append(b"kept")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    async with corestore.open(tmp_path) as store:
        assert (await store.get(name="log")).published_length == 1


async def test_a_store_that_cannot_be_opened_says_why(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="file"):
        async with corestore.open(tmp_path / "file"):
            pass


# -- several processes -----------------------------------------------------------------------------


def in_another_process(path, program):
    """Run *program* (it sees `store`) on the store at *path* in another process, to its end."""
    source = "\n".join(
        (
            "import corestore, trio",
            "async def main():",
            f"    async with corestore.open({str(path)!r}) as store:",
            textwrap.indent(textwrap.dedent(program), " " * 8),
            "trio.run(main)",
        )
    )
    done = subprocess.run(
        [sys.executable, "-c", source],
        cwd=Path(__file__).parent.parent.parent,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_only_one_process_writes_a_core_and_the_other_is_told_who(tmp_path):
    async with corestore.open(tmp_path) as store:
        core = await store.get(name="log")
        await core.append(b"mine")
        await store.sync()
        said = await trio.to_thread.run_sync(
            in_another_process,
            tmp_path,
            """
            log = await store.get(name="log")
            print(log.length, await log.get(0))
            try:
                await log.append(b"theirs")
            except corestore.StorageLocked as error:
                print(error.pid)
            other = await store.get(name="other")
            await other.append(b"theirs")
            """,
        )
        assert said.split("\n")[:2] == ["1 b'mine'", str(os.getpid())]
        other = await store.get(name="other")
        assert await other.get(0) == b"theirs"
        assert await other.append(b"mine now") == 2


async def test_what_another_process_appends_is_seen_here(tmp_path):
    async with corestore.open(tmp_path) as store:
        core = await store.get(name="log")
        with core.events() as events:
            await trio.to_thread.run_sync(
                in_another_process,
                tmp_path,
                """
                log = await store.get(name="log")
                await log.append(b"a", b"b")
                await store.sync()
                """,
            )
            with trio.fail_after(HANG_SECONDS):
                assert await core.wait_length(2) == 2
                assert await events.receive() == Appended(2)
        assert await core.get(1) == b"b"
        assert await core.append(b"c") == 3


async def test_a_lock_ends_with_its_process(tmp_path):
    in_another_process(tmp_path, 'await (await store.get(name="log")).append(b"x")')
    async with corestore.open(tmp_path) as store:
        core = await store.get(name="log")
        assert await core.append(b"y") == 2


async def test_what_another_process_publishes_is_served_from_here(tmp_path):
    async with corestore.open(tmp_path) as store, corestore.open(None) as reading:
        core = await store.get(name="log")
        copy = await reading.get(key=core.key)
        async with linked(store, reading):
            await trio.to_thread.run_sync(
                in_another_process,
                tmp_path,
                """
                log = await store.get(name="log")
                await log.append(b"a", b"b")
                await store.sync()
                """,
            )
            with trio.fail_after(HANG_SECONDS):
                assert await copy.get(1) == b"b"
            assert core.published_length == 2


async def test_a_process_that_dies_keeps_what_was_synced(tmp_path):
    said = in_another_process(
        tmp_path,
        """
        import os
        a, b = await store.get(name="a"), await store.get(name="b")
        async with store.transaction(a, b) as tx:
            await tx.append(a, b"1")
            await tx.append(b, b"1" * 100_000)
        await store.sync()
        async with store.transaction(a, b) as tx:
            await tx.append(a, b"2")
            await tx.append(b, b"2" * 100_000)
        print("done", flush=True)
        os._exit(0)
        """,
    )
    assert said == "done\n"
    async with corestore.open(tmp_path) as store:
        a, b = await store.get(name="a"), await store.get(name="b")
        # The process died, not the machine: what it wrote is all there.
        assert a.length == b.length == 2
        assert await b.get(1) == b"2" * 100_000
        assert await a.append(b"3") == 3
        await store.sync()
        assert (a.published_length, b.published_length) == (3, 2)
