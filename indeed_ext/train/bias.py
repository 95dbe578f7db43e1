"""Contextual bias: how much a class is recognised by the company it keeps."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

#: Pairs of classes in a report; each gives two rows.
PAIRS = 10


@dataclass(frozen=True)
class PairBias:
    """How one class fares with and without its companion; nan where no image is of that kind.

    Attributes:
        name, companion: the class, and the one that it often stands beside in training.
        together: share of the training images of the class that show its companion too.
        images_with, images_without: test images that show the class, with and without the companion.
        ap_with, ap_without: average precision with those as positives, and all images without the class as negatives.
        confidence_with, confidence_without: mean probability of the class on those.
        confidence_absent: mean probability of the class on images of the companion alone: what context makes up.
    """

    name: str
    companion: str
    together: float
    images_with: int
    images_without: int
    ap_with: float
    ap_without: float
    confidence_with: float
    confidence_without: float
    confidence_absent: float


def frequent_pairs(labels: Tensor, count: int = PAIRS) -> list[tuple[int, int]]:
    """The pairs of classes with the largest intersection over union of their images, largest first.

    Args:
        labels: ``[K, C]`` bool.
        count: pairs at most; classes that meet no more often than independent ones would make none.
    """
    present = labels.to(torch.float32)  # exact up to 2**24 images
    both = present.T @ present
    images = both.diagonal()
    overlap = (both / (images[:, None] + images - both).clamp(min=1)).triu(1)
    overlap[both * len(labels) <= images[:, None] * images] = 0
    best = overlap.flatten().topk(min(count, overlap.numel()))
    classes = labels.shape[1]
    return [divmod(index, classes) for value, index in zip(*map(Tensor.tolist, best), strict=True) if value > 0]


def contextual_bias(
    probabilities: Tensor, labels: Tensor, train_labels: Tensor, class_names: Sequence[str]
) -> tuple[PairBias, ...]:
    """A row for each class of the most frequent pairs.

    Args:
        probabilities, labels: ``[N, C]`` of the test images; labels bool.
        train_labels: ``[K, C]`` bool, where the pairs are looked for.
        class_names: C names.
    """
    rows = []
    for pair in frequent_pairs(train_labels):
        for one, other in (pair, pair[::-1]):
            scores, here, there = probabilities[:, one].double(), labels[:, one], labels[:, other]
            kinds = (here & there, here & ~there)
            precisions = [_average_precision(scores, kind, ~here) for kind in kinds]
            confidences = [scores[kind].mean().item() for kind in (*kinds, ~here & there)]
            together = train_labels[train_labels[:, one], other].double().mean().item()
            images = [int(kind.sum()) for kind in kinds]
            rows.append(PairBias(class_names[one], class_names[other], together, *images, *precisions, *confidences))
    return tuple(rows)


def mean_bias(rows: Sequence[PairBias]) -> dict[str, float]:
    """Means over the rows of the measures, each over the rows where it is defined."""
    names = [field.name for field in fields(PairBias) if field.name.startswith(("ap_", "confidence_"))]
    values = {name: torch.tensor([getattr(row, name) for row in rows]).nanmean().item() for name in names}
    return {**values, "ap_gap": values["ap_with"] - values["ap_without"]}


def write_bias(rows: Sequence[PairBias], path: Path) -> None:
    """Write the rows as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(PairBias)])
        writer.writeheader()
        writer.writerows(map(asdict, rows))


def _average_precision(scores: Tensor, positive: Tensor, negative: Tensor) -> float:
    if not positive.any():
        return math.nan
    used = positive | negative
    return float(average_precision_score(positive[used].numpy(), scores[used].numpy()))
