"""Keeps cores: `MemoryStorage` in dictionaries, `DiskStorage` in a folder (corestore/STORAGE.md).

The only package that knows SQLite.
"""

from corestore.storage.base import CoreRecord, CoreStorage, Storage, SyncTicket
from corestore.storage.disk import DiskStorage
from corestore.storage.memory import MemoryStorage

__all__ = [
    "CoreRecord",
    "CoreStorage",
    "DiskStorage",
    "MemoryStorage",
    "Storage",
    "SyncTicket",
]
