"""Flat-tree arithmetic: where the nodes of a Merkle tree over a log lie, as plain integers.

The tree is laid flat, in order: block *i* is the leaf `2 * i`, and the node at *depth* d (leaves
have 0) and *offset* o within its row is `(2 * o + 1) * 2**d - 1`:

```
            3
      1           5
   0     2     4     6     8
```

An *end* is the even number just past a run of leaves: a log of n blocks ends at `2 * n`. All
functions are total over non-negative integers of any size unless they say otherwise, and loop at
most once per bit.

Format: mafintosh/flat-tree.
"""

from __future__ import annotations


def depth(index: int) -> int:
    """How many levels the node stands above the leaves: its trailing one bits."""
    above = index + 1
    return (above & -above).bit_length() - 1


def offset(index: int) -> int:
    """The position of a node within its row, from 0."""
    return (index + 1) >> (depth(index) + 1)


def index(depth: int, offset: int) -> int:
    """The node at a depth and offset."""
    return (2 * offset + 1 << depth) - 1


def sibling(index: int) -> int:
    """The other child of the same parent."""
    above = index + 1
    return index ^ (above & -above) << 1


def parent(index: int) -> int:
    """The node above."""
    above = index + 1
    bit = above & -above
    return (index | bit) & ~(bit << 1)


def left_child(index: int) -> int:
    """The left node below. Raises ValueError for a leaf."""
    above = index + 1
    bit = above & -above
    if bit == 1:
        raise ValueError(f"the leaf {index} has no children")
    return index - (bit >> 1)


def right_child(index: int) -> int:
    """The right node below. Raises ValueError for a leaf."""
    above = index + 1
    bit = above & -above
    if bit == 1:
        raise ValueError(f"the leaf {index} has no children")
    return index + (bit >> 1)


def left_span(index: int) -> int:
    """The leftmost leaf below the node, as a tree index."""
    return index & index + 1


def right_span(index: int) -> int:
    """The rightmost leaf below the node, as a tree index."""
    above = index + 1
    return index + (above & -above) - 1


def contains(index: int, other: int) -> bool:
    """Whether *other* lies within the span of *index* (a node contains itself)."""
    above = index + 1
    reach = above & -above
    return index - reach < other < index + reach


def leaf_count(index: int) -> int:
    """How many blocks lie below the node."""
    above = index + 1
    return above & -above


def blocks(index: int) -> tuple[int, int]:
    """The blocks below the node, as a half-open range."""
    return left_span(index) >> 1, (right_span(index) >> 1) + 1


def full_roots(end: int) -> list[int]:
    """The roots of the complete trees that together cover the leaves before *end*, left to right.

    Raises:
      ValueError: *end* is odd, hence not the end of a run of leaves.
    """
    if end & 1:
        raise ValueError(f"an end is even, {end} is not")
    roots = []
    start = 0
    left = end >> 1
    while left:
        leaves = 1 << left.bit_length() - 1
        roots.append(start + leaves - 1)
        start += 2 * leaves
        left -= leaves
    return roots


def upgrade_nodes(start: int, end: int) -> list[int]:
    """The nodes that lead from the roots of the tree ending at *start* to those at *end*.

    Pushed in this order onto the old roots, each pair of siblings being replaced by its parent,
    they give the new roots. Both arguments are even and `start <= end`.
    """
    nodes = []
    last = start - 2
    for root in full_roots(end):
        if right_span(root) <= last:
            continue  # an old root, or a part of one
        if left_span(root) > last:
            nodes.append(root)
            continue
        node = last
        while node != root:
            other = sibling(node)
            if other > last:
                nodes.append(other)
            node = parent(node)
    return nodes
