"""The choice between two backends of a GPU by a measurement on it. GPUs and measurements are made up."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import fake_gpus
import kit
import numpy as np
import pytest
import torch
from fake_gpus import A6000, H100

import indeed_ext
from indeed_ext import _extension, _measured, backends, info

ROOT = Path(__file__).resolve().parent.parent
DEVICE = torch.device("cuda", 0)
KEY = f"H100, 9.0, torch {torch.__version__}, indeed_ext {indeed_ext.__version__}"
TRITON = {"backend": "triton", "cuda_over_triton": 1.5}


@pytest.fixture(autouse=True)
def _two_backends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    fake_gpus.install(monkeypatch, tmp_path, [H100, A6000])
    with kit.registered_backends({"cuda": ("indeed_ext", "cuda"), "triton": ("indeed_ext_triton", "cuda")}):
        yield


def write(content: str) -> None:
    _measured.path().parent.mkdir(parents=True, exist_ok=True)
    _measured.path().write_text(content)


def test_a_measurement_is_followed_on_its_gpu() -> None:
    write(json.dumps({KEY: TRITON}))
    assert backends.select(None, DEVICE) is torch.ops.indeed_ext_triton
    assert backends.select(None, torch.device("cuda", 1)) is torch.ops.indeed_ext
    text = info.render()
    assert (
        f"  cuda:0      triton, as cuda took 1.50 times as long as triton, measured here ({_measured.path()})\n" in text
    )
    assert text.endswith("  cuda:1      cuda, as usual; not measured on this GPU (python -m benchmarks.tune)")


@pytest.mark.parametrize(
    ("owner", "fact", "value"),
    [
        (torch.cuda, "get_device_name", lambda gpu: "H200"),
        (torch.cuda, "get_device_capability", lambda gpu: (8, 0)),
        (torch, "__version__", "99.0"),
        (indeed_ext, "__version__", "99.0"),
    ],
)
def test_a_measurement_of_something_else_is_not(
    owner: Any, fact: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(json.dumps({_measured.key(0): TRITON}))
    monkeypatch.setattr(owner, fact, value)
    assert backends.default_backend(DEVICE) == "cuda"


def test_it_is_overridden(monkeypatch: pytest.MonkeyPatch) -> None:
    write(json.dumps({KEY: TRITON}))
    assert backends.select("cuda", DEVICE) is torch.ops.indeed_ext
    monkeypatch.setenv("INDEED_BACKEND", "cuda")
    assert backends.select(None, DEVICE) is torch.ops.indeed_ext
    assert "  cuda:0      cuda, as INDEED_BACKEND says\n" in info.render()


def test_it_is_read_once() -> None:
    assert backends.default_backend(DEVICE) == "cuda"
    write(json.dumps({KEY: TRITON}))
    assert backends.default_backend(DEVICE) == "cuda"


def test_a_compiled_function_makes_the_same_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile takes the choice as a constant: it could not trace the reading of a file."""
    # The compiler asks as well, to save the state of random generators.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    write(json.dumps({KEY: TRITON}))

    def chosen(x: torch.Tensor) -> torch.Tensor:
        return x + (1 if backends.select(None, DEVICE) is torch.ops.indeed_ext_triton else 2)

    torch.compiler.reset()
    assert torch.compile(chosen, fullgraph=True, backend="eager")(torch.zeros(())) == 1


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '{"some": "thing"}', '{"a": {"backend": "cpu", "cuda_over_triton": 2}}', "[" * 100_000],
)
def test_a_foreign_file_is_ignored_with_one_warning(content: str) -> None:
    write(content)
    with pytest.warns(RuntimeWarning, match=r"ignores .*backend\.json") as caught:
        chosen = [backends.default_backend(torch.device("cuda", index)) for index in (0, 1, 0)]
    assert chosen == ["cuda"] * 3
    assert len(caught) == 1


def test_without_a_file_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backends.default_backend(DEVICE) == "cuda"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/someone")
    assert _measured.path() == Path("/home/someone/.cache/indeed_ext/backend.json")


# ------------------------------------------------------------------------------- python -m benchmarks.tune


@pytest.fixture
def tune(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmarks are not installed: they are imported from the repository."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import tune

    return tune


@pytest.mark.skipif(not _extension.is_loaded(), reason="there are no kernels to run")
def test_tune_compares_training_steps(tune: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU kernels stand for both; each is run, and the times are those of a clock that is made up."""

    def measure(calls: dict[str, Any], effort: object, device: str) -> dict[str, np.ndarray]:
        for call in calls.values():
            loss, *gradients = call()
            assert loss.isfinite()
            assert len(gradients) == 3
        return {"triton": np.array([1.0, 2.0, 4.0]), "cuda": np.array([3.0, 4.0, 4.0])}

    monkeypatch.setattr(tune, "measure", measure)
    with kit.registered_backends({"cuda": ("indeed_ext", "cpu"), "triton": ("indeed_ext", "cpu")}):
        assert tune.cuda_over_triton(tune.Case(tune.Shape(8, 16, 5)), tune.Effort()) == 2


@pytest.mark.parametrize(("ratio", "chosen"), [(1.3, "triton"), (1.04, "cuda"), (0.5, "cuda")])
def test_tune_saves_what_it_measured(tune: Any, monkeypatch: pytest.MonkeyPatch, ratio: float, chosen: str) -> None:
    other = {"of another GPU": TRITON}
    write(json.dumps(other))
    monkeypatch.setattr(tune, "cuda_over_triton", lambda case, effort: ratio)
    assert tune.main([]) == 0
    saved = json.loads(_measured.path().read_text())
    assert saved == other | {KEY: {"backend": chosen, "cuda_over_triton": pytest.approx(ratio)}}
    assert [path.name for path in _measured.path().parent.iterdir()] == ["backend.json"]
    _measured.read.cache_clear()
    assert backends.default_backend(DEVICE) == chosen


def test_tune_without_a_gpu_changes_nothing(
    tune: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert tune.main([]) == 1
    assert "torch finds no usable GPU" in capsys.readouterr().err
    assert not _measured.path().parent.exists()


def test_tune_saves_nothing_for_wrong_results(
    tune: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def differ(case: object, effort: object) -> float:
        raise tune.Disagreement("triton differs")

    monkeypatch.setattr(tune, "cuda_over_triton", differ)
    assert tune.main([]) == 1
    assert "not saved: triton differs" in capsys.readouterr().err
    assert not _measured.path().parent.exists()
