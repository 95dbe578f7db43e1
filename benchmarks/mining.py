"""Mining by itself: against plain PyTorch at a usual batch, against the loss's floor at large ones."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial

import torch

import indeed_ext

from .agreement import Disagreement, require_valid_mining
from .cases import STRATEGIES, Case, Shape, make_labels
from .competitors import EAGER, FLOOR, Key, compiled_backends, floor_call, mining_calls
from .results import OF_FLOOR, OVER_EAGER, Report, Row, table, timing_rows, with_spread
from .settings import Settings
from .timing import measure

SECTION = "mining"
USUAL = (1024, 80)
LARGE_BATCH = 8192
LARGE_CLASSES = (80, 10_000)
#: The loss that large mining is compared with.
LOSS_WIDTH, LOSS_CLASSES = 2048, 80
#: Checking partners takes a matrix product of B x C x B.
MOST_CLASSES_CHECKED = 1000


def run(settings: Settings) -> Report:
    """Both comparisons; a large batch is timed from float labels and from words packed before."""
    report = Report()
    _usual(settings, report)
    for classes in LARGE_CLASSES[: 1 if settings.quick else None]:
        _large(settings, report, classes)
    return report


def _labels(batch: int, classes: int, device: str) -> torch.Tensor:
    return make_labels(batch, classes, torch.Generator().manual_seed(0)).to(device)


def _usual(settings: Settings, report: Report) -> None:
    labels = _labels(*USUAL, settings.device)
    for strategy in STRATEGIES:
        settings.say(f"  {strategy}, batch {USUAL[0]}, {USUAL[1]} classes")
        calls = mining_calls(labels, strategy)
        try:
            require_valid_mining(labels, strategy, {key: call() for key, call in calls.items()})
        except Disagreement as error:
            report.refusals.append(str(error))
            continue
        case = Case(Shape(USUAL[0], 0, USUAL[1]), "", strategy, labels.dtype, settings.device)
        report.rows += timing_rows(SECTION, case, measure(calls, settings.effort, settings.device), "float labels")


def _large(settings: Settings, report: Report, classes: int) -> None:
    device = settings.device
    settings.say(f"  all strategies, batch {LARGE_BATCH}, {classes} classes")
    labels = _labels(LARGE_BATCH, classes, device)
    given = {"float labels": labels, "packed labels": indeed_ext.pack_labels(labels)}
    calls = {
        (strategy, note, Key(name)): partial(
            indeed_ext.mine_pairs, given[note], strategy=strategy, num_classes=classes, backend=name
        )
        for strategy, note, name in itertools.product(STRATEGIES, given, compiled_backends(device))
    }
    if classes <= MOST_CLASSES_CHECKED:
        try:
            for (strategy, note, key), call in calls.items():
                require_valid_mining(labels, strategy, {f"{key} from {note}": call()})
        except Disagreement as error:
            report.refusals.append(str(error))
            return
    floor = floor_call(Case(Shape(LARGE_BATCH, LOSS_WIDTH, LOSS_CLASSES), device=device))
    seconds = measure({**calls, FLOOR: floor}, settings.effort, device)
    for strategy, note in itertools.product(STRATEGIES, given):
        case = Case(Shape(LARGE_BATCH, 0, classes), "", strategy, labels.dtype, device)
        own = {key[2]: times for key, times in seconds.items() if key[:2] == (strategy, note)}
        report.rows += timing_rows(SECTION, case, {**own, Key(FLOOR): seconds[FLOOR]}, note)


# ------------------------------------------------------------------------ rendering


def render(rows: Sequence[Row], device: str) -> str:
    """Two tables."""
    usual = [row for row in rows if row.case.shape.batch == USUAL[0]]
    large = [row for row in rows if row.case.shape.batch == LARGE_BATCH]
    return "\n".join(
        (
            "## Mining\n",
            f"Batch {USUAL[0]}, {USUAL[1]} classes, from float labels, against vectorised PyTorch (target: ≥ 10 times "
            "faster). All partners were checked: compatible, nobody left alone needlessly, matchings disjoint.\n",
            _usual_table(usual, device) + "\n",
            f"Batch {LARGE_BATCH}, against the floor of a loss over ({LARGE_BATCH}, {LOSS_WIDTH}, {LOSS_CLASSES}) "
            "(target: anchor ≤ 0.05 of it). Float labels are packed as part of the call; packed ones were before.\n",
            _large_table(large, device) + "\n",
        )
    )


def _find(rows: Sequence[Row], name: str, **attributes: object) -> Row | None:
    matching = (
        row for row in rows
        if row.key.name == name and all(getattr(row.case, key) == value for key, value in attributes.items())
    )  # fmt: skip
    return next(matching, None)


def _usual_table(rows: Sequence[Row], device: str) -> str:
    names = compiled_backends(device)
    lines = []
    for strategy in dict.fromkeys(row.case.pairing for row in rows):
        found = [_find(rows, name, pairing=strategy) for name in (EAGER, *names)]
        lines.append(
            [
                strategy,
                *(with_spread(row.value if row else None) for row in found),
                *(with_spread(row.ratios.get(OVER_EAGER) if row else None) for row in found[1:]),
            ]
        )
    header = ["strategy", *(f"{name} [ms]" for name in (EAGER, *names)), *(f"{n}: faster than eager" for n in names)]
    return table(header, lines)


def _large_table(rows: Sequence[Row], device: str) -> str:
    header = ["classes", "strategy", "labels", "backend", "time [ms]", "floor [ms]", "of the floor"]
    floors = {(row.case, row.note): row for row in rows if row.key.name == FLOOR}
    return table(
        header,
        [
            [
                f"{row.case.shape.classes:,}",
                row.case.pairing,
                row.note.removesuffix(" labels"),
                row.key.name,
                with_spread(row.value),
                with_spread(floors[row.case, row.note].value),
                with_spread(row.ratios.get(OF_FLOOR)),
            ]
            for row in rows
            if row.key.name in compiled_backends(device)
        ],
    )
