"""The commands that need no FUSE, run as a user runs them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import socket
import stat
import subprocess
import time
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import pytest
import trio

import corestore
import hyperfs
from corestore import Key
from hyperfs.cli.program import program_version
from tests.support.limits import HANG_SECONDS, TEST_SECONDS
from tools import sample_tree
from tools.program import people, wait_until

pytestmark = pytest.mark.slow

SOMEBODYS_KEY = str(Key(bytes(range(32))))


@pytest.fixture
def alice(tmp_path):
    with people(tmp_path, "alice") as (person,):
        yield person


def failed(done, code, *told):
    """The command ended with *code* and one sentence on stderr; nothing on stdout."""
    lines = done.stderr.strip().splitlines()
    assert done.returncode == code, done
    assert done.stdout == ""
    for words in told:
        assert words in done.stderr
    assert len([line for line in lines if not line.startswith(("Usage:", "Try "))]) <= 2, lines
    assert "Traceback" not in done.stderr


@contextmanager
def seeding(person, what, *more):
    """A `seed` in a process of its own; yields what it says when it is ready."""
    command = person.command("--json", "seed", what, "--listen", ":0", *more)
    process = subprocess.Popen(command, env=person.environment(), stdout=subprocess.PIPE, text=True)
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.terminate()
        process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == 0


def test_create_prints_the_key_alone(alice):
    done = alice.run("create", "photos")
    assert done.returncode == 0
    assert Key.parse(done.stdout.strip())
    assert done.stdout.count("\n") == 1


def test_creating_a_name_again_tells_the_existing_key(alice):
    key = alice.ask("create", "photos").strip()
    failed(alice.run("create", "photos"), 1, key)
    assert alice.ask("create", "other").strip() != key


def test_drives_are_listed_renamed_and_removed(alice):
    key = alice.ask("create", "photos").strip()
    alice.ask("drives", "rename", "photos", "pictures")
    assert [json.loads(line) for line in alice.ask("--json", "drives").splitlines()] == [
        {
            "name": "pictures",
            "key": key,
            "writable": True,
            "url": f"hyper://{key}",
            "encrypted": False,
            "directory": None,
        }
    ]
    alice.ask("drives", "remove", "--yes", "pictures")
    assert alice.ask("drives") == ""
    assert alice.ask("create", "pictures").strip() != key


def test_the_secret_file_is_private(alice):
    alice.ask("create", "photos")
    found = alice.store / "primary-key"
    assert stat.S_IMODE(found.stat().st_mode) == 0o600
    assert stat.S_IMODE(alice.store.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SOMEBODYS_KEY[:-1], "51"),
        (SOMEBODYS_KEY + "y", "53"),
        ("l" + SOMEBODYS_KEY[1:], "no character"),
        (SOMEBODYS_KEY[:-1] + "9", "last character"),
        ("hyperfs-secret-" + SOMEBODYS_KEY, "secret"),
    ],
)
def test_a_mistyped_key_is_a_usage_error(alice, text, told):
    failed(alice.run("ls", text + ":/"), 2, told)


@pytest.mark.parametrize("form", ["hex", "z32"])
def test_the_stores_own_secret_is_refused_as_a_key(alice, form):
    alice.ask("create", "photos")
    secret = Key((alice.store / "primary-key").read_bytes())
    failed(alice.run("ls", secret.hex() if form == "hex" else str(secret)), 2, "secret")


def test_a_name_that_is_not_there_is_not_found(alice):
    alice.ask("create", "photos")
    failed(alice.run("ls", "nothing:/"), 10, "nothing", "hyperfs drives")


def test_a_key_nobody_has_gives_up_after_the_timeout(alice):
    command = "ls", SOMEBODYS_KEY, "--peer", "127.0.0.1:9"
    failed(alice.run(*command, "--timeout", "0.3"), 4, "no peer", "0.3 s")


def test_a_file_that_cannot_be_read_to_its_end_is_named(alice):
    alice.ask("create", "photos")
    # Its first page is never mapped.
    failed(alice.run("put", "/proc/self/mem", "photos:/mem"), 1, "/proc/self/mem: Input/output")
    assert alice.ask("ls", "photos:/") == ""


def test_without_peers_nobody_is_waited_for(tmp_path):
    with people(tmp_path, "alice", "bob") as (alice, bob):
        failed(bob.run("ls", SOMEBODYS_KEY, "--timeout", "3600"), 4, "no peer was named", "--peer")
        alice.ask("create", "photos")
        for name in ("here", "missing"):
            (tmp_path / name).write_bytes(os.urandom(1000))
            alice.ask("put", tmp_path / name, "photos:/")
        with seeding(alice, "photos") as told:
            key = told["keys"][0]
            peer = ("--peer", told["listening"][0])
            assert bob.run("cat", f"{key}:/here", *peer).returncode == 0
            bob.ask("ls", key, *peer)
        assert bob.ask("ls", key, "--timeout", "3600").split() == ["here", "missing"]
        failed(bob.run("cat", f"{key}:/missing", "--timeout", "3600"), 4, "--peer HOST:PORT")
        done = bob.run("log", key, "--timeout", "3600")
        assert done.returncode in (0, 4), done


def test_asking_for_what_is_not_there_makes_no_store(alice):
    failed(alice.run("ls", "nothing:/"), 10, "no store", "hyperfs create")
    failed(alice.run("drives", "rename", "one", "two"), 10, "no store")
    assert alice.ask("drives") == ""
    assert not alice.store.exists()


def test_flags_stand_before_or_behind_the_verb_or_in_variables(alice, monkeypatch):
    key = alice.ask("create", "photos").strip()
    for words in (("--json", "drives"), ("drives", "--json")):
        assert json.loads(alice.ask(*words))["key"] == key
    elsewhere = str(alice.store) + "-2"
    assert alice.ask("drives", "--store", elsewhere) == ""
    assert alice.ask("--store", elsewhere, "drives", "--store", alice.store) != ""
    monkeypatch.setenv("HYPERFS_JSON", "1")
    assert json.loads(alice.ask("drives"))["key"] == key
    monkeypatch.setenv("HYPERFS_TIMEOUT", "0.25")
    command = "ls", SOMEBODYS_KEY, "--peer", "127.0.0.1:9"
    failed(alice.run(*command), 4, "0.25 s")
    failed(alice.run(*command, "--timeout", "0.125"), 4, "0.125 s")
    monkeypatch.setenv("HYPERFS_QUIET", "1")
    assert alice.run("drives", "--store", elsewhere).stderr == ""
    monkeypatch.setenv("HYPERFS_TIMEOUT", "soon")
    failed(alice.run(*command), 2, "soon is no number", "HYPERFS_TIMEOUT")


def documented():
    """The fields that hyperfs/JSON.md tells of each command, and all that it explains."""
    text = (Path(hyperfs.__file__).parent / "JSON.md").read_text()
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| `")]
    fields = {
        name: re.findall("`([a-z_]+)`", row[2].partition(";")[0])
        for row in rows[:13]
        for name in re.findall("`([a-z-]+)`", row[0])
    }
    explained = {name for row in rows[13:] for name in re.findall("`([a-z_]+)`", row[0])}
    return fields, explained


def test_json_has_the_fields_that_are_documented(alice, tmp_path):
    fields, explained = documented()
    (tmp_path / "file").write_text("x")

    def told(*words):
        lines = alice.ask("--json", *words).splitlines()
        assert lines
        for line in lines:
            assert list(json.loads(line)) == fields[words[0]], words

    told("create", "photos")
    told("put", tmp_path / "file", "photos:")
    told("drives")
    told("ls", "photos:")
    told("stat", "photos:/file")
    told("get", "photos:/file", tmp_path / "copy")
    told("log", "photos")
    with seeding(alice, "photos") as ready:
        assert list(ready) == fields["mount"] == fields["seed"]
        (status,) = map(json.loads, alice.ask("--json", "status").splitlines())
        assert list(status) == [*fields["status"], "drives"]
        assert set(status["drives"][0]) <= explained
    told("gc", "photos")
    told("compact", "photos")
    told("verify", "photos")
    told("export-key", "photos")
    told("recover", "photos", "--alone")
    assert explained >= {name for names in fields.values() for name in names}


def test_json_is_utf8_whatever_the_names_and_the_locale(alice, tmp_path, monkeypatch):
    name = "Grüße \udcff\x1b[31m\n"
    (tmp_path / name).write_text("x")
    alice.ask("create", "photos")
    alice.ask("put", tmp_path / name, "photos:/")
    for locale in ("C", "C.UTF-8"):
        monkeypatch.setenv("LC_ALL", locale)
        done = subprocess.run(
            alice.command("ls", "photos:/", "--json"),
            env=alice.environment(),
            capture_output=True,
            check=True,
        )
        assert json.loads(done.stdout.decode("utf-8"))["name"] == name


def test_names_cannot_command_the_terminal(alice, tmp_path):
    (tmp_path / "a\x1b]0;owned\x07\x9b31m").write_text("x")
    alice.ask("create", "photos")
    alice.ask("put", tmp_path / "a\x1b]0;owned\x07\x9b31m", "photos:/")
    # `script` gives the command a terminal.
    words = " ".join(alice.command("ls", "photos:/", "-l"))
    done = subprocess.run(
        ["script", "-qec", words, "/dev/null"],
        env=alice.environment(),
        capture_output=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    assert b"a?]0;owned??" in done.stdout
    assert b"\x1b" not in done.stdout


def test_a_source_with_a_slash_at_its_end_means_its_contents(alice, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("x")
    (tmp_path / "link").symlink_to("folder")
    alice.ask("create", "photos")
    alice.ask("put", "-r", f"{tmp_path}/folder/", "photos:/")
    assert alice.ask("ls", "-R", "photos:/") == "file\n"
    alice.ask("put", "-r", f"{tmp_path}/link/", "photos:/new")
    assert alice.ask("ls", "-R", "photos:/") == "file\nnew\nnew/file\n"
    alice.ask("put", "-r", f"{tmp_path}/link", "photos:/new")
    assert "new/link -> folder" in alice.ask("ls", "-lR", "photos:/")


def test_what_cannot_be_copied_is_told_and_the_rest_is(alice, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("x")
    for number in range(12):
        os.mkfifo(tmp_path / "folder" / f"fifo{number:02}")
    alice.ask("create", "photos")
    done = alice.run("put", "-r", tmp_path / "folder", "photos:/")
    assert done.returncode == 3
    assert "fifo09 is neither file" in done.stderr
    assert "fifo10" not in done.stderr
    assert "2 more" in done.stderr
    assert len(json.loads(alice.run("--json", "put", "-r", tmp_path, "photos:/").stdout)) == 4
    assert alice.ask("ls", "photos:/folder") == "file\n"


def test_what_lies_too_deep_for_this_system_is_told_and_the_rest_is_copied(alice, tmp_path):
    async def fill():
        async with (
            corestore.open(alice.environment()["HYPERFS_STORE"]) as store,
            hyperfs.open(store, name="deep", create=True) as drive,
            drive.batch() as batch,
        ):
            deep = "/top" + f"/{'d' * 99}" * 60
            await batch.mkdir(deep, parents=True)
            for path in (f"{deep}/file", "/top/e/file", "/top/file"):
                await batch.write(path, b"bytes")

    trio.run(fill)
    done = alice.run("get", "-r", "deep:/top", tmp_path / "copy")
    assert done.returncode == 3
    assert "longer than this system allows" in done.stderr
    assert "1 could not be copied" in done.stderr
    for name in ("e/file", "file"):
        assert (tmp_path / "copy" / name).read_bytes() == b"bytes"
    # An absolute path of that length cannot be removed by one.
    subprocess.run(["rm", "-r", "copy"], cwd=tmp_path, check=True)


def test_a_program_that_is_not_installed_says_so(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert "not installed" in program_version()


def test_a_file_alone_fails_with_its_own_code(alice, tmp_path):
    (tmp_path / "file").write_text("x")
    alice.ask("create", "photos")
    alice.ask("put", tmp_path / "file", "photos:/")
    failed(alice.run("get", "photos:/file", tmp_path / "no" / "file"), 10, "mkdir", "/no")
    failed(alice.run("put", tmp_path / "missing", "photos:/"), 10, "missing")
    failed(alice.run("get", "photos:/missing", tmp_path), 10, "missing")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alice", "file", "run"]


def test_a_link_is_not_followed_by_cat(alice, tmp_path):
    (tmp_path / "link").symlink_to("file")
    alice.ask("create", "photos")
    alice.ask("put", tmp_path / "link", "photos:/")
    failed(alice.run("cat", "photos:/link"), 1, "link to file")


def test_a_removal_is_asked_for_and_only_of_what_is_there(alice):
    key = alice.ask("create", "photos").strip()
    failed(alice.run("drives", "remove", "nothing"), 10, "nothing")
    done = subprocess.run(
        alice.command("drives", "remove", "photos"),
        env=alice.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "--yes" in done.stderr
    assert key in alice.ask("drives")


def test_an_old_version_is_named_by_a_number_and_only_read(alice, tmp_path):
    (tmp_path / "file").write_text("old")
    alice.ask("create", "photos")
    alice.ask("put", tmp_path / "file", "photos:/")
    version = json.loads(alice.ask("--json", "log", "photos", "-n", "1"))["version"]
    (tmp_path / "file").write_text("newer")
    alice.ask("put", tmp_path / "file", "photos:/")
    assert alice.ask("cat", f"photos+{version}:/file") == "old"
    assert alice.ask("cat", "photos:/file") == "newer"
    failed(alice.run("rm", f"photos+{version}:/file"), 2, "cannot be changed")


def test_a_version_that_is_not_there_is_not_found(alice, tmp_path):
    (tmp_path / "file").write_text("x")
    key = alice.ask("create", "photos").strip()
    alice.ask("put", tmp_path / "file", "photos:/")
    assert alice.ask("ls", f"hyper://{key}/") == "file\n"
    failed(alice.run("ls", f"hyper://{key}+999/"), 10, "999")


@pytest.mark.parametrize("closed", ["0", "1", "2", "0,1,2"])
def test_closed_standard_files_do_no_harm(alice, closed):
    alice.ask("create", "photos")
    redirections = " ".join(f"{number}>&-" for number in closed.split(","))
    words = " ".join(alice.command("create", "other"))
    done = subprocess.run(
        ["sh", "-c", f"{words} {redirections}"],
        env=alice.environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert len(alice.ask("drives").splitlines()) == 2


def test_output_that_cannot_be_written_is_an_error(alice):
    alice.ask("create", "photos")
    words = " ".join(alice.command("drives"))
    done = subprocess.run(
        ["sh", "-c", f"{words} >/dev/full"],
        env=alice.environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("hyperfs: No space left on device; make room")


def test_files_go_in_and_come_out_as_they_were(alice, tmp_path):
    source = tmp_path / "source"
    sample_tree.make(source, large_bytes=2 << 20)
    alice.ask("create", "photos")
    alice.ask("put", "-r", source, "photos:/tree", seconds=TEST_SECONDS)
    alice.ask("get", "-r", "photos:/tree", tmp_path / "copy", seconds=TEST_SECONDS)
    assert sample_tree.differences(source, tmp_path / "copy") == []


def test_a_copy_of_many_files_makes_few_versions(alice, tmp_path):
    for number in range(500):
        (tmp_path / "many" / str(number % 10)).mkdir(parents=True, exist_ok=True)
        (tmp_path / "many" / str(number % 10) / str(number)).write_text(str(number))
    alice.ask("create", "photos")
    alice.ask("put", "-r", tmp_path / "many", "photos:/")
    assert len(alice.ask("log", "photos", "-n", "600").splitlines()) < 100
    assert len(alice.ask("ls", "-R", "photos:/many").splitlines()) > 500


def test_a_second_copy_skips_what_is_the_same(alice, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for number in range(5):
        (source / str(number)).write_text(str(number))
    alice.ask("create", "photos")
    alice.ask("put", "-r", source, "photos:/tree")
    (source / "3").write_text("other")
    done = json.loads(alice.ask("--json", "put", "-r", source, "photos:/tree"))
    # A folder that is there already means: into it.
    assert done["copied"] == 5
    done = json.loads(alice.ask("--json", "put", "-r", source, "photos:/tree"))
    assert (done["copied"], done["skipped"]) == (0, 5)
    (source / "3").write_text("third time")
    done = json.loads(alice.ask("--json", "put", "-r", source, "photos:/tree"))
    assert (done["copied"], done["skipped"]) == (1, 4)


def test_ls_cat_stat_and_rm(alice, tmp_path):
    name = "Grüße 漢字 \udcff"
    (tmp_path / "file").write_text("content\n")
    os.utime(tmp_path / "file", ns=(5, 1_234_567_890_123_456_789))
    alice.ask("create", "photos")
    alice.ask("put", tmp_path / "file", f"photos:/{name}")
    assert alice.ask("ls", "photos:/") == name + "\n"
    assert alice.ask("cat", f"photos:/{name}") == "content\n"
    found = json.loads(alice.ask("--json", "stat", f"photos:/{name}"))
    assert (found["type"], found["size"], found["mtime_ns"]) == (
        "file",
        8,
        1_234_567_890_123_456_789,
    )
    failed(alice.run("cat", "photos:/missing"), 10, "/missing")
    failed(alice.run("rm", "photos:/"), 2, "drives remove")
    alice.ask("rm", f"photos:/{name}")
    assert alice.ask("ls", "photos:/") == ""


def test_rm_of_a_folder_wants_to_be_recursive(alice, tmp_path):
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "deep" / "file").write_text("x")
    alice.ask("create", "photos")
    failed(alice.run("put", tmp_path / "folder", "photos:/"), 1, "-r")
    alice.ask("put", "-r", tmp_path / "folder", "photos:/")
    failed(alice.run("rm", "photos:/folder"), 1, "-r")
    before = len(alice.ask("log", "photos").splitlines())
    alice.ask("rm", "-r", "photos:/folder")
    assert alice.ask("ls", "photos:/") == ""
    # All of it went in one version.
    assert len(alice.ask("log", "photos").splitlines()) == before + 1


def test_a_busy_port_is_told(alice):
    key = alice.ask("create", "photos").strip()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        failed(alice.run("seed", key, "--listen", f":{port}"), 1, str(port), "in use")


def test_an_address_without_a_port_is_a_usage_error(alice):
    failed(alice.run("seed", SOMEBODYS_KEY, "--listen", "localhost"), 2, "HOST:PORT")


def test_a_store_that_is_a_file_is_told(alice):
    alice.store.write_text("not a folder")
    failed(alice.run("create", "photos"), 1, "folder")


def test_output_into_a_closed_pipe_is_no_error(alice, tmp_path):
    for number in range(200):
        (tmp_path / "many").mkdir(exist_ok=True)
        (tmp_path / "many" / f"{number:050}").touch()
    alice.ask("create", "photos")
    alice.ask("put", "-r", tmp_path / "many", "photos:/")
    done = os.popen(
        f"HYPERFS_STORE={alice.store} {alice.command('ls')[0]} ls photos:/many 2>&1 | head -1"
    )
    assert "Traceback" not in done.read()
    assert done.close() is None


@pytest.mark.parametrize("verb", ["", "mount", "drives", "put", "get", "ls", "seed", "status"])
def test_every_verb_explains_itself(alice, verb):
    text = alice.ask(*([verb] if verb else []), "--help")
    assert "Usage:" in text


def test_an_encrypted_drive_takes_its_link(alice, tmp_path):
    link = alice.ask("create", "--encrypted", "diary").strip()
    url, secret = link.split("#")
    key = url.removeprefix("hyper://")
    assert json.loads(alice.ask("--json", "drives"))["url"] == link
    assert link in alice.ask("drives")
    file = tmp_path / "page"
    file.write_bytes(b"dear diary")
    alice.ask("put", str(file), "diary:/")
    assert alice.ask("cat", f"{key}:/page") == "dear diary"
    failed(alice.run("ls", secret), 2, "secret of this store, not a key")
    wrong = f"{url}#{SOMEBODYS_KEY}"
    failed(alice.run("ls", wrong), 12, "copy the whole link again")


def test_an_encrypted_drive_is_seeded_by_its_key_and_read_by_its_link(tmp_path):
    """alice writes; bob holds it without being able to read it; carol reads, from bob alone."""
    with people(tmp_path, "alice", "bob", "carol") as (alice, bob, carol):
        link = alice.ask("create", "--encrypted", "diary").strip()
        key = link.split("#")[0]
        (tmp_path / "page").write_bytes(b"dear diary" * 10_000)
        alice.ask("put", str(tmp_path / "page"), "diary:/")
        with seeding(alice, "diary") as near:
            assert near["url"] == link
            peer = ("--peer", near["listening"][0])
            failed(carol.run("ls", key, *peer), 12, "encrypted: use its whole link")
            with seeding(bob, key, *peer) as held:
                assert held["url"] == key
                deadline = time.monotonic() + HANG_SECONDS
                while True:
                    running = map(json.loads, bob.ask("--json", "status").splitlines())
                    status = next(each for each in running if each["pid"] == held["pid"])
                    if 0 < status["blocks"] == status["blocks_stored"]:
                        break
                    assert time.monotonic() < deadline, status
        with seeding(bob, key) as held:
            peer = ("--peer", held["listening"][0])
            failed(bob.run("ls", key), 12, "encrypted: use its whole link")
            assert bob.ask("ls", link) == bob.ask("ls", key) == "page\n"
            assert carol.ask("cat", f"{link}:/page", *peer) == "dear diary" * 10_000
            assert carol.ask("ls", key, *peer) == "page\n"


@pytest.mark.parametrize("how", ["missing", "broken"])
def test_without_pyfuse3_a_mount_says_what_to_install_and_the_rest_works(
    alice, tmp_path, monkeypatch, how
):
    # In front of the installed one: none, or one whose library is gone.
    (tmp_path / "front").mkdir()
    error = {"missing": "ModuleNotFoundError", "broken": "ImportError"}[how]
    (tmp_path / "front" / "pyfuse3.py").write_text(f"raise {error}('libfuse3.so.3')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "front"))
    (tmp_path / "here").mkdir()
    (tmp_path / "file").write_text("x")
    alice.ask("create", "photos")
    for words in ((), ("--daemon",)):
        failed(alice.run("mount", "photos", tmp_path / "here", *words), 20, "apt install", "pip")
    alice.ask("put", tmp_path / "file", "photos:/")
    assert alice.ask("cat", "photos:/file") == "x"


def test_without_the_mount_helper_a_mount_says_what_to_install(alice, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    alice.ask("create", "photos")
    monkeypatch.setenv("PATH", str(tmp_path))
    failed(alice.run("mount", "photos", tmp_path / "here"), 20, "apt install fuse3")


def test_put_makes_the_folders_it_needs(alice, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("x")
    alice.ask("create", "photos")
    alice.ask("put", "-r", tmp_path / "folder", "photos:/a/b/")
    alice.ask("put", "-r", tmp_path / "folder", "photos:/c/d")
    alice.ask("put", tmp_path / "folder" / "file", "photos:/e/f/")
    names = alice.ask("ls", "-R", "photos:/").splitlines()
    assert {"a/b/folder/file", "c/d/file", "e/f/file"} <= set(names)


def test_a_damaged_store_is_told_and_nothing_is_done_to_it(alice):
    alice.ask("create", "photos")
    database = alice.store / "store.db"
    database.write_bytes(b"garbage")
    failed(alice.run("drives"), 1, "damaged", "--store")
    failed(alice.run("create", "other"), 1, "damaged")
    assert database.read_bytes() == b"garbage"


@pytest.mark.parametrize("by_whom", ["another process", "cat itself"])
def test_a_slow_cat_prints_one_version_of_a_file_that_is_replaced(alice, tmp_path, by_whom):
    sources = [tmp_path / "old", tmp_path / "new"]
    for number, source in enumerate(sources):
        source.write_bytes(random.Random(number).randbytes(9_000_000))
    alice.ask("create", "photos")
    alice.ask("put", sources[0], "photos:/file")
    with contextlib.ExitStack() as running:
        if by_whom == "another process":
            running.enter_context(seeding(alice, "photos"))
        slow = subprocess.Popen(
            alice.command("cat", "photos:/file"), env=alice.environment(), stdout=subprocess.PIPE
        )
        # A pipe holds 64 KiB, so the rest is not read yet.
        told = slow.stdout.read(100_000)
        alice.ask("put", sources[1], "photos:/file")
        assert alice.ask("stat", "photos:/file", "--json")
        told += slow.stdout.read()
        slow.stdout.close()
        assert slow.wait(HANG_SECONDS) == 0
    assert told == sources[0].read_bytes()
    alice.ask("get", "photos:/file", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == sources[1].read_bytes()


def test_cat_into_a_closed_pipe_is_no_error(alice, tmp_path):
    (tmp_path / "file").write_bytes(bytes(5_000_000))
    alice.ask("create", "photos")
    alice.ask("put", tmp_path / "file", "photos:/")
    words = " ".join(alice.command("cat", "photos:/file"))
    done = subprocess.run(
        ["bash", "-c", f"{words} | head -c 3; exit ${{PIPESTATUS[0]}}"],
        env=alice.environment(),
        capture_output=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, bytes(3), b"")


def interrupted(person, *words, after=0.0):
    """Run a command and press Ctrl-C once it has begun to work; its exit code and stderr."""
    with subprocess.Popen(
        person.command(*words),
        env=person.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        # It has the store open then.
        wait_until(lambda: "store.db" in opened(process.pid) or process.poll() is not None)
        time.sleep(after)
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=HANG_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return process.returncode, errors


def opened(pid):
    """The names of the files a process has open."""
    found = set()
    try:
        for link in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found.add(os.path.basename(os.readlink(link)))
    except OSError:
        pass
    return found


def test_an_interrupted_copy_ends_soon_and_leaves_nothing_half_made(alice, tmp_path):
    source = tmp_path / "large"
    with source.open("wb") as file:
        for _ in range(200):
            file.write(os.urandom(1 << 20))
    alice.ask("create", "photos")
    for after in (0.0, 0.02, 0.05, 0.1):
        assert interrupted(alice, "put", source, "photos:/", after=after) == (
            130,
            "hyperfs: interrupted\n",
        )
    assert alice.ask("ls", "photos:/") == ""
    alice.ask("put", source, "photos:/")
    (tmp_path / "copy").mkdir()
    code, _ = interrupted(alice, "get", "photos:/large", tmp_path / "copy")
    assert code == 130
    assert os.listdir(tmp_path / "copy") == []
