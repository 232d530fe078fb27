"""Exit codes, and what each error becomes for the person at the terminal."""

from __future__ import annotations

import enum
import errno
import os

import trio

import corestore
import hyperfs
from hyperfs.cli.address import AddressError
from hyperfs.cli.output import ReaderGone


class Exit(enum.IntEnum):
    """The exit codes of every command."""

    OK = 0
    ERROR = 1
    USAGE = 2
    PARTIAL = 3
    NO_PEERS = 4
    NOT_FOUND = 10
    LOCKED = 11
    NOT_PERMITTED = 12
    VERIFICATION = 13
    FORK = 14
    NO_FUSE = 20
    INTERRUPTED = 130


class Failure(Exception):
    """A command cannot go on: one sentence that says what to do next, and the exit code."""

    def __init__(self, message: str, code: Exit = Exit.ERROR) -> None:
        super().__init__(message)
        self.code = code


def explain(error: BaseException) -> Failure | None:
    """The failure that an expected error means to the user; None for a bug of ours."""
    match error:
        case BaseExceptionGroup():
            return _explain_group(error)
        case Failure():
            return error
        case AddressError():
            return Failure(str(error), Exit.USAGE)
        case KeyboardInterrupt():
            return Failure("interrupted", Exit.INTERRUPTED)
        case corestore.StorageLocked():
            return Failure(_locked(error), Exit.LOCKED)
        case corestore.NotWritable():
            return Failure(
                "this drive can only be read here: its secret key is on another machine",
                Exit.NOT_PERMITTED,
            )
        case corestore.MustRecover():
            return Failure(
                f"{error} (`hyperfs recover NAME --peer HOST:PORT`)",
                Exit.FORK,
            )
        case corestore.ForkConflict():
            hint = "if this one is the one to go on with: `hyperfs recover NAME --settle`"
            return Failure(f"{error}; {hint}", Exit.FORK)
        case corestore.InvalidChecksum():
            hint = "`hyperfs verify DRIVE` finds all that is damaged, and has peers send it again"
            return Failure(f"{error}; {hint}", Exit.VERIFICATION)
        case corestore.VerificationError():
            return Failure(f"verification failed: {error}", Exit.VERIFICATION)
        case hyperfs.DriveEncrypted():
            return Failure(str(error), Exit.NOT_PERMITTED)
        case corestore.CoreNotFound() | hyperfs.VersionCleared():
            return Failure(str(error), Exit.NOT_FOUND)
        case trio.TooSlowError() | corestore.BlockNotAvailable():
            return Failure(
                "not all of this is here, and no peer answered; --peer HOST:PORT names one that"
                " has it, --timeout SECONDS waits longer",
                Exit.NO_PEERS,
            )
        case hyperfs.FuseUnavailable():
            return Failure(f"{error} (ls, cat, put and get work without)", Exit.NO_FUSE)
        case corestore.StorageCorrupt():
            return Failure(
                f"{error}; what peers hold of its drives can be fetched into a new store (--store"
                " DIR)"
            )
        case corestore.CorestoreError():
            return Failure(str(error) or type(error).__name__)
        case ReaderGone():
            return Failure("nobody reads the output any more", Exit.OK)
        case OSError():
            return _explain_os_error(error)
        case _:
            return None


def _explain_group(group: BaseExceptionGroup[BaseException]) -> Failure | None:
    # The nurseries wrap what one task raised; several failures at once are told by the first.
    found = [explain(error) for error in group.exceptions if not isinstance(error, trio.Cancelled)]
    known = [failure for failure in found if failure is not None]
    return known[0] if known and len(known) == len(found) else None


def _locked(error: corestore.StorageLocked) -> str:
    who = f"process {error.pid}" if error.pid else "another process"
    return (
        f"{who} is writing this drive; wait until it ends, or unmount what it has mounted"
        " (`hyperfs status` shows where)"
    )


def os_sentence(error: OSError) -> str:
    """What the system says, and of which file; without what to do about it."""
    subject = error.filename
    if isinstance(subject, bytes):
        subject = os.fsdecode(subject)
    text = error.strerror or str(error)
    return f"{subject}: {text}" if subject else text


def _explain_os_error(error: OSError) -> Failure:
    sentence = os_sentence(error)
    if error.errno == errno.ENOENT:
        return Failure(sentence, Exit.NOT_FOUND)
    if error.errno == errno.EADDRINUSE:
        return Failure(
            f"{error.filename or 'the address'} is in use; choose another port, or :0 for any",
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Failure(f"{sentence}; make room, then the same command again goes on")
    if error.errno == errno.EROFS:
        return Failure(sentence, Exit.NOT_PERMITTED)
    return Failure(sentence)
