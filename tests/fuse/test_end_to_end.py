"""The main job with real mounts in real processes: write here, read there, break things."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.limits import HANG_SECONDS, TEST_SECONDS
from tools import sample_tree
from tools.program import is_mounted, people, wait_until

pytestmark = pytest.mark.fuse

MIB = 1 << 20


@pytest.fixture
def two(tmp_path):
    with people(tmp_path, "alice", "bob", seconds=TEST_SECONDS) as persons:
        yield persons


def write_and_share(alice, tmp_path, **options):
    """A new drive, mounted and listening: (key, the mount)."""
    key = alice.ask("create", "photos").strip()
    return key, alice.mount("photos", tmp_path / "here", "--listen", "127.0.0.1:0", **options)


def sync(folder):
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def status(mount):
    """What `hyperfs status` says of a mount; it shows all of this user's."""
    found = {}

    def answered():
        # On a slow machine it may give up waiting for the mount.
        lines = map(json.loads, mount.person.ask("--json", "status").splitlines())
        found.update(next(fields for fields in lines if fields["pid"] == mount.process.pid))
        return "version" in found

    wait_until(answered)
    return found


def received(mount):
    """The bytes a mount has received from peers."""
    return status(mount)["bytes_received"]


@pytest.mark.slow
def test_a_real_tree_is_equal_on_the_remote_mount(two, tmp_path):
    alice, bob = two
    source = tmp_path / "source"
    sample_tree.make(source, large_bytes=256 * MIB, real_names=5_000)
    key, here = write_and_share(alice, tmp_path)
    subprocess.run(["cp", "-a", source, here.folder / "tree"], check=True)
    sync(here.folder)
    assert sample_tree.differences(source, here.folder / "tree") == []
    assert here.peak_memory() < 200_000_000

    there = bob.mount(key, tmp_path / "there", "--peer", here.address)
    before = received(there)
    names = [path for path, _ in sample_tree.walk(there.folder)]
    assert len(names) > 5000
    assert before > 0
    listing = received(there) - before
    assert listing < 3 * MIB, "a listing fetched content"

    before = received(there)
    with (there.folder / "tree" / "large.bin").open("rb", buffering=0) as remote:
        remote.seek(128 * MIB)
        piece = remote.read(4096)
    with (source / "large.bin").open("rb") as local:
        local.seek(128 * MIB)
        assert piece == local.read(4096)
    assert received(there) - before <= 512 * 1024

    assert sample_tree.differences(source, there.folder / "tree") == []
    there.interrupt()
    here.interrupt()


def test_a_remote_mount_is_read_only(two, tmp_path):
    alice, bob = two
    key, here = write_and_share(alice, tmp_path)
    there = bob.mount(key, tmp_path / "there", "--peer", here.address)
    with pytest.raises(OSError, match="Read-only"):
        (there.folder / "new").touch()


def test_changes_are_seen_by_a_plain_loop_on_the_remote_mount(two, tmp_path):
    alice, bob = two
    key, here = write_and_share(alice, tmp_path)
    there = bob.mount(key, tmp_path / "there", "--peer", here.address)
    file, remote = here.folder / "file", there.folder / "file"

    # Looked up before it is there: the kernel remembers that it is missing.
    assert not remote.exists()
    file.write_text("one")
    wait_until(lambda: remote.exists() and remote.read_text() == "one")

    # Cached content, other size.
    file.write_text("the second text")
    wait_until(lambda: remote.read_text() == "the second text")
    assert remote.stat().st_size == 15

    # Same size, other content.
    file.write_text("the SECOND text")
    wait_until(lambda: remote.read_text() == "the SECOND text")

    # Rename over.
    (here.folder / "draft").write_text("third")
    os.replace(here.folder / "draft", file)
    wait_until(lambda: remote.read_text() == "third")
    assert not (there.folder / "draft").exists()

    # mkdir, and a file in it; an empty listing was cached before.
    assert sorted(os.listdir(there.folder)) == ["file"]
    (here.folder / "folder").mkdir()
    wait_until(lambda: (there.folder / "folder").is_dir())
    (here.folder / "folder" / "inner").write_text("x")
    wait_until(lambda: os.listdir(there.folder / "folder") == ["inner"])

    # Attributes.
    file.chmod(0o750)
    wait_until(lambda: remote.stat().st_mode & 0o777 == 0o750)
    os.utime(file, ns=(7, 1_000_000_007))
    wait_until(lambda: remote.stat().st_mtime_ns == 1_000_000_007)

    # unlink.
    file.unlink()
    wait_until(lambda: not remote.exists())
    wait_until(lambda: sorted(os.listdir(there.folder)) == ["folder"])


def test_rename_over_is_atomic_for_remote_readers(two, tmp_path):
    alice, bob = two
    key, here = write_and_share(alice, tmp_path)
    file = here.folder / "file"
    file.write_text("0" * 10_000)
    sync(here.folder)
    there = bob.mount(key, tmp_path / "there", "--peer", here.address)
    for number in range(1, 30):
        draft = here.folder / "draft"
        draft.write_text(str(number % 10) * 10_000)
        os.replace(draft, file)
        text = (there.folder / "file").read_text()
        assert len(text) == 10_000
        assert len(set(text)) == 1, "two versions in one file"


def test_what_was_fsynced_survives_kill_9_of_the_writer(two, tmp_path):
    alice, bob = two
    key, here = write_and_share(alice, tmp_path)
    source = tmp_path / "source"
    sample_tree.make(source, large_bytes=64 * MIB)
    kept = here.folder / "kept"
    kept.write_text("durable")
    with kept.open("rb") as file:
        os.fsync(file.fileno())
    copy = subprocess.Popen(["cp", "-a", source, here.folder / "tree"], stderr=subprocess.DEVNULL)
    wait_until(lambda: (here.folder / "tree" / "real").exists())
    time.sleep(0.7)
    here.kill()
    copy.wait()
    assert is_mounted(here.folder)

    # The dead mount point is recovered without help.
    again = alice.mount("photos", here.folder, "--listen", "127.0.0.1:0")
    assert kept.read_text() == "durable"
    for path, found in sample_tree.walk(here.folder):
        if path.is_file() and not path.is_symlink():
            assert len(path.read_bytes()) == found.st_size
    (here.folder / "after").write_text("it goes on")
    sync(here.folder)

    there = bob.mount(key, tmp_path / "there", "--peer", again.address)
    assert sample_tree.differences(here.folder, there.folder) == []


def test_kill_9_of_the_reader_leaves_what_it_read(two, tmp_path):
    alice, bob = two
    key, here = write_and_share(alice, tmp_path)
    data = os.urandom(3 * MIB)
    (here.folder / "read").write_bytes(data)
    (here.folder / "unread").write_bytes(os.urandom(MIB))
    sync(here.folder)
    there = bob.mount(key, tmp_path / "there", "--peer", here.address)
    assert (there.folder / "read").read_bytes() == data
    there.kill()
    here.interrupt()

    # No peer any more: what was read still reads, what was not gives up; at once, if none can come.
    for more in (("--listen", ":0", "--read-timeout", "0.5"), ("--read-timeout", "100000")):
        again = bob.mount(key, there.folder, *more)
        assert sorted(os.listdir(again.folder)) == ["read", "unread"]
        assert (again.folder / "read").read_bytes() == data
        with pytest.raises(OSError, match="timed out"):
            (again.folder / "unread").read_bytes()
        assert "gave up: no peer sent block" in again.errors.read_text()
        again.interrupt()


def test_sigterm_loses_nothing(two, tmp_path):
    alice, _ = two
    _, here = write_and_share(alice, tmp_path)
    for number in range(200):
        (here.folder / str(number)).write_text(str(number))
    here.process.send_signal(signal.SIGTERM)
    assert here.process.wait(HANG_SECONDS) == 0
    again = alice.mount("photos", here.folder)
    assert {p.name: p.read_text() for p in again.folder.iterdir()} == {
        str(n): str(n) for n in range(200)
    }


def test_commands_work_on_a_drive_that_is_mounted(two, tmp_path):
    alice, _ = two
    _, here = write_and_share(alice, tmp_path)
    (here.folder / "from the mount").write_text("not committed yet\n")
    assert alice.ask("cat", "photos:/from the mount") == "not committed yet\n"
    (tmp_path / "file").write_text("through the socket\n")
    assert not (here.folder / "put").exists()
    alice.ask("put", tmp_path / "file", "photos:/put")
    assert (here.folder / "put").read_text() == "through the socket\n"
    assert alice.ask("ls", "photos:").splitlines() == ["from the mount", "put"]
    alice.ask("rm", "photos:/put")
    wait_until(lambda: not (here.folder / "put").exists())
    deep = here.folder / "folder" / "deep"
    deep.mkdir(parents=True)
    (deep / "file").write_text("x")
    # Somebody stands in it: what the kernel remembers of it goes all the same.
    inside = os.open(deep, os.O_RDONLY)
    assert os.stat("file", dir_fd=inside).st_size == 1
    alice.ask("rm", "-r", "photos:/folder")
    wait_until(lambda: not (here.folder / "folder").exists())
    with pytest.raises(OSError, match=r"No such file|Stale"):
        os.stat("file", dir_fd=inside)
    os.close(inside)


def test_a_large_file_through_the_socket_is_equal(two, tmp_path):
    alice, _ = two
    _, here = write_and_share(alice, tmp_path)
    data = os.urandom(20 * MIB)
    (tmp_path / "file").write_bytes(data)
    alice.ask("put", tmp_path / "file", "photos:/large")
    assert (here.folder / "large").read_bytes() == data
    alice.ask("get", "photos:/large", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data


def test_the_daemon_returns_when_the_mount_answers(two, tmp_path):
    alice, _ = two
    alice.ask("create", "photos")
    folder = tmp_path / "here"
    folder.mkdir()
    ready = json.loads(alice.ask("--json", "mount", "photos", folder, "--daemon"))
    try:
        assert ready["directory"] == str(folder)
        (folder / "file").write_text("x")
        found = json.loads(alice.ask("--json", "status"))
        assert (found["pid"], found["directory"]) == (ready["pid"], str(folder))
        assert str(folder) in alice.ask("drives")
    finally:
        alice.ask("umount", folder)
    assert not is_mounted(folder)
    assert alice.ask("cat", "photos:/file") == "x"


def refused(person, code, told, *arguments):
    done = person.run("mount", *arguments, "--timeout", "0.5")
    assert done.returncode == code, done
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_mount_points_are_refused(two, tmp_path):
    alice, _ = two
    alice.ask("create", "photos")
    refused(alice, 10, "mkdir", "photos", tmp_path / "missing")
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").touch()
    refused(alice, 1, "not empty", "photos", full)
    refused(alice, 1, "not a folder", "photos", full / "file")
    inside = alice.store / "inside"
    inside.mkdir()
    refused(alice, 2, "store", "photos", inside)
    assert not is_mounted(inside)


def test_nobody_there_and_nothing_cached_is_told(two, tmp_path):
    _, bob = two
    (tmp_path / "there").mkdir()
    somebodys = "y" * 52
    refused(bob, 4, "no peer", somebodys, tmp_path / "there", "--peer", "127.0.0.1:9")
    assert not is_mounted(tmp_path / "there")


def test_a_drive_that_is_being_written_names_the_process(two, tmp_path):
    alice, _ = two
    _, here = write_and_share(alice, tmp_path)
    (tmp_path / "second").mkdir()
    refused(alice, 11, str(here.process.pid), "photos", tmp_path / "second")


def test_a_damaged_option_is_a_usage_error(two, tmp_path):
    alice, _ = two
    alice.ask("create", "photos")
    (tmp_path / "here").mkdir()
    refused(alice, 2, "sparkling", "photos", tmp_path / "here", "-o", "sparkling")
    refused(alice, 2, "uid", "photos", tmp_path / "here", "-o", "uid=me")


def test_a_third_reader_gets_everything_from_the_second(two, tmp_path):
    alice, bob = two
    key, here = write_and_share(alice, tmp_path)
    data = os.urandom(5 * MIB)
    (here.folder / "file").write_bytes(data)
    sync(here.folder)
    there = bob.mount(key, tmp_path / "there", "--peer", here.address, "--listen", ":0")
    assert (there.folder / "file").read_bytes() == data
    here.interrupt()
    with people(tmp_path, "carol") as (carol,):
        third = carol.mount(key, tmp_path / "third", "--peer", there.address)
        assert (third.folder / "file").read_bytes() == data


def test_a_folder_in_use_stays_mounted_and_its_users_are_named(two, tmp_path):
    alice, _ = two
    _, here = write_and_share(alice, tmp_path)
    (here.folder / "file").write_text("x")
    with subprocess.Popen(["sleep", "100"], cwd=here.folder) as user:
        done = alice.run("umount", here.folder)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"sleep (process {user.pid})" in done.stderr
        assert "--force" in done.stderr
        assert (here.folder / "file").read_text() == "x"
        assert alice.run("umount", "--force", here.folder).returncode == 0
        user.kill()
    assert here.process.wait(HANG_SECONDS) == 0
    assert not is_mounted(here.folder)


def test_closing_the_terminal_unmounts_and_loses_nothing(two, tmp_path):
    alice, _ = two
    # Run below nohup, the tests would have the program ignore it.
    handler = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        _, here = write_and_share(alice, tmp_path)
    finally:
        signal.signal(signal.SIGHUP, handler)
    (here.folder / "file").write_text("x")
    here.process.send_signal(signal.SIGHUP)
    assert here.process.wait(HANG_SECONDS) == 0
    assert not is_mounted(here.folder)
    assert alice.ask("cat", "photos:/file") == "x"


def test_a_stop_while_waiting_for_a_peer_is_an_interruption(two, tmp_path):
    _, bob = two
    (tmp_path / "there").mkdir()
    with subprocess.Popen(
        bob.command("mount", "y" * 52, tmp_path / "there", "--peer", "127.0.0.1:9"),
        env=bob.environment(),
        stderr=subprocess.PIPE,
        text=True,
    ) as waiting:
        assert waiting.stderr.readline().startswith("hyper://")
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(HANG_SECONDS) == 130
        assert "Traceback" not in waiting.stderr.read()
    assert not is_mounted(tmp_path / "there")


def test_a_version_is_mounted_as_it_was(two, tmp_path):
    alice, bob = two
    key, here = write_and_share(alice, tmp_path)
    (here.folder / "file").write_text("old")
    sync(here.folder)
    version = status(here)["version"]
    (here.folder / "file").write_text("new")
    sync(here.folder)
    link = f"hyper://{key}+{version}"
    there = bob.mount(link, tmp_path / "there", "--peer", here.address)
    assert (there.folder / "file").read_text() == "old"
    assert status(there)["version"] == version
    (tmp_path / "other").mkdir()
    refused(bob, 10, "999", f"hyper://{key}+999", tmp_path / "other", "--peer", here.address)
    refused(bob, 2, "/file", f"{key}:/file", tmp_path / "other")


CRASH = """
import sys, trio
from pathlib import Path
import hyperfs.follow
from hyperfs.cli import main

async def fail(self):
    while not Path(sys.argv[-1] + "-crash").exists():
        await trio.sleep(0.01)
    raise ZeroDivisionError

hyperfs.follow.Follower.prefetch = fail
main()
"""


def test_after_a_crash_the_mount_point_is_an_error_and_nothing_stored_is_lost(two, tmp_path):
    alice, _ = two
    alice.ask("create", "photos")
    folder = tmp_path / "here"
    folder.mkdir()
    # The mount is made by a program with a bug.
    words = [sys.executable, "-c", CRASH, "mount", "photos", folder]
    with subprocess.Popen(words, env=alice.environment(), stderr=subprocess.PIPE) as process:
        try:
            # What fails before programs were told that it is ready leaves nothing behind.
            ready = tmp_path / "run" / f"{process.pid}.json"
            wait_until(ready.exists)
            (folder / "file").write_text("x")
            Path(f"{folder}-crash").touch()
            assert process.wait(HANG_SECONDS) == 1
            assert b"ZeroDivisionError" in process.stderr.read()
            with pytest.raises(OSError, match="not connected"):
                os.listdir(folder)
        finally:
            process.kill()
            alice.run("umount", "--force", folder)
    assert os.listdir(folder) == []
    assert alice.ask("cat", "photos:/file") == "x"


def test_a_silent_peer_ends_every_command_after_its_timeout(two, tmp_path):
    alice, bob = two
    source = tmp_path / "source"
    source.mkdir()
    for folder in range(40):
        (source / f"{folder:0200}").mkdir()
        for number in range(20):
            (source / f"{folder:0200}" / f"{number:0200}").write_bytes(os.urandom(5000))
    alice.ask("create", "photos")
    alice.ask("put", "-r", f"{source}/", "photos:/", seconds=TEST_SECONDS)
    key = alice.ask("drives").split()[1]
    here = alice.mount("photos", tmp_path / "here", "--listen", ":0")
    peer = ("--peer", here.address)
    assert len(bob.ask("ls", f"{key}:/", *peer).splitlines()) == 40
    here.process.send_signal(signal.SIGSTOP)
    try:
        done = bob.run("get", "-r", f"{key}:/", tmp_path / "copy", *peer, "--timeout", "1")
        assert done.returncode == 3, done
        assert "no peer answered" in done.stderr
        # Of forty folders the rest is told in a line.
        assert len(done.stderr.splitlines()) < 20
    finally:
        here.process.send_signal(signal.SIGCONT)
    bob.ask("get", "-r", f"{key}:/", tmp_path / "copy", *peer)
    assert sample_tree.differences(source, tmp_path / "copy") == []
