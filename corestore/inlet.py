"""Reads a stream into memory of the reader's."""

from __future__ import annotations

import errno

import trio


async def receive_into(stream: trio.abc.ReceiveStream, buffer: memoryview) -> int:
    """Read what is there, at most as much as fits; how much that was, 0 at the end of the stream.

    A socket writes into *buffer* itself, without an object for every read.

    Raises:
      trio.BrokenResourceError: the connection is gone.
      trio.ClosedResourceError: the stream was closed on this side.
    """
    if isinstance(stream, trio.SocketStream):
        try:
            return await stream.socket.recv_into(buffer)
        except OSError as error:
            if error.errno == errno.EBADF:
                raise trio.ClosedResourceError("this stream was closed") from None
            raise trio.BrokenResourceError(f"socket connection broken: {error}") from error
    data = await stream.receive_some(len(buffer))
    buffer[: len(data)] = data
    return len(data)
