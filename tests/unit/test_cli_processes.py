"""Who runs is told by a kernel lock, never by a file alone."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

from hyperfs.cli import processes
from hyperfs.cli.processes import ProcessInfo, announced, running, serving

INFO = ProcessInfo(
    pid=os.getpid(),
    command="mount",
    store="/somewhere",
    keys=("k" * 52,),
    name="photos",
    directory="/mnt/x",
    writable=True,
    listening=("127.0.0.1:1",),
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERFS_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path / "run"


def test_the_runtime_folder_is_private(folder):
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    processes.runtime_folder()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_process_is_seen_while_it_announces_itself(folder):
    with announced(INFO):
        # A lock of one's own does not count: another process must look.
        code = (
            "from hyperfs.cli.processes import running;"
            "(found,) = running(); print(found.pid, found.name)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == [str(os.getpid()), "photos"]
    assert running() == []
    assert list(folder.iterdir()) == []


def test_what_a_killed_process_left_is_removed(folder):
    code = (
        "import os, signal, sys\n"
        "from hyperfs.cli.processes import ProcessInfo, announced\n"
        "info = ProcessInfo(os.getpid(), 'mount', '/s', ('k',))\n"
        "info.socket.touch()\n"
        "with announced(info):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert len(list(folder.iterdir())) == 2
    assert running() == []
    assert list(folder.iterdir()) == []


def test_the_writer_is_preferred(monkeypatch, tmp_path):
    seeder = ProcessInfo(1, "seed", str(tmp_path), ("k",))
    writer = ProcessInfo(2, "mount", str(tmp_path), ("k",), writable=True)
    other = ProcessInfo(3, "mount", "/elsewhere", ("k",), writable=True)
    past = ProcessInfo(4, "mount", str(tmp_path), ("k",), version=5)
    monkeypatch.setattr(processes, "running", lambda: [past, seeder, other, writer])
    assert serving("k", store=tmp_path) == [writer, seeder, past]
    assert serving("x", store=tmp_path) == []
