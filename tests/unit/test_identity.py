"""Where a store lies, and whether that is where it lay."""

from __future__ import annotations

import pytest

from corestore.identity import _generation, identity
from corestore.storage.folder import DATABASE, PRIMARY_KEY


def lay(folder):
    for name in (DATABASE, PRIMARY_KEY):
        (folder / name).write_bytes(b"the same")


def test_a_store_that_stays_where_it_is_has_one_identity(tmp_path):
    lay(tmp_path)
    before = identity(tmp_path)
    (tmp_path / DATABASE).write_bytes(b"something else")
    (tmp_path / PRIMARY_KEY).chmod(0o600)
    assert identity(tmp_path) == before


def test_a_store_laid_again_where_one_was_removed_is_another(tmp_path):
    lay(tmp_path)
    if not _generation(tmp_path / PRIMARY_KEY):
        pytest.skip("this file system does not tell generations")
    seen = {identity(tmp_path)}
    for count in range(2, 20):
        (tmp_path / DATABASE).unlink()
        (tmp_path / PRIMARY_KEY).unlink()
        lay(tmp_path)
        seen.add(identity(tmp_path))
        assert len(seen) == count


def test_without_its_files_a_generation_is_not_told(tmp_path):
    assert _generation(tmp_path / "missing") == b""
