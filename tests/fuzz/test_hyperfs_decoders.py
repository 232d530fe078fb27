"""Every decoder of a drive's bytes: any bytes give a value or one of the errors it names."""

from __future__ import annotations

import contextlib
import random

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corestore import DecodeError
from hyperfs.errors import DriveEncrypted, NotADrive, UnsupportedFormat
from hyperfs.extents import Extent
from hyperfs.index import BlocksMissing, Diff, NodeCache, check_header, find_root
from hyperfs.index.node import decode_node, decode_overlay
from hyperfs.index.root import decode_root
from hyperfs.records import (
    Entry,
    Link,
    entry_key,
    pack_entry,
    pack_group,
    unpack_entry,
    unpack_group,
    unpack_record,
    unpack_untrusted,
)
from tests.support.blocks import Log

REFUSALS = (DecodeError, UnsupportedFormat, NotADrive, DriveEncrypted)
DECODERS = [
    unpack_untrusted,
    unpack_record,
    unpack_entry,
    lambda data: unpack_group(data, 0),
    lambda data: decode_node(data, 1000),
    decode_overlay,
    lambda data: decode_root(data, 1000),
    check_header,
]

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary(max_size=12)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=12) | st.dictionaries(st.binary(max_size=4), inner),
    max_leaves=30,
)
SMALL = st.integers(-2, 70) | st.none() | st.binary(max_size=9)
BLOCKS = st.tuples(
    st.sampled_from([0, 1, 2, 9, 64, 65]),
    SMALL | st.lists(SMALL, max_size=14),
    st.lists(st.binary(min_size=7, max_size=9) | SMALL, max_size=12),
)


def attempt(decode, data):
    with contextlib.suppress(REFUSALS):
        decode(data)


@pytest.mark.parametrize("decode", DECODERS)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(decode, data):
    attempt(decode, data)


@pytest.mark.parametrize("decode", DECODERS)
@given(value=VALUES)
def test_any_values_are_decoded_or_refused(decode, value):
    attempt(decode, msgpack.packb(value))


@given(value=BLOCKS)
def test_anything_like_a_block_is_decoded_or_refused(value):
    data = msgpack.packb(value)
    for decode in DECODERS:
        attempt(decode, data)


@given(
    fields=st.lists(SMALL | st.lists(SMALL, max_size=8) | st.booleans(), min_size=7, max_size=11)
)
def test_anything_like_an_entry_that_is_accepted_is_written_the_same(fields):
    try:
        entry = unpack_entry(msgpack.packb(fields))
    except DecodeError:
        return
    assert unpack_entry(pack_entry(entry)) == entry


def damaged(data, rng):
    """*data* with a few bytes changed, dropped, or repeated."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(out))
        match rng.randrange(4):
            case 0:
                out[at] = rng.randrange(256)
            case 1:
                out[at] ^= 1 << rng.randrange(8)
            case 2:
                del out[at : at + rng.randint(1, 4)]
            case _:
                out[at:at] = out[at : at + rng.randint(1, 8)]
        if not out:
            return b""
    return bytes(out)


RECORDS = [
    pack_entry(Entry(2, 0o100644, 1000, 1000, 10**18, 10**18, 5, inline=b"hello")),
    pack_entry(
        Entry(
            3, 0o100644, 0, 0, 0, 0, 300, 2, extents=(Extent(0, 5, 0, 100), Extent(200, 6, 7, 100))
        )
    ),
    pack_entry(Entry(4, 0o120777, 0, 0, 0, 0, 3, target=b"a/b")),
    pack_entry(Entry(5, 0o20666, 0, 0, 0, 0, 0, rdev=259, xattrs={b"user.x": b"y"})),
    pack_entry(Link(77)),
    pack_group((Extent(0, 1, 0, 100), Extent(500, 3, 9, 100))),
]


@pytest.mark.parametrize("record", RECORDS)
def test_damaged_records_are_decoded_or_refused(record):
    rng = random.Random(11)
    for _ in range(2000):
        data = damaged(record, rng)
        for decode in DECODERS:
            attempt(decode, data)


def drive(seed):
    rng = random.Random(seed)
    log = Log()
    for _ in range(12):
        log.commit(
            {
                entry_key(rng.randint(1, 9), b"%d" % rng.randrange(4000)): rng.randbytes(60)
                for _ in range(rng.choice([1, 5, 300]))
            }
        )
    return log


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_damaged_log_answers_or_refuses_and_ends(seed):
    rng = random.Random(seed)
    log = drive(seed % 5)
    roots = [index for index in range(1, len(log.blocks)) if decode_root(log.blocks[index], index)]
    for _ in range(rng.randint(1, 40)):
        at = rng.randrange(1, len(log.blocks))
        other = rng.randrange(1, len(log.blocks))
        log.blocks[at] = rng.choice([damaged(log.blocks[at], rng), log.blocks[other]])
    length = len(log.blocks)
    cache = NodeCache()

    def call(operation):
        try:
            return operation()
        except REFUSALS:
            return None

    call(lambda: find_root(rng.randrange(1, length), log, cache, length=length))
    views = [
        view for root in roots if (view := call(lambda root=root: log.view(root, cache=cache)))
    ]
    for view in views:
        found = call(lambda view=view: view.scan(b"", None, 100_000))
        if found is not None:
            keys = [key for key, _ in found]
            assert keys == sorted(set(keys))
        call(view.inner_blocks)
        for _ in range(20):
            call(
                lambda view=view: view.get(
                    entry_key(rng.randint(1, 9), b"%d" % rng.randrange(4000))
                )
            )
    for old in views[:3]:
        call(lambda old=old: list(Diff(old, views[-1])))


def test_a_missing_block_is_no_refusal():
    log = drive(1)
    log.away = set(range(1, len(log.blocks)))
    with pytest.raises(BlocksMissing):
        log.view(cache=NodeCache())
