"""Find peers, keep connections: topics in, replicating links out."""

from corestore.swarm.swarm import DialInfo, PeerInfo, Swarm, open_swarm

__all__ = ["DialInfo", "PeerInfo", "Swarm", "open_swarm"]
