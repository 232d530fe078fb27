"""`-o` options, as fstab lines have them."""

from __future__ import annotations

import click
import pytest

from hyperfs import MountOptions
from hyperfs.cli.mountoptions import parse_options


@pytest.mark.parametrize(
    ("texts", "options"),
    [
        ((), MountOptions()),
        (("ro,allow_other", "noexec"), MountOptions(read_only=True, allow_other=True, noexec=True)),
        (("ro,rw",), MountOptions(read_only=False)),
        (("uid=5,gid=6,umask=022",), MountOptions(uid=5, gid=6, umask=0o22)),
        (("defaults,noatime,nofail,_netdev,x-systemd.automount",), MountOptions()),
        (("users,strictatime,lazytime,owner,group,nouser",), MountOptions()),
        (("sync,dirsync",), MountOptions(sync=True, dirsync=True)),
        (("sync,async",), MountOptions()),
        (
            ("subtype=mine,comment=Ann's,x-gvfs-show,X-mount.mkdir=755",),
            MountOptions(subtype="mine"),
        ),
        (("fsname=mine,dev,suid",), MountOptions(fsname="mine", dev=True, suid=True)),
    ],
)
def test_options_are_understood(texts, options):
    assert parse_options(texts) == options


@pytest.mark.parametrize(
    "text", ["sparkling", "sync=1", "uid=me", "umask=9", "ro=1", "fsname=", "subtype="]
)
def test_unknown_options_are_usage_errors(text):
    with pytest.raises(click.UsageError, match="-o"):
        parse_options((text,))
