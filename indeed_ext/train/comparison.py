"""The tables of a comparison: what the runs of each method measured, as means and deviations."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Measure(NamedTuple):
    """A column of the tables: its name in the CSV, its heading, where evaluation.json has it, factor and decimals."""

    name: str
    heading: str
    keys: tuple[str, ...]
    factor: float = 1.0
    digits: int = 3


MEASURES = (
    Measure("mAP", "mAP %", ("mAP",), 100, 2),
    Measure("diagonal", "confidence in classes shown", ("mean_diagonal_confidence",)),
    Measure("off_diagonal", "confidence in the others", ("mean_off_diagonal_confidence",)),
    Measure("ap_with", "AP % with companion", ("contextual_bias", "ap_with"), 100, 2),
    Measure("ap_without", "AP % without it", ("contextual_bias", "ap_without"), 100, 2),
    Measure("confidence_absent", "confidence where only the companion is", ("contextual_bias", "confidence_absent")),
)


@dataclass(frozen=True)
class Comparison:
    """The measures of all runs.

    Attributes:
        tests: names of the test sets.
        outcomes: by method, then by test set: the contents of evaluation.json, one for each seed.
    """

    tests: tuple[str, ...]
    outcomes: dict[str, dict[str, list[dict[str, Any]]]]

    def values(self, method: str, test: str, measure: Measure) -> list[float]:
        """The measure, one value for each seed; nan where it is undefined."""
        found = []
        for evaluation in self.outcomes[method][test]:
            value: Any = evaluation
            for key in measure.keys:
                value = value[key]
            found.append(math.nan if value is None else measure.factor * value)
        return found

    def measures(self, test: str) -> list[Measure]:
        """The measures that this test set defines for some method."""
        return [
            measure
            for measure in MEASURES
            if any(not math.isnan(value) for method in self.outcomes for value in self.values(method, test, measure))
        ]

    def table(self, test: str) -> tuple[list[str], list[list[str]]]:
        """(headings, a row for each method) with mean ± standard deviation over the seeds."""
        measures = self.measures(test)
        headings = ["method", "runs", *(measure.heading for measure in measures)]
        rows = []
        for method, by_test in self.outcomes.items():
            cells = [show(self.values(method, test, measure), measure.digits) for measure in measures]
            rows.append([method, str(len(by_test[test])), *cells])
        return headings, rows

    def markdown(self) -> str:
        """A table for each test set."""
        parts = []
        for test in self.tests:
            headings, rows = self.table(test)
            rule = ["---", *["---:"] * (len(headings) - 1)]
            lines = ["| " + " | ".join(row) + " |" for row in (headings, rule, *rows)]
            parts.append(f"Test images: {test}\n\n" + "\n".join(lines) + "\n")
        return "\n".join(parts)

    def write_csv(self, path: Path) -> None:
        """Write a row for each test set and method, with mean and standard deviation of every measure."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            names = [f"{measure.name}_{kind}" for measure in MEASURES for kind in ("mean", "sd")]
            writer.writerow(["test", "method", "runs", *names])
            for test in self.tests:
                for method, by_test in self.outcomes.items():
                    moments = [moment for m in MEASURES for moment in mean_sd(self.values(method, test, m))]
                    writer.writerow([test, method, len(by_test[test]), *moments])


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and standard deviation of a sample, which is nan for a single value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def show(values: Sequence[float], digits: int) -> str:
    """``mean ± sd``; a dash where it is undefined."""
    mean, sd = mean_sd(values)
    if math.isnan(mean):
        return "-"
    return f"{mean:.{digits}f}" + ("" if math.isnan(sd) else f" ± {sd:.{digits}f}")
