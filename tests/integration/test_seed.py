"""Several drives held by one process."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import trio

import corestore
import hyperfs
from corestore import ForkConflict
from hyperfs.cli.output import Output, size_text
from hyperfs.cli.seed import _report as report
from hyperfs.cli.seed import _tell_how_far as tell_how_far
from hyperfs.cli.seed import hold
from hyperfs.cli.settings import Settings
from hyperfs.cli.status import _state as state
from tests.support.builders import linked
from tests.support.limits import HANG_SECONDS

SETTINGS = Settings(Path("/nowhere"), Output())


async def test_a_key_that_has_signed_two_histories_ends_the_holding_of_its_drive_alone(
    monkeypatch, capsys
):
    async with corestore.open(None) as near, corestore.open(None) as far:
        key = await hyperfs.create(near, "photos")
        async with linked(near, far), hyperfs.open(far, key=key) as drive:
            with trio.fail_after(HANG_SECONDS):
                await drive.ready()

            async def stopped(self, condition):
                raise ForkConflict("two histories are signed", proof=None)

            monkeypatch.setattr(corestore.Hypercore, "wait_until", stopped)
            with trio.fail_after(HANG_SECONDS):
                await hold(SETTINGS, drive, None, alone=False)
            assert f"{key} is held no further: two histories" in capsys.readouterr().err
            with pytest.raises(ExceptionGroup) as caught:
                await hold(SETTINGS, drive, None, alone=True)
            assert caught.group_contains(ForkConflict)


async def test_a_drive_that_cannot_be_read_is_told_of_by_its_blocks(capsys, autojump_clock):
    async with corestore.open(None) as near, corestore.open(None) as far:
        key = await hyperfs.create(near, "photos", encrypted=True)
        async with hyperfs.open(near, name="photos") as drive:
            await drive.write("/f", bytes(100_000))
            logs = [drive.metadata, drive.content]
            blocks, size = sum(log.length for log in logs), sum(log.byte_length for log in logs)
        async with (
            linked(near, far),
            hyperfs.open(far, key=key) as held,
            corestore.open_swarm(far) as swarm,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(partial(hold, SETTINGS, held, None, alone=True))
            with trio.fail_after(HANG_SECONDS):
                await tell_how_far(SETTINGS, [held])
            told = capsys.readouterr().err
            assert f"all of {key} is here: {blocks} blocks, {size_text(size)}, which cannot" in told
            found = report(far, swarm, [held])
            names = ("version", "files", "byte_length", "complete")
            for each in (found, *found["drives"]):
                assert [each[name] for name in names] == [None, None, None, True]
                assert state(each) == (
                    "encrypted, and its encryption key is not known here; all of it is here"
                )
            nursery.cancel_scope.cancel()
