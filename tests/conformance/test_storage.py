"""What every store promises, asked of the one in memory and of the one on disk."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from corestore.commit import Commit, Run, StoredBlock
from corestore.errors import StorageConflict, StorageError
from corestore.keys import Key
from corestore.storage import CoreRecord, DiskStorage, MemoryStorage
from corestore.storage.base import sync
from corestore.tree.types import EMPTY_HEAD, Head
from tests.support.storage import (
    RemoteLog,
    append,
    append_to,
    held,
    record,
    signature,
    some_blocks,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from corestore.storage import Storage


@pytest.fixture(params=["memory", "disk"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    made = MemoryStorage() if request.param == "memory" else DiskStorage(tmp_path / "store")
    yield made
    made.close()


# -- cores -------------------------------------------------------------------------------------


def test_new_core_is_empty(storage: Storage) -> None:
    core = storage.create_core(record())
    assert core.head == core.published == EMPTY_HEAD
    assert core.node(0) is None
    assert core.block(0) is None
    assert core.blocks(0, 0) == []
    assert core.blocks(0, 1) is None
    assert list(core.bitfield_pages()) == []
    assert not core.changed()


def test_same_core_is_same_object(storage: Storage) -> None:
    name = record().key.discovery_key
    assert storage.open_core(name) is None
    core = storage.create_core(record())
    assert storage.create_core(record()) is core
    assert storage.open_core(name) is core


def test_cores_are_listed_by_discovery_key(storage: Storage) -> None:
    for number in range(3):
        storage.create_core(record(number))
    assert list(storage.cores()) == [record(number).key.discovery_key for number in range(3)]


def test_creating_again_fills_in_what_was_unknown_and_nothing_else(storage: Storage) -> None:
    key = Key(bytes(32))
    core = storage.create_core(CoreRecord(key))
    storage.create_core(CoreRecord(key, b"manifest"))
    assert core.record == CoreRecord(key, b"manifest")
    storage.create_core(CoreRecord(key, b"other", b"signer"))
    assert core.record == CoreRecord(key, b"manifest", b"signer")
    storage.create_core(CoreRecord(key))
    assert core.record == CoreRecord(key, b"manifest", b"signer")


def test_core_that_turns_out_ours_publishes_what_was_downloaded_with_the_next_sync(
    storage: Storage,
) -> None:
    core = storage.create_core(record(ours=False))
    append_to(storage, core, some_blocks(1, 3))
    storage.create_core(record())
    sync(storage)
    core.lock_signing()
    sync(storage)
    assert core.published == core.head


def test_removed_core_is_gone_and_may_come_back_empty(storage: Storage) -> None:
    core = storage.create_core(record())
    append_to(storage, core, some_blocks(1, 3))
    storage.remove_core(record().key.discovery_key)
    storage.remove_core(record().key.discovery_key)
    assert storage.open_core(record().key.discovery_key) is None
    with pytest.raises(StorageConflict):
        storage.commit([(core, Commit(user_data={"a": b"b"}))])
    again = storage.create_core(record())
    assert again is not core
    assert again.head == EMPTY_HEAD
    assert again.block(0) is None
    assert again.node(0) is None
    append_to(storage, again, some_blocks(2, 2))
    assert again.blocks(0, 2) == some_blocks(2, 2)


# -- appending ---------------------------------------------------------------------------------


def test_append_is_read_back(storage: Storage) -> None:
    core = storage.create_core(record())
    blocks = some_blocks(1, 10)
    commit = append(core.head, blocks)
    storage.commit([(core, commit)])
    assert core.head == commit.head
    assert [core.block(index) for index in range(10)] == blocks
    assert core.blocks(3, 7) == blocks[3:7]
    assert core.blocks(3, 11) is None
    assert all(core.node(node.index) == node for node in commit.nodes)
    assert held(core) == list(range(10))


def test_blocks_may_be_empty_and_given_as_memoryviews(storage: Storage) -> None:
    core = storage.create_core(record())
    blocks = [b"", b"one", b"", b"", b"two", b""]
    buffer = bytearray(b"one")
    append_to(storage, core, [memoryview(buffer) if b == b"one" else b for b in blocks])
    buffer[:] = b"xxx"
    assert core.blocks(0, 6) == blocks
    assert core.block(0) == b""


def test_more_blocks_than_one_system_call_takes(storage: Storage) -> None:
    core = storage.create_core(record())
    blocks = some_blocks(1, 5000, size=10)
    append_to(storage, core, blocks)
    assert core.blocks(0, 5000) == blocks
    assert [number for number, _ in core.bitfield_pages()] == [0, 1]


def test_transaction_of_several_cores_is_all_or_nothing(storage: Storage) -> None:
    one, two = storage.create_core(record(1)), storage.create_core(record(2))
    good = append(one.head, some_blocks(1, 2))
    bad = Commit(blocks=[StoredBlock(0, 0, b"block")], runs=[Run(0, 1, True)], head=Head(length=1))
    with pytest.raises(ValueError, match="leaf"):
        storage.commit([(one, good), (two, bad)])
    assert one.head == two.head == EMPTY_HEAD
    assert held(one) == held(two) == []
    storage.commit([(one, good), (two, append(two.head, some_blocks(2, 3)))])
    assert (one.head.length, two.head.length) == (2, 3)


def test_two_commits_of_one_core_in_one_transaction(storage: Storage) -> None:
    core = storage.create_core(record())
    first = append(core.head, some_blocks(1, 3))
    assert first.head is not None
    second = append(first.head, some_blocks(2, 3))
    storage.commit([(core, first), (core, second)])
    assert core.blocks(0, 6) == some_blocks(1, 3) + some_blocks(2, 3)
    assert core.head == second.head


@pytest.mark.parametrize(
    "commit",
    [
        Commit(head=Head(length=1 << 60)),
        Commit(runs=[Run(2, 1, True)]),
        Commit(runs=[Run(0, 1 << 60, True)]),
        Commit(truncate=-1),
        Commit(truncate=1 << 60),
        Commit(blocks=[StoredBlock(-1, 0, b"")]),
    ],
)
def test_what_no_store_can_hold_is_refused(storage: Storage, commit: Commit) -> None:
    core = storage.create_core(record())
    with pytest.raises(ValueError, match=r"store can hold|before the log|truncated to|beyond"):
        storage.commit([(core, commit)])


def test_core_of_another_store_is_refused(storage: Storage) -> None:
    core = MemoryStorage().create_core(record())
    with pytest.raises(ValueError, match="another store"):
        storage.commit([(core, Commit())])


# -- sync and publication ----------------------------------------------------------------------


def test_head_of_ours_is_published_by_a_sync_only(storage: Storage) -> None:
    core = storage.create_core(record())
    append_to(storage, core, some_blocks(1, 3))
    assert core.published == EMPTY_HEAD
    ticket = storage.begin_sync()
    assert ticket is not None
    assert [(synced, head.length) for synced, head in ticket.cores] == [(core, 3)]
    append_to(storage, core, some_blocks(2, 3))
    storage.flush(ticket)
    storage.mark_synced(ticket)
    storage.flush_log(ticket)
    assert core.published == EMPTY_HEAD
    storage.finish_sync(ticket)
    assert core.published.length == 3
    sync(storage)
    assert core.published == core.head
    assert storage.begin_sync() is None


def test_head_of_others_is_published_at_once(storage: Storage) -> None:
    core = storage.create_core(record(ours=False))
    storage.commit([(core, RemoteLog(some_blocks(1, 5)).upgrade())])
    assert core.published == core.head
    assert core.head.length == 5


def test_nothing_is_there_to_sync_until_a_sync_is_through(storage: Storage) -> None:
    core = storage.create_core(record())
    append_to(storage, core, some_blocks(1, 1))
    assert storage.begin_sync() is not None
    assert storage.begin_sync() is not None, "the first one was given up"
    sync(storage)
    assert storage.begin_sync() is None


# -- downloading -------------------------------------------------------------------------------


def test_blocks_arrive_in_any_order(storage: Storage) -> None:
    log = RemoteLog(some_blocks(1, 40))
    core = storage.create_core(record(ours=False))
    storage.commit([(core, log.upgrade())])
    order = list(range(40))
    random.Random(1).shuffle(order)
    for index in order[:20]:
        storage.commit([(core, log.fetched([index]))])
    assert held(core) == sorted(order[:20])
    assert all(core.block(index) == log.data[index] for index in order[:20])
    assert all(core.block(index) is None for index in order[20:])
    storage.commit([(core, log.fetched(order[20:]))])
    sync(storage)
    assert core.blocks(0, 40) == log.data


def test_block_whose_leaf_is_here_already(storage: Storage) -> None:
    log = RemoteLog(some_blocks(1, 8))
    core = storage.create_core(record(ours=False))
    storage.commit([(core, log.upgrade())])
    storage.commit([(core, log.fetched([4]))])
    assert core.node(10) == log.nodes[10]
    assert core.block(5) is None
    storage.commit([(core, log.fetched([5], leaves=False))])
    assert core.block(5) == log.data[5]
    storage.commit([(core, Commit(nodes=[log.nodes[10]]))])
    assert core.block(5) == log.data[5]


def test_downloading_twice_changes_nothing(storage: Storage) -> None:
    log = RemoteLog(some_blocks(1, 8))
    core = storage.create_core(record(ours=False))
    for _ in range(2):
        storage.commit([(core, log.upgrade()), (core, log.fetched([2, 3]))])
    assert core.head == log.head
    assert core.block(3) == log.data[3]
    assert held(core) == [2, 3]


def test_shorter_head_of_others_is_passed_over(storage: Storage) -> None:
    blocks = some_blocks(1, 8)
    core = storage.create_core(record(ours=False))
    storage.commit([(core, RemoteLog(blocks).upgrade())])
    storage.commit([(core, RemoteLog(blocks[:5]).upgrade())])
    assert core.head.length == 8


def test_earlier_fork_of_others_is_refused(storage: Storage) -> None:
    core = storage.create_core(record(ours=False))
    later = RemoteLog(some_blocks(2, 3), fork=2)
    storage.commit([(core, later.upgrade())])
    with pytest.raises(StorageConflict):
        storage.commit([(core, RemoteLog(some_blocks(1, 8), fork=1).upgrade())])
    assert core.head == later.head


# -- giving back -------------------------------------------------------------------------------


def test_cleared_blocks_are_gone_and_their_nodes_stay(storage: Storage) -> None:
    core = storage.create_core(record())
    blocks = some_blocks(1, 20)
    append_to(storage, core, blocks)
    storage.commit([(core, Commit(runs=[Run(5, 15, False)]))])
    assert held(core) == [0, 1, 2, 3, 4, 15, 16, 17, 18, 19]
    assert core.block(5) is None
    assert core.block(4) == blocks[4]
    assert core.blocks(15, 20) == blocks[15:]
    assert core.node(10) is not None
    assert core.head.length == 20


def test_cleared_blocks_can_be_stored_again(storage: Storage) -> None:
    log = RemoteLog(some_blocks(1, 20, size=3000))
    core = storage.create_core(record(ours=False))
    storage.commit([(core, log.upgrade()), (core, log.fetched(range(20)))])
    storage.commit([(core, Commit(runs=[Run(0, 1 << 40, False)]))])
    assert held(core) == []
    storage.commit([(core, log.fetched([3, 4, 19], leaves=False))])
    assert held(core) == [3, 4, 19]
    assert core.blocks(3, 5) == log.data[3:5]


def test_truncation_drops_what_lies_beyond(storage: Storage) -> None:
    core = storage.create_core(record())
    blocks = some_blocks(1, 10)
    append_to(storage, core, blocks)
    sync(storage)
    shorter = RemoteLog(blocks[:5], fork=1)
    storage.commit([(core, Commit(truncate=5, head=shorter.head))])
    assert core.head == core.published == shorter.head
    assert held(core) == [0, 1, 2, 3, 4]
    assert core.block(5) is None
    assert core.node(7) is None, "the root over blocks 0 to 8 covers dropped ones"
    assert core.node(3) == shorter.nodes[3]
    append_to(storage, core, some_blocks(2, 4))
    sync(storage)
    assert core.blocks(0, 9) == blocks[:5] + some_blocks(2, 4)


def test_another_fork_of_others_replaces_the_blocks(storage: Storage) -> None:
    old, new = some_blocks(1, 10), some_blocks(1, 4) + some_blocks(2, 3)
    core = storage.create_core(record(ours=False))
    first, second = RemoteLog(old), RemoteLog(new, fork=1)
    storage.commit([(core, first.upgrade()), (core, first.fetched(range(10)))])
    fetched = second.fetched([5])
    merged = Commit(
        truncate=4,
        blocks=fetched.blocks,
        nodes=[*second.head.roots, *fetched.nodes],
        runs=fetched.runs,
        head=second.head,
    )
    storage.commit([(core, merged)])
    assert core.head == second.head
    assert held(core) == [0, 1, 2, 3, 5]
    assert core.block(5) == new[5]
    with pytest.raises(StorageConflict):
        storage.commit([(core, Commit(truncate=2, head=second.head))])


def test_truncation_stands_alone(storage: Storage) -> None:
    one, two = storage.create_core(record(1)), storage.create_core(record(2))
    with pytest.raises(ValueError, match="on its own"):
        storage.commit([(one, Commit(truncate=0, head=Head(fork=1))), (two, Commit())])


# -- cutting an unpublished tail ---------------------------------------------------------------


def test_cut_keeps_the_fork_and_the_prefix(storage: Storage) -> None:
    core = storage.create_core(record())
    append_to(storage, core, some_blocks(1, 3))
    sync(storage)
    append_to(storage, core, some_blocks(2, 5))
    head = storage.cut(core, 6)
    expected = RemoteLog(some_blocks(1, 3) + some_blocks(2, 3))
    assert head == core.head
    assert (head.fork, head.length, head.roots) == (0, 6, expected.head.roots)
    assert head.signature == b""
    assert core.published.length == 3
    sync(storage)
    assert core.published.length == 3, "an unsigned head is never published"
    storage.commit([(core, Commit(head=expected.head))])
    sync(storage)
    assert core.published == expected.head
    append_to(storage, core, some_blocks(3, 3))
    assert core.blocks(6, 9) == some_blocks(3, 3)


def test_cut_to_what_is_published_needs_no_signature(storage: Storage) -> None:
    core = storage.create_core(record())
    append_to(storage, core, some_blocks(1, 3))
    sync(storage)
    published = core.head
    append_to(storage, core, some_blocks(2, 5))
    assert storage.cut(core, 3) == published
    assert core.head == core.published == published
    assert held(core) == [0, 1, 2]


def test_cut_to_a_length_once_committed_has_that_signature(storage: Storage) -> None:
    core = storage.create_core(record())
    append_to(storage, core, some_blocks(1, 3))
    before = core.head
    append_to(storage, core, some_blocks(2, 5))
    assert storage.cut(core, 3) == before


@pytest.mark.parametrize("length", [2, 9])
def test_cut_is_between_published_and_head(storage: Storage, length: int) -> None:
    core = storage.create_core(record())
    append_to(storage, core, some_blocks(1, 3))
    sync(storage)
    append_to(storage, core, some_blocks(2, 5))
    with pytest.raises(ValueError, match="outside"):
        storage.cut(core, length)
    assert storage.cut(core, 8) == core.head


def test_core_of_others_is_not_cut(storage: Storage) -> None:
    core = storage.create_core(record(ours=False))
    with pytest.raises(ValueError, match="ours"):
        storage.cut(core, 0)


def test_sync_does_not_publish_what_was_cut_under_it(storage: Storage) -> None:
    core = storage.create_core(record())
    append_to(storage, core, some_blocks(1, 8))
    ticket = storage.begin_sync()
    assert ticket is not None
    storage.flush(ticket)
    storage.cut(core, 0)
    append_to(storage, core, some_blocks(2, 8))
    storage.mark_synced(ticket)
    storage.flush_log(ticket)
    storage.finish_sync(ticket)
    assert core.published == EMPTY_HEAD
    sync(storage)
    assert core.published == core.head
    assert core.blocks(0, 8) == some_blocks(2, 8)


# -- small values ------------------------------------------------------------------------------


def test_user_data_of_a_core_is_set_and_deleted_by_commits(storage: Storage) -> None:
    core = storage.create_core(record())
    storage.commit([(core, Commit(user_data={"a": b"1", "b": b""}))])
    assert (core.user_data("a"), core.user_data("b"), core.user_data("c")) == (b"1", b"", None)
    storage.commit([(core, Commit(user_data={"a": None, "b": b"2", "c": None}))])
    assert (core.user_data("a"), core.user_data("b")) == (None, b"2")
    assert list(storage.core_values("b")) == [b"2"]
    assert list(storage.core_values("a")) == []


def test_manifest_is_kept_once_known(storage: Storage) -> None:
    core = storage.create_core(record(ours=False))
    storage.commit([(core, Commit(manifest=b"manifest"))])
    assert core.record == CoreRecord(record().key, b"manifest", None)


def test_user_data_of_the_store(storage: Storage) -> None:
    for key, value in [("drive/b", b"2"), ("drive/a", b"1"), ("other", b"3"), ("drivf", b"4")]:
        storage.set_user_data(key, value)
    assert storage.user_data("drive/a") == b"1"
    assert storage.user_data("missing") is None
    assert storage.user_data_items("drive/") == [("drive/a", b"1"), ("drive/b", b"2")]
    storage.set_user_data("drive/a", None)
    assert storage.user_data_items("drive/") == [("drive/b", b"2")]
    assert len(storage.user_data_items("")) == 3


# -- the end -----------------------------------------------------------------------------------


def test_closed_store_does_nothing_more(storage: Storage) -> None:
    core = storage.create_core(record())
    storage.close()
    storage.close()
    for call in (
        lambda: storage.commit([(core, Commit())]),
        lambda: storage.create_core(record(2)),
        lambda: storage.set_user_data("a", b"b"),
        storage.begin_sync,
    ):
        with pytest.raises(StorageError, match="closed"):
            call()


# -- both alike --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_memory_and_disk_agree(tmp_path: Path, seed: int) -> None:
    """Random operations on both; then on a disk store that was closed in between, too."""
    source = random.Random(seed)
    log = RemoteLog(some_blocks(seed, 60, size=2000))
    path = tmp_path / "store"
    memory, disk = MemoryStorage(), DiskStorage(path)
    stores: list[Storage] = [memory, disk]
    for store in stores:
        store.create_core(record(0))
        store.create_core(record(1, ours=False))
        store.commit([(_open(store, 1), log.upgrade())])
    for step in range(60):
        if source.random() < 0.1:
            stores[1].close()
            stores[1] = DiskStorage(path)
            sync(memory)  # closing publishes
        operation = _random_operation(source, _open(memory, 0).head, log, step)
        for store in stores:
            operation(store)
        for number in (0, 1):
            _assert_same(_open(memory, number), _open(stores[1], number))
    stores[1].close()


def _open(store: Storage, number: int):
    core = store.open_core(record(number).key.discovery_key)
    assert core is not None
    return core


def _random_operation(source: random.Random, head: Head, log: RemoteLog, step: int):
    start = source.randrange(70)
    end = start + source.randrange(12)
    indices = sorted(source.sample(range(60), source.randrange(1, 6)))
    blocks = some_blocks(step, source.randrange(1, 9), size=3000)
    length = source.randrange(head.length + 1)
    kind = source.choice(["append", "append", "fetch", "fetch", "clear", "cut", "sync", "both"])
    number = source.randrange(2)

    def run(store: Storage) -> None:
        own, other = _open(store, 0), _open(store, 1)
        if kind == "append":
            append_to(store, own, blocks)
        elif kind == "fetch":
            store.commit([(other, log.fetched(indices))])
        elif kind == "both":
            store.commit([(own, append(own.head, blocks)), (other, log.fetched(indices))])
        elif kind == "clear":
            store.commit([(_open(store, number), Commit(runs=[Run(start, end, False)]))])
        elif kind == "sync":
            sync(store)
        elif length >= own.published.length:
            cut = store.cut(own, length)
            if cut.length and not cut.signature:
                signed = Head(cut.fork, cut.length, cut.byte_length, cut.roots, signature(length))
                store.commit([(own, Commit(head=signed))])

    return run


def _assert_same(one, two) -> None:
    assert one.head == two.head
    assert one.published == two.published
    assert held(one) == held(two)
    length = one.head.length
    assert [one.block(i) for i in range(length)] == [two.block(i) for i in range(length)]
    assert [one.node(i) for i in range(2 * length)] == [two.node(i) for i in range(2 * length)]
