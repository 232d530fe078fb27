"""The four programs of the how-to guides, ours and Node's, with each other."""

from __future__ import annotations

import pytest

from corestore import Key
from tests.support.programs import running

pytestmark = pytest.mark.interop

BOTH_WAYS = pytest.mark.parametrize(
    ("writing", "reading"), [("python", "node"), ("node", "python")]
)


def hexadecimal(key):
    """A key as both sides read it."""
    return Key.parse(key).hex()


@BOTH_WAYS
async def test_a_reader_skips_what_is_there_and_follows_what_comes(tmp_path, writing, reading):
    storage = ("--storage", tmp_path / "w")
    async with running(writing, "writer", *storage, "--listen", 0) as writer:
        key = hexadecimal((await writer.line("core key: (.*)"))[1])
        peer = ("--peer", await writer.listening())
        one = ("--storage", tmp_path / "1")
        async with running(reading, "reader", key, *one, *peer) as first:
            await first.line("Skipping 0 earlier blocks...")
            await writer.type("hello\n")
            await first.line("Block 0: hello")
            two = ("--storage", tmp_path / "2")
            async with running(reading, "reader", key, *two, *peer) as second:
                await second.line("Skipping 1 earlier blocks...")
                await writer.type("world\n")
                await first.line("Block 1: world")
                await second.line("Block 1: world")


@BOTH_WAYS
async def test_cores_found_through_a_main_core_are_followed(tmp_path, writing, reading):
    storage = ("--storage", tmp_path / "w")
    async with running(writing, "multicore_writer", *storage, "--listen", 0) as writer:
        key = (await writer.line("main core key: ([0-9a-f]{64})"))[1]
        peer = ("--storage", tmp_path / "r", "--peer", await writer.listening())
        async with running(reading, "multicore_reader", key, *peer) as reader:
            for index in range(2):
                await writer.type("abc\n")
                await writer.line("appending short data to core2")
                short = (await reader.line(f"Block {index} in Core (.*): abc"))[1]
                await writer.type("something long\n")
                await writer.line("appending long data to core3")
                long = (await reader.line(f"Block {index} in Core (.*): something long"))[1]
                assert len({key, short, long}) == 3


@BOTH_WAYS
async def test_a_writer_dials_a_reader_that_listens(tmp_path, writing, reading):
    storage = ("--storage", tmp_path / "w")
    async with running(writing, "multicore_writer", *storage) as writer:
        key = (await writer.line("main core key: (.*)"))[1]
    place = ("--storage", tmp_path / "r", "--listen", 0)
    async with running(reading, "multicore_reader", key, *place) as reader:
        peer = ("--peer", await reader.listening())
        async with running(writing, "multicore_writer", *storage, *peer) as writer:
            assert (await writer.line("main core key: (.*)"))[1] == key
            await writer.type("abc\n")
            await reader.line("Block 0 in Core .*: abc")
