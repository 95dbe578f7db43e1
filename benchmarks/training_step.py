"""The time INDeeD adds to a training step of the simple CNN: forward, loss with mining, backward, Adam.

The steps of all methods are timed in turn, and a ratio is taken within each round. Needs the extra [train].
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence

import torch
from lightning.pytorch import Trainer

from indeed_ext.train.module import IndeedModule

from .environment import describe
from .results import table, with_spread
from .timing import Effort, Spread, measure

METHODS = ("baseline", "l2", "minmax")
#: Batch and side of the canvas, by recipe; each composite shows five of ten digits.
RECIPES = {"ml-mnist": (128, 84), "ml-digits": (32, 24)}
CLASSES, OBJECTS = 10, 5


def training_step(method: str, batch: int, side: int) -> Callable[[], None]:
    """One step of optimisation, as the trainer makes it on a step that it does not log."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch, 1, side, side, generator=generator)
    present = torch.rand(batch, CLASSES, generator=generator).argsort(1)[:, :OBJECTS]
    labels = torch.zeros(batch, CLASSES, dtype=torch.bool).scatter_(1, present, True)
    module = IndeedModule(CLASSES, 1, method=method)
    module.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False)
    module.warmup_steps = 0
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        module.training_step((images, labels), 0).backward()
        optimizer.step()

    return step


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table of milliseconds and ratios."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_step", description=__doc__)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--rounds", type=int, default=41, help="default: 41")
    parser.add_argument("--seconds", type=float, default=60.0, help="at most this long for a recipe; default: 60")
    parser.add_argument("--threads", type=int, default=1, help="default: 1, as the recipe for digits sets it")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    lines = []
    for recipe in options.recipes:
        batch, side = RECIPES[recipe]
        steps = {method: training_step(method, batch, side) for method in METHODS}
        seconds = measure(steps, Effort(options.rounds, options.seconds))
        for method in METHODS:
            ratio = Spread.of(seconds[method] / seconds[METHODS[0]])
            case = f"{recipe}: {batch} canvases of {side} x {side}"
            milliseconds = Spread.of(seconds[method] * 1e3)
            lines.append([case, method, with_spread(milliseconds), with_spread(ratio), str(ratio.rounds)])
    print("; ".join(f"{name} {value}" for name, value in describe("cpu").items()))
    print("\nMedians over the rounds, quartiles in square brackets.\n")
    print(table(["recipe", "method", "ms a step", f"times {METHODS[0]}", "rounds"], lines))


if __name__ == "__main__":
    main()
