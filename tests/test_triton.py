"""What the suite cannot ask of every backend: launches of the Triton kernels, and programs beyond the first.

The suite runs them with the sizes an interpreter can afford; here each kernel gets several programs in each direction.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import kit
import pytest
import torch
from kit import Backend, Case

from indeed_ext import available_backends, backends, fused_indeed_loss, mine_pairs, reference


@pytest.fixture
def triton_backend() -> Backend:
    if "triton" not in available_backends():
        pytest.skip(backends.missing_reasons()["triton"])
    return kit.REGISTRY["triton"]


@pytest.mark.parametrize(("strategy", "expected"), [("anchor", 7), ("matching", 8), ("balanced", 8)])
def test_launches_of_a_training_step(triton_backend: Backend, strategy: str, expected: int) -> None:
    """Packing, mining, loss and all gradients in at most 8 launches, as docs/gpu.md counts them."""
    from indeed_ext.triton_kernels.launch import launch_count

    inputs = Case(5, 20, 70, "minmax", strategy, dtype=torch.float32).build().to(triton_backend.device)
    leaves = {name: leaf.requires_grad_() for name, leaf in inputs.leaves.items()}
    before = launch_count()
    loss = fused_indeed_loss(labels=inputs.labels, backend="triton", **leaves, **inputs.options)
    torch.autograd.grad(loss, list(leaves.values()))
    assert launch_count() - before == expected


def test_launches_do_not_depend_on_classes(triton_backend: Backend) -> None:
    """Up to the 1,024 classes of a class block, at any batch that a training step has."""
    from indeed_ext.triton_kernels.fused_loss import BLOCK_ELEMENTS, _class_block

    assert _class_block(4096, 1024, BLOCK_ELEMENTS) == 1024


@pytest.fixture(params=[False, True])
def tf32_allowed(request: pytest.FixtureRequest) -> Iterator[bool]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = request.param
    yield request.param
    torch.backends.cuda.matmul.allow_tf32 = before


def test_tf32_only_where_torch_allows_it(triton_backend: Backend, tf32_allowed: bool) -> None:
    from indeed_ext.triton_kernels.config import assumed_device
    from indeed_ext.triton_kernels.multiply import product_precision

    with assumed_device("cuda"):
        assert product_precision(torch.float32) == ("tf32" if tf32_allowed else "ieee")
        assert product_precision(torch.bfloat16) == product_precision(torch.float16) == "bf16"
    with assumed_device("hip"):
        assert product_precision(torch.float32) == "ieee"


@pytest.mark.parametrize("pairing", ["anchor", "list"])
@pytest.mark.parametrize("norm", kit.NORMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=kit.SHORT.get)
def test_several_programs(triton_backend: Backend, dtype: torch.dtype, norm: str, pairing: str) -> None:
    kit.check_loss(triton_backend, Case(35, 70, 70, norm, pairing, dtype=dtype, pos_weight=True, unknown=True).build())


@pytest.mark.parametrize("programs", [3, 64])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=kit.SHORT.get)
def test_parts_of_the_features(
    triton_backend: Backend, dtype: torch.dtype, programs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits as sums of several parts, a part as sum of several steps, and the last one cut short."""
    from indeed_ext.triton_kernels import config

    monkeypatch.setattr(config, "_INTERPRETER", replace(config._INTERPRETER, programs=programs))
    kit.check_loss(triton_backend, Case(5, 165, 6, "minmax", "list", dtype=dtype).build())


@pytest.mark.parametrize("strategy", kit.STRATEGIES)
def test_mining_by_several_programs(triton_backend: Backend, strategy: str) -> None:
    # 300 classes are more words than a program reads at a time.
    for classes, density in ((70, 0.02), (70, 0.06), (300, 0.005)):
        labels = kit.random_labels(torch.Generator().manual_seed(3), 150, classes, density=density)
        partner = mine_pairs(labels.to(triton_backend.device), strategy=strategy, seed=11, backend="triton")
        assert torch.equal(partner.cpu(), reference.mine_pairs(labels, strategy=strategy, seed=11))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_blocks_of_classes(triton_backend: Backend, reduction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums, gradients and the bias carried over from block to block."""
    from indeed_ext.triton_kernels import fused_loss

    monkeypatch.setattr(fused_loss, "BLOCK_ELEMENTS", 1)
    inputs = Case(6, 20, 100, "minmax", "list", reduction, torch.float64, pos_weight=True, unknown=True).build()
    kit.check_loss(triton_backend, inputs)


@pytest.mark.parametrize("index", [-1, 5, 2**40])
@pytest.mark.parametrize("form", ["vector", "list"])
def test_an_index_out_of_range_is_not_read(triton_backend: Backend, form: str, index: int) -> None:
    """The loss says so, the gradients are those of the other rows."""
    inputs = Case(5, 20, 6, "l2", dtype=torch.float64).build()
    pairs = torch.tensor([1, 0, index, 3, 3] if form == "vector" else [[0, 1], [2, index], [3, 4]])
    options = {"reduction": "none", "backend": "triton"}
    leaves = {name: leaf.to(triton_backend.device).requires_grad_() for name, leaf in inputs.leaves.items()}
    labels = inputs.labels.to(triton_backend.device)
    rows = fused_indeed_loss(**leaves, labels=labels, pairs=pairs.to(labels.device), **options)
    bad = [2] if form == "vector" else [1, 4]
    assert rows.isnan().nonzero().flatten().tolist() == bad
    good = [row for row in range(len(rows)) if row not in bad]
    actual = torch.autograd.grad(rows[good].sum(), list(leaves.values()))

    harmless = torch.tensor([1, 0, 2, 3, 3] if form == "vector" else [[0, 1], [2, 2], [3, 4]])
    truth = {name: leaf.requires_grad_() for name, leaf in inputs.leaves.items()}
    rows = reference.fused_indeed_loss(**truth, labels=inputs.labels, pairs=harmless, reduction="none")
    expected = torch.autograd.grad(rows[good].sum(), list(truth.values()))
    for name, mine, other in zip(leaves, actual, expected, strict=True):
        kit.assert_within(name, mine.cpu(), other, 1e-12)


def test_same_bits_every_time(triton_backend: Backend) -> None:
    inputs = Case(9, 40, 40, "minmax", "list", dtype=torch.float32).build()
    assert kit.same_bits(kit.run_backend(triton_backend, inputs), kit.run_backend(triton_backend, inputs))


def test_the_interpreter_is_no_default(triton_backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(backends.ENVIRONMENT_VARIABLE, raising=False)
    with kit.registered_backends({"triton": ("indeed_ext_triton", "cpu")}):
        assert backends.select(None, torch.device("cpu")) is None


def test_without_triton(tmp_path: object) -> None:
    """The package works without it and says why the backend is missing."""
    code = (
        "import importlib.util as u, warnings; warnings.simplefilter('ignore'); find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'triton' else find(name, *rest)\n"
        "import indeed_ext; from indeed_ext import backends\n"
        "assert 'triton' not in indeed_ext.available_backends()\n"
        "print(backends.missing_reasons()['triton'])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("Triton is not installed")
