"""An append-only B+tree inside the metadata log: keys to records, in versions.

Pure: blocks are read through a `BlockReader`, which raises `BlocksMissing` for what is not local,
and `build_commit` returns the blocks of the next version for somebody else to append. An `Index`
is one version; a `Diff` tells two apart; an `Overlay` lays changes that are not committed yet over
an index.
"""

from __future__ import annotations

from hyperfs.index.build import build_commit, commit_steps
from hyperfs.index.diff import Change, Diff
from hyperfs.index.node import BlockReader, BlocksMissing, NodeCache
from hyperfs.index.overlay import Overlay
from hyperfs.index.root import (
    FORMAT_VERSION,
    RootInfo,
    check_header,
    find_root,
    find_root_at,
    header_block,
)
from hyperfs.index.tree import Index

__all__ = [
    "FORMAT_VERSION",
    "BlockReader",
    "BlocksMissing",
    "Change",
    "Diff",
    "Index",
    "NodeCache",
    "Overlay",
    "RootInfo",
    "build_commit",
    "check_header",
    "commit_steps",
    "find_root",
    "find_root_at",
    "header_block",
]
