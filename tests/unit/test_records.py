"""Records: their bytes, both ways, and everything a drive may not hold."""

from __future__ import annotations

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corestore import DecodeError
from hyperfs.extents import MAX_WINDOW_EXTENTS, WINDOW_BYTES, Extent
from hyperfs.records import (
    MAX_ID,
    MAX_INLINE_BYTES,
    MAX_RECORD_BYTES,
    MAX_XATTR_BYTES,
    MAX_XATTRS,
    ROOT_ID,
    Entry,
    Link,
    check_name,
    directory_range,
    entry_key,
    group_key,
    group_range,
    group_window,
    is_name,
    key_id,
    pack,
    pack_entry,
    pack_group,
    shared_key,
    unpack_entry,
    unpack_group,
    unpack_record,
    unpack_untrusted,
)

FILE = Entry(2, stat.S_IFREG | 0o644, 1000, 1000, 1_000_000_000, 1_000_000_001, 5)
DIRECTORY = Entry(ROOT_ID, stat.S_IFDIR | 0o755, 0, 0, 0, 0, 0)
SYMLINK = Entry(3, stat.S_IFLNK | 0o777, 0, 0, 0, 0, 3, target=b"a/b")
DEVICE = Entry(4, stat.S_IFCHR | 0o600, 0, 0, 0, 0, 0, rdev=0x103)

# Computed by hand from FORMAT.md.
BYTES = [
    (DIRECTORY, "9701cd41ed0000000000"),
    (
        FILE._replace(inline=b"hello"),
        "9902cd81a4cd03e8cd03e8ce3b9aca00ce3b9aca010501c40568656c6c6f",
    ),
    (
        FILE._replace(size=70000, extents=(Extent(0, 7, 0, 65536), Extent(65536, 8, 100, 4464))),
        "9902cd81a4cd03e8cd03e8ce3b9aca00ce3b9aca01ce000111700198000700ce000100000000" + "64cd1170",
    ),
    (FILE._replace(size=1 << 40, grouped=True), None),
    (FILE._replace(nlink=2), "9802cd81a4cd03e8cd03e8ce3b9aca00ce3b9aca010502"),
    (SYMLINK, "9903cda1ff00000000030" + "1c403612f62"),
    (DEVICE, "9904cd2180000000000001cd0103"),
    (
        DIRECTORY._replace(xattrs={b"user.a": b"1"}),
        "9a01cd41ed000000000001c081c406757365722e61c40131",
    ),
    (Link(300), "91cd012c"),
]


@pytest.mark.parametrize(("record", "expected"), BYTES)
def test_a_record_has_the_bytes_of_the_format_and_reads_back(record, expected):
    packed = pack_entry(record)
    if expected is not None:
        assert packed.hex() == expected
    assert unpack_entry(packed) == record


TIMES = st.integers(-(2**63), 2**63 - 1)
U32 = st.integers(0, 2**32 - 1)


@st.composite
def entries(draw):
    kind = draw(
        st.sampled_from(
            [
                stat.S_IFREG,
                stat.S_IFDIR,
                stat.S_IFLNK,
                stat.S_IFIFO,
                stat.S_IFSOCK,
                stat.S_IFCHR,
                stat.S_IFBLK,
            ]
        )
    )
    fields = {"size": draw(st.integers(0, 2**63 - 1))}
    if kind == stat.S_IFLNK:
        fields["target"] = draw(st.binary(min_size=1, max_size=60).filter(lambda t: b"\0" not in t))
        fields["size"] = len(fields["target"])
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        fields["rdev"] = draw(st.integers(0, 2**64 - 1))
    elif kind == stat.S_IFREG:
        form = draw(st.sampled_from(["hole", "inline", "extents", "grouped"]))
        if form == "inline":
            fields["inline"] = draw(st.binary(max_size=MAX_INLINE_BYTES))
            fields["size"] = len(fields["inline"])
        elif form == "extents":
            at, extents = 0, []
            for _ in range(draw(st.integers(1, 32))):
                at += draw(st.integers(0, 2**40))
                length = draw(st.integers(1, 2**18))
                block, offset = draw(st.integers(0, 2**53 - 1)), draw(st.integers(0, 2**18))
                extents.append(Extent(at, block, offset, length))
                at += length
            fields["extents"] = tuple(extents)
            fields["size"] = at + draw(st.integers(0, 2**40))
        elif form == "grouped":
            fields["grouped"] = True
    names = st.binary(min_size=1, max_size=20).filter(lambda name: b"\0" not in name)
    return Entry(
        draw(st.integers(1, MAX_ID)),
        kind | draw(st.integers(0, 0o7777)),
        draw(U32),
        draw(U32),
        draw(TIMES),
        draw(TIMES),
        nlink=draw(U32),
        xattrs=draw(st.dictionaries(names, st.binary(max_size=30), max_size=4)),
        **fields,
    )


@given(entries())
def test_every_entry_reads_back(entry):
    assert unpack_entry(pack_entry(entry)) == entry
    assert unpack_record(pack_entry(entry)) == entry


REFUSED = [
    FILE._replace(id=0),
    FILE._replace(id=MAX_ID + 1),
    FILE._replace(mode=0o644),
    FILE._replace(mode=0o140000 | 0o20000 | 0o644),
    FILE._replace(mode=stat.S_IFREG | 0o1000000),
    FILE._replace(uid=-1),
    FILE._replace(gid=2**32),
    FILE._replace(mtime_ns=2**63),
    FILE._replace(ctime_ns=-(2**63) - 1),
    FILE._replace(size=2**63),
    FILE._replace(size=-1),
    FILE._replace(nlink=2**32),
    FILE._replace(inline=b"four"),
    FILE._replace(size=129, inline=bytes(129)),
    FILE._replace(size=5, extents=(Extent(0, 0, 0, 6),)),
    FILE._replace(size=33, extents=tuple(Extent(i, 2 * i, 0, 1) for i in range(33))),
    FILE._replace(extents=(Extent(0, 0, 0, 5),), grouped=True),
    FILE._replace(target=b"x"),
    FILE._replace(rdev=1),
    DIRECTORY._replace(inline=b""),
    DIRECTORY._replace(rdev=1),
    SYMLINK._replace(size=4),
    SYMLINK._replace(target=None),
    SYMLINK._replace(target=b"", size=0),
    SYMLINK._replace(target=b"a\0b"),
    SYMLINK._replace(target=bytes(4096).replace(b"\0", b"x"), size=4096),
    DEVICE._replace(rdev=2**64),
    FILE._replace(xattrs={b"": b""}),
    FILE._replace(xattrs={b"a\0": b""}),
    FILE._replace(xattrs={b"a" * 256: b""}),
    FILE._replace(xattrs={b"a": bytes(MAX_XATTR_BYTES)}),
    FILE._replace(xattrs={b"%d" % i: b"" for i in range(MAX_XATTRS + 1)}),
]


@pytest.mark.parametrize("entry", REFUSED)
def test_what_no_drive_may_hold_is_not_written(entry):
    with pytest.raises(ValueError):
        pack_entry(entry)


BASE = [2, stat.S_IFREG | 0o644, 0, 0, 0, 0, 5]


def changed(position, value):
    fields = list(BASE)
    fields[position] = value
    return fields


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [0],
        [MAX_ID + 1],
        [2, 3],
        BASE[:6],
        changed(0, True),
        changed(0, b"2"),
        changed(1, 0o644),
        changed(2, -1),
        changed(4, 2**63),
        changed(4, 1.5),
        changed(6, 2**63),
        [*BASE, None],
        [*BASE, 1, b"four"],
        [*BASE, 1, "hello"],
        [*BASE, 1, False],
        [*BASE, 1, 7],
        [*BASE, 1, [0, 0, 0]],
        [*BASE, 1, [0, 0, 0, 6]],
        [*BASE, 1, [0, 0, 0, 0]],
        [*BASE, 1, [-1, 0, 0, 2]],
        [*BASE, 1, [0, -1, 0, 2]],
        [*BASE, 1, [0, 0, 0, 2] * 33],
        [*BASE, 1, [0, 2**54, 0, 2]],
        [*BASE, 1, [0, 0, 0, 2**24]],
        [*BASE, 1, None, [1]],
        [*BASE, 1, None, {b"a": "text"}],
        [*BASE, 1, None, {"a": b"text"}],
        {1: 2},
        [{}],
        [[1, 2, 3]],
        [[]],
        None,
    ],
)
def test_a_record_that_cannot_be_is_refused(fields):
    with pytest.raises(DecodeError):
        unpack_record(pack(fields))


def test_fields_of_a_later_minor_format_are_ignored():
    assert unpack_entry(pack([*BASE, 1, None, {}, "later", [1]])) == Entry(*BASE)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xc1", b"\x91", b"\x01\x01", b"\xdd\xff\xff\xff\xff", b"\x91" * 10_000, b"\xa1\xff"],
)
def test_what_is_no_single_value_is_refused(data):
    with pytest.raises(DecodeError):
        unpack_untrusted(data)


def test_keys_sort_by_directory_and_then_by_name():
    keys = [
        entry_key(1, b"a"),
        entry_key(1, b"a\x01"),
        entry_key(1, b"b"),
        entry_key(1, b"\xff"),
        shared_key(2),
        group_key(2, 0),
        group_key(2, 1),
        group_key(2, 256),
        entry_key(3, b"a"),
        entry_key(2**40, b"a"),
    ]
    assert keys == sorted(keys)
    assert entry_key(1, b"a") == bytes.fromhex("00000000000161")
    assert group_key(2, 1) == bytes.fromhex("000000000002010000000000000001")
    assert [key_id(key) for key in keys[3:6]] == [1, 2, 2]
    assert group_window(group_key(7, 12345)) == 12345


@pytest.mark.parametrize("directory", [1, 255, MAX_ID])
def test_the_range_of_a_directory_holds_all_its_names_and_no_others(directory):
    start, end = directory_range(directory)
    names = [b"\x01", b"\x01" + bytes(range(1, 9)), b"a", b"\xff" * 255]
    assert all(start <= entry_key(directory, name) < end for name in names)
    assert not start <= shared_key(directory) < end
    assert entry_key(directory - 1, b"\xff") < start
    after, _ = directory_range(directory, b"a")
    assert entry_key(directory, b"a") < after <= entry_key(directory, b"a\x01")


def test_the_range_of_groups_holds_those_from_a_window_on():
    start, end = group_range(5, 3)
    assert start == group_key(5, 3)
    assert group_key(5, 2**43) < end
    assert entry_key(6, b"a") > end


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"a\0b", b"x" * 256])
def test_names_that_cannot_be_are_refused(name):
    with pytest.raises(ValueError):
        check_name(name)
    assert not is_name(name)


@pytest.mark.parametrize("name", [b"a", b"...", b"\xff\xfe", b" ", b"x" * 255, b"\x01"])
def test_any_other_name_is_one(name):
    check_name(name)
    assert is_name(name)


def test_a_group_is_stored_relative_to_its_window():
    base = 3 * WINDOW_BYTES
    extents = (Extent(base + 10, 5, 0, 100), Extent(base + 110, 6, 0, WINDOW_BYTES - 110))
    packed = pack_group(extents)
    assert packed.hex() == "9198" + "0a050064" + "000000ce0003ff92"
    assert unpack_group(packed, 3) == extents
    assert unpack_group(packed, 0)[0].offset == 10
    assert unpack_record(packed)[0].offset == 10


def test_a_full_group_fits_a_record():
    extents = tuple(
        Extent(2 * i, (2**53 - 1) if i % 2 else 0, 2**23, 1) for i in range(MAX_WINDOW_EXTENTS)
    )
    packed = pack_group(extents)
    assert len(packed) <= MAX_RECORD_BYTES
    assert unpack_group(packed, 0) == extents


@pytest.mark.parametrize(
    "extents",
    [
        (),
        tuple(Extent(i, 2 * i, 0, 1) for i in range(MAX_WINDOW_EXTENTS + 1)),
        (Extent(WINDOW_BYTES - 1, 0, 0, 2),),
    ],
)
def test_a_group_that_is_none_is_not_written(extents):
    with pytest.raises(ValueError):
        pack_group(extents)


def test_a_group_beyond_its_window_or_the_largest_file_is_refused():
    with pytest.raises(DecodeError):
        unpack_group(pack([[WINDOW_BYTES - 1, 0, 0, 2]]), 0)
    with pytest.raises(DecodeError):
        unpack_group(pack([[0, 0, 0, 2]]), 2**45)
    with pytest.raises(DecodeError):
        unpack_group(pack([1]), 0)


def test_a_group_under_a_name_is_refused():
    with pytest.raises(DecodeError):
        unpack_entry(pack_group((Extent(0, 0, 0, 1),)))
