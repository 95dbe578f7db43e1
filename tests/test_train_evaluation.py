"""Measures against scikit-learn and against their definition, and the files they are written to."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")

from sklearn.metrics import average_precision_score

from indeed_ext.train import plots
from indeed_ext.train.evaluation import Evaluation, Report

NAMES = ("ant", "bee", "cat", "dog")


def scores(images: int = 90) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.rand(images, len(NAMES), generator=generator) < 0.3
    return torch.randn(images, len(NAMES), generator=generator) + labels, labels


def report_of(logits: torch.Tensor, labels: torch.Tensor, batch: int = 32) -> Report:
    evaluation = Evaluation()
    for part in zip(logits.split(batch), labels.split(batch), strict=True):
        evaluation.update(*part)
    return evaluation.report(NAMES)


def test_average_precision_is_that_of_scikit_learn() -> None:
    logits, labels = scores()
    report = report_of(logits, labels)
    expected = average_precision_score(labels.numpy(), logits.numpy(), average=None)
    torch.testing.assert_close(report.average_precision, torch.from_numpy(expected), rtol=0, atol=1e-6)
    assert report.mean_average_precision == pytest.approx(expected.mean(), abs=1e-6)


def test_half_logits_are_ranked_as_they_are() -> None:
    """A bfloat16 sigmoid is 1 from 6 on; these logits differ there."""
    labels = torch.tensor([[1, 0, 0, 0]] * 4 + [[0, 1, 1, 1]] * 4).bool()
    logits = torch.arange(8.0, 16.0).flip(0)[:, None].repeat(1, len(NAMES)).to(torch.bfloat16)
    assert torch.unique(logits[:, 0].sigmoid()).numel() == 1
    assert report_of(logits, labels).average_precision[0] == 1


def test_confidence_map_is_the_mean_probability_over_the_images_of_a_class() -> None:
    logits, labels = scores()
    report = report_of(logits, labels)
    probabilities = logits.double().sigmoid()
    for row in range(len(NAMES)):
        expected = probabilities[labels[:, row]].mean(0)
        torch.testing.assert_close(report.confidence[row], expected, rtol=0, atol=1e-6)
    diagonal = torch.eye(len(NAMES), dtype=torch.bool)
    assert report.mean_diagonal == pytest.approx(report.confidence[diagonal].mean().item())
    assert report.mean_off_diagonal == pytest.approx(report.confidence[~diagonal].mean().item())
    assert report.images.tolist() == labels.sum(0).tolist()


def test_a_class_without_images_is_undefined_and_left_out_of_the_means(tmp_path: Path) -> None:
    logits, labels = scores()
    labels[:, 2] = False
    report = report_of(logits, labels)
    rest = [0, 1, 3]
    assert math.isnan(report.average_precision[2])
    assert report.mean_average_precision == pytest.approx(report.average_precision[rest].mean().item())
    assert report.mean_diagonal == pytest.approx(report.own_confidence[rest].mean().item())
    report.write_json(tmp_path / "measures.json")
    text = (tmp_path / "measures.json").read_text()
    assert "NaN" not in text  # which is not JSON
    assert json.loads(text)["average_precision"]["cat"] is None


def test_a_reset_evaluation_has_forgotten() -> None:
    logits, labels = scores()
    evaluation = Evaluation()
    evaluation.update(-logits, labels)
    evaluation.reset()
    evaluation.update(logits, labels)
    assert torch.equal(evaluation.report(NAMES).confidence, report_of(logits, labels, batch=len(logits)).confidence)


def test_files_and_table_hold_the_measures(tmp_path: Path) -> None:
    report = report_of(*scores())
    report.write_json(tmp_path / "measures.json", method="l2")
    report.write_csv(tmp_path / "measures.csv")
    measures = json.loads((tmp_path / "measures.json").read_text())
    assert measures["method"] == "l2"
    assert measures["mAP"] == report.mean_average_precision
    assert measures["confidence"] == report.confidence.tolist()
    with (tmp_path / "measures.csv").open(newline="") as file:
        rows = {row["class"]: row for row in csv.DictReader(file)}
    assert list(rows) == [*NAMES, "mean"]
    for index, name in enumerate(NAMES):
        assert float(rows[name]["average_precision"]) == report.average_precision[index]
        assert float(rows[name]["probability_dog"]) == report.confidence[index, 3]
    assert float(rows["mean"]["other_confidence"]) == report.mean_off_diagonal
    table = report.table().splitlines()
    assert [line.split()[0] for line in table] == ["class", *NAMES, "mean"]
    assert table[-1].split()[1] == f"{100 * report.mean_average_precision:.2f}"


def test_table_of_many_classes_is_short() -> None:
    count = 80
    values = torch.rand(count, count, dtype=torch.float64)
    report = Report(tuple(map(str, range(count))), values[0], values, torch.ones(count).long())
    assert len(report.table().splitlines()) == 2


@pytest.mark.parametrize("count", [2, 10, 80])
def test_picture_is_drawn(count: int, tmp_path: Path) -> None:
    names = [f"class {index}" for index in range(count)]
    plots.confidence_map(torch.rand(count, count), names, "title", tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
