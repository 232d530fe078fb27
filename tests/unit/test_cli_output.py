"""What is said while something takes long, where there is no terminal."""

from __future__ import annotations

import threading

import pytest

from hyperfs.cli import output
from hyperfs.cli.output import Output
from tests.support.limits import PATIENT


def timers():
    return [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]


@pytest.mark.parametrize(
    ("how", "said"),
    [(Output(), "looking ...\n"), (Output(quiet=True), ""), (Output(json=True), "")],
)
def test_what_takes_long_is_said_once(how, said, monkeypatch, capsys):
    monkeypatch.setattr(output, "PLAIN_PROGRESS_SECONDS", 0)
    with how.waiting("looking"):
        for timer in timers():
            timer.join()
    assert capsys.readouterr().err == said
    assert not timers()


def test_what_is_soon_over_is_not_said(monkeypatch, capsys):
    monkeypatch.setattr(output, "PLAIN_PROGRESS_SECONDS", PATIENT)
    with Output().waiting("looking"):
        (timer,) = timers()
    timer.join()
    assert capsys.readouterr().err == ""


def test_a_failure_ends_the_waiting(monkeypatch, capsys):
    monkeypatch.setattr(output, "PLAIN_PROGRESS_SECONDS", PATIENT)
    with pytest.raises(ValueError), Output().waiting("looking"):
        raise ValueError
    for timer in timers():
        timer.join()
    assert capsys.readouterr().err == ""
