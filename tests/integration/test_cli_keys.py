"""`export-key`, `import-key` and `recover`, run as a user runs them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from contextlib import contextmanager

import pytest

from tests.integration.test_cli import failed
from tests.support.limits import HANG_SECONDS
from tools.program import people, wait_until

pytestmark = pytest.mark.slow


def pipe(person, text, *words):
    """Run a command with *text* on stdin."""
    return subprocess.run(
        person.command(*words),
        env=person.environment(),
        input=text,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )


@contextmanager
def seeding(person, key, *more):
    """A `hyperfs seed` in a process of its own; yields where it listens."""
    with subprocess.Popen(
        person.command("--json", "seed", key, "--listen", ":0", *more),
        env=person.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            yield json.loads(process.stdout.readline())["listening"][0]
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(HANG_SECONDS)


def has_all(person):
    found = [json.loads(line) for line in person.ask("--json", "status").splitlines()]
    return all(drive["version"] and drive["blocks"] == drive["blocks_stored"] for drive in found)


def test_a_drive_moves_to_another_machine_and_back(tmp_path):
    (tmp_path / "file").write_text("content\n")
    with people(tmp_path, "alice", "bob") as (alice, bob):
        key = alice.ask("create", "photos").strip()
        alice.ask("put", tmp_path / "file", "photos:/file")
        secret = alice.ask("export-key", "photos")
        assert secret.startswith("hyperfs-secret-")
        failed(alice.run("put", tmp_path / "file", "photos:/again"), 12)
        assert alice.ask("cat", "photos:/file") == "content\n"
        # Nobody has it yet: nothing is written, and that is said.
        done = pipe(bob, secret, "import-key", "pictures", "--timeout", "3600")
        failed(done, 4, "hyperfs recover pictures")
        failed(bob.run("put", tmp_path / "file", "pictures:/b"), 14, "recover")
        with seeding(alice, key) as address:
            bob.ask("recover", "pictures", "--peer", address)
        bob.ask("put", tmp_path / "file", "pictures:/second")
        assert bob.ask("ls", "pictures:/").split() == ["file", "second"]
        found = [json.loads(line) for line in bob.ask("--json", "drives").splitlines()]
        assert [(drive["name"], drive["key"], drive["writable"]) for drive in found] == [
            ("pictures", key, True)
        ]


def test_a_secret_is_not_taken_from_the_command_line_or_mistyped(tmp_path):
    with people(tmp_path, "alice") as (alice,):
        alice.ask("create", "photos")
        secret = alice.ask("export-key", "--keep", "photos").strip()
        failed(pipe(alice, secret[:-2], "import-key", "other"), 2, "mistyped")
        failed(pipe(alice, "", "import-key", "other"), 2, "secret")
        failed(alice.run("ls", secret), 2, "secret, not a key")


def test_a_restored_store_is_recovered(tmp_path):
    (tmp_path / "file").write_text("content\n")
    with people(tmp_path, "alice", "bob") as (alice, bob):
        key = alice.ask("create", "photos").strip()
        shutil.copytree(alice.store, tmp_path / "backup")
        alice.ask("put", tmp_path / "file", "photos:/file")
        with seeding(alice, key) as address, seeding(bob, key, "--peer", address):
            bob.ask("get", f"{key}:/file", tmp_path / "copy")
            wait_until(lambda: has_all(bob))
        # Not removed: what comes in its place must not get its inodes.
        alice.store.rename(tmp_path / "lost")
        shutil.copytree(tmp_path / "backup", alice.store)
        failed(alice.run("put", tmp_path / "file", "photos:/other"), 14, "recover")
        with seeding(bob, key) as address:
            alice.ask("recover", "photos", "--peer", address)
        assert alice.ask("ls", "photos:/").split() == ["file"]
        alice.ask("put", tmp_path / "file", "photos:/other")


def test_a_drive_with_one_history_is_not_settled(tmp_path):
    with people(tmp_path, "alice") as (alice,):
        alice.ask("create", "photos")
        failed(alice.run("recover", "photos", "--settle"), 1, "one history")
        failed(alice.run("recover", "photos", "--settle", "--alone"), 2, "alone")
        failed(alice.run("recover", "nothing", "--settle"), 10, "hyperfs drives")
