"""Many readers of one writer at once: what the writer sends, and who is waited for."""

from __future__ import annotations

import pytest

from tests.simulation.test_forks import reader, writer
from tests.support.network import Network


def swarm(seed, count, blocks, *, uplink=5e6, latency=0.02):
    """A writer and readers that all know each other."""
    network = Network(seed)
    source = writer(network, blocks)
    source.uplink = uplink
    readers = [reader(network, source) for _ in range(count)]
    sites = [source, *readers]
    for at, one in enumerate(sites):
        for two in sites[at + 1 :]:
            network.connect(one, two, latency=latency * network.rng.uniform(0.5, 2))
    return network, source, readers


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))]
)
def test_every_block_leaves_the_writer_about_once_or_twice(seed):
    network, source, readers = swarm(seed, 10, 1000, uplink=200e3)
    network.run(lambda: all(site.complete for site in readers), seconds=120)
    assert all(site.core.blocks == source.core.blocks for site in readers)
    assert source.machine.statistics().blocks_served < 2.5 * 1000
    received = sum(site.machine.statistics().blocks_received for site in readers)
    assert received < 1.05 * 10 * 1000


def test_a_reader_with_a_part_that_wants_no_more_holds_nobody_up():
    network = Network(1)
    source = writer(network, 500)
    sparse = reader(network, source, live=False)
    target = reader(network, source, live=False)
    network.connect(source, sparse)
    network.run(seconds=1)
    sparse.machine.want_range(0, 100)
    sparse.drain()
    network.run(seconds=2)
    network.connect(source, target)
    network.connect(sparse, target)
    target.machine.want_range(0, 500)
    target.drain()
    network.run(lambda: target.complete, seconds=10)
    assert target.complete
    assert network.now < 6


@pytest.mark.parametrize("silent_after", [0.0, 0.05, 0.2])
def test_a_reader_that_falls_silent_holds_nobody_up(silent_after):
    network, source, readers = swarm(3, 4, 2000, uplink=2e6)
    network.call(silent_after, setattr, readers[0], "silent", True)
    took = network.run(lambda: all(site.complete for site in readers[1:]), seconds=60)
    assert all(site.core.blocks == source.core.blocks for site in readers[1:])
    assert took < 10


def test_a_slow_reader_holds_nobody_up():
    network = Network(2)
    source = writer(network, 3000)
    slow, target = reader(network, source), reader(network, source)
    network.connect(source, slow)
    network.run(lambda: slow.complete)
    slow.core.bitfield.set(2999, 3000, False)
    slow.machine.cleared(2999, 3000)
    slow.uplink = 20e3
    network.connect(slow, target)
    network.connect(source, target)
    took = network.run(lambda: target.complete, seconds=60)
    assert target.complete
    # 3000 answers of 150 bytes at 20 kB/s from the slow one alone would take over 20 s.
    assert took < 5


def test_a_reader_that_leaves_is_made_up_for():
    for seed in range(10):
        network, source, readers = swarm(seed, 3, 1000, uplink=500e3)
        network.run(seconds=0.1 + 0.2 * network.rng.random())
        for link in list(readers[0].links.values()):
            network.disconnect(link)
        network.run(lambda r=readers: all(site.complete for site in r[1:]), seconds=60)
        assert all(site.core.blocks == source.core.blocks for site in readers[1:])
