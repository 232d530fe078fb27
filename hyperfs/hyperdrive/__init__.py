"""Hyperdrives of the Node stack as trees of ours: ids for paths, entries for JSON records.

Pure. The metadata core is a Hyperbee whose keys are whole paths, the content core holds blobs.
`HyperdriveFormat` answers what a `Drive` asks of a format; it reads only.

Format: holepunchto/hyperdrive 11 to 13; hyperfs/FORMAT.md, "Hyperdrives of the Node stack".
"""

from __future__ import annotations

from hyperfs.hyperdrive.directories import Directories
from hyperfs.hyperdrive.format import HyperdriveFormat
from hyperfs.hyperdrive.header import content_key, is_hyperdrive
from hyperfs.hyperdrive.records import Owner
from hyperfs.hyperdrive.view import HyperdriveView

__all__ = [
    "Directories",
    "HyperdriveFormat",
    "HyperdriveView",
    "Owner",
    "content_key",
    "is_hyperdrive",
]
