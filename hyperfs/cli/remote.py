"""`Access` to a drive that another process has open, over its control socket."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import trio

from hyperfs.cli.access import FileInfo
from hyperfs.cli.control import PUT_CHUNK_BYTES, Connection, ControlError, Reply, StatusReport
from hyperfs.cli.failures import Exit, Failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator
    from pathlib import Path

    from hyperfs.cli.output import JsonValue, Meter

# Longer than any --read-timeout that makes sense: then the other process is stopped, or stuck.
ANSWER_SECONDS: Final = 120.0

OTHER_VERSION: Final = (
    "the process that has this drive is of another version; unmount and mount again"
)
NO_PEERS: Final = (
    "not all of this is here, and the process that has this drive reaches no peer that has it;"
    " mount or seed it with --peer HOST:PORT"
)


@asynccontextmanager
async def connect(path: Path) -> AsyncIterator[Client]:
    """A connection to the process whose socket this is.

    Raises:
      Failure: nothing answers there.
    """
    try:
        stream = await trio.open_unix_socket(str(path))
    except OSError as error:
        raise Failure(f"the process that has this drive does not answer ({error})") from error
    async with stream:
        yield Client(Connection(stream))


class Client:
    """Calls to another process."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def call(self, name: str, **arguments: JsonValue) -> Reply:
        """One call; its result and payload.

        Raises:
          OSError: as the call did there, with its errno.
          Failure: anything else it raised there, or the process is gone.
        """
        await self.send(name, **arguments)
        return await self.answer()

    async def send(self, name: str, **arguments: JsonValue) -> None:
        try:
            await self._connection.send({"call": name, **arguments})
        except trio.BrokenResourceError:
            raise Failure("the process that has this drive went away") from None

    async def more(self, data: bytes | None) -> None:
        """A chunk of the file being put; None ends it."""
        try:
            await self._connection.send({"more": data is not None}, data or b"")
        except trio.BrokenResourceError:
            raise Failure("the process that has this drive went away") from None

    async def abandon(self) -> None:
        """The file being put is not to be had: nothing of it stays."""
        with suppress(trio.BrokenResourceError, Failure, OSError):
            await self._connection.send({"more": False, "abandoned": True})
            await self.answer()

    async def answer(self) -> Reply:
        try:
            received = await self._connection.receive()
        except (trio.BrokenResourceError, ControlError):
            received = None
        if received is None:
            raise Failure("the process that has this drive went away")
        header, payload = received
        error = header.get("error")
        if error is None:
            return header.get("result"), payload
        if not isinstance(error, dict):
            raise Failure(OTHER_VERSION)
        message, code, number = error.get("message"), error.get("code"), error.get("errno")
        if code == Exit.NO_PEERS:
            raise Failure(NO_PEERS, Exit.NO_PEERS)
        if isinstance(number, int):
            raise OSError(number, message)
        raise Failure(str(message), Exit(code) if isinstance(code, int) else Exit.ERROR)

    async def status(self) -> StatusReport:
        """What the process says of itself."""
        result, _ = await self.call("status")
        if not isinstance(result, dict):
            raise Failure(OTHER_VERSION)
        return result

    async def stop(self) -> None:
        """Ask the process to unmount and end."""
        await self.call("stop")


class ControlAccess:
    """`Access` to a drive through the process that has it; *fixed*: as it is at the first call."""

    def __init__(self, client: Client, key: str, *, fixed: bool = False) -> None:
        self._client = client
        self._key = key
        self._fixed = fixed

    async def fixed(self) -> ControlAccess:
        return ControlAccess(self._client, self._key, fixed=True)

    def end(self) -> None:
        """Nothing: the other process does so when the connection ends."""

    async def _call(self, name: str, path: bytes, **arguments: JsonValue) -> Reply:
        return await self._client.call(name, drive=self._key, path=os.fsdecode(path), **arguments)

    async def _ask(self, name: str, path: bytes, **arguments: JsonValue) -> Reply:
        """As `_call`, for questions, which cannot take long in a process that is well."""
        with trio.move_on_after(ANSWER_SECONDS):
            return await self._call(name, path, fixed=self._fixed, **arguments)
        raise Failure("the process that has this drive does not answer; `hyperfs status` names it")

    async def stat(self, path: bytes) -> FileInfo:
        result, _ = await self._ask("stat", path)
        return _info(result)

    async def list(self, path: bytes, after: bytes = b"") -> list[tuple[bytes, FileInfo]]:
        result, _ = await self._ask("list", path, after=os.fsdecode(after))
        found = []
        for item in result if isinstance(result, list) else []:
            if not isinstance(item, list) or not isinstance(item[0], str):
                raise Failure(OTHER_VERSION)
            found.append((os.fsencode(item[0]), _info(item[1])))
        return found

    async def read(self, path: bytes, offset: int, length: int) -> bytes:
        _, data = await self._ask("read", path, offset=offset, length=length)
        return data

    async def put(
        self, path: bytes, chunks: AsyncIterable[bytes], *, mode: int, mtime_ns: int
    ) -> None:
        await self._client.send(
            "put", drive=self._key, path=os.fsdecode(path), mode=mode, mtime_ns=mtime_ns
        )
        try:
            async for chunk in chunks:
                for start in range(0, len(chunk), PUT_CHUNK_BYTES):
                    await self._client.more(chunk[start : start + PUT_CHUNK_BYTES])
        except OSError:
            # The next call on this connection must not be taken for more of the file, or its end.
            await self._client.abandon()
            raise
        await self._client.more(None)
        await self._client.answer()

    async def mkdir(self, path: bytes, mode: int, mtime_ns: int | None = None) -> None:
        await self._call("mkdir", path, mode=mode, mtime_ns=mtime_ns)

    async def symlink(self, path: bytes, target: bytes, mtime_ns: int | None = None) -> None:
        await self._call("symlink", path, target=os.fsdecode(target), mtime_ns=mtime_ns)

    async def remove(self, path: bytes, *, recursive: bool = False) -> None:
        await self._call("remove", path, recursive=recursive)

    async def sync(self) -> None:
        await self._client.call("sync", drive=self._key)

    async def collect(self, keep_last: int | None, keep_within: float | None) -> tuple[int, int]:
        result, _ = await self._client.call(
            "collect", drive=self._key, keep_last=keep_last, keep_within=keep_within
        )
        return _two_numbers(result)

    async def compact(self, keep_last: int | None, keep_within: float | None) -> tuple[int, int]:
        result, _ = await self._client.call(
            "compact", drive=self._key, keep_last=keep_last, keep_within=keep_within
        )
        return _two_numbers(result)

    async def evict(self, path: bytes) -> int:
        result, _ = await self._call("evict", path)
        if not isinstance(result, int):
            raise Failure(OTHER_VERSION)
        return result

    async def verify(self, meter: Meter | None = None) -> tuple[int, int, int, int]:
        result, _ = await self._client.call("verify", drive=self._key)
        match result:
            case [int(blocks), int(size), int(damaged), int(unreadable)]:
                return blocks, size, damaged, unreadable
        raise Failure(OTHER_VERSION)


def _two_numbers(value: JsonValue) -> tuple[int, int]:
    match value:
        case [int(first), int(second)]:
            return first, second
    raise Failure(OTHER_VERSION)


def _info(fields: JsonValue) -> FileInfo:
    if not isinstance(fields, dict):
        raise Failure(OTHER_VERSION)
    try:
        target = fields.pop("target")
        encoded = None if target is None else os.fsencode(str(target))
        # What JSON says of its types is checked by their use alone: both ends are this program.
        return FileInfo(**fields, target=encoded)  # type: ignore[arg-type]
    except (TypeError, KeyError):
        raise Failure(OTHER_VERSION) from None
