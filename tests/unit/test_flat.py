"""Flat-tree arithmetic against its definition, drawn out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corestore.tree import flat

NODES = st.integers(0, 2**54)


@pytest.mark.parametrize(
    ("index", "depth", "offset", "parent", "sibling", "spans"),
    [
        (0, 0, 0, 1, 2, (0, 0)),
        (1, 1, 0, 3, 5, (0, 2)),
        (2, 0, 1, 1, 0, (2, 2)),
        (3, 2, 0, 7, 11, (0, 6)),
        (4, 0, 2, 5, 6, (4, 4)),
        (5, 1, 1, 3, 1, (4, 6)),
        (6, 0, 3, 5, 4, (6, 6)),
        (7, 3, 0, 15, 23, (0, 14)),
        (11, 2, 1, 7, 3, (8, 14)),
        (19, 2, 2, 23, 27, (16, 22)),
    ],
)
def test_indices_are_those_of_the_drawn_tree(index, depth, offset, parent, sibling, spans):
    assert flat.depth(index) == depth
    assert flat.offset(index) == offset
    assert flat.index(depth, offset) == index
    assert flat.parent(index) == parent
    assert flat.sibling(index) == sibling
    assert (flat.left_span(index), flat.right_span(index)) == spans
    assert flat.leaf_count(index) == 2**depth


@given(st.integers(0, 53), st.integers(0, 2**53))
def test_index_undoes_depth_and_offset(depth, offset):
    index = flat.index(depth, offset)
    assert (flat.depth(index), flat.offset(index)) == (depth, offset)


@given(NODES)
def test_siblings_are_the_children_of_their_parent(index):
    parent = flat.parent(index)
    assert flat.parent(flat.sibling(index)) == parent
    assert flat.sibling(flat.sibling(index)) == index
    assert {flat.left_child(parent), flat.right_child(parent)} == {index, flat.sibling(index)}
    assert flat.contains(parent, index)
    assert not flat.contains(index, parent)
    start, end = flat.blocks(parent)
    assert end - start == flat.leaf_count(parent) == 2 * flat.leaf_count(index)


@given(NODES, NODES)
def test_contains_means_within_the_span(index, other):
    within = flat.left_span(index) <= other <= flat.right_span(index)
    assert flat.contains(index, other) == within


@pytest.mark.parametrize("leaf", [0, 2, 4, 2**50])
def test_leaves_have_no_children(leaf):
    with pytest.raises(ValueError, match="no children"):
        flat.left_child(leaf)
    with pytest.raises(ValueError, match="no children"):
        flat.right_child(leaf)


@pytest.mark.parametrize(
    ("length", "roots"),
    [
        (0, []),
        (1, [0]),
        (2, [1]),
        (3, [1, 4]),
        (5, [3, 8]),
        (8, [7]),
        (13, [7, 19, 24]),
    ],
)
def test_full_roots_are_those_of_the_drawn_trees(length, roots):
    assert flat.full_roots(2 * length) == roots


def test_full_roots_of_half_a_leaf_are_refused():
    with pytest.raises(ValueError, match="even"):
        flat.full_roots(3)


@given(st.integers(0, 2**53))
def test_full_roots_cover_every_block_once_in_falling_sizes(length):
    at = 0
    sizes = []
    for root in flat.full_roots(2 * length):
        start, end = flat.blocks(root)
        assert start == at
        at = end
        sizes.append(end - start)
    assert at == length
    assert sizes == sorted(set(sizes), reverse=True)


def grow(roots, nodes):
    """Push nodes onto roots, joining siblings."""
    roots = list(roots)
    for node in nodes:
        roots.append(node)
        while len(roots) > 1 and flat.sibling(roots[-1]) == roots[-2]:
            roots[-2:] = [flat.parent(roots[-1])]
    return roots


@given(st.integers(0, 300), st.integers(0, 300))
def test_upgrade_nodes_lead_from_old_roots_to_new_ones(start, more):
    nodes = flat.upgrade_nodes(2 * start, 2 * (start + more))
    assert grow(flat.full_roots(2 * start), nodes) == flat.full_roots(2 * (start + more))
    assert all(flat.left_span(node) >= 2 * start for node in nodes)


@given(st.integers(0, 2**53), st.integers(0, 2**53))
def test_upgrade_nodes_are_few_however_long_the_log(start, more):
    assert len(flat.upgrade_nodes(2 * start, 2 * (start + more))) <= 2 * 54
