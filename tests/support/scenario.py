"""A whole world of peers from one number: who they are, how they are joined, and what goes wrong.

Everything follows from the seed, on virtual time. One writer; honest readers who want everything,
and know each other; and, with faults, some who lie, fall silent, are slow, boast, answer in any
order or flood. Links are lost and dialled again, and the network falls apart for a while. At the
end every honest reader must have everything, nobody honest may have been dropped, and without
faults hardly a block may have been received twice.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from corestore.replication.messages import Data, NoData, Range, RequestMessage
from corestore.tree.types import BlockRequest, Request
from tests.support.network import Boaster, Liar, MemoryCore, Network, Shuffler, Site

if TYPE_CHECKING:
    from corestore.replication.messages import Message

# The share of blocks that may be received twice where nothing goes wrong.
DUPLICATES = 0.05
# Virtual time until everybody must have everything, after the last fault.
PATIENCE = 300.0


class Flooder(Site):
    """Asks for what does not exist and announces what it does not have, without end."""

    BURST = 20
    BURSTS = 200
    PAUSE = 0.02
    _asked = 0

    def receive(self, peer: int, message: Message) -> None:
        super().receive(peer, message)
        if not self._asked:
            self._asked = 1
            self._flood()

    def _flood(self) -> None:
        for peer in list(self.links):
            for _ in range(self.BURST):
                self._asked += 1
                index = self.network.rng.randrange(1 << 40)
                request = Request(0, block=BlockRequest(index, 0))
                self.send(peer, RequestMessage((1 << 30) + self._asked, request))
                self.send(peer, Range(index, 1))
        if self._asked < self.BURST * self.BURSTS:
            self.network.call(self.PAUSE, self._flood)

    def answered(self, message: Message) -> Message:
        return NoData(message.id, 1) if isinstance(message, Data) else message


@dataclass(frozen=True)
class Facts:
    """What a run came to."""

    peers: int
    blocks: int
    seconds: float
    received: int
    duplicates: int
    served_by_writer: int

    def __str__(self) -> str:
        again = self.duplicates / max(self.received, 1)
        return (
            f"{self.peers} peers, {self.blocks} blocks in {self.seconds:.1f} s;"
            f" {again:.2%} received twice, the writer served"
            f" {self.served_by_writer / max(self.blocks, 1):.1f} times the log"
        )


class Failed(AssertionError):
    """Not what must be at the end; the message has the scenario."""


class Scenario:
    """*peers* readers of one log, from *seed*."""

    def __init__(self, seed: int, peers: int, *, faults: bool) -> None:
        self.name = f"seed {seed}, {peers} peers, {'with' if faults else 'without'} faults"
        self.network = Network(seed)
        self.random = random.Random(f"{seed} {peers} {faults}")
        self.faults = faults
        self._events = 0
        self.source = Site(self.network, MemoryCore.create(seed))
        self.source.uplink = self.random.choice((1e9, 2e6, 3e5))
        self.size = self.random.choice((30, 300, 2000))
        self.append(self.random.randrange(1, 400 if peers <= 30 else 150))
        misfits = self.random.randrange(peers // 3 + 1) if faults else 0
        self.honest = [self._reader(Site) for _ in range(max(1, peers - misfits))]
        self.others = [self._misfit() for _ in range(misfits)]
        self._join()

    # -- who there is ------------------------------------------------------------------------------

    def append(self, count: int) -> None:
        """The log grows."""
        self.source.append(*(self.random.randbytes(self.size) for _ in range(count)))

    def _reader(self, kind: type[Site]) -> Site:
        site = kind(self.network, MemoryCore(self.source.core.key))
        site.machine.want_range(0, None)
        site.commit_delay = self.random.choice((0.0, 0.001, 0.02))
        return site

    def _misfit(self) -> Site:
        kind = self.random.choice((Liar, Liar, Boaster, Shuffler, Flooder, Site, Site))
        site = self._reader(kind)
        if isinstance(site, Liar):
            site.after = self.random.randrange(50)
        elif kind is Site and self.random.random() < 0.5:
            self.network.call(self.random.uniform(0, 3), setattr, site, "silent", True)
        elif kind is Site:
            site.uplink = self.random.choice((500.0, 5e3))
        return site

    # -- how they are joined -----------------------------------------------------------------------

    def _join(self) -> None:
        # Each honest one knows somebody honest, so that all can get everything; and some others.
        for number, site in enumerate(self.honest):
            self.connect(self.random.choice([self.source, *self.honest[:number]]), site)
        sites = [self.source, *self.honest, *self.others]
        for site in sites:
            for other in self.random.sample(sites, min(len(sites), self.random.randrange(1, 6))):
                self.connect(site, other)

    def connect(self, one: Site, two: Site) -> None:
        """Open a link unless there is one."""
        if one is two or any(link.target is two for link in one.links.values()):
            return
        if two in one.dropped_sites or one in two.dropped_sites:
            return
        self.network.connect(
            one,
            two,
            latency=self.random.choice((0.0005, 0.01, 0.03, 0.1, 0.3)),
            bandwidth=self.random.choice((2e5, 2e6, 2e7)),
        )

    def _lose(self, one: Site, two: Site, back_after: float) -> None:
        for link in list(one.links.values()):
            if link.target is two:
                self.network.disconnect(link)
                self.network.call(back_after, self.connect, one, two)

    def _fall_apart(self, seconds: float) -> None:
        sites = [self.source, *self.honest, *self.others]
        here = set(self.random.sample(range(len(sites)), len(sites) // 2))
        side = {id(site): number in here for number, site in enumerate(sites)}
        for site in sites:
            for link in list(site.links.values()):
                if side[id(site)] and not side[id(link.target)]:
                    self._lose(site, link.target, seconds)

    # -- what happens ------------------------------------------------------------------------------

    def run(self) -> Facts:
        """Let everything happen; what it came to.

        Raises:
          Failed: something is not as it must be at the end.
        """
        for _ in range(self.random.randrange(6)):
            self.network.run(seconds=self.random.random())
            if self.faults:
                self._go_wrong()
            self.append(self.random.randrange(1, 6))
        took = self.network.run(self._perhaps_done, seconds=PATIENCE)
        self.check()
        statistics = [site.machine.statistics() for site in self.honest]
        return Facts(
            len(self.honest) + len(self.others),
            self.source.core.head.length,
            took,
            sum(each.blocks_received for each in statistics),
            sum(each.duplicate_blocks for each in statistics),
            self.source.machine.statistics().blocks_served,
        )

    def _go_wrong(self) -> None:
        what = self.random.random()
        if what < 0.5:
            for _ in range(self.random.randrange(1, len(self.honest) + 1)):
                site = self.random.choice(self.honest)
                if site.links:
                    other = self.random.choice(list(site.links.values())).target
                    self._lose(site, other, self.random.uniform(0.01, 3))
        elif what < 0.7:
            self._fall_apart(self.random.uniform(0.1, 5))
        elif what < 0.8:
            self.source.truncate(self.random.randrange(self.source.core.head.length + 1))
        elif what < 0.9:
            site = self.random.choice(self.honest)
            site.disk_full = True
            self.network.call(self.random.uniform(0.1, 3), setattr, site, "disk_full", False)

    def _perhaps_done(self) -> bool:
        """`done`, looked at now and then: it is asked before every event."""
        self._events += 1
        return self._events % 64 == 0 and self.done()

    def done(self) -> bool:
        """Whether every honest reader has everything."""
        head = self.source.core.head
        return all(site.core.head == head and site.complete for site in self.honest)

    def check(self) -> None:
        """Raises Failed unless all is well."""
        if not self.done():
            lacking = [site for site in self.honest if not site.complete]
            raise Failed(f"{self.name}: {len(lacking)} honest readers lack something")
        honest = [self.source, *self.honest]
        for site in honest:
            if site.core.blocks != self.source.core.blocks:
                raise Failed(f"{self.name}: somebody has other blocks")
            if any(dropped in honest for dropped in site.dropped_sites):
                raise Failed(f"{self.name}: somebody honest was dropped: {site.dropped}")
            if site.conflicts:
                raise Failed(f"{self.name}: a conflict: {site.conflicts}")
        for site in self.random.sample(self.honest, min(5, len(self.honest))):
            site.core.check()
        if not self.faults:
            statistics = [site.machine.statistics() for site in self.honest]
            again = sum(each.duplicate_blocks for each in statistics)
            received = sum(each.blocks_received for each in statistics)
            if again > DUPLICATES * received:
                raise Failed(f"{self.name}: {again} of {received} blocks were received twice")
