"""Mounting without being root: what the system's helper allows, and what it says when it does not.

Needs root, to become somebody else and to open the device for them.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from hyperfs.fuse import mountpoint
from tests.support.limits import HANG_SECONDS
from tests.support.mounts import TOP

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user takes root"),
]


class Somebody:
    """A user with a home of their own, who runs the program."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.user = pwd.getpwnam("nobody")
        os.chown(home, self.user.pw_uid, self.user.pw_gid)
        self.environment = {
            **os.environ,
            "HOME": str(home),
            "HYPERFS_STORE": str(home / "store"),
            "HYPERFS_RUNTIME_DIR": str(home / "run"),
            "XDG_STATE_HOME": str(home / "state"),
        }

    def command(self, *arguments):
        module = [sys.executable, "-m", "tests.support.as_user", str(self.user.pw_uid)]
        return [*module, *map(str, arguments)]

    def run(self, *arguments):
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            cwd=TOP,
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
            check=False,
        )

    def shell(self, words):
        """A program of theirs; what it prints."""
        done = subprocess.run(
            ["sh", "-c", words],
            user=self.user.pw_uid,
            group=self.user.pw_gid,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done
        return done.stdout

    @contextmanager
    def mounted(self, *arguments):
        process = subprocess.Popen(
            self.command("--json", "mount", *arguments),
            env=self.environment,
            cwd=TOP,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout.readline()
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=HANG_SECONDS)


@pytest.fixture
def somebody():
    # Not below root's own temporary folder, where they could not go.
    home = Path(tempfile.mkdtemp(prefix="hyperfs-user-"))
    mode = stat.S_IMODE(os.stat(mountpoint.DEVICE).st_mode)
    os.chmod(mountpoint.DEVICE, 0o666)
    try:
        yield Somebody(home)
    finally:
        os.chmod(mountpoint.DEVICE, mode)
        shutil.rmtree(home)


def test_a_user_mounts_works_and_unmounts(somebody):
    folder = somebody.home / "m"
    assert somebody.run("create", "d").returncode == 0
    somebody.shell(f"mkdir {folder}")
    with somebody.mounted("d", folder, "-o", "dev,suid") as process:
        assert somebody.shell(f"echo hello > {folder}/f; cat {folder}/f") == "hello\n"
        assert somebody.shell(f"stat -c %U {folder}/f") == "nobody\n"
        # Not even root is let in, unless the user says so.
        with pytest.raises(PermissionError):
            os.listdir(folder)
        done = somebody.run("umount", folder)
        assert done.returncode == 0, done
        assert process.wait(timeout=HANG_SECONDS) == 0
    assert somebody.run("cat", "d:/f").stdout == "hello\n"
    # A mount whose process died is taken off by its user, too.
    with somebody.mounted("d", folder) as process:
        process.kill()
        process.wait()
        with somebody.mounted("d", folder):
            assert somebody.shell(f"cat {folder}/f") == "hello\n"


def test_what_a_user_may_not_do_is_told_in_a_sentence(somebody):
    assert somebody.run("create", "d").returncode == 0
    somebody.shell(f"mkdir {somebody.home}/m")
    (somebody.home / "roots").mkdir()
    refused = [(somebody.run("mount", "d", somebody.home / "roots"), 1, "folder of your own")]
    config = Path("/etc/fuse.conf")
    if not config.exists() or "\nuser_allow_other" not in config.read_text():
        done = somebody.run("mount", "d", somebody.home / "m", "-o", "allow_other")
        refused.append((done, 1, "/etc/fuse.conf has the line user_allow_other"))
    os.chmod(mountpoint.DEVICE, 0o600)
    refused.append((somebody.run("mount", "d", somebody.home / "m"), 20, "let this user use it"))
    for done, code, words in refused:
        told = [line for line in done.stderr.splitlines() if not line.startswith("hyper://")]
        assert done.returncode == code, done
        assert len(told) == 1, done
        assert words in told[0]
