"""A line in fstab mounts a drive."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.limits import TEST_SECONDS
from tools.program import HYPERFS, is_mounted, people, wait_until

pytestmark = [pytest.mark.fuse, pytest.mark.slow]


def test_a_line_in_fstab_mounts_a_drive(tmp_path):
    with people(tmp_path, "alice", seconds=TEST_SECONDS) as (alice,):
        alice.ask("create", "photos")
        alice.run("put", __file__, "photos:/test.py")
        folder = tmp_path / "mount"
        folder.mkdir()
        table = tmp_path / "fstab"
        table.write_text(
            # As `photos DIR fuse.hyperfs`, were the program where mount(8) looks for it.
            f"{HYPERFS}#photos {folder} fuse noauto,noatime,nofail,_netdev,x-systemd.automount,"
            f"store={alice.store},listen=127.0.0.1:0,umask=077 0 0\n"
        )
        environment = alice.environment()
        del environment["HYPERFS_STORE"]
        # Its output is not captured: the mount that goes on would hold the pipe open.
        subprocess.run(
            ["mount", "-T", table, folder], env=environment, check=True, stdout=subprocess.DEVNULL
        )
        try:
            assert (folder / "test.py").read_bytes() == Path(__file__).read_bytes()
            assert os.stat(folder / "test.py").st_mode & 0o777 == 0o700
            with open("/proc/self/mountinfo") as lines:
                (line,) = [line for line in lines if f" {folder} " in line]
            assert " fuse.hyperfs " in line
        finally:
            subprocess.run(["umount", folder], check=True)
        wait_until(lambda: not is_mounted(folder))
