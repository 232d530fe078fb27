"""What people work with, on a real mount of a real drive; and what a reader then sees of it.

The programs are installed by tools/setup --test. One that is missing fails its tests.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.limits import MODULE_SECONDS, TEST_SECONDS
from tests.support.mounts import mounted
from tools import sample_tree

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

TREE_NAMES = 300


class Place:
    """A writer's mount, a reader's mount of the same drive, and the disk beside them."""

    def __init__(self, writer, reader, disk) -> None:
        self.writer = writer
        self.reader = reader
        self.disk = disk

    def folder(self, name):
        path = self.writer.path / name
        path.mkdir()
        return path

    def seen(self, path):
        """Where the reader sees *path* of the writer, as it is now."""
        version = self.writer.ask("sync")["version"]
        self.reader.ask("wait version", version=version)
        return self.reader.path / path.relative_to(self.writer.path)

    def assert_seen(self, path):
        """The reader sees all below *path*; where that is."""
        other = self.seen(path)
        assert sample_tree.differences(path, other) == []
        return other


@pytest.fixture(scope="module")
def place():
    with tempfile.TemporaryDirectory(prefix="hyperfs-programs-") as name:
        top = Path(name)
        disk = top / "disk"
        disk.mkdir()
        options = {"deadline": MODULE_SECONDS, "suid": True}
        with (
            mounted(top / "mount", store=top / "store", **options) as writer,
            mounted(
                top / "reader",
                store=top / "reader-store",
                key=writer.key,
                peer=writer.address,
                deadline=MODULE_SECONDS,
            ) as reader,
        ):
            yield Place(writer, reader, disk)


@pytest.fixture(scope="module")
def sample(place):
    """A tree of real and odd files, on the disk."""
    path = place.disk / "sample"
    sample_tree.make(path, large_bytes=4 << 20, real_names=TREE_NAMES)
    return path


def run(*words, cwd, text="", environment=None):
    """Run a program; what it printed. One that complains fails the test."""
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        input=text,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        env={**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})},
        check=False,
        timeout=TEST_SECONDS,
    )
    assert done.returncode == 0, f"{words}: {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


# -- editors -------------------------------------------------------------------------------------


def vim(folder, name, *, script, settings):
    program = shutil.which("vim") or shutil.which("vim.tiny")
    assert program, "vim is not installed: tools/setup --test"
    # In folders for temporary files vim makes no backups unless it is told to.
    lines = [f"set directory=. backupdir=. backupext=.bak backupskip= {settings}", *script]
    run(program, "-e", "-s", "-u", "NONE", "-N", name, cwd=folder, text="\n".join(lines) + "\n")


APPEND = ["$", "a", "hello from vim", "."]


@pytest.mark.parametrize("copy", ["no", "yes"])
def test_vim_writes_with_a_swap_file_and_a_backup(place, copy):
    """`backupcopy` says whether the backup is the old file renamed, or a copy."""
    folder = place.folder(f"vim-{copy}")
    (folder / "text").write_text("first line\n")
    (folder / "text").chmod(0o640)
    vim(
        folder,
        "text",
        settings=f"swapfile backup backupcopy={copy}",
        script=[*APPEND, "preserve", "!ls -A > during", "wq"],
    )
    assert (folder / "text").read_text() == "first line\nhello from vim\n"
    assert (folder / "text.bak").read_text() == "first line\n"
    assert (folder / "text").stat().st_mode & 0o777 == 0o640
    during = set((folder / "during").read_text().split())
    assert during == {".text.swp", "during", "text"}
    assert set(os.listdir(folder)) == {"during", "text", "text.bak"}
    place.assert_seen(folder)


def test_vim_recovers_from_a_swap_file(place):
    folder = place.folder("vim-recover")
    (folder / "text").write_text("first line\n")
    vim(
        folder,
        "text",
        settings="swapfile",
        script=[*APPEND, "preserve", "!cp .text.swp kept", "q!"],
    )
    (folder / "kept").rename(folder / ".text.swp")
    program = shutil.which("vim") or shutil.which("vim.tiny")
    run(program, "-e", "-s", "-u", "NONE", "-N", "-r", "text", cwd=folder, text="wq! saved\n")
    assert (folder / "saved").read_text() == "first line\nhello from vim\n"


# -- git -----------------------------------------------------------------------------------------

GIT = {
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
}


def git(folder, *words):
    return run("git", *words, cwd=folder, environment=GIT)


def test_git_works_from_init_to_gc(place, sample):
    folder = place.folder("git")
    work = folder / "work"
    git(folder, "init", "-q", "-b", "main", "work")
    shutil.copytree(sample / "real", work / "files", symlinks=True)
    git(work, "add", ".")
    git(work, "commit", "-qm", "all of it")
    assert git(work, "status", "--porcelain") == ""
    for number in range(10):
        (work / "log").write_text(f"{number}\n" * number)
        git(work, "add", "log")
        git(work, "commit", "-qm", f"number {number}")
    git(work, "switch", "-qc", "other", "HEAD~5")
    (work / "other").write_text("of the other branch\n")
    git(work, "add", "other")
    git(work, "commit", "-qm", "other")
    git(work, "switch", "-q", "main")
    git(work, "merge", "-q", "--no-edit", "other")
    git(work, "gc", "-q", "--aggressive", "--prune=now")
    git(work, "fsck", "--full", "--strict")
    assert git(work, "status", "--porcelain") == ""
    git(folder, "clone", "-q", "--no-hardlinks", "work", "copy")
    git(folder, "clone", "-q", "work", "linked")
    for name in ("copy", "linked"):
        git(folder / name, "fsck", "--full")
        assert git(folder / name, "status", "--porcelain") == ""
        assert git(folder / name, "rev-parse", "HEAD") == git(work, "rev-parse", "HEAD")
    other = place.assert_seen(folder)
    git(other / "work", "fsck", "--full")
    assert git(other / "work", "status", "--porcelain") == ""
    git(place.disk, "clone", "-q", str(other / "work"), "from-reader")
    assert git(place.disk / "from-reader", "rev-parse", "HEAD") == git(work, "rev-parse", "HEAD")


# -- databases -----------------------------------------------------------------------------------

SQL = """
create table words (id integer primary key, word text unique, number integer);
create index numbers on words (number);
begin;
with recursive n (i) as (select 1 union all select i + 1 from n where i < 20000)
    insert into words select i, 'word ' || i, i % 97 from n;
commit;
update words set number = number + 1 where id % 3 = 0;
delete from words where id % 10 = 0;
vacuum;
"""
SQL_SUM = "select count(*), sum(number), max(word) from words;"


@pytest.mark.parametrize("journal", ["delete", "truncate", "persist", "wal"])
def test_sqlite_keeps_its_database_whole(place, journal):
    folder = place.folder(f"sqlite-{journal}")
    told = run("sqlite3", "db", cwd=folder, text=f"pragma journal_mode={journal};\n{SQL}")
    assert told.split() == [journal]
    for number in range(30):
        run("sqlite3", "db", f"insert into words values (null, 'w{number}', 1)", cwd=folder)
    assert run("sqlite3", "db", "pragma integrity_check", cwd=folder) == "ok\n"
    expected = run("sqlite3", "db", SQL_SUM, cwd=folder)
    assert expected.startswith("18030|")
    other = place.assert_seen(folder)
    # Read-only file systems have no place for a log's index; nobody writes to this one.
    database = sqlite3.connect(f"file:{other / 'db'}?mode=ro&immutable=1", uri=True)
    try:
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
        assert "|".join(map(str, database.execute(SQL_SUM).fetchone())) + "\n" == expected
    finally:
        database.close()


WRITE_ROWS = """
import sqlite3, sys
database = sqlite3.connect("db", timeout=400, isolation_level=None)
for number in range(100):
    database.execute("begin immediate")
    found = database.execute("select value from counter").fetchone()[0]
    database.execute("update counter set value = ?", (found + 1,))
    database.execute("commit")
"""


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_sqlite_writers_take_turns(place, journal):
    """fcntl locks, and with WAL a shared mapping, between processes of this machine."""
    folder = place.folder(f"sqlite-turns-{journal}")
    text = f"pragma journal_mode={journal};\ncreate table counter (value integer);\n"
    run("sqlite3", "db", cwd=folder, text=text + "insert into counter values (0);\n")
    writers = [subprocess.Popen([sys.executable, "-c", WRITE_ROWS], cwd=folder) for _ in range(3)]
    assert [writer.wait(TEST_SECONDS) for writer in writers] == [0, 0, 0]
    told = run("sqlite3", "db", "select value from counter; pragma integrity_check", cwd=folder)
    assert told == "300\nok\n"


# -- copying -------------------------------------------------------------------------------------


def test_rsync_copies_nothing_the_second_time(place, sample):
    folder = place.folder("rsync")
    rsync = ["rsync", "-aHX", "--itemize-changes"]
    assert run(*rsync, f"{sample}/", "copy/", cwd=folder) != ""
    assert run(*rsync, f"{sample}/", "copy/", cwd=folder) == ""
    assert run(*rsync, "--checksum", f"{sample}/", "copy/", cwd=folder) == ""
    assert run(*rsync, "copy/", place.disk / "rsynced/", cwd=folder) != ""
    assert run(*rsync, "copy/", place.disk / "rsynced/", cwd=folder) == ""
    other = place.assert_seen(folder)
    assert run(*rsync, "copy/", place.disk / "rsynced/", cwd=other) == ""


def test_rsync_changes_files_where_they_are(place, sample):
    folder = place.folder("rsync-inplace")
    source = place.disk / "changing"
    shutil.copy(sample / "large.bin", source)
    rsync = ["rsync", "-aI", "--inplace", "--no-whole-file", "--stats", source, "large.bin"]
    run(*rsync, cwd=folder)
    with source.open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"changed")
    told = run(*rsync, cwd=folder)
    literal = next(line for line in told.splitlines() if line.startswith("Literal data"))
    assert int(literal.split()[2].replace(",", "")) < 100_000
    assert (folder / "large.bin").read_bytes() == source.read_bytes()
    place.assert_seen(folder)


def test_tar_unpacks_and_packs_everything(place, sample):
    folder = place.folder("tar")
    archive = place.disk / "sample.tar"
    run("tar", "--format=pax", "-cSf", archive, "sample", cwd=place.disk)
    run("tar", "-xpf", archive, cwd=folder)
    assert sample_tree.differences(sample, folder / "sample") == []
    run("tar", "--compare", "-f", archive, cwd=folder)
    run("tar", "--format=pax", "-czSf", "packed.tar.gz", "sample", cwd=folder)
    back = place.disk / "unpacked"
    back.mkdir()
    run("tar", "-xzpf", folder / "packed.tar.gz", cwd=back)
    assert sample_tree.differences(sample, back / "sample") == []
    other = place.assert_seen(folder)
    run("tar", "--no-same-owner", "-cSf", place.disk / "remote.tar", "sample", cwd=other)
    run("tar", "--compare", "-f", place.disk / "remote.tar", cwd=place.disk)


def test_cp_keeps_links_times_and_attributes(place, sample):
    folder = place.folder("cp")
    run("cp", "-a", sample, "copy", cwd=folder)
    assert sample_tree.differences(sample, folder / "copy") == []
    (folder / "copy" / "one").write_text("two names\n")
    os.link(folder / "copy" / "one", folder / "copy" / "two")
    os.setxattr(folder / "copy" / "one", "user.colour", b"green")
    run("cp", "-a", "copy", "again", cwd=folder)
    assert sample_tree.differences(folder / "copy", folder / "again") == []
    one, two = (folder / "again" / "one").stat(), (folder / "again" / "two").stat()
    assert (one.st_ino, one.st_nlink) == (two.st_ino, 2)
    assert os.getxattr(folder / "again" / "two", "user.colour") == b"green"
    other = place.assert_seen(folder)
    assert (other / "again" / "one").stat().st_ino == (other / "again" / "two").stat().st_ino
    assert os.getxattr(other / "again" / "two", "user.colour") == b"green"
    run("cp", "-a", other / "again", place.disk / "copied", cwd=folder)
    assert sample_tree.differences(folder / "again", place.disk / "copied") == []
    assert os.getxattr(place.disk / "copied" / "two", "user.colour") == b"green"


def test_mv_moves_trees_in_across_and_out(place, sample):
    folder = place.folder("mv")
    shutil.copytree(sample, place.disk / "to-move", symlinks=True)
    run("mv", place.disk / "to-move", "in", cwd=folder)
    assert sample_tree.differences(sample, folder / "in") == []
    assert not (place.disk / "to-move").exists()
    (folder / "below").mkdir()
    number = (folder / "in").stat().st_ino
    run("mv", "in", "below/moved", cwd=folder)
    assert (folder / "below" / "moved").stat().st_ino == number
    (folder / "old").write_text("old\n")
    (folder / "new").write_text("new\n")
    run("mv", "-f", "new", "old", cwd=folder)
    assert (folder / "old").read_text() == "new\n"
    place.assert_seen(folder)
    run("mv", "below/moved", place.disk / "moved-out", cwd=folder)
    assert sample_tree.differences(sample, place.disk / "moved-out") == []
    assert os.listdir(folder / "below") == []
    place.assert_seen(folder)


def test_dd_writes_any_block_anywhere(place):
    folder = place.folder("dd")
    source = place.disk / "random"
    source.write_bytes(os.urandom(3 << 20))
    run("dd", f"if={source}", "of=copy", "bs=64k", "conv=fsync", cwd=folder)
    assert (folder / "copy").read_bytes() == source.read_bytes()
    run("dd", f"if={source}", "of=direct", "bs=1M", "oflag=direct", cwd=folder)
    run("dd", "if=direct", "of=again", "bs=4k", "iflag=direct", cwd=folder)
    assert (folder / "again").read_bytes() == source.read_bytes()
    run("dd", "if=copy", "of=part", "bs=1000", "skip=7", "seek=3", "count=50", cwd=folder)
    data = source.read_bytes()
    assert (folder / "part").read_bytes() == bytes(3000) + data[7000:57_000]
    run("dd", "if=copy", "of=again", "bs=512", "seek=5", "count=1", "conv=notrunc", cwd=folder)
    assert (folder / "again").read_bytes() == data[:2560] + data[:512] + data[3072:]
    run("dd", "if=/dev/null", "of=hole", "bs=1M", "seek=1024", cwd=folder)
    assert (folder / "hole").stat().st_size == 1 << 30
    place.assert_seen(folder)


def test_find_and_sha256sum_agree_with_the_reader(place, sample):
    folder = place.folder("find")
    run("cp", "-a", f"{sample}/.", ".", cwd=folder)
    listing = ["find", ".", "-printf", r"%p %y %m %s %T@ %n %l\0"]
    here = sorted(run(*listing, cwd=folder).split("\0"))
    # Of directories the size and the number of links are each file system's own business.
    files = [*listing[:2], "!", "-type", "d", *listing[2:]]
    there = sorted(run(*files, cwd=sample).split("\0"))
    assert sorted(run(*files, cwd=folder).split("\0")) == there
    sums = run("sh", "-c", "find . -type f -print0 | xargs -0 sha256sum", cwd=folder)
    (place.disk / "sums").write_text(sums, errors="surrogateescape")
    other = place.seen(folder)
    assert sorted(run(*listing, cwd=other).split("\0")) == here
    run("sha256sum", "--quiet", "--strict", "-c", place.disk / "sums", cwd=other)
    run("sha256sum", "--quiet", "--strict", "-c", place.disk / "sums", cwd=sample)
    assert run("find", ".", "-newer", "odd/dated 3", "-type", "f", cwd=folder) == ""
    run("find", ".", "-name", "size *", "-delete", cwd=folder)
    assert run("find", ".", "-name", "size *", cwd=folder) == ""
    place.assert_seen(folder)


# -- building and running --------------------------------------------------------------------------

GREET_C = """
#include <stdio.h>
void greet(const char *name) { printf("hello %s\\n", name); }
"""
MAIN_C = """
#include <greet.h>
int main(int argc, char **argv) { greet(argc > 1 ? argv[1] : "nobody"); return 0; }
"""


def test_gcc_builds_programs_that_run(place):
    folder = place.folder("gcc")
    (folder / "include").mkdir()
    (folder / "include" / "greet.h").write_text("void greet(const char *name);\n")
    (folder / "greet.c").write_text(GREET_C)
    (folder / "main.c").write_text(MAIN_C)
    environment = {"TMPDIR": str(folder)}
    flags = ["-O2", "-g", "-pipe", "-Iinclude"]
    for name in ("greet", "main"):
        run("gcc", *flags, "-c", f"{name}.c", cwd=folder, environment=environment)
    run("ar", "rcs", "libgreet.a", "greet.o", cwd=folder)
    run("gcc", "-o", "static", "main.o", "-L.", "-lgreet", cwd=folder, environment=environment)
    run("gcc", *flags, "-shared", "-fPIC", "-o", "libshared.so", "greet.c", cwd=folder)
    run("gcc", *flags, "-o", "dynamic", "main.c", "libshared.so", "-Wl,-rpath,$ORIGIN", cwd=folder)
    assert run("./static", "you", cwd=folder) == "hello you\n"
    assert run("./dynamic", "you", cwd=folder) == "hello you\n"
    other = place.assert_seen(folder)
    assert run(other / "static", "reader", cwd=place.disk) == "hello reader\n"
    assert run(other / "dynamic", "reader", cwd=place.disk) == "hello reader\n"


BACKEND = '''
"""The smallest build backend, so that nothing is downloaded."""
import os
import zipfile

INFO = "greeting-1.0.dist-info"


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    name = "greeting-1.0-py3-none-any.whl"
    files = {
        f"{INFO}/METADATA": "Metadata-Version: 2.1\\nName: greeting\\nVersion: 1.0\\n",
        f"{INFO}/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        f"{INFO}/entry_points.txt": "[console_scripts]\\ngreet = greeting:main\\n",
    }
    with open("greeting.py") as source:
        files["greeting.py"] = source.read()
    record = "".join(f"{file},,\\n" for file in [*files, f"{INFO}/RECORD"])
    with zipfile.ZipFile(os.path.join(wheel_directory, name), "w") as wheel:
        for file, text in {**files, f"{INFO}/RECORD": record}.items():
            wheel.writestr(file, text)
    return name
'''
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
GREETING = """
def main():
    print("hello from", __file__)
"""


def test_python_makes_a_venv_and_pip_installs_into_it(place):
    folder = place.folder("python")
    package = folder / "package"
    package.mkdir()
    (package / "backend.py").write_text(BACKEND)
    (package / "pyproject.toml").write_text(PYPROJECT)
    (package / "greeting.py").write_text(GREETING)
    environment = {"TMPDIR": str(folder), "PIP_CACHE_DIR": str(folder / "cache")}
    run(sys.executable, "-m", "venv", "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "install", "--no-index", "./package", cwd=folder, environment=environment)
    run(*pip, "check", cwd=folder)
    told = run(folder / "venv" / "bin" / "greet", cwd=place.disk)
    assert told.startswith(f"hello from {folder}/venv/lib/")
    other = place.assert_seen(folder)
    packages = next((other / "venv" / "lib").iterdir()) / "site-packages"
    greet = [sys.executable, "-c", "import greeting; greeting.main()"]
    told = run(*greet, cwd=place.disk, environment={"PYTHONPATH": str(packages)})
    assert told.startswith(f"hello from {other}/venv/lib/")
    run(*pip, "uninstall", "-y", "greeting", cwd=folder)
    assert not list(folder.glob("venv/lib/*/site-packages/greeting*"))


MAPPING = """
import mmap, os, sys
size = 40 * mmap.PAGESIZE
with open("mapped", "w+b") as file:
    file.truncate(size)
    shared = mmap.mmap(file.fileno(), size)
    private = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
    for page in range(40):
        shared[page * mmap.PAGESIZE] = page
        assert private[page * mmap.PAGESIZE] == page
    private[0:4] = b"mine"
    assert shared[0:4] == bytes(4)
    pid = os.fork()
    if not pid:
        shared[100:105] = b"child"
        private[100:105] = b"never"
        os._exit(0)
    os.waitpid(pid, 0)
    assert shared[100:105] == b"child" and private[100:105] == bytes(5)
    os.pwrite(file.fileno(), b"written", 5000)
    assert shared[5000:5007] == private[5000:5007] == b"written"
    shared[6000:6006] = b"mapped"
    assert os.pread(file.fileno(), 6, 6000) == b"mapped"
    shared.flush()
    os.fsync(file.fileno())
    # What is changed after this is written back when the mapping goes.
    shared[7000:7004] = b"late"
    del shared
"""


def test_mappings_shared_and_private_are_what_they_say(place):
    folder = place.folder("mmap")
    run(sys.executable, "-c", MAPPING, cwd=folder)
    expected = bytearray(40 * 4096)
    expected[::4096] = bytes(range(40))
    for offset, data in ((100, b"child"), (5000, b"written"), (6000, b"mapped"), (7000, b"late")):
        expected[offset : offset + len(data)] = data
    assert (folder / "mapped").read_bytes() == bytes(expected)
    other = place.assert_seen(folder)
    assert (other / "mapped").read_bytes() == bytes(expected)
