"""Whether a store is where it was: on the same machine, in the same file.

A store that was restored from a backup, or copied to a second machine, looks to its cores as if
nothing had happened, while others may have seen more of them. So a store remembers where it is: the
machine's id, hashed, the inode of its database, and the generation of the primary key's. When these
change, all cores we sign in it are put on hold until a peer has shown that it has no more of them
(`corestore.lease`).

Not noticed: a snapshot of a whole machine, and a backup written into the file that is there.
Noticed although harmless: a store moved to another disk. The first peer, or the owner's word,
settles it.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

from corestore import crypto
from corestore.commit import Commit
from corestore.lease import HOLD, Hold, Reason
from corestore.storage.folder import DATABASE, PRIMARY_KEY

if TYPE_CHECKING:
    from corestore.storage.base import Storage

logger: Final = logging.getLogger("corestore")

IDENTITY: Final = "corestore/identity"
_MACHINE_ID: Final = Path("/etc/machine-id")
# The request of ioctl(2), linux/fs.h: _IOR('v', 1, long), for machines with 64 bits.
_GET_GENERATION: Final = 0x80087601


def identity(folder: Path) -> bytes:
    """What tells the place of a store from other places."""
    try:
        machine = _MACHINE_ID.read_bytes().strip()
    except OSError:
        machine = b""
    inode = (folder / DATABASE).stat().st_ino.to_bytes(8, "little")
    # Not the database's: to open and close that would take SQLite's locks off it.
    generation = _generation(folder / PRIMARY_KEY)
    # Hashed, so that the store tells nobody the id; it identifies the machine elsewhere too.
    return crypto.hash_bytes(b"corestore identity", machine, inode, generation)


def _generation(path: Path) -> bytes:
    """Which of the files this is that had its inode's number one after the other; empty where the
    file system does not say.

    On ext4 and others a new file takes the number of one that was just removed: a store that is
    removed and then restored may lie where it lay.
    """
    number = bytearray(8)
    with contextlib.suppress(OSError), path.open("rb") as file:
        fcntl.ioctl(file, _GET_GENERATION, number)
        return bytes(number)
    return b""


def notice_copy(storage: Storage, folder: Path) -> int:
    """Put the cores we sign on hold if *folder* is another place than last time; how many.

    Raises:
      OSError, StorageError: it cannot be read or written.
    """
    now = identity(folder)
    before = storage.user_data(IDENTITY)
    if before == now:
        return 0
    held = []
    if before is not None:
        for discovery_key in storage.cores():
            core = storage.open_core(discovery_key)
            ours = core is not None and core.record.signer is not None
            if core is not None and ours and core.user_data(HOLD) is None:
                held.append(core)
        # The holds first: a crash between the two only does it once more.
        for core in held:
            storage.commit([(core, Commit(user_data={HOLD: Hold(Reason.COPIED).encode()}))])
    storage.set_user_data(IDENTITY, now)
    if held:
        logger.warning(
            "the store in %s was copied or moved: its %d cores are written again when a peer has"
            " shown that it has no more of them",
            folder,
            len(held),
        )
    return len(held)
