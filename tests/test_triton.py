"""The Triton backend alone: launches of its kernels, their tiles, and programs beyond the first.

The suite runs them with the sizes an interpreter can afford; here each kernel gets several programs in each direction.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator

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
    """Packing, mining, loss and all gradients, as docs/gpu.md counts them; a gradient of 1 is seen on the host."""
    from indeed_ext.triton_kernels.launch import launch_count

    inputs = Case(5, 20, 70, "minmax", strategy, dtype=torch.float32).build().to(triton_backend.device)
    leaves = {name: leaf.requires_grad_() for name, leaf in inputs.leaves.items()}
    before = launch_count()
    loss = fused_indeed_loss(labels=inputs.labels, backend="triton", **leaves, **inputs.options)
    torch.autograd.grad(loss, list(leaves.values()))
    assert launch_count() - before == expected


def test_launches_do_not_depend_on_classes(triton_backend: Backend) -> None:
    """Up to the 1,024 classes of a chunk, at any batch that a training step has."""
    from indeed_ext.triton_kernels.fused_indeed_loss import CHUNK_ELEMENTS, _chunk_classes

    assert _chunk_classes(4096, 1024, CHUNK_ELEMENTS) == 1024


def test_tiles_are_those_of_the_device_of_the_tensors(triton_backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two GPUs that differ it need not be the current one."""
    from indeed_ext.triton_kernels import config

    devices = [torch.device("cuda", index) for index in range(2)]
    monkeypatch.setattr(config, "is_interpreted", lambda: False)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (10 if device == devices[1] else 9, 0))
    config.device_kind.cache_clear()
    sizes = (128, 80, torch.bfloat16, torch.float32)
    assert config.configuration(devices[0], *sizes) == config._TABLE["hopper"][0]
    assert config.configuration(devices[1], *sizes) == config._TABLE["blackwell"][0]
    config.device_kind.cache_clear()


@pytest.fixture(params=[False, True])
def tf32_allowed(request: pytest.FixtureRequest) -> Iterator[bool]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = request.param
    yield request.param
    torch.backends.cuda.matmul.allow_tf32 = before


def test_tf32_only_where_torch_allows_it(triton_backend: Backend, tf32_allowed: bool) -> None:
    from indeed_ext.triton_kernels.multiply import product_precision
    from triton_ahead_of_time import assumed_device

    precisions = {}
    for kind, dtype in itertools.product(("hopper", "hip"), (torch.float32, torch.bfloat16, torch.float16)):
        with assumed_device(kind):
            precisions[kind, dtype] = product_precision(dtype, torch.device("cpu"))
    assert precisions.pop(("hopper", torch.float32)) == ("tf32" if tf32_allowed else "ieee")
    assert precisions.pop(("hip", torch.float32)) == "ieee"
    assert set(precisions.values()) == {"bf16"}


@pytest.mark.parametrize("pairing", ["anchor", "list"])
@pytest.mark.parametrize("norm", kit.NORMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=kit.SHORT.get)
def test_several_programs(triton_backend: Backend, dtype: torch.dtype, norm: str, pairing: str) -> None:
    kit.check_loss(triton_backend, Case(35, 70, 70, norm, pairing, dtype=dtype, pos_weight=True, unknown=True).build())


@pytest.fixture(params=["hopper", "hopper, large", "hip, large"])
def tiles_of_a_device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In place of the interpreter's own."""
    from indeed_ext.triton_kernels import config
    from triton_ahead_of_time import assumed_device

    kind, _, size = request.param.partition(", ")
    if size == "large":
        monkeypatch.setattr(config, "_LARGE_PRODUCTS", 0)
        monkeypatch.setattr(config, "_MANY_LOGITS", 0)
    with assumed_device(kind):
        yield


@pytest.mark.parametrize(("norm", "pairing"), [("l2", "anchor"), ("minmax", "list")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=kit.SHORT.get)
@pytest.mark.usefixtures("tiles_of_a_device")
def test_tiles_of_a_device(triton_backend: Backend, dtype: torch.dtype, norm: str, pairing: str) -> None:
    kit.check_loss(triton_backend, Case(66, 140, 34, norm, pairing, dtype=dtype, pos_weight=True, unknown=True).build())


@pytest.mark.parametrize("strategy", kit.STRATEGIES)
@pytest.mark.usefixtures("tiles_of_a_device")
def test_mining_with_tiles_of_a_device(triton_backend: Backend, strategy: str) -> None:
    for batch, classes, density in ((33, 20, 0.15), (150, 70, 0.02)):
        labels = kit.random_labels(torch.Generator().manual_seed(3), batch, classes, density=density)
        partner = mine_pairs(labels.to(triton_backend.device), strategy=strategy, seed=11, backend="triton")
        assert torch.equal(partner.cpu(), reference.mine_pairs(labels, strategy=strategy, seed=11))


@pytest.fixture(params=[1, 3, 64])
def programs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """As many as a launch is cut into, whatever the device."""
    from indeed_ext.triton_kernels import fused_indeed_loss as module

    monkeypatch.setattr(module, "multiprocessors", lambda device: request.param)
    return request.param


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=kit.SHORT.get)
def test_parts_of_the_features(triton_backend: Backend, dtype: torch.dtype, programs: int) -> None:
    """Logits as sums of several parts, a part as sum of several steps, and the last one cut short."""
    kit.check_loss(triton_backend, Case(5, 165, 6, "minmax", "list", dtype=dtype).build())


@pytest.mark.parametrize("wanted", [["weight"], ["weight", "features", "bias"]], ids=len)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=kit.SHORT.get)
def test_parts_of_the_rows(triton_backend: Backend, dtype: torch.dtype, wanted: list[str], programs: int) -> None:
    """The same of the weight's gradient, its parts added by the launch of the maps or by one of their own."""
    kit.check_loss(triton_backend, Case(35, 70, 6, "minmax", "list", dtype=dtype, values="sparse").build(), wanted)


def test_parts_of_the_rows_in_several_class_chunks(
    triton_backend: Backend, programs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from indeed_ext.triton_kernels import fused_indeed_loss as module

    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 1)
    kit.check_loss(triton_backend, Case(35, 40, 70, "l2", "list", dtype=torch.float32).build())


@pytest.mark.parametrize("strategy", kit.STRATEGIES)
def test_mining_by_several_programs(triton_backend: Backend, strategy: str) -> None:
    # 300 classes are more words than a program reads at a time.
    for classes, density in ((70, 0.02), (70, 0.06), (300, 0.005)):
        labels = kit.random_labels(torch.Generator().manual_seed(3), 150, classes, density=density)
        partner = mine_pairs(labels.to(triton_backend.device), strategy=strategy, seed=11, backend="triton")
        assert torch.equal(partner.cpu(), reference.mine_pairs(labels, strategy=strategy, seed=11))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_class_chunks(triton_backend: Backend, reduction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums, gradients and the bias carried over from chunk to chunk."""
    from indeed_ext.triton_kernels import fused_indeed_loss as module

    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 1)
    inputs = Case(6, 20, 100, "minmax", "list", reduction, torch.float64, pos_weight=True, unknown=True).build()
    kit.check_loss(triton_backend, inputs)


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
