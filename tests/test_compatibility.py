"""The command line and the table of `python tests/compatibility.py`; its environments are too large for the suite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import compatibility
import pytest
from compatibility import Outcome

from indeed_ext import _extension


def test_every_torch_is_tried_and_a_failure_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = []

    def check(python: str, tests: Sequence[str]) -> Outcome:
        tried.append((python, list(tests) == compatibility.SAMPLE))
        return Outcome(python, "3.12.0", "none", "1 failed, 2 passed" if python == "bad" else "3 passed", 61.4)

    monkeypatch.setattr(compatibility, "create", lambda torch: torch)
    monkeypatch.setattr(compatibility, "check", check)
    assert compatibility.main([]) == 0
    assert tried == [(torch, True) for torch in compatibility.SUPPORTED]
    assert compatibility.main(["--python", "here", "bad", "--all"]) == 1
    assert tried[-2:] == [("here", False), ("bad", False)]
    assert "| bad | 3.12.0 | none | 1 failed, 2 passed | 61 |" in capsys.readouterr().out


def test_the_sample_is_there() -> None:
    for test in compatibility.SAMPLE:
        assert (Path(__file__).parent / test).is_file()


def test_the_oldest_torch_is_the_declared_minimum() -> None:
    if not _extension.is_loaded():
        pytest.skip(str(_extension.EXTENSION_ERROR))
    assert compatibility.SUPPORTED[0].startswith(_extension.BUILD_INFO["torch_target"])
