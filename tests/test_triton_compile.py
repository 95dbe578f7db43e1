"""Every Triton kernel compiled for devices that are not there: no spills, shared memory within what a device has."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

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
    "row_statistics_kernel",
    "logits_kernel",
    "cross_entropies_kernel",
    "gradients_kernel",
    "map_backward_kernel",
    "finish_kernel",
    "form_blocks_kernel",
    "map_dots_kernel",
    "six_way_kernel",
    "six_way_backward_kernel",
}


@pytest.mark.parametrize(("target", "dtype"), TARGETS)
def test_every_kernel(target: str, dtype: str) -> None:
    """In a process of its own: in this one the kernels may be defined for the interpreter."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    module = "indeed_ext.triton_kernels.ahead_of_time"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", module, "--json", "--type", dtype, target],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert {row["kernel"] for row in rows} == KERNELS
    assert {row["dtype"] for row in rows} == {dtype}
    assert {row["shape"] for row in rows} == {"small", "large"}
    for row in rows:
        assert row["spills"] <= 0, row  # -1 where this Triton brings no tool that tells
        assert row["shared"] <= row["shared_limit"], row
        assert row["tensor_memory"] <= 512, row
        assert row["registers"] > 8 or row["registers"] < 0, f"compiled to nothing: {row}"
