"""Measures everything in one process and writes report.md, results.csv and the plots.

Sections: training (forward and backward of the loss at all shapes), nonzero_features (the same on features without
zeros), mining, growth (time as a size doubles), memory (peak beyond inputs and gradients, in fresh processes) and
threads (whether their number changes results).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from . import growth, memory, mining, nonzero_features, threads, training
from .baselines import compiled_backends
from .cases import SHAPES, Shape
from .environment import describe
from .results import Report, Settings, table, write_csv
from .timing import Effort

SECTIONS = {module.SECTION: module for module in (training, nonzero_features, mining, growth, memory, threads)}
QUICK_SHAPES = (Shape(64, 512, 20), Shape(128, 2048, 80))
QUICK_EFFORT = Effort(rounds=7, seconds=0.7, min_rounds=3)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen sections; 1 where results were wrong, so that times are missing."""
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    settings = _settings(options)
    if not compiled_backends(settings.device):
        print(f"indeed_ext has no kernels for {settings.device} here (see `python -m indeed_ext`); nothing to measure")
        return 2
    options.output.mkdir(parents=True, exist_ok=True)
    environment = describe(settings.device)
    reports: dict[str, Report] = {}
    for name in options.sections:
        settings.say(f"{name}:")
        start = time.perf_counter()
        reports[name] = Report()
        SECTIONS[name].run(settings, reports[name])
        settings.say(f"  {time.perf_counter() - start:.0f} s")
        # After every section, so that an interrupted run leaves what it has.
        _write(options.output, reports, environment, settings)
    settings.say(f"written to {options.output}: {', '.join(sorted(path.name for path in options.output.iterdir()))}")
    return 1 if any(report.errors for report in reports.values()) else 0


def _settings(options: argparse.Namespace) -> Settings:
    default = QUICK_EFFORT if options.quick else Effort()
    return Settings(
        shapes=tuple(options.shapes or (QUICK_SHAPES if options.quick else SHAPES)),
        effort=replace(default, rounds=options.rounds or default.rounds),
        device=options.device or _default_device(),
        quick=options.quick,
        with_compile=not options.without_compile,
        say=lambda text: print(text, flush=True),
    )


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() and compiled_backends("cuda") else "cpu"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="For figures to quote, run it on an otherwise idle machine.",
    )
    parser.add_argument("--quick", action="store_true", help="about a minute: two shapes, few rounds, short curves")
    parser.add_argument("--rounds", type=_positive, metavar="N", help="most rounds per case (default 21; quick: 7)")
    parser.add_argument(
        "--shapes",
        type=Shape.parse,
        nargs="+",
        metavar="BxNxC",
        help=f"batch x feature width x classes (default {' '.join(map(str, SHAPES))})",
    )
    parser.add_argument(
        "--threads", type=_positive, metavar="N", help="threads torch may use (default: its own choice)"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there are kernels for it")
    parser.add_argument(
        "--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="NAME",
        help=f"some of: {', '.join(SECTIONS)} (default: all)",
    )  # fmt: skip
    parser.add_argument("--without-compile", action="store_true", help="leave torch.compile out (it takes minutes)")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/benchmarks"), metavar="FOLDER", help="default: %(default)s"
    )
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
    return value


# -------------------------------------------------------------------------- writing


def _write(folder: Path, reports: Mapping[str, Report], environment: Mapping[str, str], settings: Settings) -> None:
    from . import plots  # takes a second, so not for --help

    rows = [row for report in reports.values() for row in report.rows]
    threads_used = f"{environment['threads']} thread{'s' if environment['threads'] != '1' else ''}"
    caption = f"{environment['device']}, {threads_used}, torch {environment['torch']}"
    pictures = plots.draw_all(rows, folder, caption)
    write_csv(folder / "results.csv", rows, environment)
    parts = [
        "# Benchmarks of indeed_ext\n",
        table(list(environment), [list(environment.values())]) + "\n",
        _how(settings),
    ]
    for name, report in reports.items():
        if report.rows:
            parts.append(SECTIONS[name].render(report.rows, settings.device))
        parts += [f"**Not timed, as the results differ:** {text}\n" for text in report.errors]
        parts += [f"Note: {text}\n" for text in dict.fromkeys(report.notes)]
    if pictures:
        parts.append("## Plots\n")
        parts += [f"![{picture.stem.replace('_', ' ')}]({picture.name})\n" for picture in pictures]
    (folder / "report.md").write_text("\n".join(parts), encoding="utf-8")


def _how(settings: Settings) -> str:
    kind = " This is a quick run: few rounds, short curves." if settings.quick else ""
    return (
        f"Up to {settings.effort.rounds} interleaved rounds: in each, every implementation runs once, in random order, "
        "with the garbage collector off and after a warm-up. Ratios are taken within a round, then the median and, in "
        "square brackets, the quartiles over rounds. Float32, classifier with bias, about three labels a sample."
        f"{kind}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
