"""The comparison: what its tables say of the runs, that finished runs are kept, and that the page stands alone."""

from __future__ import annotations

import csv
import json
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")

from indeed_ext.train.cli import main
from indeed_ext.train.compare import Variant
from indeed_ext.train.comparison import MEASURES, show

RECIPE = ["compare", "--recipe", "ml-digits-biased-smoke", "--output", "out"]
FIT = [
    "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.max_epochs", "1",
    "--trainer.limit_val_batches", "2", "--trainer.limit_test_batches", "3",
]  # fmt: skip


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a comparison of two methods with two seeds, of which the first was made by another call."""
    parent = tmp_path_factory.mktemp("compare")
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(parent)
        main([*RECIPE, *FIT, "--methods", "baseline", "--seeds", "0"])
        first = next(parent.glob("out/runs/baseline-seed0/*/metrics.csv"))
        before = first.stat().st_mtime_ns
        main([*RECIPE, *FIT, "--methods", "baseline", "minmax:lam_warmup=0,strategy=matching", "--seeds", "0", "1"])
        assert first.stat().st_mtime_ns == before
    torch.set_num_threads(threads)
    return parent / "out"


def test_finished_runs_are_not_repeated(output: Path) -> None:
    folders = sorted(path.relative_to(output / "runs").parts for path in output.glob("runs/*/*/config.yaml"))
    assert [folder[0] for folder in folders] == [
        "baseline-seed0", "baseline-seed1", "minmax-lam_warmup-0-strategy-matching-seed0",
        "minmax-lam_warmup-0-strategy-matching-seed1",
    ]  # fmt: skip


def test_tables_hold_mean_and_deviation_of_the_runs(output: Path) -> None:
    with (output / "comparison.csv").open(newline="") as file:
        rows = {(row["test"], row["method"]): row for row in csv.DictReader(file)}
    assert len(rows) == 4
    markdown = (output / "comparison.md").read_text()
    for test, suffix in (("single", ""), ("entire", "-entire")):
        files = sorted(output.glob(f"runs/baseline-*/*/evaluation{suffix}.json"))
        runs = [json.loads(file.read_text()) for file in files]
        assert len(runs) == 2
        values = [100 * run["mAP"] for run in runs]
        row = rows[test, "baseline"]
        assert float(row["mAP_mean"]) == pytest.approx(statistics.mean(values))
        assert float(row["mAP_sd"]) == pytest.approx(statistics.stdev(values))
        off_diagonal = [run["mean_off_diagonal_confidence"] for run in runs]
        assert float(row["off_diagonal_mean"]) == pytest.approx(statistics.mean(off_diagonal))
        assert f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}" in markdown
    # A single digit is never with its companion; of two there are both kinds.
    assert rows["single", "baseline"]["ap_with_mean"] == "nan"
    assert 0 < float(rows["entire", "baseline"]["ap_with_mean"]) <= 100


def test_the_page_stands_alone(output: Path) -> None:
    page = (output / "comparison.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    for text in (
        "minmax:lam_warmup=0,strategy=matching",
        "Test images: entire",
        "indeed compare",
        *(m.heading for m in MEASURES),
    ):
        assert text in page


def test_another_recipe_or_bad_input_is_refused(
    output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(output.parent)
    for arguments, message in (
        ([*RECIPE, "--methods", "baseline"], "out is a comparison with another recipe or other options"),
        (["compare"], "--recipe"),
        (["compare", "--recipe", "no"], "unknown recipe 'no'"),
        ([*RECIPE, *FIT, "--methods", "l2:lam"], "expected METHOD:OPTION=VALUE"),
        ([*RECIPE, *FIT, "--methods", "focal"], "model.method"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert message in error


def test_a_variant_sets_options_of_the_model() -> None:
    variant = Variant.parse("minmax:lam=0.5,strategy=matching")
    assert variant.options == ("--model.method", "minmax", "--model.lam", "0.5", "--model.strategy", "matching")


def test_values_are_shown_with_their_deviation() -> None:
    assert show([1.0, 3.0], 2) == "2.00 ± 1.41"
    assert show([1.0], 2) == "1.00"
    assert show([float("nan")], 2) == "-"
