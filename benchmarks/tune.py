"""Times the compiled CUDA kernels against Triton's on the GPU at hand, and keeps which are faster for `backend=None`.

The result holds for GPUs of this name, this torch and this version of the package; `indeed info` shows it, deleting the
file undoes it. Whole training steps (mining, loss, gradients) are timed, after the results were found to agree.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

import torch

from indeed_ext import _measured, backends

from .agreement import Disagreement, require_equal_losses
from .baselines import Key, loss_calls, losses
from .cases import Case, Shape, make_inputs
from .timing import Effort, Spread, geometric_mean, measure

#: A usual step, a large batch, and a wide network on many classes.
SHAPES = (Shape(128, 2048, 80), Shape(1024, 2048, 80), Shape(256, 4096, 1000))
DTYPES = (torch.float32, torch.bfloat16)
#: Triton has to be this much faster: within the noise, the kernels that need no compiling at run time stay.
MARGIN = 1.05


def cuda_over_triton(case: Case, effort: Effort) -> float:
    """How many times as long as Triton's the compiled kernels take.

    Raises:
        Disagreement: one of them computes something else than plain PyTorch.
    """
    inputs, functions = make_inputs(case), losses(case)
    require_equal_losses(case, inputs, functions)
    calls = loss_calls(case, inputs, functions)
    chosen = {name: calls[Key(name, "mined")] for name in ("cuda", "triton")}
    seconds = measure(chosen, effort, case.device)
    return Spread.of(seconds["cuda"] / seconds["triton"]).median


def save(ratio: float) -> str:
    """Keep the faster backend of the current GPU, beside what is known of others, and return its name."""
    backend = "triton" if ratio > MARGIN else "cuda"
    path, known = _measured.path(), _measured.read()
    path.parent.mkdir(parents=True, exist_ok=True)
    # A file that another process reads is never half written.
    part = path.with_name(f"{path.name}.{os.getpid()}")
    entries = {**known, _measured.key(): {"backend": backend, "cuda_over_triton": ratio}}
    part.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    part.replace(path)
    return backend


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and save; the exit status is 1 where there is nothing to choose from."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tune", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="at most this long for a case; default: 5")
    effort = Effort(seconds=parser.parse_args(arguments).seconds)
    try:
        for name in ("cuda", "triton"):
            backends.select(name, torch.device("cuda"))
    except ValueError as error:
        print(f"nothing to choose from: {error}", file=sys.stderr)
        return 1
    ratios = []
    for case in (Case(shape, dtype=dtype, device="cuda") for shape in SHAPES for dtype in DTYPES):
        try:
            ratios.append(cuda_over_triton(case, effort))
        except Disagreement as error:
            print(f"not saved: {error}", file=sys.stderr)
            return 1
        print(f"{case}: cuda takes {ratios[-1]:.2f} times as long as triton")
    backend = save(geometric_mean(ratios))
    print(f"{geometric_mean(ratios):.2f} times in the geometric mean: {backend} is kept in {_measured.path()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
