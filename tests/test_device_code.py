"""What the compiled CUDA kernels need of a GPU, read off the installed library; no GPU takes part."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import indeed_ext
from indeed_ext import _extension

#: All that host code may ask of CUDA: to register and launch kernels, torch's stream, and products. Nothing here
#: copies to the host or synchronises.
ALLOWED_SYMBOLS = {
    *("__cudaGetKernel", "__cudaInitModule", "__cudaLaunchKernel", "cudaLaunchKernel"),
    *("__cudaPopCallConfiguration", "__cudaPushCallConfiguration", "__cudaRegisterVar", "__cudaRegisterFunction"),
    *("__cudaRegisterFatBinary", "__cudaRegisterFatBinaryEnd", "__cudaUnregisterFatBinary"),
    *("cudaGetErrorString", "cudaGetLastError"),
    *("aoti_torch_device_type_cuda", "aoti_torch_get_current_cuda_stream", "torch_get_current_cuda_blas_handle"),
    *("cublasDgemm_v2", "cublasGemmEx", "cublasGetStatusString", "cublasSgemm_v2"),
}


@pytest.fixture(scope="module")
def library() -> Path:
    if not _extension.BUILD_INFO.get("cuda"):
        pytest.skip(f"built without CUDA: {_extension.BUILD_INFO.get('cuda_missing', 'no compiled extension')}")
    (found,) = Path(indeed_ext.__file__).parent.glob("_C.*.so")
    return found


def _cuobjdump(library: Path, *options: str) -> str:
    """CUDA's own or the copy that Triton brings."""
    tool = shutil.which("cuobjdump")
    if tool is None:
        triton = pytest.importorskip("triton", reason="neither cuobjdump nor Triton, which brings one")
        tool = str(Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump")
    return subprocess.run([tool, *options, library], capture_output=True, text=True, check=True).stdout


def test_architectures(library: Path) -> None:
    """Machine code for what the build says it was built for, and PTX where it promises that."""
    wanted = _extension.BUILD_INFO["cuda_archs"]
    machine_code = set(re.findall(r"\.sm_(\d+\w*)\.cubin", _cuobjdump(library, "--list-elf")))
    assert machine_code == {arch.removesuffix("+PTX").replace(".", "") for arch in wanted}
    portable = set(re.findall(r"\.sm_(\d+\w*)\.ptx", _cuobjdump(library, "--list-ptx")))
    assert portable == {arch.removesuffix("+PTX").replace(".", "") for arch in wanted if arch.endswith("+PTX")}


def test_no_kernel_spills(library: Path) -> None:
    """Neither a stack nor local memory: every value stays in registers."""
    usage = _cuobjdump(library, "--dump-resource-usage")
    kernels = re.findall(r"arch = (\w+)|Function (\S+?):\s*\n\s*REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    count, arch, spilling = 0, "", []
    for of_arch, name, registers, stack, local in kernels:
        if of_arch:
            arch = of_arch
            continue
        count += 1
        if int(stack) or int(local) or int(registers) > 128:
            spilling.append((name, arch, registers, stack, local))
    assert count >= 40, usage[:2000]
    assert not spilling


def test_host_code_never_synchronises(library: Path) -> None:
    """No copy to the host and no synchronisation is among what the library calls."""
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")
    listed = subprocess.run(["nm", "-D", "--undefined-only", library], capture_output=True, text=True, check=True)
    symbols = {line.split()[-1].split("@")[0] for line in listed.stdout.splitlines()}
    assert "cudaGetLastError" in symbols
    of_cuda = {symbol for symbol in symbols if "cuda" in symbol.lower() or "cublas" in symbol}
    assert of_cuda <= ALLOWED_SYMBOLS
    assert not {symbol for symbol in symbols if re.search(r"aoti_torch_item|torch_item|local_scalar", symbol)}
