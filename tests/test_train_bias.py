"""The report on contextual bias, against its definition."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")

from sklearn.metrics import average_precision_score

from indeed_ext.train.bias import contextual_bias, frequent_pairs, mean_bias, write_bias

NAMES = ("ant", "bee", "cat", "dog")


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    labels = torch.rand(200, 4, generator=generator) < 0.4
    return (torch.randn(200, 4, generator=generator) + labels).sigmoid(), labels


def test_pairs_come_by_the_share_of_their_images_that_show_both() -> None:
    labels = torch.tensor([[1, 1, 0, 0]] * 3 + [[1, 0, 0, 0]] + [[0, 0, 1, 1]] + [[0, 0, 1, 0]] * 3).bool()
    assert frequent_pairs(labels) == [(0, 1), (2, 3)]  # 3 of 4, 1 of 4; the others never meet
    assert frequent_pairs(labels, 1) == [(0, 1)]


def test_classes_that_avoid_each_other_make_no_pair() -> None:
    labels = torch.tensor([[1, 1, 0]] + [[1, 0, 1]] * 3 + [[0, 1, 0]] * 3).bool()
    assert frequent_pairs(labels) == [(0, 2)]  # 0 and 1 meet once; independent, they would 16 / 7 times


def test_a_row_compares_a_class_with_and_without_its_companion() -> None:
    scores, labels = data()
    train = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]]).bool()
    rows = contextual_bias(scores, labels, train, NAMES)
    assert [(row.name, row.companion) for row in rows] == [("ant", "bee"), ("bee", "ant")]
    assert [row.together for row in rows] == pytest.approx([2 / 3, 1.0])
    ant, bee = labels[:, 0], labels[:, 1]
    for row_value, chosen in ((rows[0].ap_with, ant & bee), (rows[0].ap_without, ant & ~bee)):
        used = chosen | ~ant
        assert row_value == pytest.approx(average_precision_score(chosen[used].numpy(), scores[used, 0].numpy()))
    assert rows[0].images_with == (ant & bee).sum()
    assert rows[0].images_without == (ant & ~bee).sum()
    assert rows[0].confidence_with == pytest.approx(scores[ant & bee, 0].mean().item())
    assert rows[0].confidence_without == pytest.approx(scores[ant & ~bee, 0].mean().item())
    assert rows[0].confidence_absent == pytest.approx(scores[~ant & bee, 0].mean().item())


def test_means_leave_out_what_is_undefined(tmp_path: Path) -> None:
    scores, labels = data()
    labels[:, 1] &= ~labels[:, 0]  # never together in the test
    train = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]]).bool()
    rows = contextual_bias(scores, labels, train, NAMES)
    assert len(rows) == 12
    means = mean_bias(rows)
    assert any(math.isnan(row.ap_with) for row in rows)
    defined = [row.ap_with for row in rows if not math.isnan(row.ap_with)]
    assert means["ap_with"] == pytest.approx(sum(defined) / len(defined))
    assert means["ap_gap"] == pytest.approx(means["ap_with"] - means["ap_without"])
    assert all(math.isnan(value) for value in mean_bias(()).values())
    write_bias(rows, tmp_path / "bias.csv")
    with (tmp_path / "bias.csv").open(newline="") as file:
        assert [float(row["confidence_absent"]) for row in csv.DictReader(file)] == [r.confidence_absent for r in rows]
