"""Whole worlds of peers from one number each, on virtual time; more of them: tools/simulate.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation.test_forks import blocks, reader, writer
from tests.support.network import Network
from tests.support.scenario import Scenario

CORPUS = [
    tuple(map(int, line.split()))
    for line in Path(__file__).with_name("corpus.txt").read_text().splitlines()
    if not line.startswith("#")
]


@pytest.mark.parametrize(("seed", "peers", "faults"), CORPUS)
def test_a_world_that_once_went_wrong(seed, peers, faults):
    Scenario(seed, peers, faults=bool(faults)).run()


@pytest.mark.parametrize("faults", [False, True], ids=["well", "faults"])
@pytest.mark.parametrize("seed", range(3))
def test_honest_peers_end_with_everything(seed, faults):
    Scenario(seed, 12, faults=faults).run()


@pytest.mark.slow
@pytest.mark.parametrize("faults", [False, True], ids=["well", "faults"])
@pytest.mark.parametrize("seed", range(3))
def test_a_hundred_peers_end_with_everything(seed, faults):
    Scenario(seed, 100, faults=faults).run()


def test_a_world_is_the_same_every_time():
    assert Scenario(5, 8, faults=True).run() == Scenario(5, 8, faults=True).run()


class Cutting(Network):
    """Loses the link at one message, in the middle of its way, and dials again."""

    def __init__(self, at) -> None:
        super().__init__(at)
        self.at = at
        self.messages = 0

    def transmit(self, link, message):
        super().transmit(link, message)
        self.messages += 1
        if self.messages == self.at:
            self.call(link.latency / 2, self._cut, link)

    def _cut(self, link):
        if link.open:
            self.disconnect(link)
        self.call(0.1, self.connect, link.source, link.target)


def follow(at):
    """A log of 60 blocks goes to a reader and on to a second one, is truncated and grows; one link
    is lost at message *at*. How many messages there were."""
    network = Cutting(at)
    source = writer(network, 60)
    near, far = reader(network, source), reader(network, source)
    network.connect(source, near)
    network.connect(near, far)
    network.run(lambda: near.complete and far.complete, seconds=20)
    source.truncate(40)
    source.append(*blocks(7, 5))

    def done():
        return all(s.core.head == source.core.head and s.complete for s in (near, far))

    network.run(done, seconds=60)
    assert done(), f"the link was lost at message {at}"
    for site in (near, far):
        assert site.core.blocks == source.core.blocks
        assert not site.dropped
        site.core.check()
    return network.messages


@pytest.mark.slow
def test_a_link_may_be_lost_at_any_message():
    count = follow(0)
    assert count > 100
    for at in range(1, count + 1):
        follow(at)
