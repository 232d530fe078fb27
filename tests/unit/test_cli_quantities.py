"""Sizes and times as people type them."""

from __future__ import annotations

import pytest

from hyperfs.cli.quantities import parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512", 512),
        ("500M", 500_000_000),
        ("1.5 GB", 1_500_000_000),
        ("2GiB", 2 << 30),
        ("3kb", 3000),
        ("1T", 10**12),
    ],
)
def test_sizes_are_read_with_their_units(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("45", 45), ("45s", 45), ("90m", 5400), ("12h", 43200), ("30d", 2592000), ("0.5d", 43200)],
)
def test_times_are_read_with_their_units(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "-1", "1 2", "5q", "1e9", "G"])
def test_what_is_neither_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match="write 500M"):
        parse_size(text)
    with pytest.raises(ValueError, match="write 30d"):
        parse_duration(text)
