"""The example programs, as real processes, with each other."""

from __future__ import annotations

import pytest
import trio

from tests.support.programs import running


async def test_readers_follow_a_writer_and_serve_each_other(tmp_path):
    listen = ("--listen", 0)
    async with running("python", "writer", "--storage", tmp_path / "w", *listen) as writer:
        key = (await writer.line("core key: ([a-z0-9]{52})"))[1]
        peer = ("--peer", await writer.listening())
        a = ("--storage", tmp_path / "a", *peer, *listen)
        async with running("python", "reader", key, *a) as first:
            other = ("--storage", tmp_path / "b", "--peer", await first.listening())
            await first.line("Skipping 0 earlier blocks...")
            await writer.type("hello\n")
            await first.line("Block 0: hello")
            # Knows the first reader only.
            async with running("python", "reader", key, *other) as second:
                await second.line("Skipping 1 earlier blocks...")
                await writer.type("smörgås\n")
                await first.line("Block 1: smörgås")
                await second.line("Block 1: smörgås")
                # What is typed at once is one block.
                await writer.type("two\nlines\n")
                await second.line("Block 2: two")


async def test_a_writer_goes_on_where_it_was_and_a_reader_too(tmp_path):
    keys = set()
    for count in range(3):
        arguments = ("--storage", tmp_path / "w", "--listen", 0)
        async with running("python", "writer", *arguments) as writer:
            key = (await writer.line("core key: (.*)"))[1]
            keys.add(key)
            peer = ("--peer", await writer.listening(), "--storage", tmp_path / "r")
            async with running("python", "reader", key, *peer) as reader:
                await reader.line(f"Skipping {count} earlier blocks...")
                await writer.type(f"number {count}")
                await writer.close_input()
                await reader.line(f"Block {count}: number {count}")
                reader.interrupt()
                assert await reader.exit_code() == 130
                assert reader.errors == ""
            writer.interrupt()
            assert await writer.exit_code() == 130
    assert len(keys) == 1


async def test_input_goes_to_the_core_of_its_length(tmp_path):
    arguments = ("--storage", tmp_path / "w", "--listen", 0)
    async with running("python", "multicore_writer", *arguments) as writer:
        key = (await writer.line("main core key: ([0-9a-f]{64})"))[1]
        peer = ("--peer", await writer.listening(), "--storage", tmp_path / "r")
        async with running("python", "multicore_reader", key, *peer) as reader:
            cores = []
            for index, (typed, length) in enumerate(
                [("abcd", "short data to core2"), ("abcde", "long data to core3")]
            ):
                await writer.type(typed)
                await writer.line(f"appending {length}")
                cores.append((await reader.line(f"Block 0 in Core (.*): {typed}"))[1])
                assert cores[index] != key
            await writer.type("hi\n")
            await reader.line(f"Block 1 in Core {cores[0]}: hi")
        assert cores[0] != cores[1]
    # Once more: the main core names them already, and a new reader is shown the latest block.
    async with running("python", "multicore_writer", *arguments) as writer:
        assert (await writer.line("main core key: (.*)"))[1] == key
        peer = ("--peer", await writer.listening(), "--storage", tmp_path / "r2")
        async with running("python", "multicore_reader", key, *peer) as reader:
            await reader.line(f"Block 1 in Core {cores[0]}: hi")


@pytest.mark.parametrize("name", ["reader", "multicore_reader"])
async def test_a_reader_that_reaches_no_writer_says_so(tmp_path, name):
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    arguments = ("--storage", tmp_path / "r", "--peer", port, "--timeout", "0.2")
    async with running("python", name, "11" * 32, *arguments) as reader:
        assert await reader.exit_code() == 4
        assert "Could not connect to the writer peer" in reader.errors


async def test_a_writer_may_dial_the_reader(tmp_path):
    arguments = ("--storage", tmp_path / "w")
    async with running("python", "writer", *arguments) as writer:
        key = (await writer.line("core key: (.*)"))[1]
        await writer.type("before")
    async with running(
        "python", "reader", key, "--storage", tmp_path / "r", "--listen", 0
    ) as reader:
        arguments += ("--peer", await reader.listening())
        async with running("python", "writer", *arguments) as writer:
            await reader.line("Skipping . earlier blocks...")
            await writer.type("live")
            await reader.line("Block .: live")


async def test_a_main_core_that_names_no_others_is_refused(tmp_path):
    arguments = ("--storage", tmp_path / "w", "--listen", 0)
    async with running("python", "writer", *arguments) as writer:
        key = (await writer.line("core key: (.*)"))[1]
        await writer.type('{"otherKeys": [1]}')
        peer = ("--storage", tmp_path / "r", "--peer", await writer.listening())
        async with running("python", "multicore_reader", key, *peer) as reader:
            assert await reader.exit_code() == 1
            assert "does not name other cores" in reader.errors
