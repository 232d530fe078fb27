"""How long the tests wait, where a hang must become a failure."""

from __future__ import annotations

from typing import Final

# A test that hangs fails; a slow machine, or one that stands still for seconds, does not. Nothing
# is claimed by this number: what must come at once is asked for with a patience far above it.
HANG_SECONDS: Final = 120

# The same for the whole of a test that has a mount or another process beside it: below the timeout
# of pytest, which ends the run. And for a mount that the tests of a module share.
TEST_SECONDS: Final = 480
MODULE_SECONDS: Final = 1500

# The patience of who must get an answer at once, without waiting for it to end.
PATIENT: Final = 3600
