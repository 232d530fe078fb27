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
from typing import TYPE_CHECKING, Final

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


def build_commit(
    index: Index | None,
    changes: Mapping[bytes, bytes | None],
    *,
    first_block: int,
    time_ns: int,
    content_length: int,
    next_id: int,
    files: int,
    bytes: int,
    oldest: int = 0,
    content_fork: int = 0,
) -> list[bytes]:
    """The blocks to append at *first_block*, the length of the log, for a commit on top of *index*.

    *changes* maps keys to records, or to None where the key is removed; removing a key that is not
    there is allowed. *index* is the newest version, None for the first commit. The last block is
    the new root block. The other arguments are what the new `RootInfo` shall say.

    Raises:
      ValueError: *first_block* does not follow the root of *index*, or a record is too long.
      BlocksMissing: nodes that change are not local.
    """
    steps = commit_steps(
        index,
        changes,
        first_block=first_block,
        time_ns=time_ns,
        content_length=content_length,
        next_id=next_id,
        files=files,
        bytes=bytes,
        oldest=oldest,
        content_fork=content_fork,
    )
    return _run(steps)


def commit_steps(
    index: Index | None,
    changes: Mapping[bytes, bytes | None],
    *,
    first_block: int,
    time_ns: int,
    content_length: int,
    next_id: int,
    files: int,
    bytes: int,
    oldest: int = 0,
    content_fork: int = 0,
) -> Generator[None, None, list[bytes]]:
    """`build_commit` in steps of under a millisecond: yields between them, returns the blocks.

    For large commits, whose caller lets others run between the steps. *index* and *changes* must
    not change meanwhile. Raises as `build_commit` does; a generator that raised is started again.
    """
    previous = index.root if index is not None else None
    if first_block != (previous.version if previous is not None else 1):
        raise ValueError("a commit begins where the log ends")
    plan = yield from _layers(index, changes, first_block)
    root = RootInfo(
        index=first_block + len(plan.blocks),
        time_ns=time_ns,
        first_block=first_block,
        content_length=content_length,
        next_id=next_id,
        files=files,
        bytes=bytes,
        number=previous.number + 1 if previous is not None else 1,
        tree=plan.tree,
        overlay=plan.overlay,
        skips=next_skips(previous) if previous is not None else (),
        oldest=oldest,
        content_fork=content_fork,
    )
    return [*plan.blocks, encode_root(root, plan.recent)]


def dense_steps(
    index: Index,
    *,
    first_block: int,
    time_ns: int,
    content_length: int,
    next_id: int,
    oldest: int = 0,
    content_fork: int = 0,
) -> Generator[None, None, list[bytes]]:
    """A commit on top of *index* that changes nothing and writes the whole tree anew: its nodes as
    full as those of a new one, in the order of keys, without an overlay. In steps and with
    arguments as `commit_steps`.

    Raises:
      ValueError: *first_block* does not follow the root of *index*.
      BlocksMissing: the tree is not all local.
    """
    previous = index.root
    if first_block != previous.version:
        raise ValueError("a commit begins where the log ends")
    builder = TreeBuilder(None, first_block)
    tree = yield from builder.copy(index)
    root = RootInfo(
        index=first_block + len(builder.blocks),
        time_ns=time_ns,
        first_block=first_block,
        content_length=content_length,
        next_id=next_id,
        files=previous.files,
        bytes=previous.bytes,
        number=previous.number + 1,
        tree=tree,
        overlay=None,
        skips=next_skips(previous),
        oldest=oldest,
        content_fork=content_fork,
    )
    return [*builder.blocks, encode_root(root, {})]


def _run(steps: Generator[None, None, list[bytes]]) -> list[bytes]:
    while True:
        try:
            next(steps)
        except StopIteration as done:
            blocks: list[bytes] = done.value
            return blocks


@dataclass(slots=True)
class _Plan:
    """What lies in front of the root block, and where."""

    blocks: list[bytes]
    tree: int | None
    overlay: int | None
    recent: dict[bytes, bytes | None]


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
