"""From what the layers below raise to the errno that a system call reports: the one table."""

from __future__ import annotations

import errno
import logging
from typing import Final

import trio

from corestore import (
    BlockNotAvailable,
    DecodeError,
    ForkConflict,
    MustRecover,
    NotWritable,
    StorageCorrupt,
    VerificationError,
)

logger: Final = logging.getLogger("hyperfs")


def errno_of(error: BaseException, request: str) -> int:
    """The errno for *error*, raised while serving *request*; logged where that says too little.

    An unknown error is a bug: it is logged with its traceback, and EIO.
    """
    match error:
        case BaseExceptionGroup() if len(error.exceptions) == 1:
            return errno_of(error.exceptions[0], request)
        case OSError():
            return error.errno or errno.EIO
        case NotWritable():
            return errno.EROFS
        case MustRecover() | ForkConflict():
            logger.error("%s refused: %s", request, error)
            return errno.EROFS
        case BlockNotAvailable() | trio.TooSlowError():
            logger.warning("%s gave up: %s", request, str(error) or "no peer sent the data in time")
            return errno.ETIMEDOUT
        case VerificationError() | StorageCorrupt() | DecodeError():
            logger.error("%s failed: %s", request, error)
            return errno.EIO
        case _:
            logger.error("%s failed, which is a bug", request, exc_info=error)
            return errno.EIO
