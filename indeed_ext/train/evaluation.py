"""Measures of a trained classifier: average precision, the confidence maps of Figures 3 and 4, contextual bias."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import precision_recall_curve
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import multilabel_average_precision
from torchmetrics.utilities.data import dim_zero_cat

from .bias import PairBias, contextual_bias, mean_bias

#: Up to this many classes the printed table has a row for each.
TABLE_CLASSES = 20


class Evaluation(Metric):
    """All measures of a set of images, from the probabilities and labels of all of them, kept on the CPU."""

    full_state_update = False
    probabilities: list[Tensor]
    labels: list[Tensor]

    def __init__(self) -> None:
        super().__init__(compute_on_cpu=True)
        self.add_state("probabilities", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add logits ``[B, C]`` and labels ``[B, C]``."""
        # In a half type the sigmoid makes ties of different scores, and a tie changes the ranking.
        self.probabilities.append(logits.to(torch.float32).sigmoid())
        self.labels.append(labels.bool())

    def compute(self) -> tuple[Tensor, Tensor]:
        """Probabilities and labels ``[N, C]`` of everything added since the last reset, by all processes."""
        return dim_zero_cat(self.probabilities), dim_zero_cat(self.labels)

    def report(self, class_names: Sequence[str], train_labels: Tensor | None = None) -> Report:
        """The measures.

        Args:
            class_names: C names.
            train_labels: ``[K, C]``; if given, contextual bias is reported of the pairs most frequent in them.
        """
        probabilities, labels = self.compute()
        precision = multilabel_average_precision(
            probabilities, labels.long(), labels.shape[1], average=None, validate_args=False
        )
        present = labels.double()
        images = present.sum(0)
        precision = torch.where(images > 0, precision.double(), math.nan)
        confidence = present.T @ probabilities.double() / images[:, None]
        bias = () if train_labels is None else contextual_bias(probabilities, labels, train_labels, class_names)
        return Report(tuple(class_names), precision, confidence, images.long(), bias)

    def thresholds(self) -> Tensor:
        """``[C]``: per class the probability from which on calling it present makes the best F1 on these images.

        0.5 for a class that none of the images shows.
        """
        pairs = zip(*(tensor.T.numpy() for tensor in self.compute()), strict=True)
        return torch.tensor([_best_threshold(scores, present) for scores, present in pairs])


@dataclass(frozen=True)
class Report:
    """Measures of one set of images.

    Attributes:
        class_names: C names.
        average_precision: ``[C]``, area under the precision-recall curve, in [0, 1]; nan for a class without images.
        confidence: ``[C, C]``, mean predicted probability: row the true class, column the predicted one; the row of
            a class without images is nan.
        images: ``[C]``, images that show the class.
        bias: contextual bias of the pairs of classes that keep company in training.
    """

    class_names: tuple[str, ...]
    average_precision: Tensor
    confidence: Tensor
    images: Tensor
    bias: tuple[PairBias, ...] = ()

    @property
    def mean_average_precision(self) -> float:
        """mAP over the classes that have images."""
        return self.average_precision.nanmean().item()

    @property
    def own_confidence(self) -> Tensor:
        """``[C]``: mean probability of a class on the images that show it."""
        return self.confidence.diagonal()

    @property
    def other_confidence(self) -> Tensor:
        """``[C]``: mean probability of the other classes on the images that show a class."""
        others = self.confidence.sum(1) - self.own_confidence
        return others / max(len(self.class_names) - 1, 1)

    @property
    def mean_diagonal(self) -> float:
        """Mean of the diagonal of the confidence map."""
        return self.own_confidence.nanmean().item()

    @property
    def mean_off_diagonal(self) -> float:
        """Mean of the confidence map off its diagonal."""
        return self.other_confidence.nanmean().item()

    def rows(self) -> list[tuple[str, int, float, float, float]]:
        """One per class: name, images, average precision, own confidence, confidence in other classes."""
        columns = (self.images, self.average_precision, self.own_confidence, self.other_confidence)
        return list(zip(self.class_names, *(column.tolist() for column in columns), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Everything as numbers, lists and names; a measure that is undefined is None."""
        return {
            "mAP": _defined(self.mean_average_precision),
            "mean_diagonal_confidence": _defined(self.mean_diagonal),
            "mean_off_diagonal_confidence": _defined(self.mean_off_diagonal),
            "average_precision": {name: _defined(ap) for name, _, ap, _, _ in self.rows()},
            "images": dict(zip(self.class_names, self.images.tolist(), strict=True)),
            "confidence": [[_defined(value) for value in row] for row in self.confidence.tolist()],
            "contextual_bias": {name: _defined(value) for name, value in mean_bias(self.bias).items()},
        }

    def write_json(self, path: Path, **about: Any) -> None:
        """Write :meth:`to_dict` after the entries of ``about``."""
        path.write_text(json.dumps({**about, **self.to_dict()}, indent=2) + "\n", encoding="utf-8")

    def write_csv(self, path: Path) -> None:
        """Write a row per class, with its row of the confidence map, and a row of means."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            probabilities = [f"probability_{name}" for name in self.class_names]
            header = ("class", "images", "average_precision", "own_confidence", "other_confidence")
            writer.writerow([*header, *probabilities])
            for row, confidence in zip(self.rows(), self.confidence.tolist(), strict=True):
                writer.writerow([*row, *confidence])
            means = (self.mean_average_precision, self.mean_diagonal, self.mean_off_diagonal)
            writer.writerow(["mean", "", *means, *self.confidence.nanmean(0).tolist()])

    def table(self) -> str:
        """A table for the terminal; the per-class rows are left out where there are many."""
        rows = self.rows() if len(self.class_names) <= TABLE_CLASSES else []
        width = max(map(len, ("class", *(row[0] for row in rows))))
        lines = [f"{'class':<{width}}  images     AP %  own confidence  other confidence"]
        means = ("mean", "", self.mean_average_precision, self.mean_diagonal, self.mean_off_diagonal)
        lines += [
            f"{name:<{width}}  {images!s:>6}  {100 * precision:7.2f}  {own:14.3f}  {other:16.3f}"
            for name, images, precision, own, other in (*rows, means)
        ]
        return "\n".join(lines)


def _best_threshold(scores: np.ndarray, present: np.ndarray) -> float:
    if not present.any():
        return 0.5
    precision, recall, thresholds = precision_recall_curve(present, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(thresholds[f1[:-1].argmax()])


def _defined(value: float) -> float | None:
    """JSON has no nan."""
    return None if math.isnan(value) else value
