"""Hyperbees read block by block, against the reference's vectors and a dictionary."""

from __future__ import annotations

import hashlib
import random

import pytest

from corestore import DecodeError
from hyperfs.hyperbee import Bee, BeeDiff, decode_block, decode_header_untrusted
from hyperfs.hyperbee.protobuf import fields_untrusted, integers_untrusted
from hyperfs.index import NodeCache
from tests.support.bees import BeeWriter, varint
from tests.support.blocks import Blocks
from tests.support.vectors import load

SCRIPTS = load("hyperbee")["scripts"]
WHOLE = [script for script in SCRIPTS if "blocks" in script]
LONG = [script for script in SCRIPTS if "blocks" not in script]


def blocks_of(script):
    log = Blocks()
    log.blocks = [bytes.fromhex(block) for block in script["blocks"]]
    return log


def bee_of(log, version=None):
    return Bee(len(log.blocks) if version is None else version, log, NodeCache())


def by_name(scripts):
    return pytest.mark.parametrize("script", scripts, ids=[each["name"] for each in scripts])


def text(value):
    return None if value is None else value.decode()


@by_name(WHOLE)
def test_entries_are_the_references(script):
    bee = bee_of(blocks_of(script))
    items = bee.scan(b"", None, 10_000)
    assert [[item.seq, text(item.key), text(item.value)] for item in items] == script["entries"]
    for item in items:
        assert bee.get(item.key) == item
        assert bee.get(item.key + b"\0") is None


@by_name(WHOLE)
def test_history_is_the_references(script):
    log = blocks_of(script)
    found = []
    for seq, data in enumerate(log.blocks):
        if seq:
            block = decode_block(data, seq)
            found.append([seq, "del" if block.is_deletion else "put", text(block.key)])
    assert found == script["history"]


@by_name(WHOLE)
def test_header_is_read(script):
    header = decode_header_untrusted(bytes.fromhex(script["blocks"][0]))
    assert header.user_data is None
    assert header.has_metadata == script["name"].startswith("metadata")
    assert (header.content_key is None) == (script["name"] != "metadata contentFeed")


def test_sub_keys_have_their_prefix():
    sub = load("hyperbee")["sub"]
    log = blocks_of(sub)
    assert [item.key.hex() for item in bee_of(log).scan(b"", None, 10)] == sub["storedKeys"]


@by_name(LONG)
def test_a_long_history_is_read_at_every_version(script):
    writer = BeeWriter()
    writer.header(None)
    states = [{}, {}]
    for operation in script["opsList"].split():
        key, _, value = operation[1:].partition("=")
        if operation[0] == "+":
            writer.put(key.encode(), value.encode())
        else:
            writer.delete(key.encode())
        if len(writer.blocks) >= len(states):
            states.append(dict(writer.values))
    # The blocks are the reference's, to the last byte.
    digest = hashlib.blake2b(b"".join(writer.blocks), digest_size=32).hexdigest()
    assert digest == script["blake2bOfConcatenatedBlocks"]
    assert len(writer.blocks) == script["length"]
    assert writer.blocks[-1].hex() == script["last"]
    log = Blocks()
    log.blocks = writer.blocks
    cache = NodeCache()
    for version in range(1, len(log.blocks) + 1):
        items = Bee(version, log, cache).scan(b"", None, 1000)
        assert [(item.key, item.value) for item in items] == sorted(states[version].items())
    assert len(items) == script["entries"]


# -- trees of our own, written as the format's text says ------------------------------------------


def random_log(seed, operations=400, names=150):
    """(a log, its writer's dictionary after each block)."""
    rng = random.Random(seed)
    writer = BeeWriter()
    states = [{}, {}]
    writer.header()
    for _ in range(operations):
        key = b"%03d" % rng.randrange(names)
        if rng.random() < 0.3:
            writer.delete(key)
        else:
            writer.put(key, b"%d" % rng.random().__hash__())
        while len(states) <= len(writer.blocks):
            states.append(dict(writer.values))
    log = Blocks()
    log.blocks = writer.blocks
    return log, states


@pytest.mark.parametrize("seed", range(3))
def test_every_version_is_the_dictionary_of_its_time(seed):
    log, states = random_log(seed)
    cache = NodeCache()
    for version in range(2, len(log.blocks) + 1):
        bee = Bee(version, log, cache)
        expected = sorted(states[version].items())
        assert [(item.key, item.value) for item in bee.scan(b"", None, 1000)] == expected
        low, high = b"%03d" % (version % 150), b"%03d" % (version % 150 + 20)
        assert [item.key for item in bee.scan(low, high, 5)] == [
            key for key, _ in expected if low <= key < high
        ][:5]
        assert (bee.get(low) is not None) == (low in states[version])


@pytest.mark.parametrize("seed", range(3))
def test_a_diff_is_what_differs(seed):
    log, states = random_log(seed)
    cache = NodeCache()
    rng = random.Random(seed)
    for _ in range(150):
        old, new = (rng.randrange(1, len(log.blocks) + 1) for _ in range(2))
        bees = Bee(old, log, cache), Bee(new, log, cache)
        keys = sorted(states[old].keys() | states[new].keys())
        seqs = [{item.key: item.seq for item in bee.scan(b"", None, 1000)} for bee in bees]
        expected = [
            (key, seqs[0].get(key), seqs[1].get(key))
            for key in keys
            if seqs[0].get(key) != seqs[1].get(key)
        ]
        assert [tuple(change) for change in BeeDiff(*bees)] == expected
        inside = [each for each in expected if b"040" <= each[0] < b"090"]
        assert [tuple(change) for change in BeeDiff(*bees, b"040", b"090")] == inside


def large_log(count=5000):
    writer = BeeWriter()
    writer.header()
    keys = [b"%06d" % number for number in range(count)]
    random.Random(1).shuffle(keys)
    for key in keys:
        writer.put(key, b"x")
    log = Blocks()
    log.blocks = writer.blocks
    return log


def test_what_is_missing_is_asked_for_a_level_at_a_time():
    log = large_log()
    log.away = set(range(1, len(log.blocks)))
    bee = bee_of(log)
    assert log.fetching(lambda: bee.get(b"002345")).key == b"002345"
    # Five levels: the root, and for each the keys with the children.
    assert len(log.rounds) <= 7
    assert sum(map(len, log.rounds)) <= 90
    log.rounds.clear()
    items = log.fetching(lambda: bee.scan(b"003000", b"003500", 500))
    assert [item.key for item in items] == [b"%06d" % number for number in range(3000, 3500)]
    assert len(log.rounds) <= 10
    assert sum(map(len, log.rounds)) <= 700


def test_a_diff_reads_what_changed():
    log = large_log()
    writer_length = len(log.blocks)
    cache = NodeCache()
    old = Bee(writer_length - 3, log, cache)
    log.away = set(range(1, writer_length))
    steps = BeeDiff(old, Bee(writer_length, log, cache))
    changes = []
    while (change := log.fetching(lambda: next(steps, None))) is not None:
        changes.append(change)
    assert len(changes) == 3
    assert sum(map(len, log.rounds)) < 300


# -- what nobody writes ----------------------------------------------------------------------------


def message(*fields):
    return b"".join(varint(n << 3 | 2) + varint(len(data)) + data for n, data in fields)


def numbers(*values):
    return b"".join(map(varint, values))


def block(key, *levels, value=b"v"):
    index = b"".join(
        message(
            (1, message((1, numbers(*keys)), *(((2, numbers(*children)),) if children else ())))
        )
        for keys, children in levels
    )
    return message((1, index), (2, key), (3, value))


HEADER = bytes.fromhex("0a0868797065726265651200")


@pytest.mark.parametrize(
    "blocks",
    [
        pytest.param([block(b"a", ([1], [1, 0, 1, 0]))], id="a root below itself"),
        pytest.param([block(b"a", ([1], [1, 1, 1, 2]), ([1], []), ([1], []))], id="one key twice"),
        pytest.param([block(b"a", ([2], []))], id="a key of a later block"),
        pytest.param([block(b"a", ([0], []))], id="the header as a key"),
        pytest.param([block(b"a", ([1], [1, 1]), ([], []))], id="one child"),
        pytest.param([block(b"a", ([1], [1, 1, 1, 1]), ([], []))], id="nodes without keys"),
        pytest.param([block(b"a", ([1], [1, 7, 1, 8]))], id="levels that are not there"),
        pytest.param([block(b"a", ([1], [1]))], id="half a pointer"),
        pytest.param([message((2, b"a"))], id="no index"),
        pytest.param([message((1, b""), (2, b"a"))], id="no root"),
        pytest.param([b"\xff" * 30], id="no message"),
        pytest.param([block(b"b", ([1], [])), block(b"a", ([1, 2], []))], id="keys out of order"),
        pytest.param([block(b"a", ([1] * 100, []))], id="a huge node"),
        pytest.param([block(b"a" * 20_000, ([1], []))], id="a huge key"),
    ],
)
def test_impossible_trees_are_refused(blocks):
    log = Blocks()
    log.blocks = [HEADER, *blocks]
    for operation in (
        lambda: bee_of(log).scan(b"", None, 100),
        lambda: [bee_of(log).get(key) for key in (b"", b"a", b"b", b"0", b"z")],
        lambda: list(BeeDiff(bee_of(log, 1), bee_of(log))),
    ):
        with pytest.raises(DecodeError):
            operation()


def test_shared_subtrees_do_not_multiply():
    """Thirty blocks, each naming the one before as both of its children, would be 2**30 nodes."""
    log = Blocks()
    log.blocks = [HEADER, block(b"k01", ([1], []))]
    for seq in range(2, 30):
        log.blocks.append(block(b"k%02d" % seq, ([seq], [seq - 1, 0, seq - 1, 0])))
    with pytest.raises(DecodeError):
        bee_of(log).scan(b"", None, 1000)
    with pytest.raises(DecodeError):
        list(BeeDiff(bee_of(log, 1), bee_of(log)))


@pytest.mark.parametrize(
    "data", [b"\x0a", b"\x0a\x05abc", b"\x0b", b"\x80" * 11, b"\x09abc", b"\x12\xff"]
)
def test_broken_messages_are_refused(data):
    with pytest.raises(DecodeError):
        fields_untrusted(data)


def test_integers_have_53_bits_and_a_limit():
    assert integers_untrusted(varint(2**53 - 1) + b"\x00", 2) == [2**53 - 1, 0]
    with pytest.raises(DecodeError):
        integers_untrusted(varint(2**53), 1)
    with pytest.raises(DecodeError):
        integers_untrusted(b"\1\2\3", 2)
    assert fields_untrusted(b"\x08\x96\x01\x0a\x01x\x15abcd\x09abcdefgh") == [(1, b"x")]


@pytest.mark.parametrize(
    "data", [b"", b"\x93\x01", b"\x0a\x08hyperbe_", b"\x0a\x08hyperbee\x12\x05"]
)
def test_other_blocks_are_no_header(data):
    assert decode_header_untrusted(data) is None
