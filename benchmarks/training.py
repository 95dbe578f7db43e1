"""Forward and backward of the whole loss, every implementation at every shape, norm and pairing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from .agreement import TOLERANCE, Disagreement, require_equal_losses
from .baselines import (
    COMPILE,
    EAGER,
    THREE_GEMMS,
    Key,
    compile_failure,
    compiled_backends,
    compiled_loss,
    loss_calls,
    losses,
)
from .cases import PAIRINGS, Case, cases, make_inputs
from .results import (
    OVER_COMPILE,
    OVER_EAGER,
    RATIOS,
    TO_THREE_GEMMS,
    Report,
    Row,
    Settings,
    cell,
    number,
    table,
    timing_rows,
)
from .timing import geometric_mean, measure

SECTION = "training"
#: Targets are stated for these; the other pairings are reported beside them.
MAIN_PAIRINGS = ("anchor", "matching")
TARGETS = {OVER_EAGER: "≥ 4", OVER_COMPILE: "≥ 3", TO_THREE_GEMMS: "≤ 1.3"}
#: Below this a call's fixed cost outweighs the matrix products, so ratios to them say little.
MIN_MILLISECONDS = 0.5


def run(settings: Settings, report: Report) -> None:
    """Time all cases."""
    time_cases(report, SECTION, cases(settings.shapes, device=settings.device), settings)


def time_cases(report: Report, section: str, chosen: Iterable[Case], settings: Settings, axis: str = "") -> None:
    """Time these cases, leaving out those where an implementation disagrees.

    Args:
        axis: the size that grows along ``chosen``, if any: then one compilation serves all shapes, and mining is
            always part of the time.
    """
    compile_works = settings.with_compile
    for case in chosen:
        settings.say(f"  {case}")
        inputs = make_inputs(case)
        compiled = compiled_loss(case, dynamic=bool(axis)) if compile_works and case.strategy else None
        if compiled and (reason := compile_failure(compiled, inputs)):
            report.notes.append(f"torch.compile does not work here and is left out: {reason}")
            compile_works, compiled = False, None
        functions = losses(case, compiled)
        try:
            require_equal_losses(case, inputs, functions)
        except Disagreement as error:
            report.errors.append(str(error))
            continue
        calls = loss_calls(case, inputs, functions)
        if axis:
            calls = {key: call for key, call in calls.items() if key.pairs != "given"}
        report.rows += timing_rows(section, case, measure(calls, settings.effort, settings.device), axis)


# ------------------------------------------------------------------------ rendering


def render(rows: Sequence[Row], device: str) -> str:
    """Tables of means and of every case, for each backend."""
    loss, gradient = TOLERANCE[rows[0].case.dtype]
    parts = [
        "## Forward and backward\n",
        "Milliseconds for the loss and its gradients by features, weight and bias: median over rounds, quartiles in "
        "square brackets. *eager* is the best plain PyTorch (features stacked, one linear layer, one cross-entropy, "
        "vectorised mining), *compile* the same under `torch.compile` (each shape compiled for itself, mining eager), "
        "*three_gemms* the three matrix products of the loss as bare `torch.mm` on all features. Mining is part of the "
        "time except where the pairs are said to be given. Half of the features are zero, as after a ReLU. Every case "
        f"was timed only after all implementations agreed: loss to a relative {loss:.0e}, gradients to {gradient:.0e} "
        "of their largest element.\n",
        *mean_tables(rows, device),
    ]
    for title, pairings in (("Anchor and matching", MAIN_PAIRINGS), ("Balanced and pair lists", PAIRINGS[2:])):
        chosen = [row for row in rows if row.case.pairing in pairings]
        if chosen:
            parts += [f"### {title}\n", case_table(chosen, device) + "\n"]
    parts.append(
        "*list* is a list of B / 2 random pairs, each used both ways; it is always given, and not measured under "
        "torch.compile.\n"
    )
    return "\n".join(parts)


def mean_tables(rows: Sequence[Row], device: str, kind: str = "") -> list[str]:
    """Every backend's geometric means of its ratios, for each pairing and norm and for the main pairings."""
    parts = []
    for backend in compiled_backends(device):
        own = [row for row in rows if row.key.name == backend]
        if own:
            parts += [f"### Backend `{backend}`{kind}: geometric means\n", _means(own, rows) + "\n"]
    return parts


def _means(own: Sequence[Row], rows: Sequence[Row]) -> str:
    products = {row.case: row.value.median for row in rows if row.key == Key(THREE_GEMMS)}

    def line(title: str, chosen: Callable[[Case], bool]) -> list[str]:
        cells = [title]
        for pairs in ("mined", "given"):
            for name in RATIOS:
                values = [
                    row.ratios[name].median
                    for row in own
                    if row.key.pairs == pairs and chosen(row.case) and name in row.ratios
                    and (name != TO_THREE_GEMMS or products[row.case] >= MIN_MILLISECONDS)
                ]  # fmt: skip
                cells.append(f"{number(geometric_mean(values))} ({len(values)})" if values else "—")
        return cells

    groups = sorted(dict.fromkeys((row.case.pairing, row.case.norm) for row in own), key=lambda g: PAIRINGS.index(g[0]))
    lines = [line(f"{p}, {n}", lambda case, p=p, n=n: (case.pairing, case.norm) == (p, n)) for p, n in groups]
    main = [pairing for pairing in MAIN_PAIRINGS if any(row.case.pairing == pairing for row in own)]
    lines.append(line(f"**{' and '.join(main)}, both norms**", lambda case: case.pairing in MAIN_PAIRINGS))
    lines.append(["target", *(TARGETS[name] for name in RATIOS), "", "", ""])
    names = ("faster than eager", "faster than compile", f"times three_gemms (where ≥ {MIN_MILLISECONDS} ms)")
    header = ["", *names, *(f"pairs given: {name}" for name in names)]
    return table(header, lines) + "\n\nIn brackets the number of cases."


def case_table(rows: Sequence[Row], device: str) -> str:
    """Times and ratios of every case."""
    by_case: dict[Case, dict[Key, Row]] = {}
    for row in rows:
        by_case.setdefault(row.case, {})[row.key] = row
    backends = compiled_backends(device)
    keys = [Key(name, pairs) for pairs in ("mined", "given") for name in (EAGER, COMPILE, *backends)]
    keys = [*(key for key in keys if any(key in found for found in by_case.values())), Key(THREE_GEMMS)]
    ratios = [(backend, name) for backend in backends for name in RATIOS]
    header = ["batch x width x classes", "norm", "pairing", *(f"{key} [ms]" for key in keys)]
    header += [f"{backend}: {name.replace('_', ' ')}" for backend, name in ratios]
    lines = []
    for case, found in by_case.items():
        pairs = "mined" if case.strategy else "given"
        times = [cell(found.get(key)) for key in keys]
        own = [cell(found.get(Key(backend, pairs)), name) for backend, name in ratios]
        lines.append([str(case.shape), case.norm, case.pairing, *times, *own])
    return table(header, lines)
