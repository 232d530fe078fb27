"""What proves a fork, and what a store or a person hands us back: any bytes."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from corestore.conflict import ForkEvidence
from corestore.errors import DecodeError, StorageCorrupt, VerificationError
from corestore.keys import Key
from corestore.lease import Hold, Reason
from hyperfs.errors import SecretError
from hyperfs.moving import PREFIX, DriveSecret

KEY = Key(bytes(range(32)))


@given(st.binary(max_size=300))
def test_any_bytes_are_evidence_or_none(data):
    with contextlib.suppress(DecodeError, VerificationError):
        ForkEvidence.decode_untrusted(data).check(KEY)


@given(st.binary(max_size=20))
def test_any_bytes_are_a_hold_or_corrupt(data):
    with contextlib.suppress(StorageCorrupt):
        hold = Hold.decode(data)
        assert isinstance(hold.reason, Reason)
        assert Hold.decode(hold.encode()) == hold


@given(st.text(max_size=120))
def test_any_text_is_a_secret_or_none(text):
    for candidate in (text, PREFIX + text):
        with contextlib.suppress(SecretError):
            DriveSecret.parse(candidate)
