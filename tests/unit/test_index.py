"""The index: blocks byte by byte, commits, look-ups, listings, versions, and what is refused."""

from __future__ import annotations

import random
from bisect import bisect_left

import pytest

from corestore import DecodeError
from corestore.encryption import BlockCipher
from hyperfs.errors import DriveEncrypted, NotADrive, UnsupportedFormat
from hyperfs.index import (
    Index,
    NodeCache,
    Overlay,
    build_commit,
    check_header,
    commit_steps,
    find_root,
    find_root_at,
    header_block,
)
from hyperfs.index.build import OVERLAY_BYTES, RECENT_BYTES
from hyperfs.index.node import (
    INNER_BYTES,
    LEAF_BYTES,
    MAX_KEY_BYTES,
    Inner,
    Leaf,
    decode_node,
    decode_overlay,
    encode_inner,
    encode_leaf,
    encode_overlay,
    separator,
)
from hyperfs.index.root import content_fork, decode_root, encode_root, next_skips
from hyperfs.records import MAX_RECORD_BYTES, entry_key, pack
from tests.support.blocks import Log

KEYS = [entry_key(1, name) for name in (b"a", b"ab", b"b")]


def numbered(count, *, directory=1, value=40):
    return {
        entry_key(directory, b"name-%06d" % i): b"%06d" % i + bytes(value) for i in range(count)
    }


def nodes(log):
    """Every leaf and inner node of the newest version, by block."""
    found = {}
    pending = [log.index.root.tree]
    while pending:
        block = pending.pop()
        node = decode_node(log.blocks[block], block)
        found[block] = node
        if isinstance(node, Inner):
            pending += node.children
    return found


# -- bytes -------------------------------------------------------------------------------------


def test_the_header_is_that_of_a_hyperbee_with_our_format():
    assert header_block() == bytes.fromhex("0a086879706572626565120b1209") + b"hyperfs/1"
    assert check_header(header_block()) == 1


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"hello",
        bytes.fromhex("0a0868797065726265651200"),  # a Hyperdrive of the Node stack
        bytes.fromhex("0a086879706572626565"),  # a plain Hyperbee
        bytes.fromhex("0a086879706572626565120b1209") + b"hyperfs/",
        bytes.fromhex("0a086879706572626565120b1209") + b"hyperfs/x",
        b"\x0a\x05hyper\x12\x0b\x12\x09hyperfs/1",
        header_block()[:-1],
    ],
)
def test_other_first_blocks_are_no_drive(block):
    with pytest.raises(NotADrive):
        check_header(block)


@pytest.mark.parametrize("plain", [header_block(), bytes.fromhex("0a0868797065726265651200")])
def test_an_encrypted_header_is_told_from_no_header(plain):
    stored = BlockCipher(b"k" * 32).encrypt(0, 0, plain)
    with pytest.raises(DriveEncrypted):
        check_header(stored)
    for block in (stored[:-4], stored + b"more", b"text".ljust(len(stored))):
        with pytest.raises(NotADrive):
            check_header(block)


def test_a_later_format_is_named():
    block = header_block().replace(b"hyperfs/1", b"hyperfs/2")
    with pytest.raises(UnsupportedFormat) as caught:
        check_header(block)
    assert caught.value.version == 2


def test_a_leaf_stores_its_common_prefix_once():
    block = encode_leaf(KEYS, [b"1", b"22", b"333"])
    assert block.hex() == (
        "9300"
        + "c406000000000001"
        + "96"
        + "c40161c40131"
        + "c4026162c4023232"
        + "c40162c403333333"
    )
    assert decode_node(block, 5) == Leaf(
        b"\0\0\0\0\0\1", [b"a", b"ab", b"b"], [b"1", b"22", b"333"]
    )


def test_an_inner_node_names_its_children_by_their_distance():
    block = encode_inner(1, [b"\0\0\1a", b"\0\0\1b"], [3, 4, 9], index=10)
    assert block.hex() == "9301" + "c403000001" + "95" + "07" + "c40161" + "06" + "c40162" + "01"
    assert decode_node(block, 10) == Inner(1, b"\0\0\1", [b"a", b"b"], [3, 4, 9])


def test_an_overlay_keeps_deletions():
    block = encode_overlay({KEYS[2]: None, KEYS[0]: b"1"})
    assert block.hex() == "9340" + "c406000000000001" + "94" + "c40161c40131" + "c40162c0"
    assert decode_overlay(block) == {KEYS[0]: b"1", KEYS[2]: None}
    assert decode_overlay(encode_overlay({})) == {}


def test_the_first_commit_is_its_root_block():
    [block] = build_commit(
        None,
        {KEYS[0]: b"1"},
        first_block=1,
        time_ns=5,
        content_length=2,
        next_id=3,
        files=4,
        bytes=6,
    )
    assert block.hex() == (
        "9341" + "9b" + "01" + "05" + "01" + "02" + "03" + "04" + "06" + "01" + "c0" + "c0" + "90"
        "92" + "c40700000000000161" + "c40131"
    )
    root = decode_root(block, 1)
    assert root.recent == {KEYS[0]: b"1"}
    info = root.info
    assert (info.version, info.time_ns, info.first_block, info.previous) == (2, 5, 1, None)
    assert (info.content_length, info.next_id, info.files, info.bytes) == (2, 3, 4, 6)
    assert (info.number, info.tree, info.overlay, info.skips) == (1, None, None, ())


def test_every_block_after_the_header_is_an_array_of_three():
    log = Log()
    for step in range(30):
        log.commit(numbered(20 * step, directory=step + 1))
    assert {block[0] for block in log.blocks[1:]} == {0x93}
    assert len(log.blocks) > 100


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [(b"abc", b"abd", b"abd"), (b"a", b"abc", b"ab"), (b"abc", b"b", b"b"), (b"a\xff", b"b", b"b")],
)
def test_a_separator_is_the_shortest_that_separates(left, right, expected):
    assert separator(left, right) == expected
    assert left < expected <= right


# -- what is refused ---------------------------------------------------------------------------

ONE = b"0000001"
LEAF = [0, b"", [ONE, b"v"]]
BAD_NODES = [
    [0, b"", []],
    [0, b"", [ONE]],
    [0, b"", [ONE, None]],
    [0, b"", [ONE, 1]],
    [0, b"", [b"2222222", b"", b"1111111", b""]],
    [0, b"", [ONE, b"", ONE, b""]],
    [0, b"", [b"short", b""]],
    [0, b"", [b"x" * (MAX_KEY_BYTES + 1), b""]],
    [0, b"x" * MAX_KEY_BYTES, [b"1", b""]],
    [0, "text", [ONE, b"v"]],
    [0, b"", ["1234567", b"v"]],
    [1, b"", []],
    [1, b"", [1, b"a"]],
    [1, b"", [0]],
    [1, b"", [-1]],
    [1, b"", [10]],
    [1, b"", [11]],
    [1, b"", [True]],
    [1, b"", [b"a"]],
    [1, b"", [1, b"b", 1, b"a", 1]],
    [1, b"", [1, b"a", 1, b"a", 1]],
    [1, b"", [1, 1, 1]],
    [9, b"", [1]],
    [-1, b"", [1]],
    [64, b"", []],
    [True, b"", [ONE, b"v"]],
    [0, b""],
    [0, b"", [], 1],
    {0: b""},
    None,
]


@pytest.mark.parametrize("value", BAD_NODES)
def test_a_node_that_cannot_be_is_refused(value):
    with pytest.raises(DecodeError):
        decode_node(pack(value), 10)


def test_a_block_too_large_to_be_a_node_is_refused_unread():
    with pytest.raises(DecodeError):
        decode_node(pack([0, b"", [ONE, bytes(70_000)]]), 10)


INFO = [1, 0, 5, 0, 2, 0, 0, 3, None, None, []]


def root_with(position, value, items=()):
    info = list(INFO)
    info[position] = value
    return pack([65, info, list(items)])


@pytest.mark.parametrize(
    ("position", "value"),
    [
        (1, 2**63),
        (1, None),
        (2, 0),
        (2, 11),
        (3, -1),
        (3, 2**53),
        (4, 0),
        (4, 2**48 + 1),
        (5, -1),
        (6, 2**63),
        (7, 0),
        (7, 6),
        (8, 10),
        (8, 0),
        (8, b""),
        (9, 11),
        (10, None),
        (10, [1]),
    ],
)
def test_a_root_that_cannot_be_is_refused(position, value):
    assert decode_root(root_with(7, 3), 10) is not None
    with pytest.raises(DecodeError):
        decode_root(root_with(position, value), 10)


@pytest.mark.parametrize("skips", [[5], [0], [True], [b""], [3, 1]])
def test_skip_pointers_lead_backwards_to_earlier_roots(skips):
    info = list(INFO)
    info[7] = 6
    assert decode_root(pack([65, [*info[:10], [4]], []]), 10) is not None
    with pytest.raises(DecodeError):
        decode_root(pack([65, [*info[:10], skips], []]), 10)


def test_a_root_of_a_later_format_is_named():
    with pytest.raises(UnsupportedFormat):
        decode_root(root_with(0, 2), 10)


def test_further_facts_in_a_root_are_ignored():
    assert decode_root(pack([65, [*INFO, 0, 0, "later"], []]), 10).info.number == 3


def test_a_root_tells_the_oldest_version_that_is_kept():
    assert decode_root(pack([65, INFO, []]), 10).info.oldest == 0
    info = decode_root(pack([65, [*INFO, 11], []]), 10).info
    assert info.oldest == 11
    assert decode_root(encode_root(info, {}), 10).info == info
    for wrong in (12, -1, None, True, "1"):
        with pytest.raises(DecodeError):
            decode_root(pack([65, [*INFO, wrong], []]), 10)


def test_a_root_tells_the_fork_of_the_content_it_relies_on():
    for oldest in (0, 11):
        info = decode_root(pack([65, [*INFO, oldest, 7], []]), 10).info
        assert (info.oldest, info.content_fork) == (oldest, 7)
        assert decode_root(encode_root(info, {}), 10).info == info
        assert content_fork(encode_root(info, {}), 10) == 7
    assert content_fork(pack([65, INFO, []]), 10) == 0
    assert content_fork(encode_leaf([ONE], [b"v"]), 10) is None
    assert content_fork(header_block(), 10) is None
    for wrong in (1 << 53, -1, None, True, "1"):
        with pytest.raises(DecodeError):
            decode_root(pack([65, [*INFO, 0, wrong], []]), 10)


def test_a_child_of_the_wrong_level_is_refused():
    log = Log()
    log.blocks += [
        encode_leaf([ONE], [b"v"]),
        encode_inner(2, [], [1], index=2),
        pack([65, [1, 0, 1, 0, 2, 0, 0, 1, 2, None, []], []]),
    ]
    index = log.view()
    for call in (lambda: index.get(ONE), lambda: index.scan(b"", None, 1)):
        with pytest.raises(DecodeError):
            call()


def test_a_child_outside_its_separators_is_refused_by_a_listing():
    log = Log()
    log.blocks += [
        encode_leaf([ONE], [b"v"]),
        encode_inner(1, [b"0000002"], [1, 1], index=2),
        pack([65, [1, 0, 1, 0, 2, 0, 0, 1, 2, None, []], []]),
    ]
    with pytest.raises(DecodeError):
        log.view().scan(b"", None, 10)


def test_a_tree_that_names_one_node_many_times_does_not_make_a_walk_endless():
    log = Log()
    log.blocks.append(encode_leaf([ONE], [b"v"]))
    separators = [b"1%06d" % i for i in range(200)]
    for level in range(1, 9):
        index = len(log.blocks)
        log.blocks.append(encode_inner(level, separators, [index - 1] * 201, index=index))
    top = len(log.blocks) - 1
    log.blocks.append(pack([65, [1, 0, 1, 0, 2, 0, 0, 1, top, None, []], []]))
    index = log.view()
    assert index.inner_blocks() == []
    with pytest.raises(DecodeError):
        index.scan(b"", None, 10**6)


@pytest.mark.parametrize("pointer", [8, 9])
def test_pointers_to_blocks_of_another_kind_are_refused(pointer):
    log = Log()
    log.commit({})
    info = [1, 0, 2, 0, 2, 0, 0, 2, None, None, []]
    info[pointer] = 1
    log.blocks.append(pack([65, info, []]))
    with pytest.raises(DecodeError):
        log.view().get(ONE)
    with pytest.raises(DecodeError):
        Index(1, log, NodeCache()).cache.node(1, None, log)


# -- commits -----------------------------------------------------------------------------------


def test_a_small_commit_is_one_block():
    log = Log()
    log.commit(numbered(1000))
    before = len(log.blocks)
    log.commit({KEYS[0]: b"x"})
    assert len(log.blocks) == before + 1
    assert log.index.get(KEYS[0]) == b"x"


def test_changes_move_from_root_to_overlay_to_tree():
    log = Log()
    seen = set()
    for step in range(600):
        log.commit({entry_key(1, b"%04d" % step): bytes(50)})
        root = log.index.root
        layers = (bool(log.index.recent()), root.overlay is not None, root.tree is not None)
        seen.add(layers)
        assert len(log.blocks[-1]) <= RECENT_BYTES + 200
        if root.overlay is not None:
            assert len(log.blocks[root.overlay]) <= OVERLAY_BYTES + 20
    assert {(True, False, False), (True, True, False), (False, False, True)} <= seen
    assert len(log.index.scan(b"", None, 1000)) == 600


def test_a_commit_of_a_few_changes_costs_less_than_two_kilobytes():
    log = Log()
    log.commit(numbered(20_000))
    before = sum(map(len, log.blocks))
    for step in range(500):
        log.commit({entry_key(2, b"file-%05d" % step): bytes(60), entry_key(1, b"dir"): bytes(40)})
    assert (sum(map(len, log.blocks)) - before) / 500 < 2048


def test_a_large_commit_rewrites_only_the_nodes_it_touches():
    log = Log()
    log.commit(numbered(20_000))
    before = nodes(log)
    start = len(log.blocks)
    log.commit(numbered(600, value=60))
    after = nodes(log)
    assert len(before.keys() & after.keys()) > 0.9 * len(before)
    assert all(block >= start for block in after.keys() - before.keys())
    assert set(range(start, len(log.blocks) - 1)) == after.keys() - before.keys()


def test_leaves_are_of_four_kilobytes_and_inner_nodes_of_sixteen_and_well_filled():
    log = Log()
    log.commit(numbered(30_000))
    leaves = [len(log.blocks[b]) for b, node in nodes(log).items() if isinstance(node, Leaf)]
    assert max(leaves) <= LEAF_BYTES
    assert 0.6 * LEAF_BYTES < sum(leaves) / len(leaves) < 0.75 * LEAF_BYTES
    inner = {b: node for b, node in nodes(log).items() if isinstance(node, Inner)}
    assert max(len(log.blocks[b]) for b in inner) <= INNER_BYTES
    assert max(len(node.children) for node in inner.values()) > 400


def test_removing_nearly_everything_leaves_a_small_tree():
    log = Log()
    everything = numbered(20_000)
    log.commit(everything)
    log.commit(dict.fromkeys(list(everything)[10:]))
    assert len(nodes(log)) == 1
    assert len(log.index.scan(b"", None, 100)) == 10
    log.commit(dict.fromkeys(everything))
    assert log.index.root.tree is None
    assert log.index.scan(b"", None, 100) == []


def test_thinning_out_joins_nodes():
    log = Log()
    everything = numbered(20_000)
    log.commit(everything)
    full = len(nodes(log))
    log.commit({key: None for at, key in enumerate(everything) if at % 8})
    assert len(nodes(log)) < full / 3
    assert len(log.index.scan(b"", None, 5000)) == 2500


def test_the_longest_records_have_leaves_of_their_own():
    log = Log()
    changes = {entry_key(1, b"%d" % i): bytes(MAX_RECORD_BYTES) for i in range(5)}
    log.commit(changes)
    assert dict(log.index.scan(b"", None, 10)) == changes


def test_a_record_too_long_is_not_written():
    with pytest.raises(ValueError, match="record of"):
        Log().commit({KEYS[0]: bytes(MAX_RECORD_BYTES + 1)})


def test_a_commit_belongs_at_the_end_of_the_log():
    log = Log()
    log.commit({KEYS[0]: b"x"})
    facts = {"time_ns": 0, "content_length": 0, "next_id": 2, "files": 0, "bytes": 0}
    for base, first in ((log.index, 3), (None, 2)):
        with pytest.raises(ValueError, match="where the log ends"):
            build_commit(base, {}, first_block=first, **facts)


def test_the_first_commit_may_be_large():
    log = Log()
    everything = numbered(5000)
    log.commit(everything)
    assert dict(log.index.scan(b"", None, 10_000)) == everything


def test_deletions_of_what_was_never_there_are_dropped_in_an_empty_drive():
    log = Log()
    log.commit({KEYS[0]: None})
    assert log.index.recent() == {}


def test_a_large_commit_can_be_made_in_steps():
    log = Log()
    log.commit(numbered(20_000))
    changes = numbered(20_000, value=30)
    facts = {"time_ns": 0, "content_length": 0, "next_id": 2, "files": 0, "bytes": 0}
    steps = commit_steps(log.index, changes, first_block=len(log.blocks), **facts)
    count = 0
    while True:
        try:
            next(steps)
        except StopIteration as done:
            blocks = done.value
            break
        count += 1
    assert count > 50
    assert blocks == build_commit(log.index, changes, first_block=len(log.blocks), **facts)


def test_the_same_commits_make_the_same_blocks():
    def make():
        log = Log()
        rng = random.Random(3)
        for _ in range(40):
            log.commit(
                {entry_key(1, b"%d" % rng.randrange(999)): rng.randbytes(90) for _ in range(20)}
            )
        return log.blocks

    assert make() == make()


# -- versions ----------------------------------------------------------------------------------


def history(commits):
    log = Log()
    roots = []
    rng = random.Random(7)
    for number in range(1, commits + 1):
        changes = numbered(rng.choice([1, 1, 1, 400]), directory=number)
        roots.append(log.commit(changes, time_ns=1000 * number).root.index)
    return log, roots


def test_any_version_rounds_down_to_its_root():
    log, roots = history(70)
    for version in range(1, len(log.blocks) + 1):
        expected = max((root for root in roots if root < version), default=None)
        found = find_root(version, log, NodeCache(), length=len(log.blocks))
        assert found == expected


def test_a_version_beyond_the_log_is_an_error():
    log, _ = history(3)
    for version in (0, len(log.blocks) + 1):
        with pytest.raises(ValueError):
            find_root(version, log, NodeCache(), length=len(log.blocks))


def test_a_version_is_found_by_its_time():
    log, roots = history(70)
    for time_ns in (999, 1000, 1001, 30_500, 69_999, 70_000, 10**9):
        expected = roots[min(time_ns // 1000, 70) - 1] if time_ns >= 1000 else None
        assert find_root_at(time_ns, log, NodeCache(), length=len(log.blocks)) == expected
    assert find_root_at(5, log, NodeCache(), length=1) is None


def test_skips_name_the_newest_earlier_multiples():
    _, roots = history(70)
    log, _ = history(70)
    for number, root in enumerate(roots, 1):
        info = Index(root, log, log.cache).root
        assert info.number == number
        expected = []
        step = 4
        while step < number:
            expected.append(roots[(number - 1) // step * step - 1])
            step *= 4
        assert list(info.skips) == expected
    assert next_skips(info)[0] == info.skips[0]


def test_an_old_version_among_many_takes_few_blocks():
    log = Log()
    for _ in range(76):
        log.commit({})
    inside = len(log.blocks) + 5
    log.commit(numbered(1000))
    for _ in range(3000):
        log.commit({})
    for version, root in ((2, 1), (inside, 76)):
        log.reads = 0
        assert find_root(version, log, NodeCache(), length=len(log.blocks)) == root
        assert log.reads <= 25


# -- missing blocks ----------------------------------------------------------------------------


def away(log, *, root=True):
    """The newest version of a log of which nothing, or only the root, is local."""
    log.away = set(range(1, len(log.blocks) - 1 if root else len(log.blocks)))
    log.rounds = []
    return log.fetching(lambda: log.view(cache=NodeCache()))


def large():
    log = Log()
    log.commit(numbered(30_000))
    for step in range(40):
        log.commit({entry_key(2, b"%04d" % step): bytes(60)})
    return log


def test_a_look_up_fetches_one_block_a_level():
    log = large()
    index = away(log)
    key = entry_key(1, b"name-012345")
    assert log.fetching(lambda: index.get(key)) is not None
    assert list(map(len, log.rounds)) == [2, 1]  # the overlay comes with the root of the tree


def test_of_a_tree_of_three_levels_the_topmost_node_comes_with_the_overlay():
    log = Log()
    log.commit(numbered(120_000), files=120_000)
    for step in range(20):
        log.commit({entry_key(2, b"%04d" % step): bytes(100)}, files=120_000)
    index = away(log)
    assert index.root.overlay is not None
    assert log.fetching(lambda: index.get(entry_key(1, b"name-012345"))) is not None
    assert list(map(len, log.rounds)) == [1, 1, 1]
    assert index.root.tree in log.away
    assert log.fetching(index.inner_blocks)  # goes on below it


def test_a_topmost_node_that_is_repeated_wrongly_is_an_error():
    log = Log()
    log.commit(numbered(120_000), files=120_000)
    index = log.commit({entry_key(2, b"%04d" % step): bytes(100) for step in range(20)})
    assert index.root.overlay is not None
    for top in (b"", encode_overlay({}), bytes([0x93, 9, 0xC4, 0, 0x90])):
        log.blocks[index.root.overlay] = encode_overlay(index.older(), top)
        with pytest.raises(DecodeError):
            log.view(cache=NodeCache()).get(entry_key(1, b"name-012345"))
    for head in ([b""], [b"", 1], [b"", b"", b""], [1, b""]):
        with pytest.raises(DecodeError):
            decode_overlay(pack([64, head, []]))


def test_look_ups_of_many_keys_fetch_together():
    log = large()
    index = away(log)
    keys = [entry_key(1, b"name-%06d" % i) for i in range(0, 30_000, 1000)]
    assert len(log.fetching(lambda: index.get_many(keys))) == 30
    assert len(log.rounds) == 2


def test_a_listing_fetches_the_leaves_it_will_need_together():
    log = large()
    index = away(log)
    page = log.fetching(lambda: index.scan(entry_key(1, b"name-010000"), None, 1000))
    assert len(page) == 1000
    assert len(log.rounds) <= 5


def test_a_short_listing_fetches_little():
    log = large()
    index = away(log)
    log.fetching(lambda: index.scan(entry_key(1, b"name-010000"), None, 10))
    assert sum(map(len, log.rounds)) <= 5


def test_with_the_inner_nodes_here_a_look_up_takes_one_block():
    log = large()
    index = away(log)
    while True:
        blocks = index.inner_blocks()
        if not blocks:
            break
        log.away.difference_update(blocks)
    log.rounds = []
    log.fetching(lambda: index.get(entry_key(1, b"name-020000")))
    assert list(map(len, log.rounds)) == [1]


def test_a_commit_says_together_which_nodes_it_misses():
    log = large()
    index = away(log)
    facts = {"time_ns": 0, "content_length": 0, "next_id": 2, "files": 0, "bytes": 0}
    changes = {entry_key(1, b"name-%06d" % i): bytes(30) for i in range(0, 30_000, 50)}
    blocks = log.fetching(
        lambda: build_commit(index, changes, first_block=len(log.blocks), **facts)
    )
    assert len(log.rounds) <= 5
    log.blocks += blocks
    assert log.view().get(entry_key(1, b"name-000050")) == bytes(30)


# -- the cache and overlays --------------------------------------------------------------------


def test_the_cache_keeps_to_its_bound_and_to_what_was_used_last():
    log = large()
    cache = NodeCache(100_000)
    index = log.view(cache=cache)
    for number in range(0, 30_000, 10):
        index.get(entry_key(1, b"name-%06d" % number))
        assert cache.size_bytes <= 100_000
    assert cache.get(index.root.tree) is not None
    assert 5 < len(cache) < 60


def test_a_cut_off_tail_is_forgotten():
    log = Log()
    log.commit({KEYS[0]: b"1"})
    log.commit({KEYS[0]: b"2"})
    del log.blocks[2:]
    log.cache.forget_from(2)
    log.index = log.view()
    log.commit({KEYS[0]: b"3"})
    assert log.index.get(KEYS[0]) == b"3"


def test_an_overlay_answers_for_what_it_has():
    overlay: Overlay[int] = Overlay()
    overlay.put(b"b", 2)
    overlay.put(b"a", 1)
    overlay.delete(b"c")
    assert list(overlay) == [b"a", b"b", b"c"]
    assert overlay[b"c"] is None
    assert b"d" not in overlay
    with pytest.raises(KeyError):
        overlay[b"d"]
    overlay.put(b"ab", 5)
    assert overlay.range(b"ab", b"c") == [(b"ab", 5), (b"b", 2)]
    overlay.discard(b"ab")
    overlay.discard(b"nothing")
    assert overlay.range(b"", None) == [(b"a", 1), (b"b", 2), (b"c", None)]
    newer: Overlay[int] = Overlay({b"a": None, b"x": 9})
    overlay.absorb(newer)
    assert overlay.changes() == {b"a": None, b"b": 2, b"c": None, b"x": 9}
    assert len(overlay) == 4


def test_a_listing_under_many_deletions_is_still_full():
    below = [(b"%03d" % i, i) for i in range(500)]
    overlay: Overlay[int] = Overlay({b"%03d" % i: None for i in range(400)})
    overlay.put(b"4005", -1)

    def scan(start, end, limit):
        return [item for item in below if start <= item[0] and (end is None or item[0] < end)][
            :limit
        ]

    page = overlay.scan_over(scan, b"", None, 3)
    assert page == [(b"400", 400), (b"4005", -1), (b"401", 401)]
    assert overlay.scan_over(scan, b"402", b"404", 9) == [(b"402", 402), (b"403", 403)]
    assert overlay.scan_over(scan, b"499", None, 9) == [(b"499", 499)]
    assert overlay.scan_over(scan, b"0", b"4", 9) == []


def test_the_first_name_behind_many_deletions_is_found_in_few_steps():
    below = [(b"%04d" % i, i) for i in range(5000)]
    overlay: Overlay[int] = Overlay({b"%04d" % i: None for i in range(4999)})
    steps = 0

    def scan(start, end, limit):
        nonlocal steps
        steps += 1
        at = bisect_left(below, (start,))
        return below[at : at + limit]

    assert overlay.scan_over(scan, b"", None, 1) == [(b"4999", 4999)]
    assert steps < 40


class CountingKeys(list):
    """Counts the keys that are moved, or looked at."""

    moved = 0

    def __setitem__(self, place, new) -> None:
        self.moved += len(self) - place.start + len(new)
        super().__setitem__(place, new)

    def sort(self):
        self.moved += len(self)
        super().sort()


@pytest.mark.parametrize("gaps", [1, 20, 32, 33, 2000])
def test_new_keys_take_their_places_without_moving_all_others_for_each(gaps):
    """However few or many gaps they come into."""
    overlay: Overlay[int] = Overlay({b"%05d" % i: 0 for i in range(20_000)})
    list(overlay)
    keys = overlay._sorted = CountingKeys(overlay._sorted)
    for i in range(2000):
        overlay.put(b"%05d/%d" % (i % gaps * (20_000 // gaps), i), 1)
    assert list(overlay) == sorted(overlay.changes())
    assert overlay._sorted is keys
    assert keys.moved < 34 * len(keys)
