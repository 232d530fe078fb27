"""Any bytes are a proposal, or a part of a signature, or a DecodeError."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corestore.cosigning import Proposed
from corestore.encoding import Writer
from corestore.errors import DecodeError
from corestore.manifest import PartialSignature
from corestore.tree import Node
from tests.support.garbage import damaged

hashes = st.binary(min_size=32, max_size=32)
numbers = st.integers(0, 2**53 - 1)
nodes = st.lists(st.builds(Node, numbers, numbers, hashes), max_size=4).map(tuple)
signatures = st.binary(min_size=64, max_size=64)
parts = st.builds(PartialSignature, numbers, signatures, numbers, nodes)
lengths = st.integers(0, 2**40)
blocks = st.lists(st.binary(max_size=20), min_size=1, max_size=4).map(tuple)
appends = st.builds(
    lambda key, fork, length, tree_hash, blocks: Proposed(
        key, fork, length, fork, length + len(blocks), tree_hash, blocks
    ),
    hashes,
    numbers,
    lengths,
    hashes,
    blocks,
)
truncations = st.builds(
    lambda key, fork, length, more, tree_hash: Proposed(
        key, fork, length + more, fork + 1, length, tree_hash, ()
    ),
    hashes,
    lengths,
    st.integers(1, 2**40),
    lengths,
    hashes,
)


@given(parts)
def test_parts_read_back(part):
    assert PartialSignature.decode_untrusted(part.encode()) == part


@given(st.one_of(appends, truncations))
def test_proposals_read_back(proposed):
    assert Proposed.decode_untrusted(proposed.encode()) == proposed


@pytest.mark.parametrize(("decoder", "valid"), [(PartialSignature, parts), (Proposed, appends)])
@given(data=st.data())
def test_any_bytes_are_one_or_a_decode_error(decoder, valid, data):
    encoded = data.draw(damaged(valid.map(lambda value: value.encode())))
    try:
        found = decoder.decode_untrusted(encoded)
    except DecodeError:
        return
    assert decoder.decode_untrusted(found.encode()) == found


def test_a_part_of_more_nodes_than_any_tree_needs_is_refused():
    node = Node(1, 1, bytes(32))
    PartialSignature.decode_untrusted(PartialSignature(0, bytes(64), 1, (node,) * 128).encode())
    with pytest.raises(DecodeError, match="bounded"):
        PartialSignature.decode_untrusted(PartialSignature(0, bytes(64), 1, (node,) * 129).encode())


@pytest.mark.parametrize(
    ("fork", "length", "blocks"),
    [(0, 5, ()), (0, 7, (b"x",)), (1, 6, ()), (1, 6, (b"x",)), (1, 0, ())],
)
def test_what_is_neither_append_nor_truncation_is_refused(fork, length, blocks):
    writer = Writer().uint(1).fixed(bytes(32)).uint(0).uint(5).uint(fork).uint(length)
    with pytest.raises(DecodeError, match="proposal"):
        Proposed.decode_untrusted(writer.fixed(bytes(32)).array(blocks, Writer.buffer).finish())
