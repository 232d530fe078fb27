"""What others change is seen, through kernel caches that are trusted for an hour."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
import time

import pytest

from tests.support.limits import HANG_SECONDS, MODULE_SECONDS
from tests.support.mounts import mounted

pytestmark = pytest.mark.fuse


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A writable mount, and the same drive mounted by key in another process from another store."""
    top = tmp_path_factory.mktemp("pair")
    with (
        mounted(top / "here", store=top / "a", deadline=MODULE_SECONDS) as here,
        mounted(
            top / "there", store=top / "b", key=here.key, peer=here.address, deadline=MODULE_SECONDS
        ) as there,
    ):
        yield here, there


@pytest.fixture
def folders(pair, request):
    """A new folder of the drive, as the writer and the reader see it."""
    here, there = pair
    name = request.node.name
    (here / name).mkdir()
    eventually(lambda: (there / name).is_dir())
    return here / name, there / name


def eventually(condition):
    """Wait until *condition* holds; an OSError counts as no."""
    deadline = time.monotonic() + HANG_SECONDS
    while True:
        with contextlib.suppress(OSError):
            if condition():
                return
        assert time.monotonic() < deadline, "the change was not seen"
        time.sleep(0.002)


def test_new_files_appear_where_their_absence_was_cached(folders):
    here, there = folders
    assert not (there / "f").exists()
    assert not (there / "d" / "g").exists()
    (here / "f").write_bytes(b"one")
    (here / "d").mkdir()
    (here / "d" / "g").write_bytes(b"two")
    eventually(lambda: (there / "f").read_bytes() == b"one")
    eventually(lambda: (there / "d" / "g").read_bytes() == b"two")
    assert sorted(os.listdir(there)) == ["d", "f"]


def test_changed_content_is_read_although_pages_were_cached(folders):
    here, there = folders
    (here / "f").write_bytes(b"a" * 10_000)
    eventually(lambda: (there / "f").read_bytes() == b"a" * 10_000)
    for content in (b"b" * 10_000, b"short", b"c" * 50_000, b""):
        (here / "f").write_bytes(content)
        eventually(lambda content=content: (there / "f").read_bytes() == content)
        assert (there / "f").stat().st_size == len(content)


def test_change_that_keeps_size_and_time_is_seen(folders):
    here, there = folders
    (here / "f").write_bytes(b"old!")
    os.utime(here / "f", ns=(10**18, 10**18))
    eventually(lambda: (there / "f").stat().st_mtime_ns == 10**18)
    assert (there / "f").read_bytes() == b"old!"
    (here / "f").write_bytes(b"new!")
    os.utime(here / "f", ns=(10**18, 10**18))
    eventually(lambda: (there / "f").read_bytes() == b"new!")


def test_open_files_and_mappings_move_on(folders):
    here, there = folders
    (here / "f").write_bytes(b"1" * mmap.PAGESIZE)
    eventually(lambda: (there / "f").stat().st_size == mmap.PAGESIZE)
    with (
        open(there / "f", "rb", buffering=0) as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping,
    ):
        assert mapping[0] == ord("1")
        (here / "f").write_bytes(b"2" * mmap.PAGESIZE)
        eventually(lambda: os.pread(file.fileno(), 1, 0) == b"2")
        eventually(lambda: mapping[0] == ord("2"))


def test_a_replaced_file_is_seen_by_name_and_kept_by_descriptor(folders):
    here, there = folders
    (here / "f").write_bytes(b"first")
    eventually(lambda: (there / "f").read_bytes() == b"first")
    with open(there / "f", "rb", buffering=0) as file:
        (here / "new").write_bytes(b"second")
        os.rename(here / "new", here / "f")
        eventually(lambda: (there / "f").read_bytes() == b"second")
        assert os.pread(file.fileno(), 10, 0) == b"first"
    assert os.listdir(there) == ["f"]


def test_renamed_and_removed_names_go(folders):
    here, there = folders
    (here / "d").mkdir()
    (here / "d" / "f").write_bytes(b"x")
    eventually(lambda: (there / "d" / "f").read_bytes() == b"x")
    ino = (there / "d").stat().st_ino
    os.rename(here / "d", here / "e")
    eventually(lambda: (there / "e" / "f").read_bytes() == b"x")
    assert not (there / "d").exists()
    assert (there / "e").stat().st_ino == ino
    os.unlink(here / "e" / "f")
    os.rmdir(here / "e")
    eventually(lambda: os.listdir(there) == [])
    eventually(lambda: not (there / "e").exists())


def test_attributes_links_and_kinds_follow(folders):
    here, there = folders
    (here / "f").write_bytes(b"x")
    os.symlink("f", here / "l")
    eventually(lambda: os.readlink(there / "l") == "f")
    assert stat.S_IMODE((there / "f").stat().st_mode) == 0o644
    os.chmod(here / "f", 0o4600)
    eventually(lambda: stat.S_IMODE((there / "f").stat().st_mode) == 0o4600)
    os.link(here / "f", here / "g")
    eventually(lambda: (there / "g").stat().st_nlink == 2)
    assert (there / "f").stat().st_ino == (there / "g").stat().st_ino
    eventually(lambda: (there / "f").stat().st_nlink == 2)
    os.setxattr(here / "f", "user.a", b"1")
    eventually(lambda: os.getxattr(there / "f", "user.a") == b"1")
    os.unlink(here / "l")
    (here / "l").mkdir()
    eventually(lambda: (there / "l").is_dir())
    os.unlink(here / "f")
    eventually(lambda: not (there / "f").exists())
    eventually(lambda: (there / "g").stat().st_nlink == 1)
    assert (there / "g").read_bytes() == b"x"


def test_more_changes_than_are_listed_one_by_one_are_seen(folders):
    here, there = folders
    for i in range(100):
        (here / f"f{i}").write_bytes(b"old")
    eventually(lambda: len(os.listdir(there)) == 100)
    assert all((there / f"f{i}").read_bytes() == b"old" for i in range(100))
    assert not (there / "many").exists()
    assert not (there / "f100").exists()
    (here / "many").mkdir()
    for i in range(6000):
        os.close(os.open(here / "many" / f"{i}", os.O_CREAT | os.O_WRONLY))
    for i in range(101):
        (here / f"f{i}").write_bytes(b"new")
    eventually(lambda: all((there / f"f{i}").read_bytes() == b"new" for i in range(101)))
    eventually(lambda: len(os.listdir(there / "many")) == 6000)


def test_a_working_directory_stays_one(folders):
    here, there = folders
    (here / "d").mkdir()
    eventually(lambda: (there / "d").is_dir())
    before = os.getcwd()
    os.chdir(there / "d")
    try:
        (here / "d" / "f").write_bytes(b"x")
        os.chmod(here / "d", 0o700)
        eventually(lambda: os.listdir(".") == ["f"])
        eventually(lambda: stat.S_IMODE(os.stat(".").st_mode) == 0o700)
        assert os.getcwd() == str(there / "d")
    finally:
        os.chdir(before)


def test_a_remote_mount_changes_nothing_and_shows_its_own_user(folders):
    here, there = folders
    (here / "f").write_bytes(b"x")
    os.chown(here / "f", 1234, 4321)
    eventually(lambda: (there / "f").exists())
    for change in (
        lambda: (there / "g").write_bytes(b""),
        lambda: os.unlink(there / "f"),
        lambda: os.chmod(there / "f", 0),
        lambda: os.open(there / "f", os.O_WRONLY),
    ):
        with pytest.raises(OSError) as caught:
            change()
        assert caught.value.errno == errno.EROFS
    assert ((there / "f").stat().st_uid, (there / "f").stat().st_gid) == (os.getuid(), os.getgid())


def test_changes_beside_the_mount_are_seen_on_it(pair):
    here, _ = pair
    assert not (here / "outside").exists()
    here.ask("write outside", path="/outside", text="one")
    eventually(lambda: (here / "outside").read_bytes() == b"one")
    with open(here / "outside", "rb", buffering=0) as file:
        assert file.read() == b"one"
        here.ask("write outside", path="/outside", text="three")
        eventually(lambda: (here / "outside").read_bytes() == b"three")


def test_a_read_without_peers_gives_up_and_what_is_here_still_reads(tmp_path, capfd):
    with mounted(tmp_path / "here", store=tmp_path / "a") as here:
        (here / "d").mkdir()
        for name in ("read", "unread"):
            (here / "d" / name).write_bytes(os.urandom(300_000))
        with mounted(
            tmp_path / "there",
            store=tmp_path / "b",
            key=here.key,
            peer=here.address,
            read_timeout=0.5,
        ) as there:
            eventually(lambda: (there / "d" / "unread").stat().st_size == 300_000)
            content = []
            eventually(lambda: content.append((there / "d" / "read").read_bytes()) is None)
            here.kill()
            for _ in range(3):
                with pytest.raises(OSError) as caught:
                    (there / "d" / "unread").read_bytes()
                assert caught.value.errno == errno.ETIMEDOUT
            assert [(there / "d" / "read").read_bytes()] == content
            assert sorted(os.listdir(there / "d")) == ["read", "unread"]
    assert "gave up" in capfd.readouterr().err


def test_changes_are_seen_soon(folders, capsys):
    """Not asserted but printed: the time from closing a file until a stat loop there sees it."""
    here, there = folders
    (here / "f").write_bytes(b"0")
    eventually(lambda: (there / "f").read_bytes() == b"0")
    times = []
    for i in range(1, 60):
        text = b"%d" % i
        (here / "f").write_bytes(text)
        begin = time.perf_counter()
        while (there / "f").read_bytes() != text:
            assert time.perf_counter() - begin < HANG_SECONDS
        times.append((time.perf_counter() - begin) * 1000)
    times.sort()
    with capsys.disabled():
        print(
            f"\nseen after {times[len(times) // 2]:.1f} ms (median), {times[-1]:.1f} ms (longest)"
        )
