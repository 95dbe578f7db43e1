"""Compiling every Triton kernel for devices that are not there, at the tiles the launchers take.

python tests/triton_ahead_of_time.py [--json | --markdown] [--type TYPE] [TARGET ...]

The operators run on CPU tensors with their launches recorded, so that what is compiled is what they launch: kernels,
argument types, alignments, constants, warps and stages. The table says for each kernel how many registers and bytes
of shared memory, and columns of tensor memory, it takes, whether registers spill, and how it multiplies matrices.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from indeed_ext.triton_kernels import config
from indeed_ext.triton_kernels import launch as launching
from indeed_ext.triton_kernels.fused_indeed_loss import fused_indeed_loss
from indeed_ext.triton_kernels.identical_disparate import identical_disparate, identical_disparate_backward
from indeed_ext.triton_kernels.mine_pairs import mine_pairs
from indeed_ext.triton_kernels.operators import is_interpreted
from indeed_ext.triton_kernels.pack_labels import pack_labels
from indeed_ext.triton_kernels.scale_gradients import scale_gradients
from indeed_ext.triton_kernels.six_way_bce import six_way_bce, six_way_bce_backward
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

from indeed_ext.constants import GRAD_WEIGHT, NORMS, REDUCTIONS, STRATEGIES, accumulation_dtype

#: Target name to (Triton's target, bytes of shared memory a program may have).
TARGETS = {
    "sm_80": (GPUTarget("cuda", 80, 32), 163 << 10),
    "sm_90": (GPUTarget("cuda", 90, 32), 227 << 10),
    "sm_100": (GPUTarget("cuda", 100, 32), 227 << 10),
    "gfx942": (GPUTarget("hip", "gfx942", 64), 64 << 10),
}
#: Target name to the kind of device in the table of tiles.
KINDS = {"sm_80": "ampere", "sm_90": "hopper", "sm_100": "blackwell", "gfx942": "hip"}
DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32, "f16": torch.float16, "f64": torch.float64}
_BY_DEFAULT = ["bf16", "f32"]
#: (B, n, C): few and many logits, as :mod:`.config` tells them apart.
SHAPES = {"small": (128, 512, 80), "large": (512, 2048, 1024)}


@dataclass(frozen=True)
class Launch:
    """A launch that was recorded in place of being made."""

    kernel: Any
    grid: tuple[int, ...]
    tile: config.Tile
    arguments: tuple[Any, ...]
    constants: dict[str, Any]


@dataclass(frozen=True)
class Compiled:
    """Resources that a kernel takes on a target."""

    target: str
    dtype: str
    shape: str
    kernel: str
    registers: int
    shared: int
    spills: int
    shared_limit: int
    tensor_memory: int  # columns, of which Blackwell has 512; Triton compiles a kernel that takes more to nothing
    matrix: str  # the matrix instructions it has


@contextlib.contextmanager
def assumed_device(kind: str) -> Iterator[None]:
    """Tiles for a kind of device (:func:`config.device_kind`), whatever is here."""
    with mock.patch.object(config, "device_kind", return_value=kind):
        yield


@contextlib.contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Launches made in this context are listed and not made: results stay undefined."""
    record: list[Launch] = []
    with mock.patch.object(launching, "_enqueue", lambda *launch: record.append(Launch(*launch))):
        yield record


def training_step(
    dtype: torch.dtype,
    shape: tuple[int, int, int],
    strategy: str = "anchor",
    norm: str = "minmax",
    lam: float = 1.0,
    pos_weight: bool = True,
    labels: torch.dtype = torch.int64,
    output_mask: int = 7,
) -> list[Launch]:
    """Launches of packing, mining, loss and gradients, as the launchers make them."""
    batch, width, classes = shape
    features, weight = torch.empty(batch, width, dtype=dtype), torch.empty(classes, width, dtype=dtype)
    bias, weights = torch.empty(classes, dtype=dtype), torch.empty(classes, dtype=dtype) if pos_weight else None
    seed = torch.empty((), dtype=torch.int64)
    with recorded() as record:
        bits = pack_labels(torch.empty(batch, classes, dtype=labels))
        pairs = mine_pairs(bits[0], seed, STRATEGIES[strategy])
        options = (None, NORMS[norm], 1e-12, REDUCTIONS["mean"], 3, output_mask)
        fused_indeed_loss(features, weight, bias, *bits, pairs, lam, lam, None, weights, *options)
    return record


def separate_steps(dtype: torch.dtype, shape: tuple[int, int, int]) -> list[Launch]:
    """Launches of the operators for classifiers that are not linear, forward and backward."""
    batch, width, classes = shape
    features, logits = torch.empty(batch, width, dtype=dtype), torch.empty(batch, classes, dtype=dtype)
    bits = torch.empty(batch, -(-classes // 32), dtype=torch.int32)
    partner, lam = torch.empty(batch, dtype=torch.int64), torch.empty(2, dtype=torch.float64)
    pos_weight = torch.empty(classes, dtype=dtype)
    with recorded() as record:
        rows = (features, partner, NORMS["minmax"], 1e-12)
        identical_disparate(*rows)
        identical_disparate_backward(features, features, *rows)
        six = (logits, logits, logits, bits, bits, partner, 0.0, 0.0, lam, pos_weight, REDUCTIONS["mean"], 3)
        six_way_bce(*six)
        six_way_bce_backward(torch.empty(()), *six)
        scale_gradients(features, features, pos_weight, torch.empty((), dtype=accumulation_dtype(dtype)))
    return record


def launches(dtype: torch.dtype, shape: tuple[int, int, int], lam: float = 1.0) -> list[Launch]:
    """Launches of all operators in training at a shape."""
    options = (("anchor", "l2"), ("matching", "minmax"), ("balanced", "minmax"))
    steps = [training_step(dtype, shape, *each, lam) for each in options]
    steps.append(training_step(dtype, shape, output_mask=GRAD_WEIGHT))
    return [*(launch for step in steps for launch in step), *separate_steps(dtype, shape)]


def _options(launch: Launch) -> dict[str, int]:
    return {"num_warps": launch.tile.warps, "num_stages": launch.tile.stages}


def specialization(launch: Launch, target: GPUTarget) -> list[tuple[str, Any]]:
    """The type of every argument and what is known of its value; with the options, Triton compiles by these."""
    kernel = launch.kernel
    bind = create_function_from_signature(kernel.signature, kernel.params, make_backend(target))
    return bind(*launch.arguments, **launch.constants)[1]


def compiled_by(shape: tuple[int, int, int], lam: float = 1.0) -> set[str]:
    """All that Triton compiles the kernels of a shape by, as text."""
    target, _ = TARGETS["sm_90"]
    with assumed_device(KINDS["sm_90"]):
        found = launches(torch.bfloat16, shape, lam)
    return {f"{each.kernel.__name__} {each.tile} {specialization(each, target)}" for each in found}


def _source(launch: Launch, target: GPUTarget) -> ASTSource:
    """The source as Triton's own launcher would compile it."""
    backend = make_backend(target)
    bound = dict(zip(launch.kernel.arg_names, launch.arguments, strict=False)) | launch.constants
    arguments = {name: bound[name] for name in launch.kernel.arg_names}
    _, signature, constants, attributes = launch.kernel._pack_args(
        backend, _options(launch), arguments, specialization(launch, target), {}
    )
    return ASTSource(launch.kernel, signature, constants, attributes)


@functools.cache
def _cuobjdump() -> str | None:
    import triton.backends.nvidia

    found = Path(triton.backends.nvidia.__file__ or "").parent / "bin" / "cuobjdump"
    return str(found) if found.exists() else None


def _usage(assembly: dict[str, Any]) -> tuple[int, int]:
    """(registers of a thread, bytes or registers it spills to memory); -1 where it cannot be told."""
    if "amdgcn" in assembly:
        text = assembly["amdgcn"]
        numbers = {key: int(value) for key, value in re.findall(r"\.(\w+):\s+(\d+)", text)}
        # Scalar registers spill to lanes of vector registers, not to memory.
        return numbers["vgpr_count"], numbers["vgpr_spill_count"] + numbers["private_segment_fixed_size"]
    tool = _cuobjdump()
    if tool is None:
        return -1, -1
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(assembly["cubin"])
        file.flush()
        report = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    registers, stack, local = (max(map(int, re.findall(rf"{key}:(\d+)", report))) for key in ("REG", "STACK", "LOCAL"))
    return registers, stack + local


_MATRIX_INSTRUCTIONS = ("wgmma.mma_async", "tcgen05.mma", "mma.sync", "v_mfma")


def _matrix_instructions(assembly: dict[str, Any]) -> str:
    text = assembly["amdgcn"] if "amdgcn" in assembly else assembly["ptx"]
    return " ".join(name for name in _MATRIX_INSTRUCTIONS if re.search(rf"(?<![\w.]){name}", text))


def compile_all(targets: list[str], dtypes: list[str]) -> Iterator[Compiled]:
    """Every distinct kernel once for each target, type and size class."""
    for target_name in targets:
        target, limit = TARGETS[target_name]
        seen = set()
        for shape_name, shape in SHAPES.items():
            for dtype_name in dtypes:
                with assumed_device(KINDS[target_name]):
                    found = launches(DTYPES[dtype_name], shape)
                for launch in found:
                    source = _source(launch, target)
                    key = (launch.kernel.__name__, launch.tile, str(source.signature), str(source.constants))
                    if key in seen:
                        continue
                    seen.add(key)
                    compiled = triton.compile(source, target=target, options=_options(launch))
                    registers, spills = _usage(compiled.asm)
                    yield Compiled(
                        target_name,
                        dtype_name,
                        shape_name,
                        launch.kernel.__name__,
                        registers,
                        compiled.metadata.shared,
                        spills,
                        limit,
                        getattr(compiled.metadata, "tmem_size", 0) or 0,
                        _matrix_instructions(compiled.asm),
                    )


_LINE = "{:<8}{:<6}{:<7}{:<28}{:>10}{:>8}{:>8}{:>8}  {}"


def markdown(rows: list[Compiled]) -> str:
    """The table of docs/gpu.md: registers and shared memory of the most demanding variant of a kernel, and spills."""
    targets = list(dict.fromkeys(row.target for row in rows))
    kinds = dict.fromkeys((row.kernel.removesuffix("_kernel"), row.dtype, row.shape) for row in rows)
    table = [["kernel", "type", "sizes", *targets], ["---"] * 3 + ["---:"] * len(targets)]
    for name, dtype, shape in kinds:
        cells = [f"`{name}`", dtype, shape]
        for target in targets:
            of_kind = (target, dtype, shape, f"{name}_kernel")
            found = [row for row in rows if (row.target, row.dtype, row.shape, row.kernel) == of_kind]
            most = [max((getattr(row, key) for row in found), default=0) for key in ("registers", "shared", "spills")]
            cells.append(" / ".join(map(str, most)) if found else "")
        table.append(cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in table)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compile every Triton kernel for devices that need not be there.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--type", action="append", choices=DTYPES, help=f"by default {' and '.join(_BY_DEFAULT)}")
    parser.add_argument("--markdown", action="store_true", help="a table with a column for each target")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_args()
    if is_interpreted():
        parser.error("TRITON_INTERPRET is set, so there is nothing to compile")
    unknown = set(arguments.targets) - set(TARGETS)
    if unknown:
        parser.error(f"unknown targets: {', '.join(sorted(unknown))}")
    rows = compile_all(arguments.targets or list(TARGETS), arguments.type or _BY_DEFAULT)
    if arguments.markdown:
        print(markdown(list(rows)))
        return
    if not arguments.json:
        print(
            _LINE.format(
                "target", "type", "sizes", "kernel", "registers", "shared", "tensor", "spills", "matrix instructions"
            )
        )
    for row in rows:
        numbers = (row.registers, row.shared, row.tensor_memory, row.spills, row.matrix)
        line = _LINE.format(row.target, row.dtype, row.shape, row.kernel, *numbers)
        print(json.dumps(asdict(row)) if arguments.json else line, flush=True)


if __name__ == "__main__":
    main()
