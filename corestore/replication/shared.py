"""What the parts of one machine have in common: the core, its peers, the actions so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

from corestore.replication.actions import ReplicationStatistics, Send
from corestore.replication.nodes import NodeCache
from corestore.replication.wants import Wants

if TYPE_CHECKING:
    from random import Random

    from corestore.keys import Key
    from corestore.manifest import Manifest
    from corestore.replication.actions import Action, CoreView, PeerId
    from corestore.replication.messages import Message
    from corestore.replication.peer import Peer
    from corestore.tree.types import Head


class Shared:
    """State that uploads, downloads and the machine itself read and write.

    Attributes:
      pending_head: a head that was verified and is not committed yet.
      pending_manifest: likewise.
      out: actions for the next drain, in order.
      now: the time of the latest input that came with one.
      downloading: whether we follow the log.
    """

    def __init__(self, key: Key, view: CoreView, rng: Random) -> None:
        self.key = key
        self.view = view
        self.rng = rng
        self.nodes = NodeCache(view)
        self.peers: dict[PeerId, Peer] = {}
        self.out: list[Action] = []
        self.wants = Wants(self.out.append)
        self.pending_head: Head | None = None
        self.pending_manifest: Manifest | None = None
        self.statistics = ReplicationStatistics()
        self.now = 0.0
        self.downloading = True

    @property
    def head(self) -> Head:
        """The newest head we have verified."""
        return self.pending_head or self.view.head

    @property
    def manifest(self) -> Manifest | None:
        """The manifest, if one was verified."""
        return self.view.manifest or self.pending_manifest

    def send(self, peer: Peer, message: Message) -> None:
        """Queue a message."""
        self.out.append(Send(peer.id, message))

    def take_actions(self) -> list[Action]:
        """The actions since the last call."""
        actions = self.out.copy()
        self.out.clear()
        return actions
