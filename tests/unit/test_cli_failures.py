"""What each error becomes at the terminal: one sentence and the promised exit code."""

from __future__ import annotations

import errno

import pytest
import trio

import corestore
import hyperfs
from hyperfs.cli.address import AddressError
from hyperfs.cli.failures import Exit, Failure, explain
from hyperfs.cli.output import ReaderGone


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (Failure("x", Exit.PARTIAL), 3, "x"),
        (AddressError("no such key"), 2, "no such key"),
        (corestore.StorageLocked("locked", pid=123), 11, "process 123"),
        (corestore.NotWritable("x"), 12, "only be read"),
        (corestore.InvalidProof("x"), 13, "verification failed"),
        (corestore.CoreNotFound("x"), 10, "x"),
        (trio.TooSlowError(), 4, "no peer"),
        (corestore.BlockNotAvailable(3), 4, "no peer"),
        (FileNotFoundError(errno.ENOENT, "No such file", b"/a\xff"), 10, "/a\udcff"),
        (OSError(errno.EADDRINUSE, "in use", ":80"), 1, "is in use"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "make room"),
        (hyperfs.FuseUnavailable("mounting needs x"), 20, "mounting needs x"),
        (corestore.StorageCorrupt("store.db"), 1, "--store"),
        (ReaderGone(), 0, ""),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ExceptionGroup("", [ExceptionGroup("", [Failure("deep")])]), 1, "deep"),
    ],
)
def test_expected_errors_are_sentences(error, code, told):
    failure = explain(error)
    assert failure.code == code
    assert told in str(failure)


@pytest.mark.parametrize(
    "error", [ZeroDivisionError(), ExceptionGroup("", [Failure("x"), ZeroDivisionError()])]
)
def test_a_bug_of_ours_is_not_hidden(error):
    assert explain(error) is None
