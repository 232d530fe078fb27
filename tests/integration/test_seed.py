"""Several drives held by one process."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

import corestore
import hyperfs
from corestore import ForkConflict
from hyperfs.cli.output import Output
from hyperfs.cli.seed import hold
from hyperfs.cli.settings import Settings
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
