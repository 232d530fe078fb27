"""Hyperdrives of the Node stack as trees: names in order, entries, changes, hostile ones."""

from __future__ import annotations

import random

import pytest

from corestore import DecodeError, Manifest, derive_manifest, manifest_key
from hyperfs.blobs import Blob, decode_map, map_extents
from hyperfs.extents import Extent
from hyperfs.hyperdrive import HyperdriveFormat, content_key, is_hyperdrive
from hyperfs.hyperdrive.records import METADATA_XATTR, decode_entry
from hyperfs.index import header_block
from hyperfs.opening import BLOBS
from hyperfs.records import ROOT_ID, entry_key, pack_entry, shared_key
from tests.support.blocks import Blocks
from tests.support.hyperdrives import OWNER, Content, Hyperdrive, blob, names, record, tree
from tests.support.vectors import load

VECTOR = load("hyperdrive")
BLOBS_VECTOR = load("hyperblobs")


# -- the reference's bytes -------------------------------------------------------------------------


def vector_format():
    metadata = Blocks()
    metadata.blocks = [bytes.fromhex(block) for block in VECTOR["metadataBlocks"]]
    return HyperdriveFormat(metadata, Content(), OWNER), metadata


def test_the_content_core_follows_from_the_manifest():
    manifest = Manifest.decode(bytes.fromhex(VECTOR["metadataManifest"]))
    key = bytes.fromhex(VECTOR["key"])
    content = derive_manifest(manifest, BLOBS, key)
    assert content.encode().hex() == VECTOR["contentManifest"]
    assert manifest_key(content).hex() == VECTOR["contentKey"]


def test_header_tells_the_format():
    block = bytes.fromhex(VECTOR["metadataBlocks"][0])
    assert is_hyperdrive(block)
    assert content_key(block) is None
    assert not is_hyperdrive(header_block())
    assert not is_hyperdrive(b"\x0a\x08hyperbee")
    compat = bytes.fromhex(load("hyperbee")["scripts"][6]["blocks"][0])
    assert is_hyperdrive(compat)
    assert content_key(compat) == compat[-32:]


def test_entries_are_the_references():
    form, metadata = vector_format()
    found = tree(form.view(len(metadata.blocks)))
    files = {path.decode(): entry for path, entry in found.items() if not entry.is_dir}
    assert sorted(found.keys() - {path.encode() for path in files}) == [b"/bin"]
    assert sorted(files) == [each["key"] for each in VECTOR["entries"]]
    for each in VECTOR["entries"]:
        entry, value = files[each["key"]], each["value"]
        assert entry.id == each["seq"] + 1
        if value["linkname"] is not None:
            assert entry.is_symlink
            assert entry.target == value["linkname"].encode()
            assert entry.size == len(entry.target)
            continue
        assert entry.mode == (0o100755 if value["executable"] else 0o100644)
        offsets = value["blob"]
        assert entry.size == offsets["byteLength"]
        assert entry.blob == Blob(
            offsets["blockOffset"],
            offsets["blockLength"],
            offsets["byteOffset"],
            offsets["byteLength"],
        )
    assert files["/bin/run.sh"].xattrs == {METADATA_XATTR: b'{"a":[1,"two"]}'}


def test_every_version_of_the_vector_is_there():
    form, _ = vector_format()
    expected = [
        {},
        {b"/hello.txt"},
        {b"/hello.txt", b"/bin", b"/bin/run.sh"},
        {b"/hello.txt", b"/bin", b"/bin/run.sh", b"/empty"},
    ]
    for version, paths in enumerate(expected, 1):
        assert tree(form.view(version)).keys() == set(paths)


@pytest.mark.parametrize("put", BLOBS_VECTOR["puts"], ids=lambda put: str(put["size"]))
def test_blocks_of_blobs_are_the_references(put):
    offsets, sizes = put["id"], put["blockLengths"]
    found = Blob(
        offsets["blockOffset"], offsets["blockLength"], offsets["byteOffset"], offsets["byteLength"]
    )
    assert found.blocks == len(sizes)
    assert found.byte_length == sum(sizes) == put["size"]
    assert found.regular == (put["opts"] is None)
    start = 0
    for number, size in enumerate(sizes):
        likely = found.likely_blocks(start, start + size)
        assert found.block + number in likely
        if found.regular:
            assert len(likely) == 1
        start += size
    if sizes:
        assert found.likely_blocks(0, put["size"]) == range(found.block, found.block + len(sizes))


def test_a_mapped_blob_is_the_references():
    dedup = BLOBS_VECTOR["dedup"]
    parts = list(decode_map([bytes.fromhex(dedup["mapBlock"])]))
    assert parts == [(13, 4), (14, 4), (13, 4)]
    assert map_extents(parts) == (Extent(0, 13, 0, 4), Extent(4, 14, 0, 4), Extent(8, 13, 0, 4))
    drive = Hyperdrive()
    drive.content.blocks = [b""] * 15 + [bytes.fromhex(dedup["mapBlock"])]
    drive.content.away = {15}
    drive.put("/twice", record(blob=dedup["id"]))
    found = drive.complete(lambda: tree(drive.view()))
    assert drive.content.rounds == [(15,)]
    assert found[b"/twice"].size == sum(map(len, dedup["chunks"]))
    assert found[b"/twice"].blob.mapped


# -- names -----------------------------------------------------------------------------------------


def expected_tree(paths):
    """path -> whether it is a directory, as a plain program would say."""
    out = {}
    for path in paths:
        parts = path.split(b"/")[1:]
        for depth in range(1, len(parts)):
            out[b"/" + b"/".join(parts[:depth])] = True
        out.setdefault(path, False)
    return out


def check(view, paths, page=100):
    found = tree(view, page=page)
    assert {path: entry.is_dir for path, entry in found.items()} == expected_tree(paths)
    ids = {b"": ROOT_ID, **{path: entry.id for path, entry in found.items()}}
    for path, entry in found.items():
        parent, _, name = path.rpartition(b"/")
        assert view.find(entry_key(ids[parent], name)) == entry
    for id in {ids[path] for path, entry in found.items() if entry.is_dir}:
        listed = [name for name, _ in names(view, id, page)]
        assert listed == sorted(listed)


@pytest.mark.parametrize("page", [1, 2, 3, 100])
@pytest.mark.parametrize(
    "paths",
    [
        pytest.param([], id="none"),
        pytest.param(["/a", "/b", "/c"], id="files"),
        pytest.param(["/a/b/c/d", "/a/b/c/e", "/a/x"], id="deep"),
        pytest.param(["/a-b", "/a.txt", "/a/x", "/a0", "/ab"], id="around a slash"),
        pytest.param(["/a", "/a/b", "/a-"], id="file and directory"),
        pytest.param(["/a b c", "/a/x", "/a b/x", "/a b c/y", "/a ", "/a!"], id="spaces"),
        pytest.param(["/a-", "/a-/x", "/a--/x", "/a---", "/a/y", "/-/-/-"], id="dashes"),
        pytest.param([f"/img {n}.jpg" for n in range(30)] + ["/img/x", "/img 7/x"], id="images"),
        pytest.param(["/é/ü", "/é-", "/日本/語.txt", "/日本.txt"], id="not ascii"),
    ],
)
def test_listings_are_in_order_of_names_and_whole(paths, page):
    drive = Hyperdrive()
    for path in paths:
        drive.put(path)
    check(drive.view(), [path.encode() for path in paths], page)


@pytest.mark.parametrize("seed", range(20))
def test_random_trees_are_listed_whole(seed):
    rng = random.Random(seed)
    drive, paths = Hyperdrive(), set()
    for _ in range(120):
        depth = rng.choice([1, 1, 2, 2, 3, 5])
        parts = [bytes(rng.choices(b"ab-. 0", k=rng.choice([1, 1, 2, 3]))) for _ in range(depth)]
        if {b".", b".."} & set(parts):
            continue
        path = b"/" + b"/".join(parts)
        if path in paths and rng.random() < 0.5:
            paths.discard(path)
            drive.remove(path)
        else:
            paths.add(path)
            drive.put(path)
    check(drive.view(), paths, page=rng.choice([1, 5, 64]))


def test_names_no_directory_can_hold_are_left_out():
    drive = Hyperdrive()
    bad = ["/./x", "/../x", "//x", "/a//x", "/" + "n" * 256, "/with\0nul", "x", "", "/", "/b/.."]
    for path in [*bad, "/a/good", "/b/good"]:
        drive.put(path)
    assert sorted(tree(drive.view())) == [b"/a", b"/a/good", b"/b", b"/b/good"]


def test_other_keys_of_the_bee_are_not_shown():
    drive = Hyperdrive()
    drive.put("/here")
    for key in (b"file", b"files", b"files\1/there", b"zzz", b"\0", b"/there"):
        drive._writer.put(key, record())
    assert list(tree(drive.view())) == [b"/here"]
    assert list(drive.format.changes(drive.view(2), drive.view())) == []


def test_unknown_directories_are_empty():
    drive = Hyperdrive()
    drive.put("/a/b")
    view = drive.view()
    for id in (0, 2, 3, 1 << 47, (1 << 48) - 1):
        assert names(view, id) == []
        assert view.find(entry_key(id, b"b")) is None
        assert view.find(shared_key(id)) is None
    assert view.find(shared_key(ROOT_ID)).is_dir


def test_a_listing_passes_over_what_is_below():
    drive = Hyperdrive()
    for number in range(3000):
        drive.put(f"/many/{number:04}/x")
    drive.put("/zzz")
    drive.metadata.away = set(range(len(drive.metadata.blocks)))
    found = drive.complete(lambda: names(drive.view()))
    assert [name for name, _ in found] == [b"many", b"zzz"]
    assert sum(map(len, drive.metadata.rounds)) < 600
    assert len(drive.metadata.rounds) < 15


# -- changes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_changes_lead_from_one_tree_to_the_other(seed):
    rng = random.Random(seed)
    drive, paths = Hyperdrive(), []
    for _ in range(80):
        if paths and rng.random() < 0.35:
            drive.remove(paths.pop(rng.randrange(len(paths))))
        else:
            parts = [rng.choice("ab-c") for _ in range(rng.choice([1, 2, 3]))]
            paths.append("/" + "/".join(parts))
            drive.put(paths[-1])
            paths = list(dict.fromkeys(paths))
    length = len(drive.metadata.blocks)
    for _ in range(40):
        versions = rng.randrange(1, length + 1), rng.randrange(1, length + 1)
        old, new = map(drive.view, versions)
        shown = flat(old)
        for change in drive.format.changes(old, new):
            key = change.directory, change.name
            assert shown.get(key) == change.old != change.new
            shown[key] = change.new
        reachable = flat(new)
        assert {key: shown.get(key) for key in reachable} == reachable
        gone = shown.keys() - reachable.keys()
        assert all(shown[key] is None for key in gone)


def flat(view, directory=ROOT_ID):
    """(directory, name) -> entry of everything."""
    out = {}
    for name, entry in names(view, directory):
        out[directory, name] = entry
        if entry.is_dir:
            out.update(flat(view, entry.id))
    return out


def test_changes_survive_missing_blocks():
    drive = Hyperdrive()
    for number in range(500):
        drive.put(f"/{number % 20}/{number}")
    middle = len(drive.metadata.blocks)
    for number in range(60):
        drive.remove(f"/{number % 20}/{number}")
        drive.put(f"/new/{number}")
    expected = list(drive.format.changes(drive.view(middle), drive.view()))
    assert len(expected) == 121
    cold = Hyperdrive()
    cold.metadata.blocks = drive.metadata.blocks
    cold.metadata.away = set(range(len(drive.metadata.blocks)))
    old, new = (
        cold.complete(lambda v=v: cold.view(v)) for v in (middle, len(drive.metadata.blocks))
    )
    steps, found = cold.format.changes(old, new), []
    while (change := cold.complete(lambda: next(steps, None))) is not None:
        found.append((change.name, change.old is None, change.new is None))
    assert found == [(each.name, each.old is None, each.new is None) for each in expected]


# -- records ---------------------------------------------------------------------------------------


def test_modification_times_are_read_where_metadata_has_them():
    def mtime(metadata):
        return decode_entry(record(metadata=metadata), 7, OWNER).mtime_ns

    assert mtime({"mtime": 1_700_000_000_123}) == 1_700_000_000_123_000_000
    assert mtime({"mtime": 1500.5}) == 1_500_500_000
    for unknown in (None, {}, [], "x", {"mtime": "x"}, {"mtime": True}, {"mtime": 1e300}):
        assert mtime(unknown) == 7_000_000_000
    assert mtime({"mtime": float("nan")}) == mtime({"mtime": float("inf")}) == 7_000_000_000
    assert decode_entry(record(), 2**46, OWNER).mtime_ns < 2**63


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"[]",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"1" * 10_000,
        b" " * (1 << 20) + b"{}",
        record(linkname=1),
        record(linkname=""),
        record(linkname="a\0b"),
        record(linkname="x" * 4096),
        b'{"linkname":"\\ud800"}',
        record(blob=[]),
        record(blob={}),
        record(blob=blob(-1, 0, 1)),
        record(blob=blob(0, 0, 1.5)),
        record(blob=blob(0, True, 1)),
        record(blob=blob(0, 0, 2**54)),
        record(blob=blob(0, 0, 5, blocks=0)),
        record(blob={**blob(0, 0, 5, blocks=65), "blockMap": True}),
    ],
    ids=lambda value: str(value)[:30],
)
def test_impossible_records_are_refused_and_left_out(value):
    with pytest.raises(DecodeError):
        decode_entry(value, 1, OWNER)
    drive = Hyperdrive()
    for path in ("/a", "/b", "/d/e"):
        drive.put(path)
    drive.put("/bb", b"" if value is None else value)
    assert sorted(tree(drive.view())) == [b"/a", b"/b", b"/d", b"/d/e"]
    with pytest.raises(DecodeError):
        drive.view().find(entry_key(ROOT_ID, b"bb"))


def test_a_file_of_another_format_cannot_be_recorded_in_ours():
    entry = decode_entry(record(blob=blob(0, 0, 5)), 1, OWNER)
    with pytest.raises(ValueError, match="another format"):
        pack_entry(entry)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01\x00",
        b"\x00\xfe\xff\xff\xff\xff",
        b"\x00\x05\x01\x01",
        b"\x00\x01\x00\xfe\xff\xff\xff\xff",
        b"\x00\xff" + b"\xff" * 8,
    ],
)
def test_impossible_maps_are_refused(data):
    with pytest.raises(DecodeError):
        list(decode_map([data]))
