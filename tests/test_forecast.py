"""The forecast's inputs are what the code does: launches, grids, blocks, serial steps."""

from __future__ import annotations

import ctypes
import re
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from cuda_emulation.build import BACKEND, Unavailable, load_backend

from indeed_ext import available_backends, backends, fused_indeed_loss

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _repository_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks are not installed: they are imported from the repository."""
    monkeypatch.syspath_prepend(str(ROOT))


def _step(batch: int, width: int, classes: int, dtype: torch.dtype = torch.float32, mined: bool = True) -> Any:
    from benchmarks.cases import Case, Shape, Step

    return Step(Case(Shape(batch, width, classes), dtype=dtype), mined)


@pytest.fixture
def emulation() -> ctypes.CDLL:
    try:
        return load_backend()
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("batch", "width", "classes", "mined"),
    [(96, 64, 40, True), (5, 1088, 300, False), (1030, 16, 70, True), (1030, 16, 4128, False)],
)
def test_cuda_launches(
    emulation: ctypes.CDLL, batch: int, width: int, classes: int, mined: bool, dtype: torch.dtype
) -> None:
    """Kernels, grids and blocks in their order, and as many launches as the library counts."""
    from benchmarks import cuda_kernels
    from benchmarks.cases import LABEL_DTYPE

    features, weight = torch.rand(batch, width, dtype=dtype), torch.rand(classes, width, dtype=dtype)
    bias, labels = torch.rand(classes, dtype=dtype), (torch.rand(batch, classes) < 0.2).to(LABEL_DTYPE)
    leaves = [leaf.requires_grad_() for leaf in (features, weight, bias)]
    pairs = None if mined else torch.randint(batch, (batch,))
    # What other tests have launched is forgotten unread: it may be more than a buffer holds.
    emulation.cuda_emulation_take_record(ctypes.create_string_buffer(1), ctypes.c_size_t(0))
    before = emulation.cuda_emulation_launch_count()
    fused_indeed_loss(*leaves[:2], labels, bias=leaves[2], pairs=pairs, backend=BACKEND)
    launches, count = _taken(emulation), emulation.cuda_emulation_launch_count() - before

    step = _step(batch, width, classes, dtype, mined)
    (_, chunks), sizes = cuda_kernels.chunks(step), cuda_kernels.sizes(step)
    lines = cuda_kernels.launched(step)
    assert count == len(lines)
    kernels = [line for line in lines if isinstance(line, cuda_kernels.Line)]
    expected = [(line.kernel, (*line.grid(sizes), line.block(sizes))) for line in kernels]
    assert [name for name, _ in launches] == [name for name, _ in expected]
    if chunks == 1:
        assert launches == expected
    assert chunks == (2 if classes == 4128 else 1)


def _taken(emulation: ctypes.CDLL) -> list[tuple[str, tuple[int, ...]]]:
    """(kernel, (grid x, grid y, threads)) of the launches since the last time."""
    text = ctypes.create_string_buffer(1 << 16)
    emulation.cuda_emulation_take_record(text, ctypes.c_size_t(len(text)))
    taken = []
    for line in text.value.decode().splitlines():
        name, sizes = line.split("\t")
        found = re.search(r"\w+", name)
        assert found
        taken.append((found.group(), tuple(map(int, sizes.split()))))
    return taken


# --------------------------------------------------------------------------- Triton


@pytest.fixture
def triton_backend() -> None:
    if "triton" not in available_backends() and "not installed" in backends.missing_reasons()["triton"]:
        pytest.skip(backends.missing_reasons()["triton"])


@pytest.mark.usefixtures("triton_backend")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(128, 2048, 80), (4096, 2048, 80), (256, 4096, 1000), (512, 256, 20_000)])
def test_triton_launches(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    """Every launch has a load, which accounts for each of its programs."""
    from benchmarks import triton_launches

    for launch in triton_launches.recorded(_step(*shape, dtype)):
        load = triton_launches.LOADS[launch.name](launch)
        assert sum(part.programs for part in load.parts) == launch.programs
        assert all(part.programs >= 0 and part.steps >= 1 for part in load.parts)
        assert load.read > 0
        assert load.written > 0


@pytest.mark.usefixtures("triton_backend")
def test_triton_flops() -> None:
    """float32 multiplies what the loss asks for, six products; bfloat16 seven: in the logits I has two terms."""
    from benchmarks import triton_launches

    batch, width, classes = 256, 1024, 128  # whole tiles
    needed = 3 * 2.0 * 2 * batch * width * classes
    made = {}
    for dtype in (torch.float32, torch.bfloat16):
        step = _step(batch, width, classes, dtype)
        made[dtype] = sum(kernel.flops for kernel in triton_launches.kernels(step))
    assert made == {torch.float32: needed, torch.bfloat16: needed * 7 / 6}


@pytest.mark.usefixtures("triton_backend")
@pytest.mark.skipif(torch.cuda.is_available(), reason="counted by the interpreter")
@pytest.mark.parametrize(("shape", "dtype"), [((64, 256, 40), torch.bfloat16), ((96, 128, 70), torch.float32)])
def test_triton_steps(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    """Serial steps are of the order of the loads that the longest program makes, by the interpreter's count."""
    from triton.runtime import interpreter
    from triton_ahead_of_time import assumed_device, launching

    from benchmarks import triton_launches
    from benchmarks.cases import make_inputs

    loads: list[tuple[str, Counter[Any]]] = []
    builder, enqueue = type(interpreter.interpreter_builder), launching._enqueue
    load = builder.create_masked_load

    def counted_load(self: Any, *arguments: Any) -> Any:
        loads[-1][1][self.grid_idx] += 1
        return load(self, *arguments)

    def counted_enqueue(kernel: Any, *arguments: Any) -> None:
        loads.append((kernel.__name__, Counter()))
        enqueue(kernel, *arguments)

    step = _step(*shape, dtype)
    inputs = make_inputs(step.case)
    with (
        assumed_device("hopper"),
        mock.patch.object(launching, "_enqueue", counted_enqueue),
        mock.patch.object(builder, "create_masked_load", counted_load),
    ):
        fused_indeed_loss(*inputs.leaves[:2], inputs.labels, bias=inputs.bias, seed=1, backend="triton")
    launches = triton_launches.recorded(step)
    assert [name for name, _ in loads] == [launch.name for launch in launches]
    for (name, counts), launch in zip(loads, launches, strict=True):
        longest = max(counts.values())
        steps = max(part.steps for part in triton_launches.LOADS[name](launch).parts)
        assert len(counts) == launch.programs, name
        assert longest / 6 <= steps <= longest + 2, (name, longest, steps)


# ------------------------------------------------------------------------- Inductor


@pytest.mark.parametrize("mined", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_inductor_kernels(dtype: torch.dtype, mined: bool) -> None:
    """Three products of the stacked features, and kernels around them that read and write what they must."""
    from benchmarks import inductor_kernels
    from benchmarks.card import H100, TORCH

    batch, width, classes = 128, 512, 80
    kernels = inductor_kernels.kernels(_step(batch, width, classes, dtype, mined), H100)
    needed = [2.0 * 3 * batch * width * classes] * 3
    assert [kernel.flops for kernel in kernels if kernel.flops] == [2.0 * batch * batch * classes] * mined + needed
    assert 8 <= len(kernels) <= 24
    assert all(kernel.launcher == TORCH and kernel.moved > 0 for kernel in kernels)
    least = 2 * (batch + classes) * width * dtype.itemsize + 4 * batch * classes
    assert sum(kernel.moved for kernel in kernels) > least


@pytest.mark.parametrize("mined", [True, False])
def test_eager_kernels(mined: bool) -> None:
    """The same products; what Inductor fuses is launched one by one."""
    from benchmarks import eager_kernels, inductor_kernels
    from benchmarks.card import H100

    step = _step(128, 512, 80, torch.bfloat16, mined)
    eager, compiled = eager_kernels.kernels(step, H100), inductor_kernels.kernels(step, H100)
    assert [kernel.flops for kernel in eager if kernel.flops] == [kernel.flops for kernel in compiled if kernel.flops]
    assert len(eager) > 2 * len(compiled)
    assert sum(kernel.moved for kernel in eager) > sum(kernel.moved for kernel in compiled)


# ----------------------------------------------------------------------------- card


def test_time_of_a_kernel() -> None:
    """By whichever of memory, arithmetic and serial steps is slowest."""
    from benchmarks.card import FMA, H100, Kernel, Part, device_seconds

    always = H100.start + H100.gap

    def seconds(*parts: Part, read: float = 1.0, written: float = 1.0, count: int = 1) -> float:
        return device_seconds(Kernel("", parts, read, written, count=count), H100) - count * always

    assert seconds(Part(10_000, 1), read=3e9, written=3e9) == pytest.approx(6e9 / H100.memory_bandwidth)
    assert seconds(Part(10_000, 1), read=2e7, written=2e7) == pytest.approx(4e7 / H100.cache_bandwidth)
    assert seconds(Part(66, 1), read=2e7, written=2e7) == pytest.approx(8e7 / H100.cache_bandwidth)
    assert seconds(Part(13_200, 1, 5e12, FMA), count=3) == pytest.approx(3 * 5e12 / H100.flops[FMA])
    assert seconds(Part(1, 1, 5e9, FMA)) == pytest.approx(132 * 5e9 / H100.flops[FMA])
    assert seconds(Part(1, 1000)) == pytest.approx(1000 * H100.latency)
    # Four a multiprocessor at once: ten rounds of short programs pass before the long one starts.
    assert seconds(Part(132 * 4 * 10, 5), Part(1, 1000)) == pytest.approx(1050 * H100.latency)


def test_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from benchmarks import forecast

    arguments = ["--shapes", "64x128x20", "--types", "bfloat16", "--kernels", "--csv", str(tmp_path / "forecast.csv")]
    assert forecast.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "| 64x128x20 | bfloat16 | mined |" in printed
    assert "form_rows_kernel" in printed
    assert "cannot be forecast" not in printed
    rows = (tmp_path / "forecast.csv").read_text(encoding="utf-8").splitlines()
    assert [row.split(",")[4] for row in rows] == ["implementation", "cuda", "triton", "compile", "eager"]
