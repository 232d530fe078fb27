"""Why a mount was refused, from what the library and its helper say on stderr."""

from __future__ import annotations

import pytest

pytest.importorskip("pyfuse3")
from hyperfs.fuse.session import refusal


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (
            "fusermount3: option allow_other only allowed if 'user_allow_other' is set in"
            " /etc/fuse.conf\n",
            "/etc/fuse.conf has the line user_allow_other",
        ),
        (
            "fusermount3: user has no write access to mountpoint /mnt\n",
            "mount on a folder of your own",
        ),
        (
            "\nfusermount3: mount failed: Operation not permitted\nmore\n",
            "the system refuses the mount: mount failed: Operation not permitted",
        ),
        ("", "the system refuses the mount: fuse_session_mount failed"),
    ],
)
def test_the_reason_is_told_in_one_sentence(told, reason):
    assert reason in refusal(told, "fuse_session_mount failed")
    assert "\n" not in refusal(told, "fuse_session_mount failed")
