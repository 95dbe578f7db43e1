"""Forward and backward of the whole loss, every competitor at every shape, norm and pairing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from .agreement import TOLERANCE, Disagreement, require_equal_losses
from .cases import PAIRINGS, Case, cases, make_inputs
from .competitors import (
    COMPILE,
    EAGER,
    FLOOR,
    Key,
    compile_failure,
    compiled_backends,
    compiled_loss,
    loss_calls,
    losses,
)
from .results import (
    OF_FLOOR,
    OVER_COMPILE,
    OVER_EAGER,
    RATIOS,
    Report,
    Row,
    number,
    table,
    timing_rows,
    with_spread,
)
from .settings import Settings
from .timing import geometric_mean, measure

SECTION = "training"
#: Targets are stated for these; the other pairings are reported beside them.
MAIN_PAIRINGS = ("anchor", "matching")
TARGETS = {OVER_EAGER: "≥ 4", OVER_COMPILE: "≥ 3", OF_FLOOR: "≤ 1.3"}
#: Below this a call's fixed cost outweighs the matrix products, so ratios to the floor say little.
FLOOR_MILLISECONDS = 0.5


def run(settings: Settings) -> Report:
    """Time all cases, leaving out those where a competitor disagrees."""
    return time_cases(SECTION, cases(settings.shapes, device=settings.device), settings)


def time_cases(section: str, chosen: Iterable[Case], settings: Settings) -> Report:
    """Time these cases, leaving out those where a competitor disagrees."""
    report = Report()
    compile_works = settings.with_compile
    for case in chosen:
        settings.say(f"  {case}")
        inputs = make_inputs(case)
        compiled = compiled_loss(case) if compile_works and case.strategy else None
        if compiled and (reason := compile_failure(compiled, inputs)):
            report.notes.append(f"torch.compile does not work here and is left out: {reason}")
            compile_works, compiled = False, None
        competing = losses(case, compiled)
        try:
            require_equal_losses(case, inputs, competing)
        except Disagreement as error:
            report.refusals.append(str(error))
            continue
        seconds = measure(loss_calls(case, inputs, competing), settings.effort, settings.device)
        report.rows += timing_rows(section, case, seconds)
    return report


# ------------------------------------------------------------------------ rendering


def render(rows: Sequence[Row], device: str) -> str:
    """Tables of means and of every case, for each backend."""
    loss, gradient = TOLERANCE[rows[0].case.dtype] if rows else (0, 0)
    parts = [
        "## Forward and backward\n",
        "Milliseconds for the loss and its gradients by features, weight and bias: median over rounds, quartiles in "
        "square brackets. *eager* is the best plain PyTorch (features stacked, one linear layer, one cross-entropy, "
        "vectorised mining), *compile* the same under `torch.compile` (each shape compiled for itself, mining eager), "
        "*floor* the three matrix products of the loss as bare `torch.mm` on all features. Mining is part of the time "
        "except where the pairs are said to be given. Half of the features are zero, as after a ReLU. Every case was "
        f"timed only after all competitors agreed: loss to a relative {loss:.0e}, gradients to {gradient:.0e} of their "
        "largest element.\n",
    ]
    for backend in compiled_backends(device):
        own = [row for row in rows if row.key.name == backend]
        if own:
            parts += [f"### Backend `{backend}`: geometric means\n", means(own, rows) + "\n"]
    for title, pairings in (("Anchor and matching", MAIN_PAIRINGS), ("Balanced and pair lists", PAIRINGS[2:])):
        chosen = [row for row in rows if row.case.pairing in pairings]
        if chosen:
            parts += [f"### {title}\n", case_table(chosen, device) + "\n"]
    parts.append(
        "*list* is a list of B / 2 random pairs, each used both ways; it is always given, and not measured under "
        "torch.compile.\n"
    )
    return "\n".join(parts)


def means(own: Sequence[Row], rows: Sequence[Row]) -> str:
    """Geometric means of one backend's ratios, for each pairing and norm and for the main pairings."""
    floors = {row.case: row.value.median for row in rows if row.key == Key(FLOOR)}

    def line(title: str, chosen: Callable[[Case], bool]) -> list[str]:
        cells = [title]
        for pairs in ("mined", "given"):
            for name in RATIOS:
                values = [
                    row.ratios[name].median
                    for row in own
                    if row.key.pairs == pairs and chosen(row.case) and name in row.ratios
                    and (name != OF_FLOOR or floors[row.case] >= FLOOR_MILLISECONDS)
                ]  # fmt: skip
                cells.append(f"{number(geometric_mean(values))} ({len(values)})" if values else "—")
        return cells

    groups = sorted(dict.fromkeys((row.case.pairing, row.case.norm) for row in own), key=lambda g: PAIRINGS.index(g[0]))
    lines = [line(f"{p}, {n}", lambda case, p=p, n=n: (case.pairing, case.norm) == (p, n)) for p, n in groups]
    together = [pairing for pairing in MAIN_PAIRINGS if any(row.case.pairing == pairing for row in own)]
    title = f"**{' and '.join(together)}, both norms**"
    lines.append(line(title, lambda case: case.pairing in MAIN_PAIRINGS))
    lines.append(["target", *(TARGETS[name] for name in RATIOS), "", "", ""])
    names = ("faster than eager", "faster than compile", f"times the floor (where ≥ {FLOOR_MILLISECONDS} ms)")
    header = ["", *names, *(f"pairs given: {name}" for name in names)]
    return table(header, lines) + "\n\nIn brackets the number of cases."


def case_table(rows: Sequence[Row], device: str) -> str:
    """Times and ratios of every case."""
    by_case: dict[Case, dict[Key, Row]] = {}
    for row in rows:
        by_case.setdefault(row.case, {})[row.key] = row
    names = [EAGER, COMPILE, *compiled_backends(device)]
    keys = [*(Key(name, "mined") for name in names), *(Key(name, "given") for name in names)]
    keys = [*(key for key in keys if any(key in found for found in by_case.values())), Key(FLOOR)]
    ratios = [(backend, name) for backend in compiled_backends(device) for name in RATIOS]
    header = ["batch x width x classes", "norm", "pairing", *(f"{key} [ms]" for key in keys)]
    header += [f"{backend}: {name.replace('_', ' ')}" for backend, name in ratios]

    def line(case: Case, found: dict[Key, Row]) -> list[str]:
        def ratio(backend: str, name: str) -> str:
            row = found.get(Key(backend, "mined" if case.strategy else "given"))
            return with_spread(row.ratios.get(name) if row else None)

        times = [with_spread(found[key].value if key in found else None) for key in keys]
        return [str(case.shape), case.norm, case.pairing, *times, *(ratio(*each) for each in ratios)]

    return table(header, [line(case, found) for case, found in by_case.items()])
