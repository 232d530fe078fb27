"""Moments as people write them."""

from __future__ import annotations

from datetime import UTC, datetime

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_date(text: str) -> int:
    """Nanoseconds since 1970 of an ISO 8601 date or date-time.

    A date is the moment that day begins. Without an offset (`Z`, `+02:00`) it is local time.

    Raises:
      ValueError: it is neither.
    """
    moment = datetime.fromisoformat(text)
    try:
        since = moment.astimezone() - _EPOCH
    except (OverflowError, OSError) as error:
        raise ValueError(f"the date {text} is out of range") from error
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1_000
