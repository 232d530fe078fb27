"""Limits of tests in real time are such that no slow machine comes to them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TOP = Path(__file__).parent
FILES = sorted([*TOP.glob("*.py"), *TOP.glob("*/*.py")])


def numbers(function):
    """The lines with a bare number of seconds to `fail_after`, but where it is to be exceeded."""
    for node in ast.walk(function):
        if isinstance(node, ast.With | ast.AsyncWith):
            calls = [item.context_expr for item in node.items]
            if any("TooSlowError" in ast.unparse(call) for call in calls):
                continue
            for call in calls:
                if (
                    isinstance(call, ast.Call)
                    and ast.unparse(call.func).endswith("fail_after")
                    and isinstance(call.args[0], ast.Constant)
                ):
                    yield call.lineno


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TOP)))
def test_a_hang_is_guarded_against_by_a_named_limit(path):
    """See `tests.support.limits`. In virtual time a number is a claim."""
    found = [
        line
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and "autojump_clock" not in [argument.arg for argument in node.args.args]
        for line in numbers(node)
    ]
    assert not found, "lines that need HANG_SECONDS, or virtual time"
