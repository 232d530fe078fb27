"""One file, thousands of random reads, writes, mappings and truncations against a bytearray."""

from __future__ import annotations

import mmap
import os
import random

import pytest

from tests.support.mounts import mounted

pytestmark = pytest.mark.fuse

PAGE = mmap.PAGESIZE
MOST = 60 * PAGE
STEPS = 3000


class Exerciser:
    """The file at *path*, and what it must hold."""

    def __init__(self, path, seed) -> None:
        self.path = path
        self.rng = random.Random(seed)
        self.data = bytearray()
        self.flags = 0
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT)

    def close(self):
        os.close(self.descriptor)

    def range(self):
        offset = self.rng.randrange(MOST)
        return offset, self.rng.randrange(1, 1 + min(20_000, MOST - offset))

    def write(self):
        offset, length = self.range()
        piece = self.rng.randbytes(length)
        self.data.extend(bytes(max(0, offset + length - len(self.data))))
        self.data[offset : offset + length] = piece
        assert os.pwrite(self.descriptor, piece, offset) == length

    def read(self):
        offset, length = self.range()
        found = os.pread(self.descriptor, length, offset)
        assert found == bytes(self.data[offset : offset + length])

    def truncate(self):
        size = self.rng.randrange(MOST)
        del self.data[size:]
        self.data.extend(bytes(size - len(self.data)))
        os.ftruncate(self.descriptor, size)

    def map_write(self):
        if not self.data:
            return
        offset, length = self.range()
        offset %= len(self.data)
        length = min(length, len(self.data) - offset)
        piece = self.rng.randbytes(length)
        self.data[offset : offset + length] = piece
        with mmap.mmap(self.descriptor, 0) as mapping:
            mapping[offset : offset + length] = piece
            if self.rng.random() < 0.5:
                mapping.flush()

    def map_read(self):
        if not self.data:
            return
        offset, length = self.range()
        with mmap.mmap(self.descriptor, 0, prot=mmap.PROT_READ) as mapping:
            assert mapping[offset : offset + length] == self.data[offset : offset + length]

    def direct(self):
        """Past the kernel's pages, which must not be left behind."""
        offset, _ = self.range()
        offset -= offset % PAGE
        count = self.rng.randrange(1, 4)
        descriptor = os.open(self.path, os.O_RDWR | os.O_DIRECT)
        try:
            with mmap.mmap(-1, count * PAGE) as buffer:
                if self.rng.random() < 0.5:
                    buffer[:] = self.rng.randbytes(len(buffer))
                    self.data.extend(bytes(max(0, offset + len(buffer) - len(self.data))))
                    self.data[offset : offset + len(buffer)] = buffer[:]
                    assert os.pwritev(descriptor, [buffer], offset) == len(buffer)
                else:
                    count = os.preadv(descriptor, [buffer], offset)
                    expected = bytes(self.data[offset : offset + len(buffer)])
                    assert buffer[:count] == expected
                    assert count == len(expected)
        finally:
            os.close(descriptor)

    def reopen(self):
        os.close(self.descriptor)
        self.descriptor = os.open(self.path, os.O_RDWR)
        assert os.fstat(self.descriptor).st_size == len(self.data)

    def sync(self):
        os.fsync(self.descriptor)

    def step(self):
        kinds = ["write", "read", "truncate", "map_write", "map_read", "direct", "reopen", "sync"]
        getattr(self, self.rng.choices(kinds, [20, 20, 6, 12, 12, 8, 4, 1])[0])()


@pytest.mark.parametrize("seed", [1, 2])
def test_random_reads_and_writes_agree_with_a_bytearray(tmp_path, seed):
    with mounted(tmp_path / "m", store=tmp_path / "store", deadline=120) as mount:
        exercisers = [Exerciser(mount / f"f{i}", seed * 10 + i) for i in range(2)]
        for _ in range(STEPS):
            for exerciser in exercisers:
                exerciser.step()
        contents = [bytes(exerciser.data) for exerciser in exercisers]
        for exerciser in exercisers:
            exerciser.close()
    with mounted(tmp_path / "m", store=tmp_path / "store") as mount:
        for i, content in enumerate(contents):
            assert (mount / f"f{i}").read_bytes() == content
