"""Every Triton kernel compiled for devices that are not there: no spills, shared memory within what a device has."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_MORE = pytest.mark.only_with("triton")
#: Every target in the type of its tensor cores or in float32; both with `--backend triton`, which takes twice as long.
TARGETS = (
    ("sm_80", "bf16"),
    ("sm_90", "f32"),
    ("sm_100", "bf16"),
    ("gfx942", "f32"),
    pytest.param("sm_80", "f32", marks=_MORE),
    pytest.param("sm_90", "bf16", marks=_MORE),
    pytest.param("sm_100", "f32", marks=_MORE),
    pytest.param("gfx942", "bf16", marks=_MORE),
)
KERNELS = {
    "pack_labels_kernel",
    "anchor_kernel",
    "compatibility_kernel",
    "matching_kernel",
    "map_statistics_kernel",
    "logits_kernel",
    "bce_epilogue_kernel",
    "grad_products_kernel",
    "map_backward_kernel",
    "partial_sums_kernel",
    "reduce_loss_kernel",
    "form_rows_kernel",
    "map_dots_kernel",
    "six_way_bce_kernel",
    "six_way_bce_backward_kernel",
    "scale_gradients_kernel",
}

#: What products of half types compile to, and nothing else.
MATRIX_INSTRUCTIONS = {"sm_80": "mma.sync", "sm_90": "wgmma.mma_async", "sm_100": "tcgen05.mma", "gfx942": "v_mfma"}

#: Bytes that Triton 3.6, which torch 2.11 brings, spills where later ones do not.
SPILLS_OF_TRITON_36 = {("matching_kernel", "sm_80"): 64, ("logits_kernel", "sm_80"): 32}


def _is_triton_36() -> bool:
    return importlib.metadata.version("triton").startswith("3.6.")


def _run(*arguments: str) -> str:
    """In a process of its own: in this one the kernels may be defined for the interpreter."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    result = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"},
        cwd=Path(__file__).parent,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


@pytest.mark.parametrize(("target", "dtype"), TARGETS)
def test_every_kernel(target: str, dtype: str) -> None:
    rows = [
        json.loads(line) for line in _run("triton_ahead_of_time.py", "--json", "--type", dtype, target).splitlines()
    ]
    assert {row["kernel"] for row in rows} == KERNELS
    assert {row["dtype"] for row in rows} == {dtype}
    assert {row["shape"] for row in rows} == {"small", "large"}
    for row in rows:
        # -1 where this Triton brings no tool that tells.
        assert row["spills"] <= SPILLS_OF_TRITON_36.get((row["kernel"], target), 0) * _is_triton_36(), row
        assert row["shared"] <= row["shared_limit"], row
        assert row["tensor_memory"] <= 512, row
        assert row["registers"] > 8 or row["registers"] < 0, f"compiled to nothing: {row}"
        if dtype == "bf16" and row["kernel"] in ("logits_kernel", "grad_products_kernel"):
            assert row["matrix"] == MATRIX_INSTRUCTIONS[target], row


def test_nothing_is_compiled_anew_for_another_batch_or_lam() -> None:
    """An odd last batch, a batch of one, a lam that is warmed up."""
    code = """
from triton_ahead_of_time import compiled_by
for width, classes in ((2048, 80), (24, 33)):
    first = compiled_by((128, width, classes))
    for batch, lam in ((127, 1.0), (1, 1.0), (128, 0.3), (128, 0.0)):
        print(*(compiled_by((batch, width, classes), lam) - first), sep="\\n", end="")
"""
    assert not _run("-c", code)


_REPEATED = """
import sys
sys.path.insert(0, "..")
import torch
from benchmarks.cases import Case, Shape, make_inputs
from benchmarks.host_time import idle_triton
from indeed_ext import fused_indeed_loss
from triton.runtime.jit import JITFunction

def forward(batch):
    inputs = make_inputs(Case(Shape(batch, 128, 40), dtype=torch.bfloat16))
    options = {"bias": inputs.bias, "seed": torch.tensor(3), "backend": "triton"}
    return fused_indeed_loss(inputs.features, inputs.weight, inputs.labels, **options), inputs.leaves

with idle_triton() as launches:
    forward(32)
    run, by_triton = JITFunction.run, []
    JITFunction.run = lambda kernel, *rest, **named: (by_triton.append(kernel), run(kernel, *rest, **named))[1]
    forward(32)
    torch.autograd.grad(*forward(32))
    print(launches(), len(by_triton))
    forward(33)
    print(launches(), len(by_triton))

from indeed_ext.triton_kernels import config, launch, partial_sums

kernel, tile = partial_sums.partial_sums_kernel, config.Tile(4, 256)
numbers = torch.empty(128)
calls = [
    (numbers[:64], numbers[64:], 2, 64), (numbers[1:65], numbers[64:], 2, 64), (numbers[:64], numbers[64:], 2, 32),
    (numbers[:64].double(), numbers[64:], 2, 64), (None, numbers[64:], 2, 64),
]
keys = {launch._key(kernel, tile, numbers.device, call, {"BLOCK": block}) for call in calls for block in (64, 128)}
print(len(keys))
"""


def test_a_repeated_launch_is_not_looked_up_by_triton() -> None:
    """The compiled kernel itself is launched, but not for other sizes, types, alignments or constants."""
    assert _run("-c", _REPEATED).splitlines() == ["21 0", "28 7", "10"]
