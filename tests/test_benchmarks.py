"""The benchmark report runs, on a shape that takes no time, and writes what it promises."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from indeed_ext import available_backends

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def repository_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks are not installed: they are imported from the repository."""
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.mark.skipif("cpu" not in available_backends(), reason="there are no CPU kernels to measure")
def test_report_writes_its_files(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    arguments = "--shapes 8x16x5 --rounds 2 --without-compile --device cpu --sections training threads --output"
    command = [sys.executable, "-m", "benchmarks.report", *arguments.split(), str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "8x16x5" in text
    assert "Not timed" not in text
    assert (tmp_path / "ratio_to_three_gemms.png").stat().st_size > 10_000

    with (tmp_path / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    fused = [row for row in rows if row["section"] == "training" and row["implementation"] == "cpu"]
    assert {(row["norm"], row["pairing"]) for row in fused} == {
        (norm, pairing) for norm in ("l2", "minmax") for pairing in ("anchor", "matching", "balanced", "list")
    }
    assert all(float(row["median"]) > 0 and float(row["speedup_over_eager_median"]) > 0 for row in fused)
    assert all(row["device"] and row["torch"] for row in rows)


@pytest.mark.usefixtures("repository_on_path")
def test_report_explains_a_bad_shape(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks import report

    with pytest.raises(SystemExit):
        report.main(["--shapes", "8x16"])
    assert "expected BATCHxWIDTHxCLASSES" in capsys.readouterr().err


@pytest.mark.usefixtures("repository_on_path")
def test_a_wrong_result_is_an_error() -> None:
    """An implementation that is off by little more than rounding gets no figures."""
    from benchmarks import agreement, baselines, cases

    case = cases.Case(cases.Shape(8, 16, 5))
    inputs = cases.make_inputs(case)
    losses = baselines.losses(case)
    agreement.require_equal_losses(case, inputs, losses)
    losses["wrong"] = lambda *tensors: losses["eager"](*tensors) * 1.0001
    with pytest.raises(agreement.Disagreement, match=r"wrong at 8x16x5.*loss differs"):
        agreement.require_equal_losses(case, inputs, losses)


@pytest.mark.usefixtures("repository_on_path")
@pytest.mark.parametrize("strategy", ["anchor", "matching", "balanced"])
@pytest.mark.parametrize("batch", [1, 40, 300])
def test_eager_baseline_mines_validly(strategy: str, batch: int) -> None:
    """Both of its matchings: the loop of small batches and the rounds of large ones."""
    from benchmarks import agreement, cases, eager

    labels = cases.make_labels(batch, 20)
    agreement.require_valid_mining(labels, strategy, {"eager": eager.mine_pairs(labels, strategy)})


@pytest.mark.usefixtures("repository_on_path")
def test_training_steps_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lightning")
    from benchmarks import training_step

    training_step.main(["--recipes", "ml-digits", "--rounds", "2", "--seconds", "1"])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ml-digits")]
    assert [row[1] for row in rows] == ["baseline", "l2", "minmax"]
    assert rows[0][3].startswith("1.00 ")
    assert all(0.2 < float(row[3].split()[0]) < 5 for row in rows)
