"""The drive's past and state inside the mount, below `.hyperfs`."""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from hyperfs.vfs.history import MOST_VIEWS
from tests.support.limits import MODULE_SECONDS
from tests.support.mounts import mounted
from tools.program import wait_until

pytestmark = pytest.mark.fuse


@pytest.fixture(scope="module")
def pair():
    """A writer's mount and a reader's of the same drive."""
    with tempfile.TemporaryDirectory(prefix="hyperfs-history-") as name:
        top = Path(name)
        with (
            mounted(top / "mount", store=top / "store", deadline=MODULE_SECONDS) as writer,
            mounted(
                top / "reader",
                store=top / "reader-store",
                key=writer.key,
                peer=writer.address,
                deadline=MODULE_SECONDS,
            ) as reader,
        ):
            yield writer, reader


def committed(mount):
    """The version that has everything written so far."""
    return mount.ask("sync")["version"]


@pytest.fixture
def versions(pair, request):
    """A folder, and three versions of a file in it: numbers, and the time between each two."""
    writer, reader = pair
    folder = writer / request.node.name
    folder.mkdir()
    found = []
    for number in range(3):
        (folder / "file").write_text(f"text {number}\n" * (number + 1) * 1000)
        (folder / f"only {number}").touch()
        found.append(committed(writer))
        (folder / f"only {number}").unlink()
        committed(writer)
    reader.ask("wait version", version=committed(writer))
    return folder, found


def error_of(function, *arguments, **keywords):
    with pytest.raises(OSError) as caught:
        function(*arguments, **keywords)
    return caught.value.errno


@pytest.mark.parametrize("who", [0, 1])
def test_past_versions_are_there_as_they_were(pair, versions, who):
    folder, numbers = versions
    mount = pair[who]
    for number, version in enumerate(numbers):
        past = mount / ".hyperfs" / "versions" / str(version) / folder.name
        assert (past / "file").read_text() == f"text {number}\n" * (number + 1) * 1000
        assert sorted(os.listdir(past)) == ["file", f"only {number}"]
        assert (past / "file").stat().st_ino != (mount / folder.name / "file").stat().st_ino
    assert sorted(os.listdir(mount / folder.name)) == ["file"]


def test_all_of_a_version_can_be_walked_and_copied(pair, versions, tmp_path):
    folder, numbers = versions
    writer, _ = pair
    past = writer / ".hyperfs" / "versions" / str(numbers[1]) / folder.name
    subprocess.run(["cp", "-a", past, tmp_path / "copy"], check=True)
    assert (tmp_path / "copy" / "file").read_text() == "text 1\n" * 2000
    shutil.copy(past / "file", folder / "restored")
    assert (folder / "restored").read_text() == "text 1\n" * 2000


def test_numbers_between_versions_lead_to_the_one_before(pair, versions):
    writer, _ = pair
    folder, numbers = versions
    for number in range(2000):
        # More names than a root block holds.
        (folder / f"name {number:0200}").touch()
    path = writer / ".hyperfs" / "versions"
    links = [n for n in range(numbers[0], committed(writer)) if (path / str(n)).is_symlink()]
    assert links
    for number in links:
        assert int(os.readlink(path / str(number))) < number
        assert (path / str(number)).is_dir()


def test_dates_lead_to_the_version_of_that_time(pair, versions):
    writer, _ = pair
    _, numbers = versions
    at = writer / ".hyperfs" / "at"
    now = datetime.datetime.now()
    for text in (
        now.isoformat(),
        now.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z"),
        (now + datetime.timedelta(days=1)).date().isoformat(),
    ):
        newest = committed(writer)
        assert os.readlink(at / text) == f"../versions/{newest}"
    status = json.loads((writer / ".hyperfs" / "status.json").read_text())
    moment = datetime.datetime.fromtimestamp(status["time_ns"] / 1e9 - 0.001).isoformat()
    assert int(os.readlink(at / moment).rpartition("/")[2]) < status["version"]
    assert (at / now.isoformat() / "").is_dir()
    for text in ("2000-01-01", "yesterday", "2000-13-01"):
        assert error_of(os.readlink, at / text) == errno.ENOENT
    assert min(numbers) > 0


@pytest.mark.parametrize("name", ["0", "01", "x", "99999999", "-1", "1"])
def test_versions_that_never_were_are_missing(pair, name):
    path = pair[0] / ".hyperfs" / "versions" / name
    assert error_of(os.stat, path) == errno.ENOENT


def test_a_version_that_comes_later_is_found_then(pair):
    writer, _ = pair
    path = writer / ".hyperfs" / "versions"
    version = committed(writer)
    # Which number the next one will have depends on how many blocks it takes.
    later = [path / str(version + n) for n in range(1, 40)]
    assert not any(map(os.path.exists, later))
    (writer / "later").write_text("later\n")
    assert (path / str(committed(writer)) / "later").read_text() == "later\n"


def test_the_state_is_told_in_json(pair):
    committed(pair[0])
    for mount in pair:
        path = mount / ".hyperfs" / "status.json"
        status = json.loads(path.read_text())
        assert status["key"] == mount.key
        assert status["peers"] == 1
        assert status["writable"] == (mount is pair[0])
        # What an earlier test has written may be stored between the two.
        assert any(len(path.read_bytes()) == path.stat().st_size for _ in range(20))
        done = subprocess.run(["cat", path], check=True, capture_output=True)
        assert json.loads(done.stdout)["version"] == status["version"]


def test_it_is_not_listed_and_nothing_descends(pair, versions, tmp_path):
    writer, _ = pair
    assert (writer / ".hyperfs" / "versions").is_dir()
    assert ".hyperfs" not in os.listdir(writer.path)
    found = subprocess.run(["find", writer.path], check=True, capture_output=True, text=True)
    assert ".hyperfs" not in found.stdout
    subprocess.run(["rsync", "-aX", f"{writer.path}/", tmp_path / "copy"], check=True)
    assert ".hyperfs" not in os.listdir(tmp_path / "copy")


def test_it_lists_what_it_has(pair, versions):
    writer, _ = pair
    top = writer / ".hyperfs"
    assert sorted(os.listdir(top)) == ["at", "status.json", "versions"]
    assert os.listdir(top / "at") == []
    listed = [int(name) for name in os.listdir(top / "versions")]
    assert listed == sorted(listed, reverse=True)
    assert len(listed) <= MOST_VIEWS
    assert listed[0] == committed(writer)
    assert all((top / "versions" / str(number)).is_dir() for number in listed)


def test_nothing_in_it_can_be_changed(pair, versions):
    folder, numbers = versions
    writer, _ = pair
    past = writer / ".hyperfs" / "versions" / str(numbers[0])
    file = past / folder.name / "file"
    live = folder / "live"
    live.write_text("live\n")
    attempts = [
        (os.mkdir, past / "d"),
        (os.unlink, file),
        (os.rmdir, past / folder.name),
        (os.symlink, "x", past / "l"),
        (os.rename, file, past / "other"),
        (os.chmod, file, 0o600),
        (os.truncate, file, 0),
        (os.utime, file),
        (os.setxattr, file, "user.x", b""),
        (os.link, file, past / "h"),
        (os.open, past / "new", os.O_CREAT | os.O_WRONLY),
        (os.open, file, os.O_WRONLY),
        (os.mkdir, writer / ".hyperfs" / "d"),
        (os.unlink, writer / ".hyperfs" / "status.json"),
        (os.open, writer / ".hyperfs" / "status.json", os.O_WRONLY),
    ]
    for attempt in attempts:
        assert error_of(*attempt) in (errno.EROFS, errno.EACCES), attempt
    assert error_of(os.rename, file, folder / "here") == errno.EXDEV
    assert error_of(os.rename, live, past / "there") == errno.EXDEV
    assert error_of(os.link, file, folder / "here") == errno.EXDEV
    assert error_of(os.mkdir, writer / ".hyperfs") == errno.EEXIST
    (writer / "moved").mkdir()
    assert error_of(os.rename, writer / "moved", writer / ".hyperfs") == errno.EBUSY
    (writer / "moved").rmdir()


def test_views_are_given_back_to_make_room(pair):
    writer, _ = pair
    numbers = []
    for number in range(3 * MOST_VIEWS):
        (writer / "many").write_text(f"{number}\n")
        numbers.append(committed(writer))
    with contextlib.ExitStack() as stack:
        path = writer / ".hyperfs" / "versions"
        kept = stack.enter_context((path / str(numbers[0]) / "many").open())
        for turn in range(2):
            for number, version in enumerate(numbers):
                assert (path / str(version) / "many").read_text() == f"{number}\n", turn
        assert kept.read() == "0\n"
    # The kernel gives back what it is told to, when it comes to it.
    wait_until(lambda: writer.ask("views")["views"] <= MOST_VIEWS + 8)
    assert writer.ask("views")["views"] >= MOST_VIEWS


def test_attributes_tell_of_the_file_and_the_drive(pair):
    writer, reader = pair
    (writer / "large").write_bytes(os.urandom(1 << 20))
    os.setxattr(writer / "large", "user.mine", b"1")
    version = committed(writer)
    reader.ask("wait version", version=version)
    for mount in pair:
        path = mount / "large"
        assert os.getxattr(path, "user.hyperfs.key").decode() == mount.key
        assert int(os.getxattr(path, "user.hyperfs.version")) >= version
        assert os.getxattr(path, "user.hyperfs.peers") == b"1"
        assert os.listxattr(path) == ["user.mine"]
        assert error_of(os.getxattr, path, "user.hyperfs.nonsense") == errno.ENODATA
    assert os.getxattr(writer / "large", "user.hyperfs.cached") == b"%d" % (1 << 20)
    assert os.getxattr(reader / "large", "user.hyperfs.cached") == b"0"
    with (reader / "large").open("rb", buffering=0) as file:
        file.read(4096)
    assert int(os.getxattr(reader / "large", "user.hyperfs.cached")) >= 4096
    (reader / "large").read_bytes()
    assert os.getxattr(reader / "large", "user.hyperfs.cached") == b"%d" % (1 << 20)
    assert error_of(os.setxattr, writer / "large", "user.hyperfs.key", b"") == errno.EPERM
    past = writer / ".hyperfs" / "versions" / str(version) / "large"
    assert os.getxattr(past, "user.hyperfs.version") == b"%d" % version
    assert os.getxattr(past, "user.mine") == b"1"


def test_a_copy_takes_none_of_the_computed_attributes(pair, tmp_path):
    writer, _ = pair
    (writer / "copied").write_text("x")
    os.setxattr(writer / "copied", "user.mine", b"1")
    subprocess.run(["cp", "-a", writer / "copied", tmp_path / "copy"], check=True)
    subprocess.run(["rsync", "-aX", writer / "copied", tmp_path / "rsynced"], check=True)
    for name in ("copy", "rsynced"):
        assert os.listxattr(tmp_path / name) == ["user.mine"]
