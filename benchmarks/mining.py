"""Mining by itself: against plain PyTorch at a usual batch, against the loss's three GEMMs at large ones."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import indeed_ext

from .agreement import Disagreement, require_valid_mining
from .baselines import EAGER, THREE_GEMMS, Call, Key, compiled_backends, mining_call, three_gemms
from .cases import STRATEGIES, Case, Shape, make_labels
from .results import OVER_EAGER, TO_THREE_GEMMS, Report, Row, Settings, cell, table, timing_rows
from .timing import measure

SECTION = "mining"
USUAL = (1024, 80)
LARGE_BATCH = 8192
LARGE_CLASSES = (80, 10_000)
#: The loss that large mining is compared with.
LOSS_WIDTH, LOSS_CLASSES = 2048, 80
#: Checking partners takes a matrix product of B x C x B.
MAX_CLASSES_CHECKED = 1000
FLOAT, PACKED = "float labels", "packed labels"


def run(settings: Settings, report: Report) -> None:
    """Both comparisons; a large batch is timed from float labels and from words packed before."""
    backends = compiled_backends(settings.device)
    _time(settings, report, *USUAL, (FLOAT,), (EAGER, *backends), {})
    products = three_gemms(Case(Shape(LARGE_BATCH, LOSS_WIDTH, LOSS_CLASSES), device=settings.device))
    for classes in LARGE_CLASSES[: 1 if settings.quick else None]:
        _time(settings, report, LARGE_BATCH, classes, (FLOAT, PACKED), backends, {Key(THREE_GEMMS): products})


def _time(
    settings: Settings,
    report: Report,
    batch: int,
    classes: int,
    notes: Sequence[str],
    names: Sequence[str],
    shared: dict[Key, Call],
) -> None:
    """Time all strategies; ``shared`` is measured once for all of them."""
    settings.say(f"  all strategies, batch {batch}, {classes} classes")
    labels = make_labels(batch, classes).to(settings.device)
    given = {FLOAT: labels, PACKED: indeed_ext.pack_labels(labels)}
    calls: dict[tuple[str, str], dict[Key, Call]] = {}
    for strategy, note in itertools.product(STRATEGIES, notes):
        own = {Key(name): mining_call(name, given[note], strategy, classes) for name in names}
        try:
            if classes <= MAX_CLASSES_CHECKED:
                require_valid_mining(labels, strategy, {f"{key} from {note}": call() for key, call in own.items()})
            calls[strategy, note] = own
        except Disagreement as error:
            report.errors.append(str(error))
    every = {(*group, key): call for group, own in calls.items() for key, call in own.items()}
    seconds = measure({**every, **shared}, settings.effort, settings.device)
    for (strategy, note), own in calls.items():
        case = Case(Shape(batch, 0, classes), "", strategy, labels.dtype, settings.device)
        times = {key: seconds[strategy, note, key] for key in own} | {key: seconds[key] for key in shared}
        report.rows += timing_rows(SECTION, case, times, note)


# ------------------------------------------------------------------------ rendering


def render(rows: Sequence[Row], device: str) -> str:
    """Two tables."""
    by_case: dict[tuple[Case, str], dict[str, Row]] = {}
    for row in rows:
        by_case.setdefault((row.case, row.note), {})[row.key.name] = row
    names = compiled_backends(device)
    usual, large = [], []
    for (case, note), found in by_case.items():
        if EAGER in found:
            times = [cell(found[name]) for name in (EAGER, *names)]
            usual.append([case.pairing, *times, *(cell(found[name], OVER_EAGER) for name in names)])
            continue
        for name in names:
            times = [cell(found[name]), cell(found[THREE_GEMMS]), cell(found[name], TO_THREE_GEMMS)]
            large.append([f"{case.shape.classes:,}", case.pairing, note.removesuffix(" labels"), name, *times])
    header = ["strategy", *(f"{name} [ms]" for name in (EAGER, *names)), *(f"{n}: faster than eager" for n in names)]
    large_header = ["classes", "strategy", "labels", "backend", "time [ms]", "three_gemms [ms]", "ratio"]
    return "\n".join(
        (
            "## Mining\n",
            f"Batch {USUAL[0]}, {USUAL[1]} classes, from float labels, against vectorised PyTorch (target: ≥ 10 times "
            "faster). All partners were checked: compatible, nobody left alone needlessly, matchings disjoint.\n",
            table(header, usual) + "\n",
            f"Batch {LARGE_BATCH}, against the three GEMMs of a loss over ({LARGE_BATCH}, {LOSS_WIDTH}, {LOSS_CLASSES})"
            " (target: anchor ≤ 0.05 of them). Float labels are packed as part of the call; packed ones were before.\n",
            table(large_header, large) + "\n",
        )
    )
