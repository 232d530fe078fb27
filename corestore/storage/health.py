"""Whether a store can still be trusted, and the end of it when not.

After a failed fdatasync the kernel may have dropped the bytes and marked their pages clean: asking
again would report success at once. So one error of a sync, a commit or a checkpoint, other than
"busy" and "disk full", stops the store: it acknowledges nothing more, is closed, and the next open
recovers it.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import apsw

from corestore.errors import StorageCorrupt, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Health:
    """Shared by all parts of one open store; may be used from any thread."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.closed = False

    def check(self) -> None:
        """Raises StorageError once the store is closed or has failed."""
        if self.closed:
            raise StorageError("the store is closed")
        if self.error is not None:
            raise StorageError(
                f"the store stopped after an error and must be opened again ({self.error})"
            ) from self.error

    @contextmanager
    def final(self, what: str) -> Iterator[None]:
        """Run something of which any failure is the last thing this store does.

        Raises:
          StorageCorrupt: the database is damaged.
          StorageError: anything else; the cause is attached.
        """
        try:
            yield
        except (OSError, apsw.Error) as error:
            self.error = error
            if isinstance(error, (apsw.CorruptError, apsw.NotADBError)):
                raise StorageCorrupt(f"{what}: {error}") from error
            raise StorageError(f"{what} failed: {error}") from error
