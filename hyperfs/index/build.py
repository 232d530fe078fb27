"""Commits: from one version of the index and some changes to the blocks of the next.

A small commit is its root block alone, which holds the changes themselves. When the recent changes
no longer fit there they move into the one older overlay, which is written anew; when that is full,
all of it goes into the tree. A commit too large for the overlay goes into the tree at once. Of the
tree only the nodes whose keys change are rewritten, and their ancestors (`hyperfs.index.rewrite`);
the root block comes last.

On loads like those of unpacking, editing and mail, a commit of a few changes costs 1.1 to 2.1 KB in
place of the 12 KB of three rewritten nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NotRequired, TypedDict, Unpack

from hyperfs.index.node import encode_overlay
from hyperfs.index.rewrite import ENTRY_OVERHEAD, TreeBuilder
from hyperfs.index.root import RootInfo, encode_root, next_skips
from hyperfs.records import MAX_RECORD_BYTES

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from hyperfs.index.tree import Index

# Changes of the most recent commits, in every root block: twice as much doubles what a
# commit of one change writes, half as much rewrites the older overlay twice as often.
RECENT_BYTES: Final = 1024
OVERLAY_BYTES: Final = 16 * 1024


@dataclass(slots=True)
class _Plan:
    """What lies in front of the root block, and where."""

    blocks: list[bytes]
    tree: int | None
    overlay: int | None
    recent: dict[bytes, bytes | None]


class CommitFacts(TypedDict):
    """What a commit says of itself: the parts of its `RootInfo` that its maker knows.

    `first_block` is the length of the log.
    """

    first_block: int
    time_ns: int
    content_length: int
    next_id: int
    files: int
    bytes: int
    oldest: NotRequired[int]
    content_fork: NotRequired[int]


def build_commit(
    index: Index | None, changes: Mapping[bytes, bytes | None], **facts: Unpack[CommitFacts]
) -> list[bytes]:
    """The blocks to append for a commit on top of *index*, the new root block last.

    *changes* maps keys to records, or to None where the key is removed; removing a key that is not
    there is allowed. *index* is the newest version, None for the first commit.

    Raises:
      ValueError: the log does not end with the root of *index*, or a record is too long.
      BlocksMissing: nodes that change are not local.
    """
    steps = commit_steps(index, changes, **facts)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            blocks: list[bytes] = done.value
            return blocks


def commit_steps(
    index: Index | None, changes: Mapping[bytes, bytes | None], **facts: Unpack[CommitFacts]
) -> Generator[None, None, list[bytes]]:
    """`build_commit` in steps of under a millisecond: yields between them, returns the blocks.

    For large commits, whose caller lets others run between the steps. *index* and *changes* must
    not change meanwhile. Raises as `build_commit` does; a generator that raised is started again.
    """
    first_block, previous = facts["first_block"], None if index is None else index.root
    _check_follows(previous, first_block)
    plan = yield from _layers(index, changes, first_block)
    return _finished(previous, plan, facts)


def dense_steps(index: Index, **facts: Unpack[CommitFacts]) -> Generator[None, None, list[bytes]]:
    """A commit on top of *index* that changes nothing and writes the whole tree anew: its nodes as
    full as those of a new one, in the order of keys, without an overlay. In steps as
    `commit_steps`.

    Raises:
      ValueError: the log does not end with the root of *index*.
      BlocksMissing: the tree is not all local.
    """
    _check_follows(index.root, facts["first_block"])
    builder = TreeBuilder(None, facts["first_block"])
    tree = yield from builder.copy(index)
    return _finished(index.root, _Plan(builder.blocks, tree, None, {}), facts)


def _check_follows(previous: RootInfo | None, first_block: int) -> None:
    if first_block != (1 if previous is None else previous.version):
        raise ValueError("a commit begins where the log ends")


def _finished(previous: RootInfo | None, plan: _Plan, facts: CommitFacts) -> list[bytes]:
    """The blocks of a commit, with its root."""
    root = RootInfo(
        index=facts["first_block"] + len(plan.blocks),
        number=1 if previous is None else previous.number + 1,
        tree=plan.tree,
        overlay=plan.overlay,
        skips=() if previous is None else next_skips(previous),
        **facts,
    )
    return [*plan.blocks, encode_root(root, plan.recent)]


def _layers(
    index: Index | None, changes: Mapping[bytes, bytes | None], first_block: int
) -> Generator[None, None, _Plan]:
    """Put the changes into the first of root block, overlay and tree that holds them."""
    for value in changes.values():
        if value is not None and len(value) > MAX_RECORD_BYTES:
            raise ValueError(f"a record of {len(value)} bytes")
    if index is None:
        tree = overlay = None
        recent = dict(changes)
    else:
        tree, overlay = index.root.tree, index.root.overlay
        recent = {**index.recent(), **changes}
    blocks: list[bytes] = []
    if _size(recent) > RECENT_BYTES:
        merged = {**index.older(), **recent} if index is not None else recent
        recent = {}
        if _size(merged) <= OVERLAY_BYTES:
            blocks = [encode_overlay(merged, None if index is None else _top(index))]
            overlay = first_block
        else:
            builder = TreeBuilder(index, first_block)
            tree = yield from builder.apply(tree, merged)
            blocks = builder.blocks
            overlay = None
    if tree is None and overlay is None:
        # Nothing lies below, so there is nothing to hide.
        recent = {key: value for key, value in recent.items() if value is not None}
    return _Plan(blocks, tree, overlay, recent)


def _top(index: Index) -> bytes | None:
    """The block of the tree's topmost node, if overlays repeat it: where it is small beside them,
    and a look-up has many others to fetch."""
    tree = index.root.tree
    if tree is None or index.cache.node(tree, None, index.reader).level < 2:
        return None
    return index.reader.block(tree)


def _size(changes: Mapping[bytes, bytes | None]) -> int:
    """How many bytes the changes take in a block, at most."""
    size = len(changes) * ENTRY_OVERHEAD + sum(map(len, changes))
    return size + sum([len(value) for value in changes.values() if value is not None])
