"""Where background processes write their log, and what is said where that cannot be."""

from __future__ import annotations

import pytest

from hyperfs.cli import daemon
from hyperfs.cli.failures import Exit, Failure


def test_a_log_that_cannot_be_made_is_told_with_what_to_do(tmp_path, monkeypatch):
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(in_the_way))
    with pytest.raises(Failure, match="XDG_STATE_HOME") as caught:
        daemon.start(["mount"])
    assert caught.value.code is Exit.NOT_PERMITTED


def test_a_log_that_cannot_be_opened_is_told_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    daemon.log_file().mkdir()
    with pytest.raises(Failure, match="leave out --daemon") as caught:
        daemon.start(["mount"])
    assert caught.value.code is Exit.NOT_PERMITTED
