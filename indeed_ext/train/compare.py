"""``indeed compare``: several methods on one recipe with several seeds, as tables, pictures and one HTML page."""

from __future__ import annotations

import argparse
import gc
import json
import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from . import page, plots
from .comparison import Comparison, mean_sd
from .errors import fail
from .lightning_cli import run
from .recipes import recipe_files, recipe_names

DEFAULT_METHODS = ("baseline", "l2:lam_warmup=0", "minmax:lam_warmup=0", "minmax:lam_warmup=0.4")

DESCRIPTION = """\
Train several methods on one recipe, each with several seeds, and compare them:

  indeed compare --recipe ml-digits
  indeed compare --recipe ml-digits-biased --methods baseline minmax --seeds 0 1 2 --trainer.max_epochs 5

A method is a value of --model.method, with options of the model after a colon: minmax:lam=0.5,strategy=matching.
Every other option is handed to each `indeed fit`. Runs that have finished are not repeated: the same command
continues where it was stopped, and more methods or seeds may be added to it.

The output folder then holds comparison.html (everything on one page), comparison.md, comparison.csv, pictures, and
the folders of all runs."""


class Variant(NamedTuple):
    """A method with options of the model."""

    text: str
    options: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Its name as a folder."""
        return re.sub(r"[^\w.]+", "-", self.text)

    @classmethod
    def parse(cls, text: str) -> Variant:
        """Read ``METHOD`` or ``METHOD:OPTION=VALUE,...``.

        Raises:
            ValueError: an option has no value.
        """
        method, _, rest = text.partition(":")
        options = ["--model.method", method]
        for setting in filter(None, rest.split(",")):
            key, equals, value = setting.partition("=")
            if not equals:
                raise ValueError(f"--methods: expected METHOD:OPTION=VALUE,..., got {text!r}")
            options += [f"--model.{key}", value]
        return cls(text, tuple(options))


def compare(argv: list[str]) -> Path:
    """Run ``indeed compare`` with the arguments ``argv``; returns the output folder."""
    parser = argparse.ArgumentParser(
        "indeed compare",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.error = fail  # type: ignore[method-assign]
    parser.add_argument("--recipe", required=True, metavar="NAME", help=f"one of {', '.join(recipe_names())}")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", default=DEFAULT_METHODS, help="default: %(default)s")
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2), help="default: 0 1 2")
    parser.add_argument("--output", type=Path, help="default: runs/compare-RECIPE")
    arguments, options = parser.parse_known_args(argv)
    try:
        recipe_files(arguments.recipe)
        variants = [Variant.parse(text) for text in dict.fromkeys(arguments.methods)]
    except ValueError as error:
        fail(error)
    output = arguments.output or Path("runs") / f"compare-{arguments.recipe}"
    _claim(output, {"recipe": arguments.recipe, "options": options})
    outcomes: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for variant in variants:
        for seed in dict.fromkeys(arguments.seeds):
            result = _result(output / "runs" / f"{variant.folder}-seed{seed}", arguments.recipe, variant, seed, options)
            for test, evaluation in result.items():
                outcomes.setdefault(variant.text, {}).setdefault(test, []).append(evaluation)
    comparison = Comparison(tuple(next(iter(outcomes.values()))), outcomes)
    write(comparison, output, arguments.recipe, shlex.join(["indeed", "compare", *argv]))
    print(f"\n{comparison.markdown()}\nThe comparison is in {output}/: open comparison.html")
    return output


def write(comparison: Comparison, output: Path, recipe: str, command: str) -> None:
    """Write the tables, the pictures and the page."""
    (output / "comparison.md").write_text(comparison.markdown(), encoding="utf-8")
    comparison.write_csv(output / "comparison.csv")
    sections = []
    for test in comparison.tests:
        bars, maps = output / f"measures-{test}.png", output / f"confidence_maps-{test}.png"
        measures = comparison.measures(test)
        series = {
            measure.heading: {
                method: mean_sd(comparison.values(method, test, measure)) for method in comparison.outcomes
            }
            for measure in measures
        }
        plots.measure_bars(series, f"{recipe}, test images: {test}", bars)
        names = list(next(iter(comparison.outcomes.values()))[test][0]["images"])
        plots.confidence_maps(
            {method: _mean_map(by_test[test]) for method, by_test in comparison.outcomes.items()}, names, maps
        )
        sections.append(page.Section(test, *comparison.table(test), bars, maps))
    (output / "comparison.html").write_text(page.render(recipe, command, sections), encoding="utf-8")


def _mean_map(evaluations: Sequence[dict[str, Any]]) -> torch.Tensor:
    maps = [
        [[math.nan if value is None else value for value in row] for row in evaluation["confidence"]]
        for evaluation in evaluations
    ]
    return torch.tensor(maps).mean(0)


def _claim(output: Path, settings: dict[str, Any]) -> None:
    """Make the output folder, or check that it is of a comparison with the same settings."""
    about = output / "comparison.json"
    if about.is_file():
        if json.loads(about.read_text(encoding="utf-8")) != settings:
            fail(f"--output: {output} is a comparison with another recipe or other options; give another folder")
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
        about.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        fail(f"--output: {error}")


def _result(folder: Path, recipe: str, variant: Variant, seed: int, options: list[str]) -> dict[str, dict[str, Any]]:
    """The evaluations of a run by test set: of one that has finished, or of a new one."""
    finished = folder / "result.json"
    if not finished.is_file():
        chosen = [*variant.options, "--seed_everything", str(seed), "--runs_dir", str(folder)]
        cli = run(["fit", "--recipe", recipe, *options, *chosen])
        suffixes = ["" if number == 0 else f"-{test}" for number, test in enumerate(cli.datamodule.tests)]
        files = [cli.run_folder / f"evaluation{suffix}.json" for suffix in suffixes]
        evaluations = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        result = dict(zip(cli.datamodule.tests, evaluations, strict=True))
        finished.write_text(json.dumps(result) + "\n", encoding="utf-8")
        del cli
        gc.collect()  # a trainer and its module refer to each other
    return json.loads(finished.read_text(encoding="utf-8"))
