"""The control socket: how commands reach a drive that another process has open. This is the side of
that process; the command's is `hyperfs.cli.remote`.

A frame is a JSON header and a payload of bytes, each behind its length (4 bytes, big endian). A
request's header is `{"call": NAME, "drive": KEY, ...arguments}`, an answer's `{"result": ...}` or
`{"error": {...}}`. One connection does one call at a time. The socket lies in the user's runtime
folder (0700), so whoever can connect is the user.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import trio

from hyperfs.cli.failures import Exit, Failure, explain, os_sentence
from hyperfs.cli.output import JsonValue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from pathlib import Path

    from hyperfs.cli.access import Access, FileInfo


MAX_HEADER_BYTES: Final = 1 << 24
MAX_PAYLOAD_BYTES: Final = 4 << 20
PUT_CHUNK_BYTES: Final = 1 << 20
logger: Final = logging.getLogger("hyperfs")

Header = dict[str, JsonValue]
StatusReport = dict[str, JsonValue]
Reply = tuple[JsonValue, bytes]


class ControlError(Exception):
    """The other side of a control socket is not what we expect (another version, or gone)."""


class Connection:
    """Frames over one stream, either end."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def send(self, header: Header, payload: bytes = b"") -> None:
        text = json.dumps(header).encode()
        await self._stream.send_all(
            len(text).to_bytes(4, "big") + text + len(payload).to_bytes(4, "big") + payload
        )

    async def receive(self) -> tuple[Header, bytes] | None:
        """The next frame; None when the other side has closed."""
        text = await self._part(MAX_HEADER_BYTES)
        if text is None:
            return None
        payload = await self._part(MAX_PAYLOAD_BYTES)
        try:
            header = json.loads(text)
        except ValueError as error:
            raise ControlError("not a control message") from error
        if payload is None or not isinstance(header, dict):
            raise ControlError("not a control message")
        return header, payload

    async def _part(self, limit: int) -> bytes | None:
        prefix = await self._exactly(4)
        if prefix is None:
            return None
        length = int.from_bytes(prefix, "big")
        if length > limit:
            raise ControlError(f"a control message of {length} bytes")
        return await self._exactly(length)

    async def _exactly(self, count: int) -> bytes | None:
        while len(self._buffer) < count:
            data = await self._stream.receive_some(1 << 18)
            if not data:
                return None
            self._buffer += data
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken


# -- the process that has the drive --------------------------------------------------------------


async def serve(
    path: Path,
    drives: Mapping[str, Access],
    status: Callable[[], StatusReport],
    stop: Callable[[], None],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer control connections on the socket *path* until cancelled.

    *drives* maps z-base-32 keys to drives, *status* is what `hyperfs status` shows of this
    process, *stop* is called when another command asks the process to end.
    """

    async def connected(stream: trio.SocketStream) -> None:
        try:
            async with stream:
                await _Session(Connection(stream), drives, status, stop).run()
        except (trio.BrokenResourceError, ControlError) as error:
            logger.info("a control connection ended: %s", error)

    listening = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    path.unlink(missing_ok=True)
    await listening.bind(str(path))
    path.chmod(0o600)
    listening.listen(16)
    task_status.started()
    await trio.serve_listeners(connected, [trio.SocketListener(listening)])


class _Session:
    """One connection: calls by name, and the file that is being put, if any."""

    def __init__(
        self,
        connection: Connection,
        drives: Mapping[str, Access],
        status: Callable[[], StatusReport],
        stop: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._drives = drives
        self._status = status
        self._stop = stop
        # Drives as they were when a call on this connection first asked for them to stay so.
        self._fixed: dict[str, Access] = {}
        self._calls: dict[str, Callable[[Header], Awaitable[Reply]]] = {
            "status": self._on_status,
            "stop": self._on_stop,
            "stat": self._on_stat,
            "list": self._on_list,
            "read": self._on_read,
            "put": self._on_put,
            "mkdir": self._on_mkdir,
            "symlink": self._on_symlink,
            "remove": self._on_remove,
            "sync": self._on_sync,
            "collect": self._on_collect,
            "compact": self._on_compact,
            "evict": self._on_evict,
            "verify": self._on_verify,
        }

    async def run(self) -> None:
        try:
            while (received := await self._connection.receive()) is not None:
                await self._answer(received[0])
        finally:
            # The garbage collector might leave them to a collection as versions in use.
            for access in self._fixed.values():
                access.end()
            self._fixed.clear()

    async def _answer(self, header: Header) -> None:
        call = self._calls.get(str(header.get("call")))
        if call is None:
            raise ControlError(f"no such call: {header.get('call')!r}")
        try:
            result, payload = await call(header)
        except ControlError:
            raise
        # Whatever a call raises is the answer, as far as it is known.
        except Exception as error:
            failure = explain(error)
            if failure is None:
                logger.exception("a control call failed: %s", header.get("call"))
                failure = Failure(f"a bug in the process that has the drive: {error!r}")
            number, message = None, str(failure)
            if isinstance(error, OSError):
                # The other end raises it again, and says itself what to do about it.
                number, message = error.errno, os_sentence(error)
            await self._connection.send(
                {"error": {"message": message, "code": int(failure.code), "errno": number}}
            )
        else:
            await self._connection.send({"result": result}, payload)
            if header["call"] == "stop":
                # Only now: the stop cancels this connection too.
                self._stop()

    def _drive(self, header: Header) -> Access:
        try:
            return self._drives[_text(header, "drive")]
        except KeyError:
            raise Failure("that process does not have this drive", Exit.NOT_FOUND) from None

    async def _reading(self, header: Header) -> Access:
        """The drive, or if the call is `"fixed"`, what it was at the first such call."""
        access = self._drive(header)
        if header.get("fixed") is not True:
            return access
        key = _text(header, "drive")
        if key not in self._fixed:
            self._fixed[key] = await access.fixed()
        return self._fixed[key]

    async def _on_status(self, header: Header) -> Reply:
        return self._status(), b""

    async def _on_stop(self, header: Header) -> Reply:
        return None, b""

    async def _on_stat(self, header: Header) -> Reply:
        return _info_fields(await (await self._reading(header)).stat(_path(header))), b""

    async def _on_list(self, header: Header) -> Reply:
        access = await self._reading(header)
        found = await access.list(_path(header), os.fsencode(_text(header, "after")))
        return [[os.fsdecode(name), _info_fields(info)] for name, info in found], b""

    async def _on_read(self, header: Header) -> Reply:
        length = min(_number(header, "length"), MAX_PAYLOAD_BYTES)
        access = await self._reading(header)
        data = await access.read(_path(header), _number(header, "offset"), length)
        return None, data

    async def _on_put(self, header: Header) -> Reply:
        """The chunks follow as frames `{"more": true}`; a last one `{"more": false}` ends them, or
        `{"more": false, "abandoned": true}`, if the file could not be read to its end."""
        ended = False

        async def chunks() -> AsyncIterator[bytes]:
            nonlocal ended
            while not ended:
                received = await self._connection.receive()
                more = None if received is None else received[0].get("more")
                if received is not None and more is True:
                    yield received[1]
                    continue
                ended = True
                if received is None:
                    raise ControlError("the command went away in the middle of a file")
                if more is not False:
                    raise ControlError("another call in the middle of a file")
                if received[0].get("abandoned"):
                    raise Failure("the command could not read the file")

        source = chunks()
        try:
            await self._drive(header).put(
                _path(header),
                source,
                mode=_number(header, "mode"),
                mtime_ns=_number(header, "mtime_ns"),
            )
        finally:
            # After a failure the client's chunks are read away, so that the answer finds it.
            with suppress(Failure):
                async for _ in chunks():
                    pass
        return None, b""

    async def _on_mkdir(self, header: Header) -> Reply:
        await self._drive(header).mkdir(
            _path(header), _number(header, "mode"), _number_or_none(header, "mtime_ns")
        )
        return None, b""

    async def _on_symlink(self, header: Header) -> Reply:
        target = os.fsencode(_text(header, "target"))
        mtime_ns = _number_or_none(header, "mtime_ns")
        await self._drive(header).symlink(_path(header), target, mtime_ns)
        return None, b""

    async def _on_remove(self, header: Header) -> Reply:
        recursive = header.get("recursive") is True
        await self._drive(header).remove(_path(header), recursive=recursive)
        return None, b""

    async def _on_sync(self, header: Header) -> Reply:
        await self._drive(header).sync()
        return None, b""

    async def _on_collect(self, header: Header) -> Reply:
        access = self._drive(header)
        return [*await access.collect(*_kept(header))], b""

    async def _on_compact(self, header: Header) -> Reply:
        access = self._drive(header)
        return [*await access.compact(*_kept(header))], b""

    async def _on_evict(self, header: Header) -> Reply:
        return await self._drive(header).evict(_path(header)), b""

    async def _on_verify(self, header: Header) -> Reply:
        return [*await self._drive(header).verify()], b""


def _text(header: Header, name: str) -> str:
    value = header.get(name)
    if not isinstance(value, str):
        raise ControlError(f"{name} is no text: {value!r}")
    return value


def _number(header: Header, name: str) -> int:
    value = _number_or_none(header, name)
    if value is None:
        raise ControlError(f"{name} is missing")
    return value


def _number_or_none(header: Header, name: str) -> int | None:
    value = header.get(name)
    if value is not None and not isinstance(value, int):
        raise ControlError(f"{name} is no number: {value!r}")
    return value


def _kept(header: Header) -> tuple[int | None, float | None]:
    within = header.get("keep_within")
    if within is not None and not isinstance(within, int | float):
        raise ControlError(f"keep_within is no time: {within!r}")
    return _number_or_none(header, "keep_last"), within


def _path(header: Header) -> bytes:
    return os.fsencode(_text(header, "path"))


def _info_fields(info: FileInfo) -> Header:
    fields: Header = asdict(info)
    fields["target"] = None if info.target is None else os.fsdecode(info.target)
    return fields
