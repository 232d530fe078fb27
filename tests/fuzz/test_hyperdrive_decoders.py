"""Every decoder of Hyperbees and Hyperdrives: any bytes give a value or DecodeError, and an end."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corestore import DecodeError
from hyperfs.blobs import decode_map, map_extents
from hyperfs.hyperbee import BeeDiff, decode_block, decode_header_untrusted
from hyperfs.hyperbee.protobuf import fields_untrusted, integers_untrusted
from hyperfs.hyperdrive import HyperdriveFormat, content_key, is_hyperdrive
from hyperfs.hyperdrive.records import decode_entry
from hyperfs.records import ROOT_ID, entry_key
from tests.support.hyperdrives import OWNER, Hyperdrive, blob, record, tree


def whole_block(data):
    block = decode_block(data, 1000)
    return block.levels(), block.is_deletion


DECODERS = [
    fields_untrusted,
    lambda data: integers_untrusted(data, 20),
    decode_header_untrusted,
    is_hyperdrive,
    content_key,
    whole_block,
    lambda data: decode_entry(data, 5, OWNER),
    lambda data: map_extents(decode_map([data])),
]


def attempt(decode, data):
    try:
        return decode(data)
    except DecodeError:
        return None


@pytest.mark.parametrize("decode", DECODERS)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(decode, data):
    attempt(decode, data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=20,
)
NUMBER = st.integers(-2, 2**64) | JSON


@given(
    value=st.fixed_dictionaries(
        {},
        optional={
            "executable": JSON,
            "linkname": JSON,
            "metadata": JSON | st.fixed_dictionaries({"mtime": NUMBER}),
            "blob": JSON
            | st.fixed_dictionaries(
                {
                    "blockOffset": NUMBER,
                    "byteOffset": NUMBER,
                    "blockLength": NUMBER,
                    "byteLength": NUMBER,
                },
                optional={"blockMap": JSON},
            ),
        },
    )
)
def test_anything_like_a_record_is_decoded_or_refused(value):
    attempt(lambda data: decode_entry(data, 5, OWNER), record(**value))


def drive_of(seed):
    rng = random.Random(seed)
    drive = Hyperdrive()
    for number in range(150):
        path = "/" + "/".join(rng.choices(["a", "b", "c-", "c"], k=rng.randint(1, 4))) + str(number)
        drive.put(path, record(blob=blob(number, 10 * number, 10)))
    return drive


def damaged(data, rng):
    data = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data)) if data else 0
        match rng.randrange(3):
            case 0:
                data[at : at + 1] = rng.randbytes(1)
            case 1:
                del data[at : at + rng.randint(1, 9)]
            case _:
                data[at:at] = rng.randbytes(rng.randint(1, 3))
    return bytes(data)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_damaged_log_answers_or_refuses_and_ends(seed):
    rng = random.Random(seed)
    drive = drive_of(seed % 5)
    blocks = drive.metadata.blocks
    for _ in range(rng.randint(1, 40)):
        at, other = rng.randrange(1, len(blocks)), rng.randrange(1, len(blocks))
        blocks[at] = rng.choice([damaged(blocks[at], rng), blocks[other]])
    form = HyperdriveFormat(drive.metadata, drive.content, OWNER)

    def call(operation):
        return attempt(lambda _: operation(), None)

    views = [call(lambda v=v: form.view(v)) for v in (1, *rng.sample(range(2, 151), 4), 151)]
    views = [view for view in views if view is not None]
    for view in views:
        items = call(lambda view=view: view.bee.scan(b"", None, 100_000))
        if items is not None:
            keys = [item.key for item in items]
            assert keys == sorted(set(keys))
        call(lambda view=view: tree(view))
        call(lambda view=view: view.blocks_ahead(1000))
        for item in items or ():
            call(lambda view=view, item=item: view.bee.get(item.key))
        for name in (b"a", b"b", b"c-1"):
            call(lambda view=view, name=name: view.find(entry_key(ROOT_ID, name)))
    for old in views:
        changes = call(lambda old=old: list(BeeDiff(old.bee, views[-1].bee)))
        keys = [change.key for change in changes or ()]
        assert keys == sorted(set(keys))
        call(lambda old=old: list(form.changes(old, views[-1])))
