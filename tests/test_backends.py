"""Which backends this build has. One that is missing is reported here, and only here, as skipped with its reason."""

from __future__ import annotations

from pathlib import Path

import fake_gpus
import kit
import pytest
import torch
from kit import Backend, Case

from indeed_ext import _extension, available_backends, backends, fused_indeed_loss


@pytest.mark.parametrize("name", ["cpu", "cuda", "triton", "reference"])
def test_available(name: str) -> None:
    """Run, or skipped with the reason that the package gives its users."""
    if name not in available_backends():
        pytest.skip(backends.missing_reasons()[name])
    kit.check_loss(kit.REGISTRY[name], Case(5, 6, 4, pairing="anchor", dtype=torch.float32).build())


def test_the_emulation_of_cuda() -> None:
    """Kernels that do not compile for it are a failure; a machine without the means is a reason to skip."""
    from cuda_emulation.build import Unavailable

    error = kit.emulation_error()
    if isinstance(error, Unavailable):
        pytest.skip(str(error))
    if error is not None:
        raise error
    kit.check_loss(kit.REGISTRY["cuda-emulated"], Case(5, 6, 4, pairing="anchor", dtype=torch.float32).build())


def test_a_build_with_kernels_has_its_kernels() -> None:
    """Where the build says that it made an extension, that it does not load is a failure, not a reason to skip."""
    if not _extension.BUILD_INFO or _extension.BUILD_INFO.get("missing"):
        pytest.skip(f"no extension was built: {_extension.EXTENSION_ERROR}")
    assert _extension.EXTENSION_ERROR is None
    assert "cpu" in available_backends()
    if _extension.BUILD_INFO.get("cuda"):
        reason = backends.missing_reasons().get("cuda", "")
        assert reason in ("", "torch finds no usable GPU") or "runs none of the CUDA kernels" in reason


def test_the_reference_is_always_there_and_last() -> None:
    assert available_backends()[-1] == "reference"


def test_every_known_backend_is_available_or_has_a_reason() -> None:
    reasons = backends.missing_reasons()
    assert not set(reasons) & set(available_backends())
    assert set(reasons) | set(available_backends()) >= {"cpu", "cuda", "triton", "reference"}
    for name, reason in reasons.items():
        assert reason, name
        assert "\n" not in reason


def _runs_on(inputs: kit.Inputs) -> str:
    """By the name of the loss's autograd node: only the fused loss has one of its own."""
    features = inputs.leaves["features"].requires_grad_()
    loss = fused_indeed_loss(features, inputs.leaves["weight"], inputs.labels, **inputs.options)
    return "compiled" if "FusedINDeeDLoss" in loss.grad_fn.name() else "reference"


def test_the_environment_chooses_a_backend(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = Case(5, 6, 4).build().to(backend.device)
    monkeypatch.setenv("INDEED_BACKEND", backend.name)
    assert _runs_on(inputs) == ("compiled" if backend.compiled else "reference")


@pytest.mark.compiled
def test_an_argument_comes_before_the_environment(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = Case(5, 6, 4).build().to(backend.device)
    monkeypatch.setenv("INDEED_BACKEND", "reference")
    assert _runs_on(inputs) == "reference"
    inputs.options["backend"] = backend.name
    assert _runs_on(inputs) == "compiled"


def test_an_empty_environment_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = Case(5, 6, 4).build()
    monkeypatch.delenv("INDEED_BACKEND", raising=False)
    expected = _runs_on(inputs)
    monkeypatch.setenv("INDEED_BACKEND", "")
    assert _runs_on(inputs) == expected


def test_without_a_choice_the_device_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INDEED_BACKEND", raising=False)
    expected = "compiled" if "cpu" in available_backends() else "reference"
    assert _runs_on(Case(5, 6, 4).build()) == expected


@pytest.mark.parametrize("name", ["fastest", "CPU", "no such thing"])
def test_an_unknown_name_in_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INDEED_BACKEND", name)
    with pytest.raises(ValueError, match="INDEED_BACKEND"):
        _runs_on(Case(5, 6, 4).build())


def test_backends_agree() -> None:
    """The same loss from every backend of this build, on one batch, to float64 accuracy."""
    inputs = Case(5, 6, 4, "minmax", "balanced").build()
    expected = kit.run_backend(kit.REGISTRY["reference"], inputs)
    for backend in kit.backends_under_test():
        kit.assert_accurate(kit.run_backend(backend, inputs), expected, lambda: expected)


_HALF, _SINGLE, _DOUBLE = torch.bfloat16, torch.float32, torch.float64


@pytest.mark.parametrize(("names", "chosen"), [(["cuda", "triton"], "indeed_ext"), (["triton"], "indeed_ext_triton")])
def test_a_gpu_with_two_backends(
    names: list[str], chosen: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_gpus.install(monkeypatch, tmp_path, [fake_gpus.H100])
    both = {"cuda": ("indeed_ext", "cuda"), "triton": ("indeed_ext_triton", "cuda")}
    with kit.registered_backends({name: both[name] for name in names}):
        assert backends.select(None, torch.device("cuda")) is getattr(torch.ops, chosen)
