"""Whether a store is where it was: on the same machine, in the same file.

A store that was restored from a backup, or copied to a second machine, looks to its cores as if
nothing had happened, while others may have seen more of them. So a store remembers where it is: the
machine's id, hashed, and the inode of its database. When these change, all cores we sign in it are
put on hold until a peer has shown that it has no more of them (`corestore.lease`).

Not noticed: a snapshot of a whole machine, and a backup written into the file that is there.
Noticed although harmless: a store moved to another disk. The first peer, or the owner's word,
settles it.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

from corestore import crypto
from corestore.commit import Commit
from corestore.lease import HOLD, Hold, Reason
from corestore.storage.folder import DATABASE

if TYPE_CHECKING:
    from corestore.storage.base import Storage

logger: Final = logging.getLogger("corestore")

IDENTITY: Final = "corestore/identity"
_MACHINE_ID: Final = Path("/etc/machine-id")


def identity(folder: Path) -> bytes:
    """What tells the place of a store from other places."""
    try:
        machine = _MACHINE_ID.read_bytes().strip()
    except OSError:
        machine = b""
    inode = (folder / DATABASE).stat().st_ino
    # Hashed, so that the store tells nobody the id; it identifies the machine elsewhere too.
    return crypto.hash_bytes(b"corestore identity", machine, inode.to_bytes(8, "little"))


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
