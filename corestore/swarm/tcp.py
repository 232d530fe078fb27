"""Streams over TCP: listening and dialling, and the socket options that both ends need."""

from __future__ import annotations

import socket
import sys
from typing import Final

import trio

# A peer that vanished (pulled cable, sleeping laptop) is noticed after about this long: the system
# would go on for some 15 minutes. Peers send something every 5 seconds anyway.
SILENCE_SECONDS: Final = 30
BACKLOG: Final = 64
DIAL_SECONDS: Final = 10


def format_address(address: tuple[str, int]) -> str:
    """`HOST:PORT`, an IPv6 host in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def open_listener(host: str, port: int) -> trio.SocketListener:
    """Listen on one address: the first that *host* resolves to. Port 0 picks a free one.

    Raises:
      OSError: EADDRINUSE for a busy port, EACCES, EADDRNOTAVAIL, or what resolving the name gave.
    """
    found = await trio.socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    family, kind, protocol, _, address = found[0]
    listening = trio.socket.socket(family, kind, protocol)
    try:
        if sys.platform != "win32":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        await listening.bind(address)
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return trio.SocketListener(listening)


def listening_address(listener: trio.SocketListener) -> tuple[str, int]:
    """The (host, port) that *listener* is bound to."""
    host, port, *_ = listener.socket.getsockname()
    return host, port


async def dial(host: str, port: int) -> trio.SocketStream:
    """Connect to a peer, trying the addresses that *host* resolves to.

    Raises:
      OSError: nobody listens there, or the name does not resolve; TimeoutError after
        `DIAL_SECONDS`.
    """
    with trio.move_on_after(DIAL_SECONDS):
        stream = await trio.open_tcp_stream(host, port)
        prepare(stream)
        return stream
    raise TimeoutError(f"no answer within {DIAL_SECONDS} seconds")


def prepare(stream: trio.SocketStream) -> None:
    """Set what both ends of a replication stream need: no delay, and an end to silence."""
    # Small answers must not wait for acknowledgements of what went before.
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_SECONDS * 1000)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENCE_SECONDS // 3)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, SILENCE_SECONDS // 3)


def remote_address(stream: trio.SocketStream) -> tuple[str, int]:
    """The (host, port) of the other end.

    Raises:
      OSError: the connection is gone already.
    """
    host, port, *_ = stream.socket.getpeername()
    return host, port
