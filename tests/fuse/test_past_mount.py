"""The program: versions listed, and mounted by number and by date."""

from __future__ import annotations

import datetime
import json
import os

import pytest

from tests.support.limits import TEST_SECONDS
from tools.program import people

pytestmark = pytest.mark.fuse


@pytest.fixture
def person(tmp_path):
    """Somebody with a drive of three versions: empty, with one file, with that file changed."""
    with people(tmp_path, "alice", seconds=TEST_SECONDS) as (alice,):
        alice.ask("create", "notes")
        for text in ("first\n", "second, longer\n"):
            (tmp_path / "note").write_text(text)
            alice.ask("put", tmp_path / "note", "notes:/note")
        yield alice


def versions(person):
    return list(map(json.loads, person.ask("--json", "log", "notes").splitlines()))


def test_the_log_tells_what_each_version_changed(person):
    found = versions(person)
    assert [v["version"] for v in found] == sorted((v["version"] for v in found), reverse=True)
    assert [(v["added"], v["changed"], v["removed"]) for v in found] == [
        (0, 1, 0),
        (1, 0, 0),
        (None, None, None),
    ]
    assert [v["byte_length"] for v in found] == [15, 6, 0]
    lines = person.ask("log", "notes", "-n", "2").splitlines()
    assert [line.split()[0] for line in lines] == [str(v["version"]) for v in found[:2]]


def test_a_past_version_is_mounted_read_only(person, tmp_path):
    version = versions(person)[1]["version"]
    mount = person.mount("notes", tmp_path / "past", "--version", version)
    assert (mount.folder / "note").read_text() == "first\n"
    assert mount.ready["writable"] is False
    with pytest.raises(OSError, match="Read-only"):
        (mount.folder / "new").touch()
    # Others go on writing.
    (tmp_path / "note").write_text("third\n")
    person.ask("put", tmp_path / "note", "notes:/note")
    assert (mount.folder / "note").read_text() == "first\n"
    assert os.listdir(mount.folder) == ["note"]
    # What is not asked for a version is told of the newest.
    assert person.ask("cat", "notes:/note") == "third\n"
    assert person.ask("cat", f"notes+{version}:/note") == "first\n"


def test_a_date_mounts_the_version_of_that_time(person, tmp_path):
    newest = versions(person)[0]
    moment = datetime.datetime.fromtimestamp(newest["time_ns"] / 1e9 - 1e-4)
    mount = person.mount("notes", tmp_path / "past", "--at", moment.isoformat())
    assert (mount.folder / "note").read_text() == "first\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--version", "99"), "there is no version 99"),
        (("--at", "2000-01-01"), "as old as 2000-01-01"),
        (("--at", "yesterday"), "is no date"),
        (("--version", "2", "--at", "2026-01-01"), "name one version"),
    ],
)
def test_what_never_was_is_not_mounted(person, tmp_path, words, says):
    (tmp_path / "m").mkdir()
    done = person.run("mount", "notes", tmp_path / "m", *words)
    assert done.returncode
    assert says in done.stderr
