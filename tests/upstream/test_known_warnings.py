"""Upstream's known warnings are ignored by name, in tests and in commands, and no others."""

from __future__ import annotations

import warnings

import pytest

from megatron.seq1f1b.upstream.known_warnings import KNOWN, silence_known_warnings


def test_tests_ignore_what_commands_ignore(pytestconfig: pytest.Config) -> None:
    ignored = set(pytestconfig.getini("filterwarnings"))
    assert {f"ignore:{known.message}:{known.category.__name__}" for known in KNOWN} <= ignored


def test_other_warnings_of_the_same_modules_get_through() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        silence_known_warnings()
        for known in KNOWN:
            module = known.module.replace("\\", "") + "x"
            with pytest.raises(known.category):
                warnings.warn_explicit("something new", known.category, "x.py", 1, module=module)
            with pytest.raises(known.category):
                warnings.warn_explicit(known.message, known.category, "x.py", 1, module="ours")
            warnings.warn_explicit(known.message, known.category, "x.py", 1, module=module)
