"""Whether we may sign a core: what forbids it besides a missing key and another process.

Who signs two histories of one log loses its readers for ever: they refuse both. So a copy that may
be an old one does not sign until a peer has shown that nobody has more. What is known of that is
kept with the core:

- a *hold*: why this copy is in doubt, and how long the log is at least;
- the *evidence* that it has happened: the core is stopped then.

And a copy whose length a peer exceeds (`Replicator.newer`) is old for certain.

The hold is a reason (uint) and the least length (uint), integers as on the wire.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from corestore.conflict import ForkEvidence
from corestore.encoding import Reader, Writer
from corestore.errors import DecodeError, ForkConflict, MustRecover, StorageCorrupt

if TYPE_CHECKING:
    from corestore.keys import Key
    from corestore.storage.base import CoreStorage
    from corestore.tree import Head

# Where a core's user data has the two.
HOLD: Final = "corestore/hold"
EVIDENCE: Final = "corestore/fork-evidence"


class Reason(enum.Enum):
    """Why a copy may not be signed before it was recovered."""

    COPIED = 1
    """The store lies elsewhere than when it was last used: it was copied or restored. Lifted as
    soon as the peers show that they have no more."""
    MOVED = 2
    """The secret key was exported to another store."""
    IMPORTED = 3
    """The secret key was imported, and the log has not been fetched."""


_WORDS: Final = {
    Reason.COPIED: "this store seems to be a copy, or to be restored from one",
    Reason.MOVED: "its secret key was moved to another store",
    Reason.IMPORTED: "its secret key was imported, and its log is not here yet",
}


@dataclass(frozen=True, slots=True)
class Hold:
    """This copy does not sign. *least_length*: how many blocks the log has, as far as known."""

    reason: Reason
    least_length: int = 0

    def encode(self) -> bytes:
        """As kept in the store."""
        return Writer().uint(self.reason.value).uint(self.least_length).finish()

    @classmethod
    def decode(cls, data: bytes) -> Hold:
        """Undo `encode`. Raises StorageCorrupt."""
        try:
            reader = Reader(data)
            return cls(Reason(reader.uint()), reader.uint())
        except (DecodeError, ValueError) as error:
            raise StorageCorrupt("why a core may not be signed") from error


class Lease:
    """What is known of the right to sign one core.

    `asked`: the peers were asked, since the core was loaded, whether they have more.
    """

    def __init__(self) -> None:
        self.hold: Hold | None = None
        self.evidence: ForkEvidence | None = None
        self.asked = False

    def load(self, storage: CoreStorage) -> None:
        """Read what is kept. Raises StorageCorrupt."""
        held = storage.user_data(HOLD)
        self.hold = None if held is None else Hold.decode(held)
        kept = storage.user_data(EVIDENCE)
        if kept is not None and self.evidence is None:
            try:
                self.evidence = ForkEvidence.decode_untrusted(kept)
            except DecodeError as error:
                raise StorageCorrupt("the evidence of a fork") from error

    def conflict(self, key: Key) -> ForkConflict | None:
        """What to tell whoever uses a stopped core; None if it is not stopped."""
        if self.evidence is None:
            return None
        return ForkConflict(
            f"core {key} is stopped: its key has signed two histories of fork {self.evidence.fork}",
            proof=self.evidence,
        )

    def check(self, key: Key, newer: Head | None) -> None:
        """Whether it may be signed, with *newer* shown by a peer.

        Raises:
          ForkConflict: the core is stopped.
          MustRecover: this copy is an old one, or may be.
        """
        conflict = self.conflict(key)
        if conflict is not None:
            raise conflict
        if newer is not None:
            raise MustRecover(
                f"a peer has {newer.length} blocks of core {key}, and some are not here: it was"
                " written elsewhere; recover it before writing",
                reason="behind",
            )
        if self.hold is not None:
            reason = self.hold.reason
            raise MustRecover(
                f"core {key} is not written here: {_WORDS[reason]}; recover it from a peer first",
                reason=reason.name.lower(),
            )
