"""What the driver asks of links and of their channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import trio

    from corestore.errors import CorestoreError
    from corestore.replication.messages import Message, RequestMessage
    from corestore.state import CoreState


class Port(Protocol):
    """One peer's channel for one core, as a link offers it."""

    @property
    def remote_public_key(self) -> bytes:
        """The peer's static key of the Noise handshake."""
        ...

    def send(self, message: Message) -> None:
        """Queue *message* for the peer. Does not wait."""
        ...

    def serve(self, request: RequestMessage) -> None:
        """Queue *request* to be answered when there is room to send."""
        ...

    def drop(self, reason: CorestoreError) -> None:
        """Close the link: the peer broke the rules, as *reason* tells the log."""
        ...


class LinkHandle(Protocol):
    """What the driver asks of a link."""

    @property
    def initiator(self) -> bool:
        """Whether we began the handshake."""
        ...

    def carries(self, stream: trio.abc.Stream) -> bool:
        """Whether this is the link of *stream*."""
        ...

    def attach(self, only: CoreState | None) -> None:
        """Carry a core that was not, or every core (None)."""
        ...

    async def wait_established(self) -> bool:
        """Wait for the handshake; False if there will be none."""
        ...

    async def wait_ended(self) -> None:
        """Wait for the end of the stream."""
        ...

    def open_channel(self, state: CoreState) -> None:
        """Offer the peer to talk about this core; nothing if that was done already."""
        ...

    def close_channel(self, state: CoreState) -> None:
        """End the conversation about this core, if there is one."""
        ...

    def close_idle(self, state: CoreState) -> None:
        """End the conversation about this core if neither side wants anything of it."""
        ...

    def stop(self, reason: Exception) -> None:
        """End the link."""
        ...

    def tick(self, now: float) -> None:
        """Some time has passed."""
        ...
