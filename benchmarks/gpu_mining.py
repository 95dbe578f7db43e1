"""Mining alone on a GPU, from float labels, every strategy: ``python -m benchmarks.gpu_mining results.csv``.

Milliseconds of a call, one after the other without waiting; of every backend also replayed from a CUDA graph. The
eager matchings loop on data, so that they wait for the device in every round.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

import indeed_ext

from .agreement import Disagreement, require_valid_mining
from .baselines import EAGER, Call, Key, compiled_backends, mining_call
from .cases import STRATEGIES, Case, Shape, make_labels
from .gpu_training import GRAPH, Recorder, captured
from .results import timing_rows
from .timing import Effort, measure

SECTION = "gpu_mining"
BATCHES, CLASSES = (1024, 4096), 80
EFFORT = Effort(rounds=11, seconds=4.0, min_rounds=3)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 1 where a partner was wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_mining", description=__doc__.partition("\n")[0])
    parser.add_argument("output", type=Path, metavar="CSV")
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES), metavar="B")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args(arguments)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    recorder = Recorder(options.output, options.device)
    for batch in options.batches:
        labels = make_labels(batch, CLASSES).to(options.device)
        for strategy in STRATEGIES:
            recorder.say(f"{strategy}, batch {batch}")
            _measure(labels, strategy, recorder)
    return 1 if recorder.errors else 0


def _measure(labels: torch.Tensor, strategy: str, recorder: Recorder) -> None:
    calls: dict[Key, Call] = {Key(EAGER): mining_call(EAGER, labels, strategy, CLASSES)}
    seed = torch.zeros((), dtype=torch.int64, device=recorder.device)
    for backend in compiled_backends(recorder.device):
        call = partial(indeed_ext.mine_pairs, labels, strategy=strategy, seed=seed, backend=backend)
        try:
            require_valid_mining(labels, strategy, {backend: call()})
        except Disagreement as error:
            recorder.error(str(error))
            continue
        calls[Key(backend)] = call
        if recorder.device == "cuda":
            calls[Key(backend + GRAPH)] = captured(call)
    case = Case(Shape(len(labels), 0, CLASSES), "", strategy, labels.dtype, recorder.device)
    recorder.add(*timing_rows(SECTION, case, measure(calls, EFFORT, recorder.device)))


if __name__ == "__main__":
    sys.exit(main())
