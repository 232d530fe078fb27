"""When `update` may say that there is nothing new."""

from __future__ import annotations

import trio

from tests.support.builders import two_stores
from tests.support.hostile import has


class SilentPort:
    """A peer's channel that leads nowhere."""

    remote_public_key = bytes(32)

    def send(self, message):
        pass

    def serve(self, request):
        pass

    def drop(self, reason):
        raise AssertionError(reason)


async def test_update_asks_the_peer_that_was_found_while_it_was_told_that_there_is_none(
    monkeypatch, autojump_clock
):
    async with two_stores(count=3) as (_, reading, core):
        copy = await reading.get(key=core.key)
        driver, state = copy._driver, copy._state
        wait = driver.wait
        peers = []

        async def wait_and_find(state, ticket):
            settled = await wait(state, ticket)
            if not peers:
                peers.append(driver.add_peer(state, SilentPort(), seeks=True))
                driver.stop_finding()
            return settled

        monkeypatch.setattr(driver, "wait", wait_and_find)
        driver.start_finding()
        grew = []

        async def update():
            grew.append(await copy.update())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(update)
            await trio.sleep(1)
            assert grew == []
            state.replicator.receive(peers[0], has(0), trio.current_time())
            driver.heard(state)
        assert grew == [False]
