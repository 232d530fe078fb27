"""Hyperbees, read: an append-only B-tree of keys and values in a core, one block an operation.

Pure, and reading only: blocks come through a `BlockReader`, which raises `BlocksMissing` for what
is not local. A `Bee` is one version; a `BeeDiff` tells two apart.

Format: holepunchto/hyperbee 2; hyperfs/FORMAT.md, "Hyperdrives of the Node stack".
"""

from __future__ import annotations

from hyperfs.hyperbee.block import Block, Header, decode_block, decode_header_untrusted
from hyperfs.hyperbee.diff import BeeChange, BeeDiff
from hyperfs.hyperbee.tree import Bee, Item

__all__ = [
    "Bee",
    "BeeChange",
    "BeeDiff",
    "Block",
    "Header",
    "Item",
    "decode_block",
    "decode_header_untrusted",
]
