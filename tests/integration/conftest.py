"""What several files of integration tests share."""

from __future__ import annotations

import pytest

from tests.support.hostile import tcp_streams


@pytest.fixture(params=["memory", "tcp"])
def streams(request):
    """How to connect two ends: `scene` takes memory for None."""
    return tcp_streams if request.param == "tcp" else None
