"""Listings that are kept: how many, and when they are given up."""

from __future__ import annotations

from hyperfs.vfs import listings
from hyperfs.vfs.listings import START, Listing, Listings


def grown(kept, directory, count):
    listing = Listing(START, 0, 0)
    kept.keep(directory, listing)
    extend(kept, listing, count)
    return listing


def extend(kept, listing, count):
    new = range(listing.end, listing.end + count)
    listing.names += [b"%06d" % number for number in new]
    listing.shown += new
    listing.ids += new
    kept.grown(count)


def test_of_too_many_entries_the_oldest_listings_are_given_up(monkeypatch):
    monkeypatch.setattr(listings, "KEPT_ENTRIES", 100)
    kept = Listings()
    made = [grown(kept, directory, 30) for directory in range(5)]
    assert [listing.kept for listing in made] == [False, False, True, True, True]
    assert [kept.get(directory) for directory in range(5)] == [None, None, *made[2:]]
    again = grown(kept, 2, 10)
    assert kept.get(2) is again
    assert not made[2].kept
    extend(kept, again, 91)
    assert [kept.get(directory) for directory in (2, 3, 4)] == [None] * 3
    assert [grown(kept, directory, 30).kept for directory in range(3)] == [True] * 3


def test_listings_without_entries_are_given_up_too(monkeypatch):
    monkeypatch.setattr(listings, "KEPT_ENTRIES", 100)
    kept = Listings()
    made = [grown(kept, directory, 0) for directory in range(1000)]
    assert sum(listing.kept for listing in made) == 100
    assert [grown(kept, directory, 49).kept for directory in range(2)] == [True] * 2
    assert not any(listing.kept for listing in made)


def test_entries_are_those_between_two_positions():
    kept = Listings()
    listing = grown(kept, 1, 5)
    assert listing.entries(START, 100) == [(b"%06d" % n, n, n + 1, n) for n in range(2, 7)]
    assert listing.entries(4, 6) == [(b"000004", 4, 5, 4), (b"000005", 5, 6, 5)]
    assert listing.holds(START, b"")
    assert listing.holds(4, b"000003")
    assert not listing.holds(4, b"another")
    assert not listing.holds(9, b"000008")
    listing.drop_before(4)
    assert listing.entries(4, 6) == [(b"000004", 4, 5, 4), (b"000005", 5, 6, 5)]
    assert not listing.holds(START, b"")
    assert listing.end == 7
