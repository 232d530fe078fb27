"""What is raised below becomes the errno that a system call reports."""

from __future__ import annotations

import errno
import logging

import pytest
import trio

from corestore import (
    BlockNotAvailable,
    DecodeError,
    InvalidChecksum,
    InvalidProof,
    NotWritable,
    StorageCorrupt,
)
from hyperfs.fuse.errors import errno_of


@pytest.mark.parametrize(
    ("error", "number", "level"),
    [
        (FileNotFoundError(errno.ENOENT, "x"), errno.ENOENT, None),
        (OSError(errno.ENOSPC, "x"), errno.ENOSPC, None),
        (OSError("without a number"), errno.EIO, None),
        (NotWritable("x"), errno.EROFS, None),
        (BlockNotAvailable(5), errno.ETIMEDOUT, logging.WARNING),
        (trio.TooSlowError(), errno.ETIMEDOUT, logging.WARNING),
        (InvalidProof("x"), errno.EIO, logging.ERROR),
        (InvalidChecksum("x"), errno.EIO, logging.ERROR),
        (StorageCorrupt("x"), errno.EIO, logging.ERROR),
        (DecodeError("x"), errno.EIO, logging.ERROR),
        (RuntimeError("x"), errno.EIO, logging.ERROR),
        (ExceptionGroup("x", [trio.TooSlowError()]), errno.ETIMEDOUT, logging.WARNING),
        (ExceptionGroup("x", [KeyError(), KeyError()]), errno.EIO, logging.ERROR),
    ],
)
def test_every_error_has_its_errno_and_says_more_in_the_log_where_needed(
    error, number, level, caplog
):
    assert errno_of(error, "read(1, 2)") == number
    assert [record.levelno for record in caplog.records] == ([] if level is None else [level])
    assert all("read(1, 2)" in record.getMessage() for record in caplog.records)


def test_a_bug_is_logged_with_its_traceback(caplog):
    try:
        {}["missing"]
    except KeyError as error:
        errno_of(error, "read")
    assert caplog.records[0].exc_info[0] is KeyError
