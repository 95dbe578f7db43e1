"""Compiling every kernel for devices that are not there, at the tiles the launchers take.

python -m indeed_ext.triton_kernels.ahead_of_time [--json] [--type TYPE] [TARGET ...]

The operators run on CPU tensors with their launches recorded, so that what is compiled is what they launch: kernels,
argument types, alignments, constants, warps and stages. The table says for each kernel how many registers and bytes
of shared memory, and columns of tensor memory, it takes and whether registers spill.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from indeed_ext.constants import NORMS, REDUCTIONS, STRATEGIES

from .config import assumed_device
from .fused_loss import indeed_loss
from .identical_disparate import identical_disparate, identical_disparate_backward
from .launch import Launch, recorded
from .operators import is_interpreted
from .six_way_bce import six_way_bce, six_way_bce_backward

#: Target name to (Triton's target, bytes of shared memory a program may have).
TARGETS = {
    "sm_80": (GPUTarget("cuda", 80, 32), 163 << 10),
    "sm_90": (GPUTarget("cuda", 90, 32), 227 << 10),
    "sm_100": (GPUTarget("cuda", 100, 32), 227 << 10),
    "gfx942": (GPUTarget("hip", "gfx942", 64), 64 << 10),
}
#: Target name to the kind of device in the table of tiles.
KINDS = {"sm_80": "cuda", "sm_90": "cuda", "sm_100": "blackwell", "gfx942": "hip"}
DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32, "f16": torch.float16, "f64": torch.float64}
_BY_DEFAULT = ["bf16", "f32"]
#: (B, n, C): the small and the large size class of :mod:`.config`.
SHAPES = {"small": (128, 512, 80), "large": (512, 2048, 1024)}

_TYPES = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int16: "*i16",
    torch.int8: "*i8",
    torch.uint8: "*u8",
}


@dataclass(frozen=True)
class Compiled:
    """What a kernel needs on a target."""

    target: str
    dtype: str
    shape: str
    kernel: str
    registers: int
    shared: int
    spills: int
    shared_limit: int
    tensor_memory: int  # columns, of which Blackwell has 512; Triton compiles a kernel that takes more to nothing


def launches(dtype: torch.dtype, shape: tuple[int, int, int]) -> Iterator[Launch]:
    """Launches of all operators in training at a shape, as the launchers make them."""
    batch, width, classes = shape
    features, weight = torch.empty(batch, width, dtype=dtype), torch.empty(classes, width, dtype=dtype)
    bias, pos_weight = torch.empty(classes, dtype=dtype), torch.empty(classes, dtype=dtype)
    labels, seed = torch.empty(batch, classes, dtype=torch.int64), torch.empty((), dtype=torch.int64)
    lam, partner = torch.empty(2, dtype=torch.float64), torch.empty(batch, dtype=torch.int64)
    words = torch.empty(batch, -(-classes // 32), dtype=torch.int32)
    logits, loss = torch.empty(batch, classes, dtype=dtype), torch.empty(())
    mean, both, all_gradients = REDUCTIONS["mean"], 3, 7
    with recorded() as record:
        for strategy, norm in (("anchor", "l2"), ("matching", "minmax"), ("balanced", "minmax")):
            options = (STRATEGIES[strategy], NORMS[norm], 1e-12, mean, both, all_gradients)
            indeed_loss(features, weight, bias, labels, None, False, None, seed, lam, pos_weight, *options)
        rows = (features, partner, NORMS["minmax"], 1e-12)
        identical_disparate(*rows)
        identical_disparate_backward(features, features, *rows)
        six = (logits, logits, logits, words, words, partner, lam, pos_weight, mean, both)
        six_way_bce(*six)
        six_way_bce_backward(loss, *six)
        yield from record


def _source(launch: Launch) -> ASTSource:
    """What Triton's own launcher would compile: ones and absent tensors are constants, multiples of 16 are known."""
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int], list[list[Any]]] = {}
    named = dict(zip(launch.kernel.arg_names, launch.arguments, strict=False)) | launch.constants
    for index, name in enumerate(launch.kernel.arg_names):
        value = named[name]
        if name in launch.constants or value is None or (isinstance(value, int) and value == 1):
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, Tensor):
            signature[name] = _TYPES[value.dtype]
            attributes[(index,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "i32" if value < 1 << 31 else "i64"
            if value % 16 == 0:
                attributes[(index,)] = [["tt.divisibility", 16]]
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


def compile_all(targets: list[str], dtypes: list[str]) -> Iterator[Compiled]:
    """Every distinct kernel once for each target, type and size class."""
    for target_name in targets:
        target, limit = TARGETS[target_name]
        seen = set()
        for shape_name, shape in SHAPES.items():
            for dtype_name in dtypes:
                with assumed_device(KINDS[target_name]):
                    found = list(launches(DTYPES[dtype_name], shape))
                for launch in found:
                    source = _source(launch)
                    # The same kernel at the same tiles and types, for sizes that differ in alignment only.
                    key = (launch.kernel.__name__, str(sorted(source.signature.items())), launch.tile,
                           str(sorted(launch.constants.items(), key=str)))  # fmt: skip
                    if key in seen:
                        continue
                    seen.add(key)
                    options = {"num_warps": launch.tile.warps, "num_stages": launch.tile.stages}
                    compiled = triton.compile(source, target=target, options=options)
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
                    )


_LINE = "{:<8}{:<6}{:<7}{:<26}{:>10}{:>8}{:>8}{:>8}"


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
        print(_LINE.format("target", "type", "sizes", "kernel", "registers", "shared", "tensor", "spills"))
    for row in rows:
        numbers = (row.registers, row.shared, row.tensor_memory, row.spills)
        line = _LINE.format(row.target, row.dtype, row.shape, row.kernel, *numbers)
        print(json.dumps(asdict(row)) if arguments.json else line, flush=True)


if __name__ == "__main__":
    main()
