"""Choosing tiles by time, with a clock in place of a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from indeed_ext import available_backends, backends


@pytest.fixture
def autotune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    if "triton" not in available_backends() and "not installed" in backends.missing_reasons()["triton"]:
        pytest.skip(backends.missing_reasons()["triton"])
    from indeed_ext.triton_kernels import autotune

    monkeypatch.setattr(autotune, "_chosen", {})
    monkeypatch.setenv(autotune.CACHE_VARIABLE, str(tmp_path / "new" / "tiles.json"))
    return autotune


def _table() -> Any:
    from indeed_ext.triton_kernels.config import TABLE

    return TABLE["cuda", "half", "small"]


class Clock:
    """Says that the candidate at ``best`` is the fastest, and how often it was asked."""

    def __init__(self, autotune: Any, best: int) -> None:
        self.best, self.asked = autotune.candidates(_table())[best], 0

    def __call__(self, candidate: object) -> float:
        self.asked += 1
        return 1.0 if candidate == self.best else 2.0


def test_the_fastest_is_taken_and_timed_once(autotune: Any) -> None:
    clock = Clock(autotune, 5)
    assert autotune.tuned("key", _table(), clock) == clock.best
    asked = clock.asked
    assert asked == len(autotune.candidates(_table())) > 10
    assert autotune.tuned("key", _table(), clock) == clock.best
    assert clock.asked == asked


def test_a_later_process_reads_the_choice(autotune: Any) -> None:
    first = autotune.tuned("key", _table(), Clock(autotune, 5))
    other = autotune.tuned("other", _table(), Clock(autotune, 7))
    autotune._chosen.clear()
    clock = Clock(autotune, 0)
    assert autotune.tuned("key", _table(), clock) == first != _table()
    assert autotune.tuned("other", _table(), clock) == other != first
    assert clock.asked == 0


@pytest.mark.parametrize("content", ["", "[1]", '{"key": {"no such tile": 1}}', '{"key": 3}'])
def test_a_file_that_cannot_be_read_is_replaced(autotune: Any, content: str) -> None:
    autotune.cache_file().parent.mkdir()
    autotune.cache_file().write_text(content)
    clock = Clock(autotune, 3)
    assert autotune.tuned("key", _table(), clock) == clock.best
    assert "logits" in json.loads(autotune.cache_file().read_text())["key"]


def test_a_choice_that_cannot_be_kept_is_used(autotune: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(autotune.CACHE_VARIABLE, str(tmp_path / "file" / "tiles.json"))
    clock = Clock(autotune, 3)
    assert autotune.tuned("key", _table(), clock) == clock.best


def test_every_line_has_candidates_of_its_own(autotune: Any) -> None:
    from indeed_ext.triton_kernels.config import TABLE

    for line, table in TABLE.items():
        found = autotune.candidates(table)
        assert found[0] == table, line
        assert len(set(found)) == len(found) > 10
        # The products with the gradients by logits share a launch: rows of tiles may differ, columns may not.
        assert {each.features.columns == each.weight.columns for each in found} == {True}


def test_keys_tell_apart_what_may_differ(autotune: Any) -> None:
    def key(device: str = "a GPU", rows: int = 100, dtype: torch.dtype = torch.float32) -> str:
        return autotune.key_of(device, rows, 2048, 80, dtype, torch.float32)

    assert key(rows=128) == key()
    assert len({key(), key("another"), key(rows=129), key(dtype=torch.bfloat16)}) == 4


@pytest.mark.parametrize("value", ["", "0", "1"])
def test_nothing_is_timed_where_there_is_no_device(autotune: Any, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(autotune.ENVIRONMENT_VARIABLE, value)
    assert not autotune.is_wanted(torch.ones(1))
