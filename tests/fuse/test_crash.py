"""kill -9 of the mount under load: what was fsynced is there, and the rest is an earlier state."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import subprocess
import sys
import time

import pytest

from tests.support.limits import HANG_SECONDS
from tests.support.mounts import mounted

pytestmark = pytest.mark.fuse

_APPEND = """
import os, sys
path = sys.argv[1]
descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for number in range(int(sys.argv[2]), 10**6):
    os.write(descriptor, b"%09d\\n" % number)
    os.fsync(descriptor)
    print(number, flush=True)
"""
_MAKE = """
import os, sys
for number in range(10**6):
    path = f"{sys.argv[1]}/{sys.argv[2]}-{number}"
    with open(path + ".new", "w") as file:
        file.write(str(number) * 1000)
    os.rename(path + ".new", path)
"""


def start(script, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def end(process):
    """Kill it; the lines it printed."""
    process.kill()
    lines = process.stdout.read().split()
    process.stdout.close()
    process.wait()
    return lines


def test_synced_appends_and_whole_files_survive_kill(tmp_path):
    rng = random.Random(3)
    synced = 0
    for round in range(4):
        with mounted(tmp_path / "m", store=tmp_path / "store") as mount:
            (mount / f"made {round}").mkdir()
            writers = [
                start(_APPEND, mount / "log", synced),
                start(_MAKE, mount / f"made {round}", round),
            ]
            time.sleep(0.1 + rng.random() / 2)
            mount.kill()
            lines, _ = [end(writer) for writer in writers]
            synced = int(lines[-1]) + 1 if lines else synced
        with mounted(tmp_path / "m", store=tmp_path / "store") as mount:
            # It may be there although no sync of it has returned.
            log = mount / "log"
            found = log.read_bytes().split() if log.exists() else []
            assert len(found) >= synced
            assert found == [b"%09d" % number for number in range(len(found))]
            synced = len(found)
            for folder in mount.path.glob("made *"):
                for path in folder.iterdir():
                    if path.suffix != ".new":
                        number = path.name.partition("-")[2]
                        assert path.read_text() == number * 1000


def test_database_survives_kill(tmp_path):
    for round in range(3):
        with mounted(tmp_path / "m", store=tmp_path / "store") as mount:
            database = sqlite3.connect(mount / "db")
            with contextlib.closing(database):
                # So that the removal of its journal, too, is synced: that is what commits.
                database.execute("pragma synchronous = extra")
                database.execute("create table if not exists t (round, n)")
                found = database.execute("select round, count(*) from t group by round").fetchall()
                assert found == [(done, 20) for done in range(round)]
                assert database.execute("pragma integrity_check").fetchone() == ("ok",)
                for n in range(20):
                    database.execute("insert into t values (?, ?)", (round, n))
                    database.commit()
                database.execute("begin")
                database.execute("insert into t values (?, ?)", (round, -1))
                mount.kill()
                with contextlib.suppress(sqlite3.Error):
                    database.rollback()


def test_reader_that_was_killed_goes_on_where_it_was(tmp_path):
    with mounted(tmp_path / "here", store=tmp_path / "a") as here:
        data = os.urandom(2_000_000)
        (here / "f").write_bytes(data)
        for _ in range(2):
            reading = {"store": tmp_path / "b", "key": here.key, "peer": here.address}
            with mounted(tmp_path / "there", **reading) as there:
                deadline = time.monotonic() + HANG_SECONDS
                while not (there / "f").exists() and time.monotonic() < deadline:
                    time.sleep(0.01)
                with open(there / "f", "rb") as file:
                    assert file.read(1_000_000) == data[:1_000_000]
                there.kill()
