"""What mount(8) runs is a mount; everything else is left alone."""

from __future__ import annotations

import pytest

from hyperfs.cli.fstab import translate

VERBS = {"mount", "status", "put"}


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("photos /mnt -o rw,allow_other", "mount --daemon -o rw,allow_other -- photos /mnt"),
        (
            "photos /mnt -o rw,store=/s,listen=:1,peer=a:2,peer=b:3,uid=5",
            "mount --daemon --store /s --listen :1 --peer a:2 --peer b:3 -o rw,uid=5"
            " -- photos /mnt",
        ),
        (
            "photos /mnt -o rw,verify_reads,noatime",
            "mount --daemon --verify-reads -o rw,noatime -- photos /mnt",
        ),
        ("photos /mnt -o ro,listen", "mount --daemon -o ro,listen -- photos /mnt"),
        ("status /mnt -o rw", "status /mnt -o rw"),
        ("--quiet /mnt -o rw", "--quiet /mnt -o rw"),
        ("photos /mnt", "photos /mnt"),
        ("mount photos /mnt -o rw", "mount photos /mnt -o rw"),
        ("", ""),
    ],
)
def test_what_mount_runs_is_a_mount(words, arguments):
    assert translate(words.split(), VERBS) == arguments.split()
