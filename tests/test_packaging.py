"""Build, installation and what the package says about itself. Nothing here compiles or uses a network."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

import indeed_ext
from indeed_ext import _extension, cli, info

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(indeed_ext.__file__).parent
HEAVY = ("lightning", "timm", "torchmetrics", "torchvision", "sklearn", "matplotlib", "triton", "torch._dynamo")


def test_the_package_under_test_is_an_installed_one() -> None:
    if PACKAGE.parent == ROOT and not list(PACKAGE.glob("_C.*")) and not _extension.BUILD_INFO:
        pytest.fail(
            f"imported from the source tree {PACKAGE}, which was never built, so the compiled backends go untested: "
            "pip install '.[test]' and run `pytest`, not `python -m pytest` (or pip install -e '.[test]')"
        )


# ------------------------------------------------------------------------------- the build's surroundings


@pytest.fixture
def environment(backend_modules: SimpleNamespace) -> ModuleType:
    return backend_modules.environment


@pytest.fixture
def cuda(backend_modules: SimpleNamespace) -> ModuleType:
    return backend_modules.cuda


@pytest.fixture
def backend_modules() -> SimpleNamespace:
    """The in-tree build backend's modules, with the repository root on the path only while they load."""
    sys.path.insert(0, str(ROOT))
    try:
        import build_backend
        import build_backend.cuda
        import build_backend.environment
        import build_backend.extension
    finally:
        sys.path.remove(str(ROOT))
    return SimpleNamespace(
        hooks=build_backend,
        cuda=build_backend.cuda,
        environment=build_backend.environment,
        extension=build_backend.extension,
    )


def fake_torch(site_dir: Path, version: str, cuda: str | None = None) -> str:
    package = site_dir / "torch"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('the build must not import torch')")
    (package / "version.py").write_text(f"__version__ = '{version}'\ncuda: Optional[str] = {cuda!r}\nhip = '7.0'\n")
    return str(site_dir)


def test_torch_is_found_by_its_files(environment: ModuleType, tmp_path: Path) -> None:
    found = environment.find_torch([fake_torch(tmp_path, "2.14.1+cu130", "13.0")])
    assert (found.root, found.version, found.cuda) == (tmp_path / "torch", "2.14.1+cu130", "13.0")
    assert environment.read_torch(Path(torch.__file__).parent).version == torch.__version__


@pytest.mark.parametrize(
    ("version", "required"),
    [(None, ["torch>=2.11"]), ("2.9.1", ["torch>=2.11"]), ("2.11.0", []), ("2.14.1+cpu", []), ("3.0.0a0", [])],
)
def test_torch_is_asked_for_only_where_the_target_has_none(
    backend_modules: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    version: str | None,
    required: list[str],
) -> None:
    environment = backend_modules.environment
    site_dirs = [fake_torch(tmp_path, version)] if version else []
    find_torch = environment.find_torch
    monkeypatch.setattr(environment, "find_torch", lambda: find_torch(site_dirs))
    monkeypatch.setattr(environment, "find_compiler", lambda: ["c++"])
    monkeypatch.delenv("INDEED_WITHOUT_EXTENSION", raising=False)
    assert environment.torch_requirements() == required


def test_isolated_build_sees_the_torch_of_the_interpreter(environment: ModuleType) -> None:
    """As in pip's isolated build: the site directories are not on the path."""
    code = (
        "import sys, importlib.util; sys.path = [path for path in sys.path if 'site-packages' not in path]\n"
        "assert importlib.util.find_spec('torch') is None\n"
        f"sys.path.insert(0, {str(ROOT / 'build_backend')!r})\n"
        "from environment import find_torch; print(find_torch().version)"
    )
    if str(Path(torch.__file__).parent.parent) not in environment.target_site_dirs():
        pytest.skip("torch is not in this interpreter's own site directories")
    assert run_python(code, env={"PYTHONPATH": ""}).stdout.strip() == torch.__version__


def test_without_a_compiler_nothing_is_asked_for(
    environment: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("INDEED_WITHOUT_EXTENSION", raising=False)
    assert environment.torch_requirements() == []
    assert "no C++ compiler" in environment.reason_without_extension()
    monkeypatch.setenv("CXX", "no-such-compiler -m64")
    with pytest.raises(environment.BuildError, match="no-such-compiler"):
        environment.find_compiler()


def test_build_without_a_compiler_succeeds_and_says_why(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    folder = tmp_path / "lib" / "indeed_ext"
    folder.mkdir(parents=True)
    stale = [folder / _library_file_name(name) for name in ("_C", "_autograd")]
    for library in stale:
        library.write_bytes(b"of an earlier build")
    command = [sys.executable, "setup.py", "build_ext", f"--build-lib={tmp_path}/lib", f"--build-temp={tmp_path}/temp"]
    env = {key: value for key, value in os.environ.items() if key not in ("CXX", "INDEED_WITHOUT_EXTENSION")}
    result = subprocess.run(
        command, cwd=ROOT, env=env | {"PATH": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert "without its compiled extension: no C++ compiler" in result.stderr
    built = json.loads((folder / "_build_info.json").read_text())
    assert "no C++ compiler" in built["missing"]
    assert not any(library.exists() for library in stale)


def _library_file_name(name: str) -> str:
    import sysconfig

    return name + str(sysconfig.get_config_var("EXT_SUFFIX"))


def test_autograd_in_cpp_fits_one_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it needs of torch is not stable: beside another one the node in Python serves."""
    if _extension.EXTENSION_ERROR:
        assert _extension.AUTOGRAD is None
        pytest.skip(_extension.EXTENSION_ERROR)
    assert (_extension.AUTOGRAD is None) == (_extension.BUILD_INFO["torch"] != torch.__version__)
    assert re.search(r"autograd +in (C\+\+|Python: it was built)", info.render())
    monkeypatch.setattr(torch, "__version__", "2.99.0")
    reason, module = _extension._load_autograd()
    assert module is None
    assert reason == f"it was built for torch {_extension.BUILD_INFO['torch']}, and this is 2.99.0"
    monkeypatch.setattr(_extension, "AUTOGRAD_ERROR", reason)
    assert f"in Python: {reason}" in info.render()


# ------------------------------------------------------------------------------- CUDA toolkit


#: Like the part of nvcc's header that judges its host compiler.
HOST_CONFIG = """
#if __GNUC__ > 15
#error -- unsupported GNU version! gcc versions later than 15 are not supported!
#endif
#if (__clang_major__ >= 21) || (__clang_major__ < 3)
#error -- unsupported clang version!
#endif
"""
NVCC = "#!/bin/sh\nprintf 'compute_%s\\n' 75 80 86 90 100 120\n"


def fake_toolkit(root: Path, version: int = 13000, without: str = "", nvcc: str = NVCC) -> Path:
    for name in ("bin/nvcc", "include/cuda_runtime.h", "include/cuda_runtime_api.h", "nvvm/bin/cicc"):
        if name != without:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(nvcc if name == "bin/nvcc" else f"#define CUDART_VERSION  {version}\n")
            (root / name).chmod(0o755)
    if without != "include/cuda_runtime.h":
        (root / "include/crt").mkdir(parents=True)
        (root / "include/crt/host_config.h").write_text(HOST_CONFIG)
        (root / "include/cublas_v2.h").touch()
    return root


def fake_compiler(folder: Path, name: str, gcc: int | None = None, clang: int | None = None) -> str:
    """A program that knows its version and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    macros = f"#define __GNUC__ {gcc or 4}\n" + (f"#define __clang_major__ {clang}\n" if clang else "")
    (folder / name).write_text(f"#!/bin/sh\ncat <<'end'\n{macros}end\n")
    (folder / name).chmod(0o755)
    return str(folder / name)


@pytest.mark.parametrize("without", ["bin/nvcc", "include/cuda_runtime.h", "nvvm/bin/cicc"])
def test_incomplete_toolkit_is_rejected(cuda: ModuleType, tmp_path: Path, without: str) -> None:
    assert f"has no {without}" in cuda.inspect_toolkit(fake_toolkit(tmp_path, without=without))


def test_toolkit_must_be_of_torchs_major_version(cuda: ModuleType, environment: ModuleType, tmp_path: Path) -> None:
    wrapper = fake_toolkit(tmp_path / "wrapper", without="include/cuda_runtime.h")
    old, good = fake_toolkit(tmp_path / "old", 12080), fake_toolkit(tmp_path / "good", 13020)
    with_cuda = environment.Torch(tmp_path, "2.14.1", "13.0")
    found = cuda.find_toolkit(with_cuda, [wrapper, old, good])
    assert found == cuda.Toolkit(good, (13, 2), ("7.5", "8.0", "8.6", "9.0", "10.0", "12.0"))
    assert "CUDA 12.8, torch wants 13.0" in cuda.find_toolkit(with_cuda, [wrapper, old])
    assert "without CUDA" in cuda.find_toolkit(environment.Torch(tmp_path, "2.14.1", None), [good])


def test_a_toolkit_of_another_machine_is_rejected(cuda: ModuleType, tmp_path: Path) -> None:
    assert "bin/nvcc does not run here" in cuda.inspect_toolkit(fake_toolkit(tmp_path, nvcc="\x7fELF"))


def test_cuda_home_comes_before_the_nvcc_on_the_path(cuda: ModuleType, tmp_path: Path) -> None:
    home, on_path = fake_toolkit(tmp_path / "home"), fake_toolkit(tmp_path / "path")
    roots = cuda.candidate_roots({"CUDA_HOME": str(home), "PATH": str(on_path / "bin")})
    assert roots[:2] == [home, on_path]


def test_with_cuda_is_forced_by_the_environment(cuda: ModuleType, environment: ModuleType, tmp_path: Path) -> None:
    home = {"CUDA_HOME": str(fake_toolkit(tmp_path / "cuda"))}
    compiler = [fake_compiler(tmp_path, "g++", 14)]
    recent = environment.Torch(tmp_path, "2.14.1", "13.0")
    built = cuda.choose_build(recent, True, compiler, home)
    assert (built.toolkit.root, built.host_compiler) == (tmp_path / "cuda", *compiler)
    assert "INDEED_WITH_CUDA=0" in cuda.choose_build(recent, True, compiler, home | {"INDEED_WITH_CUDA": "0"})
    plain = environment.Torch(tmp_path, "2.14.1", None)
    with pytest.raises(environment.BuildError, match="built without CUDA"):
        cuda.choose_build(plain, True, compiler, home | {"INDEED_WITH_CUDA": "1"})
    with pytest.raises(environment.BuildError, match="expected 0 or 1"):
        cuda.choose_build(recent, True, compiler, home | {"INDEED_WITH_CUDA": "yes"})


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ({"gcc": 15}, None),
        ({"gcc": 16}, "g++ is gcc 16 and nvcc of CUDA 13.0 takes gcc 15 or older"),
        ({"clang": 20}, None),
        ({"clang": 21}, "g++ is clang 21 and nvcc of CUDA 13.0 takes clang 20 or older"),
    ],
)
def test_a_compiler_that_nvcc_refuses(
    cuda: ModuleType, environment: ModuleType, tmp_path: Path, versions: dict[str, int], expected: str | None
) -> None:
    """The CPU part is built without it; INDEED_WITH_CUDA=1 makes it an error."""
    home = {"CUDA_HOME": str(fake_toolkit(tmp_path / "cuda"))}
    compiler = [fake_compiler(tmp_path, "g++", **versions)]
    recent = environment.Torch(tmp_path, "2.14.1", "13.0")
    built = cuda.choose_build(recent, True, compiler, home)
    if expected is None:
        assert built.host_compiler == compiler[0]
        return
    assert expected in built
    assert "\n" not in built
    with pytest.raises(environment.BuildError, match=r"INDEED_WITH_CUDA=1, but .*or older"):
        cuda.choose_build(recent, True, compiler, home | {"INDEED_WITH_CUDA": "1"})
    insisting = home | {"NVCC_APPEND_FLAGS": "-allow-unsupported-compiler"}
    assert cuda.choose_build(recent, True, compiler, insisting).host_compiler == compiler[0]


def test_a_compiler_for_nvcc_alone(cuda: ModuleType, environment: ModuleType, tmp_path: Path) -> None:
    """NVCC_CCBIN names it, by itself or by its folder; one that nvcc refuses does not stand in the way of CXX."""
    home = {"CUDA_HOME": str(fake_toolkit(tmp_path / "cuda")), "PATH": os.environ["PATH"]}
    newest, older = fake_compiler(tmp_path / "new", "g++", 16), fake_compiler(tmp_path / "old", "g++", 13)
    recent = environment.Torch(tmp_path, "2.14.1", "13.0")
    for name in (older, str(tmp_path / "old")):
        built = cuda.choose_build(recent, True, ["ccache", newest, "-m64"], home | {"NVCC_CCBIN": name})
        assert built.host_compiler == older
    assert cuda.choose_build(recent, True, [older, "-m64"], home | {"NVCC_CCBIN": newest}).host_compiler == older
    refused = cuda.choose_build(recent, True, [newest], home | {"NVCC_CCBIN": newest})
    assert refused.count("gcc 15 or older") == 1
    with pytest.raises(environment.BuildError, match="NVCC_CCBIN='nowhere': there is no such program"):
        cuda.choose_build(recent, True, [older], home | {"NVCC_CCBIN": "nowhere"})


def test_the_real_compiler_says_its_version(cuda: ModuleType, environment: ModuleType, tmp_path: Path) -> None:
    """Where nvcc takes nothing of today, the compiler of this machine is refused."""
    compiler = environment.find_compiler()
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    root = fake_toolkit(tmp_path)
    (root / "include/crt/host_config.h").write_text("#if __GNUC__ > 2\n#if (__clang_major__ >= 3)\n")
    refusal = cuda.host_refusal(cuda.inspect_toolkit(root), compiler, {})
    assert re.search(r" is (gcc|clang) \d+ and nvcc of CUDA 13\.0 takes \1 2 or older", refusal)


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ("7.5 8.0 8.6 9.0 10.0 11.0 12.0 12.1", ["8.0", "9.0", "10.0+PTX", "12.0+PTX"]),
        ("7.5 8.0 8.6 9.0", ["8.0", "9.0+PTX"]),
        ("9.0 10.0 12.0 13.0", ["9.0", "10.0+PTX", "12.0+PTX"]),
    ],
)
def test_architectures_that_the_toolkit_knows(cuda: ModuleType, known: str, expected: list[str]) -> None:
    toolkit = cuda.Toolkit(Path("cuda"), (13, 0), tuple(known.split()))
    assert cuda.arch_list(toolkit, {}) == expected
    assert cuda.arch_list(toolkit, {"TORCH_CUDA_ARCH_LIST": " ; "}) == expected


def test_arch_flags(cuda: ModuleType, environment: ModuleType) -> None:
    toolkit = cuda.Toolkit(Path("cuda"), (13, 0), ("8.6", "9.0", "12.0"))

    def archs(value: str) -> list[str]:
        return cuda.arch_list(toolkit, {"TORCH_CUDA_ARCH_LIST": value})

    assert cuda.arch_flags(archs("8.6;12.0a+PTX")) == [
        "-gencode=arch=compute_86,code=sm_86",
        "-gencode=arch=compute_120a,code=sm_120a",
        "-gencode=arch=compute_120a,code=compute_120a",
    ]
    assert archs("8.6, 9.0 8.6;") == ["8.6", "9.0"]
    for wrong in ("Hopper", "90", "9.0+ptx", "9.0x", "8.6 -9.0"):
        with pytest.raises(environment.BuildError, match=r"TORCH_CUDA_ARCH_LIST: expected entries such as 8\.0"):
            archs(wrong)
    with pytest.raises(environment.BuildError, match=r"CUDA 13\.0 compiles for 8\.6, 9\.0, 12\.0, got '7\.0\+PTX'"):
        archs("8.6;7.0+PTX")


def test_sources_of_one_stem_and_odd_paths(
    backend_modules: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pybind11", SimpleNamespace(get_include=lambda: "/pybind11"))
    found = backend_modules.environment.Torch(tmp_path / "site packages" / "torch", "2.14.1", "13.0")
    toolkit = backend_modules.cuda.Toolkit(tmp_path / "cuda", (13, 0), ("9.0",))
    build = backend_modules.cuda.CudaBuild(toolkit, "g++-15", ["9.0"], tmp_path / "cublas")
    sources = ["csrc/autograd/module.cpp", "csrc/cuda/loss.cpp", "csrc/cuda/loss.cu", "csrc/module.cpp"]
    text = backend_modules.extension.ninja_text(["c++"], found, build, sources, tmp_path / "a b:c", tmp_path / "_C.so")
    objects = re.findall(r"^build (\S.*?): (?:cxx|nvcc) ", text, re.MULTILINE)
    assert len(set(objects)) == 4
    linked = dict(re.findall(r"^build (\S.*?): link (.*)$", text, re.MULTILINE))
    assert [paths.count(".o") for paths in linked.values()] == [3, 1]
    assert all("a$ b$:c" in path for path in objects)
    assert f"'{found.root}/include'" in text
    (nvcc,) = re.findall(r"^ +command = \S+/bin/nvcc .*", text, re.MULTILINE)
    assert " -ccbin=g++-15 " in nvcc
    assert " -gencode=arch=compute_90,code=sm_90 " in nvcc
    headers = f"{tmp_path / 'cuda/include'} -isystem {tmp_path / 'cublas'}"
    assert headers in nvcc, "the toolkit's own headers come first"


def test_cublas_beside_torch(cuda: ModuleType, backend_modules: SimpleNamespace, tmp_path: Path) -> None:
    """A toolkit may come without cuBLAS, which pip installs with torch."""
    root = fake_toolkit(tmp_path / "cuda")
    torch = backend_modules.environment.Torch(tmp_path / "site/torch", "2.14.1", "13.0")
    toolkit = cuda.inspect_toolkit(root)
    assert cuda.cublas_include(torch, toolkit) == root / "include"
    (root / "include/cublas_v2.h").unlink()
    environ = {"CUDA_HOME": str(root), "PATH": ""}
    assert "cublas_v2.h is neither in" in cuda.find_build(torch, [fake_compiler(tmp_path, "g++", gcc=13)], environ)
    beside = tmp_path / "site/nvidia/cu13/include/cublas_v2.h"
    beside.parent.mkdir(parents=True)
    beside.touch()
    assert cuda.cublas_include(torch, toolkit) == beside.parent


# ------------------------------------------------------------------------------- a binary that is missing or unfit


def run_python(code: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=os.environ | (env or {}), cwd="/", capture_output=True, text=True, check=True, timeout=300
    )


def corrupt(package: Path, build: dict[str, Any]) -> None:
    (package / _library_file_name("_C")).write_bytes(b"not a library")


def truncate(package: Path, build: dict[str, Any]) -> None:
    library = package / _library_file_name("_C")
    if not library.exists():
        pytest.skip("no library to truncate")
    os.truncate(library, library.stat().st_size // 2)


def for_newer_torch(package: Path, build: dict[str, Any]) -> None:
    build["torch_target"] = "99.0"


def for_other_python(package: Path, build: dict[str, Any]) -> None:
    (package / _library_file_name("_C")).unlink(missing_ok=True)
    build["python"] = "3.99.0"


def left_out(package: Path, build: dict[str, Any]) -> None:
    build["missing"] = "no C++ compiler was found"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (corrupt, r"cannot be loaded: it was built for torch 2\.50\.0, Python 3\.\d+\.\d+ .*.*, and this is torch 2\."),
        (truncate, r"cannot be loaded: it was built for torch 2\.50\.0.* \(the library file is incomplete\)"),
        (for_newer_torch, r"cannot be loaded: it was built for torch 2\.50\.0.* \(it needs torch 99\.0 or newer\)"),
        (
            for_other_python,
            r"cannot be loaded: it was built for torch 2\.50\.0, Python 3\.99\.0 .* \(it holds no library for this",
        ),
        (left_out, r"the compiled extension was left out: no C\+\+ compiler was found"),
    ],
)
def test_package_goes_on_without_its_extension(
    tmp_path: Path, damage: Callable[[Path, dict[str, Any]], None], message: str
) -> None:
    package = tmp_path / "indeed_ext"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__", "train"))
    build = {"missing": None, "torch": "2.50.0", "torch_target": "2.11", "python": "3.11.0", "platform": "linux-x86_64"}
    damage(package, build)
    (package / "_build_info.json").write_text(json.dumps(build))
    code = (
        "import indeed_ext, torch\n"
        "loss = indeed_ext.fused_indeed_loss(torch.rand(4, 8), torch.rand(3, 8), torch.eye(4, 3).int())\n"
        "print(indeed_ext.__file__, indeed_ext.available_backends(), bool(loss > 0))\n"
        f"import sys; print([name for name in {HEAVY} if name in sys.modules])"
    )
    result = run_python(code, env={"PYTHONPATH": str(tmp_path), "PYTHONWARNINGS": "always", "INDEED_BACKEND": ""})
    first, second = result.stdout.splitlines()
    assert first.startswith(str(package))
    assert "'cpu'" not in first
    assert first.endswith("True")
    assert second == "[]", "importing the package imported something heavy"
    warnings = [line for line in result.stderr.splitlines() if "indeed_ext works without" in line and "Runtime" in line]
    assert len(warnings) == 1, result.stderr
    assert re.search(message, warnings[0]), warnings[0]


def test_build_information_of_a_loaded_extension() -> None:
    if not _extension.is_loaded():
        pytest.skip(str(_extension.EXTENSION_ERROR))
    on_disk = json.loads((PACKAGE / "_build_info.json").read_text())
    assert on_disk == _extension.BUILD_INFO, "the binary and the information beside it are of different builds"
    assert on_disk["version"] == indeed_ext.__version__
    assert on_disk["torch_target"] == "2.11"


# ------------------------------------------------------------------------------- commands


def test_info_names_every_backend(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info"]) == 0
    text = capsys.readouterr().out
    assert text == info.render() + "\n"
    assert f"indeed_ext {indeed_ext.__version__}" in text
    for backend in ("cpu", "cuda", "triton", "reference"):
        assert re.search(rf"^  {backend} +(available|missing: .+)$", text, re.MULTILINE), text
    if _extension.LIBRARY is not None:
        assert re.search(rf"^  CPU kernels +{_extension.LIBRARY.kernel_variant()}, of ", text, re.MULTILINE), text


def test_info_without_an_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_extension, "EXTENSION_ERROR", "the compiled extension was left out: no reason")
    monkeypatch.setattr(_extension, "BUILD_INFO", {})
    assert "the compiled extension was left out: no reason" in info.render()


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"indeed_ext {indeed_ext.__version__}\n"
    assert cli.main([]) == 0
    assert "indeed info" in capsys.readouterr().out


def test_trainer_without_its_extra_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(arguments: list[str]) -> int:
        raise ModuleNotFoundError("No module named 'lightning'", name="lightning.pytorch")

    monkeypatch.setitem(sys.modules, "indeed_ext.train.cli", SimpleNamespace(main=main))  # type: ignore[arg-type]
    assert cli.main(["fit", "--help"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "lightning" in error
    assert "pip install 'indeed_ext[train]'" in error


def test_trainers_own_import_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def main(arguments: list[str]) -> int:
        raise ModuleNotFoundError("No module named 'nowhere'", name="nowhere")

    monkeypatch.setitem(sys.modules, "indeed_ext.train.cli", SimpleNamespace(main=main))  # type: ignore[arg-type]
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        cli.main(["fit"])
