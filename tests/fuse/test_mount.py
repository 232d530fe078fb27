"""What programs do with files, on a real mount: kernel, pyfuse3, the adapter and the inode layer.

Each test runs over dictionaries, where only these are at work, and over a real drive.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
import socket
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.support.limits import MODULE_SECONDS
from tests.support.mounts import mounted

pytestmark = pytest.mark.fuse

PAGE = mmap.PAGESIZE


@pytest.fixture(params=["dictionaries", "drive"], scope="module")
def shared_mount(request):
    """One mount for the whole module: every test makes its own folder in it."""
    with tempfile.TemporaryDirectory(prefix="hyperfs-mount-") as name:
        # pytest's own folders let no other user in.
        os.chmod(name, 0o755)
        yield from _mount(Path(name), request.param)


def _mount(top, kind):
    store = top / "store" if kind == "drive" else None
    with mounted(
        top / "m", store=store, deadline=MODULE_SECONDS, allow_other=True, dev=True, suid=True
    ) as m:
        yield m


@pytest.fixture
def folder(shared_mount, request):
    path = shared_mount.path / request.node.name.partition("[")[0]
    path.mkdir()
    return path


def error_of(function, *arguments, **keywords):
    with pytest.raises(OSError) as caught:
        function(*arguments, **keywords)
    return caught.value.errno


# -- content -------------------------------------------------------------------------------------


def test_written_bytes_are_read_back(folder):
    data = random.Random(1).randbytes(3 * 1024 * 1024 + 17)
    (folder / "f").write_bytes(data)
    assert (folder / "f").read_bytes() == data
    assert (folder / "f").stat().st_size == len(data)


def test_random_writes_and_truncations_agree_with_bytes(folder):
    rng = random.Random(2)
    expected = bytearray()
    with open(folder / "f", "w+b", buffering=0) as file:
        for _ in range(400):
            action = rng.random()
            if action < 0.6:
                offset = rng.randrange(200_000)
                piece = rng.randbytes(rng.randrange(1, 20_000))
                if offset > len(expected):
                    expected.extend(bytes(offset - len(expected)))
                expected[offset : offset + len(piece)] = piece
                assert os.pwrite(file.fileno(), piece, offset) == len(piece)
            elif action < 0.75:
                size = rng.randrange(250_000)
                if size < len(expected):
                    del expected[size:]
                else:
                    expected.extend(bytes(size - len(expected)))
                os.ftruncate(file.fileno(), size)
            else:
                offset, length = rng.randrange(250_000), rng.randrange(50_000)
                found = os.pread(file.fileno(), length, offset)
                assert found == bytes(expected[offset : offset + length])
    assert (folder / "f").read_bytes() == bytes(expected)


def test_append_goes_to_the_end_from_every_descriptor(folder):
    with open(folder / "f", "ab", buffering=0) as a, open(folder / "f", "ab", buffering=0) as b:
        for i in range(50):
            a.write(b"a%02d" % i)
            b.write(b"b%02d" % i)
    assert (folder / "f").read_bytes() == b"".join(b"a%02db%02d" % (i, i) for i in range(50))


def test_open_truncates_and_exclusive_creation_refuses(folder):
    (folder / "f").write_bytes(b"long content")
    (folder / "f").write_bytes(b"x")
    assert (folder / "f").read_bytes() == b"x"
    assert error_of(os.open, folder / "f", os.O_CREAT | os.O_EXCL) == errno.EEXIST


def test_holes_read_as_zeros(folder):
    with open(folder / "f", "wb") as file:
        file.truncate(1 << 20)
        file.seek(5 << 20)
        file.write(b"end")
    data = (folder / "f").read_bytes()
    assert len(data) == (5 << 20) + 3
    assert not any(data[: 5 << 20])
    assert data[5 << 20 :] == b"end"
    os.truncate(folder / "f", 3)
    os.truncate(folder / "f", 10)
    assert (folder / "f").read_bytes() == bytes(10)


def test_shared_mapping_is_written_back(folder):
    (folder / "f").write_bytes(bytes(3 * PAGE))
    with open(folder / "f", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[PAGE : PAGE + 5] = b"hello"
        mapping.flush()
        assert os.pread(file.fileno(), 5, PAGE) == b"hello"
        os.pwrite(file.fileno(), b"world", 2 * PAGE)
        assert mapping[2 * PAGE : 2 * PAGE + 5] == b"world"
    assert (folder / "f").read_bytes()[PAGE : PAGE + 5] == b"hello"


def test_private_mapping_changes_nothing(folder):
    (folder / "f").write_bytes(b"original" + bytes(PAGE))
    private = {"flags": mmap.MAP_PRIVATE, "prot": mmap.PROT_READ | mmap.PROT_WRITE}
    with open(folder / "f", "rb") as file, mmap.mmap(file.fileno(), 0, **private) as mapping:
        mapping[:8] = b"changed!"
    assert (folder / "f").read_bytes()[:8] == b"original"


def test_fsync_of_files_and_directories_returns(folder):
    with open(folder / "f", "wb") as file:
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())
        os.fdatasync(file.fileno())
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def test_tools_fall_back_where_fuse_offers_nothing(folder):
    """No fallocate, seeking of holes, copy_file_range: what uses them copies or writes instead."""
    with open(folder / "f", "w+b") as file:
        os.posix_fallocate(file.fileno(), 0, 100_000)
        assert os.fstat(file.fileno()).st_size == 100_000
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 0
        with open(folder / "g", "wb") as other:
            assert os.copy_file_range(file.fileno(), other.fileno(), 50_000) == 50_000
    subprocess.run(["cp", "--reflink=auto", folder / "f", folder / "h"], check=True)
    assert (folder / "h").stat().st_size == 100_000


# -- names ---------------------------------------------------------------------------------------


def test_rename_replaces_at_once(folder):
    (folder / "a").write_bytes(b"new")
    (folder / "b").write_bytes(b"old")
    with open(folder / "b", "rb") as old:
        os.rename(folder / "a", folder / "b")
        assert old.read() == b"old"
    assert (folder / "b").read_bytes() == b"new"
    assert os.listdir(folder) == ["b"]


def test_rename_refuses_what_is_not_alike(folder):
    (folder / "d" / "e").mkdir(parents=True)
    (folder / "f").write_bytes(b"")
    (folder / "empty").mkdir()
    assert error_of(os.rename, folder / "f", folder / "d") == errno.EISDIR
    assert error_of(os.rename, folder / "d", folder / "f") == errno.ENOTDIR
    assert error_of(os.rename, folder / "empty", folder / "d") == errno.ENOTEMPTY
    assert error_of(os.rename, folder / "d", folder / "d" / "e" / "x") == errno.EINVAL
    assert error_of(os.rename, folder / "missing", folder / "x") == errno.ENOENT
    os.rename(folder / "d", folder / "empty")
    assert sorted(os.listdir(folder)) == ["empty", "f"]
    assert os.listdir(folder / "empty") == ["e"]


def renameat2(old, new, flags):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags):
        raise OSError(ctypes.get_errno(), "renameat2")


def test_rename_exchanges_and_does_not_replace_when_asked(folder):
    (folder / "a").write_bytes(b"a")
    (folder / "d").mkdir()
    (folder / "d" / "inside").write_bytes(b"")
    assert error_of(renameat2, folder / "a", folder / "d", 1) == errno.EEXIST
    renameat2(folder / "a", folder / "d", 2)
    assert (folder / "d").read_bytes() == b"a"
    assert os.listdir(folder / "a") == ["inside"]
    assert error_of(renameat2, folder / "a", folder / "none", 2) == errno.ENOENT
    renameat2(folder / "a", folder / "new", 1)
    assert os.listdir(folder / "new") == ["inside"]


def test_unlinked_file_lives_until_it_is_closed(folder):
    with open(folder / "f", "w+b") as file:
        file.write(b"still here")
        file.flush()
        os.unlink(folder / "f")
        assert not (folder / "f").exists()
        assert os.fstat(file.fileno()).st_nlink == 0
        assert os.pread(file.fileno(), 100, 0) == b"still here"
        os.pwrite(file.fileno(), b"more", 10)
        assert os.fstat(file.fileno()).st_size == 14
        (folder / "f").write_bytes(b"another")
        assert os.pread(file.fileno(), 100, 0) == b"still heremore"
    assert (folder / "f").read_bytes() == b"another"


def test_hard_links_are_one_file(folder):
    (folder / "d").mkdir()
    (folder / "a").write_bytes(b"one")
    os.link(folder / "a", folder / "d" / "b")
    assert (folder / "a").stat().st_ino == (folder / "d" / "b").stat().st_ino
    assert (folder / "a").stat().st_nlink == 2
    with open(folder / "d" / "b", "ab") as file:
        file.write(b" two")
    assert (folder / "a").read_bytes() == b"one two"
    os.chmod(folder / "a", 0o600)
    assert stat.S_IMODE((folder / "d" / "b").stat().st_mode) == 0o600
    os.rename(folder / "a", folder / "c")
    os.unlink(folder / "d" / "b")
    assert (folder / "c").stat().st_nlink == 1
    assert (folder / "c").read_bytes() == b"one two"
    os.rename(folder / "c", folder / "e")
    os.unlink(folder / "e")
    assert error_of(os.link, folder / "d", folder / "x") == errno.EPERM


def test_renaming_one_hard_link_over_the_other_does_nothing(folder):
    (folder / "a").write_bytes(b"x")
    os.link(folder / "a", folder / "b")
    os.rename(folder / "a", folder / "b")
    assert sorted(os.listdir(folder)) == ["a", "b"]


def test_directories_come_and_go(folder):
    deep = folder / "a" / "b" / "c"
    os.makedirs(deep)
    (deep / "f").write_bytes(b"")
    assert error_of(os.rmdir, deep) == errno.ENOTEMPTY
    assert error_of(os.rmdir, deep / "f") == errno.ENOTDIR
    assert error_of(os.unlink, deep) in (errno.EISDIR, errno.EPERM)
    os.unlink(deep / "f")
    os.removedirs(deep)
    assert not (folder / "a").exists()


def test_symbolic_links_keep_their_target(folder):
    os.symlink(b"some\xff/where " + b"x" * 1000, folder / "l")
    assert os.readlink(os.fsencode(folder / "l")) == b"some\xff/where " + b"x" * 1000
    assert os.lstat(folder / "l").st_size == 1012
    os.symlink("f", folder / "m")
    (folder / "f").write_bytes(b"target")
    assert (folder / "m").read_bytes() == b"target"


def test_any_bytes_are_names(folder):
    top = os.fsencode(folder)
    names = [b"caf\xc3\xa9 \xe2\x82\xac", b"\xff\xfe latin \xe9", b" ", b"-", b"n" * 255, b"\n"]
    for name in names:
        with open(os.path.join(top, name), "wb") as file:
            file.write(name)
    assert sorted(os.listdir(top)) == sorted(names)
    for name in names:
        with open(os.path.join(top, name), "rb") as file:
            assert file.read() == name


def test_too_long_names_are_refused(folder):
    long = folder / ("n" * 256)
    assert error_of(os.stat, long) == errno.ENAMETOOLONG
    assert error_of(os.open, long, os.O_CREAT) == errno.ENAMETOOLONG
    assert error_of(os.mkdir, long) == errno.ENAMETOOLONG
    assert error_of(os.symlink, "x", long) == errno.ENAMETOOLONG
    (folder / "f").write_bytes(b"")
    assert error_of(os.rename, folder / "f", long) == errno.ENAMETOOLONG
    assert error_of(os.link, folder / "f", long) == errno.ENAMETOOLONG
    assert error_of(os.symlink, "t" * 4096, folder / "l") == errno.ENAMETOOLONG


def test_a_missing_name_appears_when_it_is_made(folder):
    assert not (folder / "f").exists()
    (folder / "f").write_bytes(b"")
    assert (folder / "f").exists()
    os.unlink(folder / "f")
    assert not (folder / "f").exists()


def test_ten_thousand_entries_are_listed_once_each(folder):
    names = {f"file {i}" for i in range(10_000)}
    for name in names:
        os.close(os.open(folder / name, os.O_CREAT | os.O_WRONLY))
    found = os.listdir(folder)
    assert len(found) == 10_000
    assert set(found) == names
    with os.scandir(folder) as entries:
        assert sum(entry.stat().st_size for entry in entries) == 0


def test_listing_goes_on_while_entries_go(folder):
    for i in range(2000):
        os.close(os.open(folder / f"f{i:04}", os.O_CREAT | os.O_WRONLY))
    kept = set()
    with os.scandir(folder) as entries:
        for i, entry in enumerate(entries):
            if i % 2:
                os.unlink(entry.path)
            else:
                kept.add(entry.name)
    assert set(os.listdir(folder)) == kept
    subprocess.run(["rm", "-r", folder], check=True)
    assert not folder.exists()


def test_special_files_are_kept(folder):
    os.mkfifo(folder / "fifo")
    assert stat.S_ISFIFO((folder / "fifo").stat().st_mode)
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.open(folder, os.O_RDONLY)
        listening.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    assert stat.S_ISSOCK((folder / "socket").stat().st_mode)
    os.mknod(folder / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert (folder / "null").stat().st_rdev == os.makedev(1, 3)
    assert (folder / "null").read_bytes() == b""


# -- attributes ----------------------------------------------------------------------------------


def test_modes_owners_and_times_are_kept(folder):
    (folder / "f").write_bytes(b"x")
    os.chmod(folder / "f", 0o4751)
    assert stat.S_IMODE((folder / "f").stat().st_mode) == 0o4751
    os.chown(folder / "f", 1234, 4321)
    found = (folder / "f").stat()
    assert (found.st_uid, found.st_gid) == (1234, 4321)
    assert stat.S_IMODE(found.st_mode) == 0o751, "chown keeps no set-ID bits"
    os.utime(folder / "f", ns=(1_500_000_000_123_456_789, 1_400_000_000_987_654_321))
    found = (folder / "f").stat()
    assert (found.st_atime_ns, found.st_mtime_ns) == (
        1_500_000_000_123_456_789,
        1_400_000_000_987_654_321,
    )


def test_what_changes_a_file_moves_its_times(folder):
    path = folder / "f"
    path.write_bytes(b"x")
    os.utime(path, ns=(0, 0))
    os.utime(folder, ns=(0, 0))
    before = path.stat().st_ctime_ns
    path.write_bytes(b"y")
    assert path.stat().st_mtime_ns > before
    before = path.stat().st_ctime_ns
    os.chmod(path, 0o600)
    assert path.stat().st_ctime_ns > before
    assert folder.stat().st_mtime_ns == 0
    os.rename(path, folder / "g")
    assert folder.stat().st_mtime_ns > before


def test_writing_clears_set_id_bits_unless_root_writes(folder):
    path = folder / "f"
    path.write_bytes(b"x")
    os.chown(path, 65534, 65534)
    os.chmod(path, 0o6777)
    os.chmod(folder, 0o777)
    path.write_bytes(b"root")
    assert stat.S_IMODE(path.stat().st_mode) == 0o6777
    subprocess.run(["sh", "-c", 'echo hi >> "$0"', path], user=65534, group=65534, check=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777


def test_others_are_kept_out(folder):
    (folder / "secret").write_bytes(b"x")
    os.chmod(folder / "secret", 0o600)
    (folder / "closed").mkdir(mode=0o700)
    (folder / "sticky").mkdir()
    os.chmod(folder / "sticky", 0o1777)
    (folder / "sticky" / "mine").write_bytes(b"")
    os.chmod(folder, 0o755)

    def attempt(*command):
        return subprocess.run(command, user=65534, group=65534, capture_output=True).returncode

    assert attempt("cat", folder / "secret") != 0
    assert attempt("ls", folder / "closed") != 0
    assert attempt("touch", folder / "new") != 0
    assert attempt("rm", "-f", folder / "sticky" / "mine") != 0
    assert attempt("chmod", "777", folder / "secret") != 0
    assert attempt("touch", folder / "sticky" / "theirs") == 0
    assert attempt("rm", folder / "sticky" / "theirs") == 0


def test_set_group_id_directories_pass_their_group_on(folder):
    os.chown(folder, -1, 4321)
    os.chmod(folder, 0o2775)
    (folder / "f").write_bytes(b"")
    (folder / "d").mkdir()
    assert (folder / "f").stat().st_gid == 4321
    assert (folder / "d").stat().st_gid == 4321
    assert (folder / "d").stat().st_mode & stat.S_ISGID


def test_extended_attributes_are_kept(folder):
    path = folder / "f"
    path.write_bytes(b"x")
    os.setxattr(path, "user.a", b"one")
    os.setxattr(path, "user.b", bytes(range(256)))
    assert sorted(os.listxattr(path)) == ["user.a", "user.b"]
    assert os.getxattr(path, "user.b") == bytes(range(256))
    assert error_of(os.setxattr, path, "user.a", b"", os.XATTR_CREATE) == errno.EEXIST
    assert error_of(os.setxattr, path, "user.c", b"", os.XATTR_REPLACE) == errno.ENODATA
    assert error_of(os.getxattr, path, "user.c") == errno.ENODATA
    os.removexattr(path, "user.a")
    assert os.listxattr(path) == ["user.b"]
    assert error_of(os.removexattr, path, "user.a") == errno.ENODATA
    os.rename(path, folder / "g")
    assert os.listxattr(folder / "g") == ["user.b"]
    assert error_of(os.setxattr, folder / "g", "user.big", bytes(60_000)) == errno.ENOSPC


def test_statfs_tells_a_disk(folder):
    found = os.statvfs(folder)
    assert found.f_namemax == 255
    assert found.f_frsize >= 512
    assert 0 < found.f_bavail <= found.f_bfree <= found.f_blocks


def test_used_blocks_are_never_none_for_a_file_with_content(folder):
    with open(folder / "f", "wb") as file:
        file.truncate(1 << 20)
    assert (folder / "f").stat().st_blocks > 0
    subprocess.run(["tar", "-C", folder, "-cSf", folder / "t.tar", "f"], check=True)


def test_locks_work_between_processes(folder):
    (folder / "f").write_bytes(b"")
    lock = "import fcntl,sys; fcntl.{}(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    import fcntl
    import sys

    for call in ("flock", "lockf"):
        with open(folder / "f", "r+") as file:
            getattr(fcntl, call)(file, fcntl.LOCK_EX)
            other = [sys.executable, "-c", lock.format(call), folder / "f"]
            assert subprocess.run(other, capture_output=True, check=False).returncode != 0
        assert subprocess.run(other, check=False).returncode == 0
