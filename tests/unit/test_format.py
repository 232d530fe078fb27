"""The example bytes of FORMAT.md are what the code reads and writes."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import hyperfs
from hyperfs.extents import Extent, to_numbers
from hyperfs.index import build_commit, header_block
from hyperfs.index.node import encode_inner, encode_leaf, encode_overlay
from hyperfs.records import Entry, Link, entry_key, pack, pack_entry, pack_group

TEXT = (Path(hyperfs.__file__).parent / "FORMAT.md").read_text()
EXAMPLES = {
    name: bytes.fromhex(digits) for name, digits in re.findall(r"```(\w+)\n([^`]+)```", TEXT)
}
TIMES = (1_000_000_000, 1_000_000_001)
EXTENTS = (Extent(0, 7, 0, 65536), Extent(65536, 8, 100, 4464))


def test_every_example_of_the_format_is_what_is_written():
    a, b = entry_key(1, b"a"), entry_key(1, b"b")
    [root] = build_commit(
        None,
        {a: b"1"},
        first_block=1,
        time_ns=5,
        content_length=2,
        next_id=3,
        files=4,
        bytes=6,
    )
    assert {
        "header": header_block(),
        "key": a,
        "entry": pack_entry(Entry(2, stat.S_IFREG | 0o644, 1000, 1000, *TIMES, 5, inline=b"hello")),
        "directory": pack_entry(
            Entry(3, stat.S_IFDIR | 0o755, 1000, 1000, *TIMES, 0, xattrs={b"user.a": b"1"})
        ),
        "link": pack_entry(Link(300)),
        "extents": pack(to_numbers(EXTENTS)),
        "group": pack_group(EXTENTS),
        "leaf": encode_leaf([a, b], [b"1", b"22"]),
        "inner": encode_inner(1, [b"\0\0\1a", b"\0\0\1b"], [3, 4, 9], index=10),
        "overlay": encode_overlay({a: b"1", b: None}),
        "root": root,
    } == EXAMPLES
