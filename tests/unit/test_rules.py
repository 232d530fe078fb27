"""POSIX rules: tables of who may do what."""

from __future__ import annotations

import errno
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperfs.vfs import rules
from hyperfs.vfs.rules import EXECUTE, READ, ROOT, WRITE, Credentials

FILE, DIR, LINK = stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK
OWNER = Credentials(10, 10)
MEMBER = Credentials(11, 99, (20,))
OTHER = Credentials(12, 12)


def code(function, *args, **kwargs):
    """The errno that a rule raises, or 0."""
    try:
        function(*args, **kwargs)
    except OSError as error:
        return error.errno
    return 0


@pytest.mark.parametrize(
    ("mode", "who", "mask", "allowed"),
    [
        (FILE | 0o600, OWNER, READ | WRITE, True),
        (FILE | 0o600, OWNER, EXECUTE, False),
        (FILE | 0o600, MEMBER, READ, False),
        (FILE | 0o640, MEMBER, READ, True),
        (FILE | 0o640, OTHER, READ, False),
        (FILE | 0o604, OTHER, READ, True),
        # The owner's class counts for the owner even where others have more.
        (FILE | 0o077, OWNER, READ, False),
        (FILE | 0o707, MEMBER, READ, False),
        (FILE | 0o000, ROOT, READ | WRITE, True),
        (FILE | 0o000, ROOT, EXECUTE, False),
        (FILE | 0o001, ROOT, EXECUTE, True),
        (DIR | 0o000, ROOT, EXECUTE, True),
        (DIR | 0o711, OTHER, EXECUTE, True),
        (DIR | 0o711, OTHER, READ, False),
    ],
)
def test_one_class_of_bits_decides(mode, who, mask, allowed):
    assert rules.permits(mode, 10, 20, who, mask) is allowed
    assert code(rules.check_access, mode, 10, 20, who, mask) == (0 if allowed else errno.EACCES)


def test_groups_are_asked_for_once_and_only_when_needed():
    asked = []

    def groups():
        asked.append(1)
        return {5}

    who = Credentials(1, 2, groups)
    assert who.in_group(2)
    assert not asked
    assert who.in_group(5)
    assert not who.in_group(6)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("mode", "owner", "who", "expected"),
    [
        (0o777, 1, OTHER, 0),
        (0o1777, 1, OTHER, errno.EPERM),
        (0o1777, 12, OTHER, 0),
        (0o1777, 1, ROOT, 0),
    ],
)
def test_sticky_directory_keeps_what_is_somebody_elses(mode, owner, who, expected):
    assert code(rules.check_sticky, DIR | mode, 99, owner, who) == expected


def test_sticky_directory_obeys_its_owner():
    assert code(rules.check_sticky, DIR | 0o1777, 12, 1, OTHER) == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"a", 0),
        (b"\xff\xfe", 0),
        (b"n" * 255, 0),
        (b"n" * 256, errno.ENAMETOOLONG),
        (b"", errno.EINVAL),
        (b"a/b", errno.EINVAL),
        (b"a\0", errno.EINVAL),
    ],
)
def test_names_that_no_entry_can_have_are_refused(name, expected):
    assert code(rules.check_name, name) == expected
    assert code(rules.check_new_name, name) == expected


@pytest.mark.parametrize("name", [b".", b".."])
def test_dots_exist_already(name):
    assert code(rules.check_new_name, name) == errno.EEXIST


@pytest.mark.parametrize(
    ("mode", "directory", "who", "expected"),
    [
        (FILE | 0o644, 0o755, MEMBER, (99, FILE | 0o644)),
        (FILE | 0o644, 0o2755, MEMBER, (20, FILE | 0o644)),
        (DIR | 0o755, 0o2755, MEMBER, (20, DIR | 0o2755)),
        (FILE | 0o2755, 0o2755, MEMBER, (20, FILE | 0o2755)),
        (FILE | 0o2755, 0o2755, OTHER, (20, FILE | 0o755)),
        (FILE | 0o2745, 0o2755, OTHER, (20, FILE | 0o2745)),
        (FILE | 0o2755, 0o2755, ROOT, (20, FILE | 0o2755)),
    ],
)
def test_set_group_id_directory_passes_its_group_on(mode, directory, who, expected):
    assert rules.new_owner(mode, DIR | directory, 20, who) == expected


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (FILE | 0o4755, FILE | 0o755),
        (FILE | 0o6755, FILE | 0o755),
        (FILE | 0o2745, FILE | 0o2745),
        (FILE | 0o4644, FILE | 0o644),
        (FILE | 0o1644, FILE | 0o1644),
        (DIR | 0o6755, DIR | 0o6755),
    ],
)
def test_change_clears_set_id_bits_of_what_can_be_executed(before, after):
    assert rules.mode_after_change(before) == after


@pytest.mark.parametrize(
    ("permissions", "gid", "who", "after"),
    [
        (0o2755, 99, MEMBER, 0o2755),
        (0o2755, 20, MEMBER, 0o2755),
        (0o2755, 30, MEMBER, 0o755),
        (0o2755, 30, ROOT, 0o2755),
        (0o170644, 99, MEMBER, 0o644),
    ],
)
def test_chmod_gives_a_group_only_to_its_members(permissions, gid, who, after):
    assert rules.mode_after_chmod(FILE | 0o600, permissions, gid, who) == FILE | after


def test_only_the_owner_and_root_change_the_mode():
    assert code(rules.check_chmod, 10, OWNER) == 0
    assert code(rules.check_chmod, 10, ROOT) == 0
    assert code(rules.check_chmod, 10, OTHER) == errno.EPERM


@pytest.mark.parametrize(
    ("who", "new_uid", "new_gid", "expected"),
    [
        (ROOT, 5, 6, 0),
        (OWNER, 5, None, errno.EPERM),
        (OWNER, 10, None, 0),
        (OWNER, None, 10, 0),
        (OWNER, None, 20, 0),
        (OWNER, None, 30, errno.EPERM),
        (OTHER, None, 12, errno.EPERM),
        (OTHER, 12, None, errno.EPERM),
        (OTHER, None, None, 0),
    ],
)
def test_only_root_gives_files_away(who, new_uid, new_gid, expected):
    found = code(rules.check_chown, 10, 20, who, new_uid=new_uid, new_gid=new_gid)
    assert found == expected


@pytest.mark.parametrize(
    ("mode", "who", "to_now", "expected"),
    [
        (0o600, OWNER, False, 0),
        (0o606, OTHER, True, 0),
        (0o606, OTHER, False, errno.EPERM),
        (0o604, OTHER, True, errno.EACCES),
        (0o600, ROOT, False, 0),
    ],
)
def test_whoever_may_write_sets_the_current_time_only(mode, who, to_now, expected):
    assert code(rules.check_utime, FILE | mode, 10, 20, who, to_now=to_now) == expected


@pytest.mark.parametrize(
    ("source", "target", "flags", "expected"),
    [
        (False, None, 0, 0),
        (False, None, rules.RENAME_EXCHANGE, errno.ENOENT),
        (False, False, rules.RENAME_NOREPLACE, errno.EEXIST),
        (False, None, rules.RENAME_NOREPLACE, 0),
        (True, False, 0, errno.ENOTDIR),
        (False, True, 0, errno.EISDIR),
        (True, True, 0, 0),
        (True, False, rules.RENAME_EXCHANGE, 0),
        (False, True, rules.RENAME_EXCHANGE, 0),
    ],
)
def test_rename_replaces_only_what_is_alike(source, target, flags, expected):
    found = code(rules.check_rename, source_is_dir=source, target_is_dir=target, flags=flags)
    assert found == expected


@pytest.mark.parametrize(
    ("flags", "expected"), [(0, 0), (1, 0), (2, 0), (3, errno.EINVAL), (4, errno.EINVAL)]
)
def test_unknown_rename_flags_are_refused(flags, expected):
    assert code(rules.check_rename_flags, flags) == expected


@pytest.mark.parametrize(
    ("mode", "who", "devices", "expected"),
    [
        (FILE, OTHER, False, 0),
        (stat.S_IFIFO, OTHER, False, 0),
        (stat.S_IFSOCK, OTHER, False, 0),
        (stat.S_IFCHR, ROOT, True, 0),
        (stat.S_IFCHR, ROOT, False, errno.EPERM),
        (stat.S_IFBLK, OTHER, True, errno.EPERM),
        (DIR, ROOT, True, errno.EINVAL),
        (LINK, ROOT, True, errno.EINVAL),
    ],
)
def test_mknod_makes_devices_only_for_root_where_the_mount_allows_it(mode, who, devices, expected):
    assert code(rules.check_node, mode | 0o644, who, devices=devices) == expected


@pytest.mark.parametrize(
    ("name", "size", "others", "expected"),
    [
        (b"user.a", 10, [], 0),
        (b"user.", 10, [], errno.EOPNOTSUPP),
        (b"trusted.a", 10, [], errno.EOPNOTSUPP),
        (b"user." + b"n" * 251, 0, [], errno.ERANGE),
        (b"user.a", 65_537, [], errno.E2BIG),
        (b"user.a", 33_000, [], errno.ENOSPC),
        (b"user.a", 0, [(b"user.%d" % i, b"") for i in range(128)], errno.ENOSPC),
    ],
)
def test_attributes_fit_or_are_refused(name, size, others, expected):
    assert code(rules.check_xattr, name, bytes(size), others) == expected


@given(st.integers(0, 0o7777), st.sampled_from([FILE, DIR, LINK]), st.integers(0, 7))
def test_root_reads_and_writes_everything(mode, kind, mask):
    assert rules.permits(kind | mode, 5, 5, ROOT, mask & ~EXECUTE)


@given(st.integers(0, 0o177777))
def test_clearing_set_id_bits_twice_is_clearing_them_once(mode):
    once = rules.mode_after_change(mode)
    assert rules.mode_after_change(once) == once
    assert once & ~0o6000 == mode & ~0o6000
