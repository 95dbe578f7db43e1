"""Which compiled code serves a GPU, and what the package offers where none does. The GPUs are made up."""

from __future__ import annotations

from pathlib import Path

import fake_gpus
import kit
import pytest
import torch
from fake_gpus import A6000, H100, T4

from indeed_ext import available_backends, backends, info
from indeed_ext._architectures import describe, serving_code

BOTH = {"cuda": ("indeed_ext", "cuda"), "triton": ("indeed_ext_triton", "cuda")}
REASON = "T4, compute capability 7.5, runs none of the CUDA kernels, which were built for 8.0, 9.0+PTX "
ADVICE = "(install again with TORCH_CUDA_ARCH_LIST=7.5)"


@pytest.mark.parametrize(
    ("capability", "archs", "code"),
    [
        ((9, 0), ["8.0", "9.0+PTX"], "sm_90"),
        ((8, 6), ["8.0", "9.0+PTX"], "sm_80"),  # machine code of a lower minor version
        ((8, 6), ["8.0", "8.6", "8.9"], "sm_86"),
        ((8, 0), ["8.6"], None),  # of a higher one
        ((12, 0), ["8.0", "9.0+PTX"], "compute_90"),
        ((12, 0), ["8.0+PTX", "9.0+PTX"], "compute_90"),
        ((12, 0), ["8.0", "9.0"], None),
        ((7, 5), ["8.0", "9.0+PTX"], None),
        ((11, 0), ["9.0", "10.0+PTX", "12.0+PTX"], "compute_100"),
        ((12, 1), ["10.0+PTX", "12.0+PTX"], "sm_120"),
        # Code of one architecture, or of a family.
        ((9, 0), ["9.0a"], "sm_90a"),
        ((10, 0), ["9.0a+PTX"], None),
        ((10, 3), ["10.0a+PTX"], None),
        ((10, 3), ["10.0f"], "sm_100f"),
        ((10, 0), ["10.3f+PTX"], None),
        ((12, 0), ["10.0f+PTX"], None),
        # Jetson boards take no machine code but their own.
        ((8, 7), ["8.0", "8.6"], None),
        ((8, 7), ["8.0+PTX", "8.6"], "compute_80"),
        ((8, 7), ["8.0", "8.7"], "sm_87"),
    ],
)
def test_serving_code(capability: tuple[int, int], archs: list[str], code: str | None) -> None:
    assert serving_code(capability, archs) == code


def test_what_serves_in_words() -> None:
    assert describe("A", (9, 0), ["9.0"]) == "A, compute capability 9.0, runs machine code of sm_90"
    assert "runs PTX of compute_90, which the driver compiles" in describe("A", (10, 0), ["9.0+PTX"])
    assert describe(*T4, ["8.0", "9.0+PTX"]) == REASON + ADVICE


def test_a_gpu_that_nothing_serves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_gpus.install(monkeypatch, tmp_path, [T4])
    device = torch.device("cuda", 0)
    with kit.registered_backends(BOTH):
        assert available_backends() == ["triton", "reference"]
        assert backends.missing_reasons()["cuda"] == REASON + ADVICE
        assert backends.select(None, device) is torch.ops.indeed_ext_triton
        with pytest.raises(ValueError, match=r"backend: .*'cuda' is missing here: T4, compute capability 7\.5"):
            backends.select("cuda", device)
    with kit.registered_backends({"cuda": BOTH["cuda"]}):
        assert backends.select(None, device) is None


def test_each_of_several_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Offered as long as one is served, refused on the other."""
    fake_gpus.install(monkeypatch, tmp_path, [T4, A6000, H100])
    with kit.registered_backends(BOTH):
        assert available_backends() == ["cuda", "triton", "reference"]
        assert "cuda" not in backends.missing_reasons()
        chosen = [backends.default_backend(torch.device("cuda", index)) for index in range(3)]
        assert chosen == ["triton", "cuda", "cuda"]
        assert backends.select("cuda", torch.device("cuda", 1)) is torch.ops.indeed_ext
        with pytest.raises(ValueError, match=r"'cuda' does not serve cuda:0: T4, compute capability 7\.5"):
            backends.select("cuda", torch.device("cuda", 0))
        text = info.render()
    assert f"  GPU 0       {REASON}{ADVICE}\n" in text
    assert "  GPU 1       A6000, compute capability 8.6, runs machine code of sm_80\n" in text
    assert "  GPU 2       H100, compute capability 9.0, runs machine code of sm_90\n" in text
    assert f"  cuda:0      triton, as {REASON}{ADVICE}\n" in text


def test_a_process_that_cannot_ask_its_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As after a fork: the usual backend is taken, and CPU tensors never ask."""

    def refuse(gpu: int | None = None) -> tuple[int, int]:
        asked.append(gpu)
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")

    asked: list[int | None] = []
    fake_gpus.install(monkeypatch, tmp_path, [T4])
    monkeypatch.setattr(torch.cuda, "get_device_capability", refuse)
    with kit.registered_backends({**BOTH, "cpu": ("indeed_ext", "cpu")}):
        assert backends.select("cpu", torch.device("cpu")) is backends.select(None, torch.device("cpu"))
        assert not asked
        assert backends.default_backend(torch.device("cuda", 0)) == "cuda"
        assert available_backends() == ["cuda", "triton", "cpu", "reference"]
