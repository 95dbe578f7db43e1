"""The command for the first hour on a GPU, on a machine that has none: what fails is recorded, the rest is written."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path

import pytest
import torch

from indeed_ext import available_backends

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _repository_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks are not installed: they are imported from the repository."""
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks import gpu

    report = tmp_path / "new" / "report.md"
    assert gpu.main(["--parts", "training", "sass", "--minutes", "3", "--output", str(report)]) == 0
    assert "torch finds no usable GPU" in capsys.readouterr().out
    text = report.read_text(encoding="utf-8")
    assert "There is no GPU here" in text
    assert "| training | training | left out |" in text
    assert "| sass | sass | ok |" in text


#: Starts a process and waits for it; both must end with the command.
_HANGS = """
import pathlib, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
child.wait()
"""


def test_failures_and_time_limits_do_not_stop_the_rest(tmp_path: Path) -> None:
    from benchmarks import gpu

    (tmp_path / "logs").mkdir()
    started = tmp_path / "started"
    commands = [
        gpu.Command("fails", (sys.executable, "-c", "print('what was wrong'); raise SystemExit(3)")),
        gpu.Command("absent", ("",), missing="there is no such tool"),
        gpu.Command("hangs", (sys.executable, "-c", _HANGS, str(started))),
        gpu.Command("works", (sys.executable, "-c", "import os; print(os.environ['GIVEN'])"), variables={"GIVEN": "x"}),
    ]
    outcomes = list(gpu.run_part("correctness", commands, tmp_path, 12))
    assert [each.result for each in outcomes] == ["failed with exit code 3", "left out", "out of time", "ok"]
    assert [each.summary for each in outcomes] == ["what was wrong", "there is no such tool", "", "x"]
    assert outcomes[2].seconds < 11
    assert not _is_running(int(started.read_text(encoding="utf-8")))
    text = gpu.render(tmp_path, outcomes)
    assert "what was wrong" in text
    assert "| correctness | hangs | out of time |" in text


def _is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_summary_counts_tests_of_a_run_that_was_cut_off() -> None:
    from benchmarks import gpu

    log = "test_a.py::test_b[c] PASSED   [ 10%]\ntest_a.py::test_b[d] FAILED   [ 20%]\ntest_a.py::test_b[e] "
    assert gpu.summary(log) == "1 passed, 1 failed"
    assert gpu.summary("a line\n| a table |\n") == "a line"


def test_parts_of_earlier_runs_are_kept(tmp_path: Path) -> None:
    from benchmarks import gpu

    options = argparse.Namespace(folder=tmp_path, output=tmp_path / "report.md")
    of = {part: gpu.Outcome(part, part, "", "ok", 1.0, f"{part} ran", "") for part in ("training", "mining")}
    left_out = gpu.Outcome("training", "training", "", "left out", 0.0, "no GPU", "")
    again = gpu.Outcome("mining", "mining", "", "ok", 2.0, "mining ran again", "")
    gpu.write(options, [of["training"]])
    gpu.write(options, [left_out, of["mining"]])
    gpu.write(options, [left_out, again])
    kept = [each["summary"] for each in json.loads((tmp_path / "outcomes.json").read_text(encoding="utf-8"))]
    assert kept == ["training ran", "mining ran again"]


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU's kernels in the place of the GPU's, few times."""
    if "cpu" not in available_backends():
        pytest.skip("there are no CPU kernels to measure")
    from benchmarks import baselines, gpu_mining, gpu_training, timing

    for module in (baselines, gpu_mining, gpu_training):
        monkeypatch.setattr(module, "compiled_backends", lambda _: ["cpu"])
    for module in (gpu_mining, gpu_training):
        monkeypatch.setattr(module, "EFFORT", timing.Effort(rounds=2))


@pytest.mark.usefixtures("_quick")
def test_measurements_reach_the_report(tmp_path: Path) -> None:
    from benchmarks import forecast, gpu, gpu_mining, gpu_training

    chosen = ["--shapes", "8x32x20", "--types", "float32"]
    assert gpu_training.main([str(tmp_path / "training.csv"), *chosen, "--without-compile", "--device", "cpu"]) == 0
    assert gpu_mining.main([str(tmp_path / "mining.csv"), "--batches", "40", "--device", "cpu"]) == 0
    assert forecast.main([*chosen, "--csv", str(tmp_path / "forecast.csv")]) == 0
    with (tmp_path / "training.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    measured = {(row["implementation"], row["metric"]) for row in rows}
    assert measured == {(name, metric) for name in ("eager", "cpu") for metric in ("step", "host")}
    text = gpu.render(tmp_path, [])
    for name in ("eager", "cpu"):
        assert f"| 8x32x20 | float32 | {name} |" in text
    assert "| 40 | balanced | cpu |" in text
    assert "| 8x32x20 | float32 | triton |" in text


def test_the_forecast_stands_beside_what_was_measured(tmp_path: Path) -> None:
    """A graph's step for kernels of the package, the sum of its kernels for compiled PyTorch."""
    from benchmarks import gpu
    from benchmarks.baselines import Key
    from benchmarks.cases import Case, Shape
    from benchmarks.results import Row, write_csv
    from benchmarks.timing import Spread

    rows = [
        Row("gpu_training", Case(Shape(8, 32, 20)), Key(name, "mined"), metric, unit, Spread.single(value))
        for name, metric, unit, value in (
            ("cuda", "step", "ms", 0.5),
            ("cuda", "host", "us", 150.0),
            ("cuda", "launches", "", 14.0),
            ("cuda graph", "step", "ms", 0.06),
            ("compile reduce-overhead", "step", "ms", 0.2),
            ("compile reduce-overhead", "device", "us", 90.0),
        )
    ]
    write_csv(tmp_path / "training.csv", rows, {"device": "a GPU"})
    lines = ["batch,width,classes,dtype,implementation,device_us,host_us,launches"]
    lines += [f"8,32,20,float32,{name},30,100,12" for name in ("cuda", "compile")]
    (tmp_path / "forecast.csv").write_text("\n".join(lines), encoding="utf-8")
    text = gpu.render(tmp_path, [])
    assert "| 8x32x20 | float32 | cuda | 30.0 | 60.0 | 2.00 | 100 | 150 | 12 | 14.0 |" in text
    assert "| 8x32x20 | float32 | compile | 30.0 | 90.0 | 3.00 | 100 | — | 12 | — |" in text


@pytest.mark.usefixtures("_quick")
def test_what_does_not_run_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A baseline that fails is no failure of the command; the others are timed."""
    from benchmarks import gpu, gpu_training

    def refuse(*_: object) -> None:
        raise RuntimeError("not on this card")

    monkeypatch.setattr(gpu_training, "plain_step", refuse)
    arguments = [str(tmp_path / "training.csv"), "--shapes", "8x32x20", "--types", "float32", "--without-compile"]
    assert gpu_training.main([*arguments, "--device", "cpu"]) == 0
    text = gpu.render(tmp_path, [])
    assert "Failed: eager at 8x32x20-float32: not on this card" in text
    assert "| 8x32x20 | float32 | cpu |" in text
    monkeypatch.setattr(gpu_training, "fused", refuse)
    assert gpu_training.main([*arguments, "--device", "cpu"]) == 1


@pytest.mark.usefixtures("_quick")
def test_a_wrong_result_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import baselines, gpu_training

    fused = baselines.fused
    monkeypatch.setattr(baselines, "fused", lambda *tensors, **settings: fused(*tensors, **settings) * 1.001)
    arguments = [str(tmp_path / "training.csv"), "--shapes", "8x32x20", "--types", "float32", "--without-compile"]
    assert gpu_training.main([*arguments, "--device", "cpu"]) == 1
    assert not (tmp_path / "training.csv").exists()


def test_machine_code_is_read_kernel_by_kernel() -> None:
    from benchmarks import sass

    listing = """
    arch = sm_90
            Function : first
        /*0000*/  LDC R1, c[0x0][0x28] ;
        /*0010*/  HGMMA.64x8x16.F32.BF16 R24, gdesc[UR4] ;
            Function : second
        /*0000*/  STL [R1], R2 ;
    arch = sm_80
            Function : first
        /*0000*/  LDG.E R2, [R2.64] ;
    """
    assert list(sass.kernels(iter(listing.splitlines()))) == [
        ("sm_90", "first", False, True),
        ("sm_90", "second", True, False),
        ("sm_80", "first", False, False),
    ]
