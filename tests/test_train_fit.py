"""The commands: a run leaves what it promises, is repeatable and resumable, and refuses bad input before any work."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip("lightning")

from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from indeed_ext.cli import main as command
from indeed_ext.train.backbones import create_network
from indeed_ext.train.cli import main
from indeed_ext.train.lightning_cli import run
from indeed_ext.train.module import IndeedModule
from indeed_ext.train.recipes import recipe_files, recipe_names, recipe_summary

SMOKE = ["fit", "--recipe", "ml-digits-smoke", "--trainer.accelerator", "cpu"]
RECIPES = ", ".join(recipe_names())
#: What a recipe takes from the paper: backbone, epochs, learning rate schedule.
PAPER = {
    "ml-digits": ("simple_cnn", 10, "torch.optim.lr_scheduler.StepLR"),
    "ml-digits-biased": ("simple_cnn", 10, "torch.optim.lr_scheduler.StepLR"),
    "ml-mnist": ("simple_cnn", 30, "torch.optim.lr_scheduler.StepLR"),
    "ml-cifar-10": ("vgg16", 300, "torch.optim.lr_scheduler.CosineAnnealingWarmRestarts"),
    "voc-scratch": ("tresnet_m", 400, "indeed_ext.train.schedules.OneCycle"),
    "voc-pretrained": ("tresnet_xl", 80, "indeed_ext.train.schedules.OneCycle"),
    "coco": ("resnet50", 200, "indeed_ext.train.schedules.OneCycle"),
    "own-images": ("resnet50", 30, "indeed_ext.train.schedules.OneCycle"),
    "features": ("linear", 30, "indeed_ext.train.schedules.OneCycle"),
    "ml-folder": ("resnet18", 100, "indeed_ext.train.schedules.OneCycle"),
}
QUIET = ["--trainer.enable_progress_bar", "false"]
EVERY_THIRD_STEP = [
    "--trainer.callbacks+", "lightning.pytorch.callbacks.ModelCheckpoint",
    "--trainer.callbacks.dirpath", "steps",
    "--trainer.callbacks.filename", "{step}",
    "--trainer.callbacks.save_top_k", "-1",
    "--trainer.callbacks.every_n_train_steps", "3",
]  # fmt: skip


def weights_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert list(first) == list(second)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.fixture(scope="module", autouse=True)
def _threads_restored() -> Iterator[None]:
    """The recipes set the number of threads of the process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a smoke run of two epochs of four steps, which also saved a checkpoint after every third step."""
    parent = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(parent)
        run([*SMOKE, *QUIET, *EVERY_THIRD_STEP])
    return parent / "runs" / "ml-digits-smoke-minmax-001"


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ----------------------------------------------------------------------------- recipes


def test_recipes_are_listed_with_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    main(["recipes"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == recipe_names()
    for line in lines:
        assert recipe_summary(line.split()[0]) in line
        assert 20 < len(line) <= 120


def test_a_smoke_recipe_is_its_recipe_with_settings_on_top() -> None:
    assert [path.name for path in recipe_files("ml-digits-smoke")] == ["ml-digits.yaml", "ml-digits-smoke.yaml"]
    assert [path.name for path in recipe_files("ml-digits")] == ["ml-digits.yaml"]


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_gives_a_complete_configuration(name: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(["fit", "--model.lam", "0.25", "--recipe", name, "--print_config"])
    assert stop.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["recipe"] == name
    assert config["model"]["lam"] == 0.25  # given before the recipe, and yet it overrides
    assert config["optimizer"]["class_path"] == "torch.optim.Adam"
    assert config["optimizer"]["init_args"]["lr"] == 0.001
    backbone, epochs, schedule = PAPER[name.removesuffix("-smoke")]
    assert config["lr_scheduler"]["class_path"] == schedule
    if not name.endswith("-smoke"):
        assert config["model"]["backbone"] == backbone
        assert config["trainer"]["max_epochs"] == epochs
    if name.startswith(("ml-digits", "ml-mnist", "ml-cifar")):
        assert config["model"]["method"] == "minmax"
        assert config["data"]["init_args"]["objects"] == (2 if "biased" in name else 5)
    assert not list(in_tmp.iterdir())


# --------------------------------------------------------------------------------- fit


def test_fit_says_how_far_it_is_and_how_good(in_tmp: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("default")
        warnings.simplefilter("ignore", DeprecationWarning)  # those of libraries among themselves, never shown
        assert command([*SMOKE, "--model.method", "baseline", "--trainer.max_epochs", "1"]) == 0
    assert not [str(warning.message) for warning in warned]
    done = capfd.readouterr()
    assert "Epoch 0: 100%" in done.out + done.err  # the progress bar
    folder = in_tmp / "runs" / "ml-digits-smoke-baseline-001"
    measures = json.loads((folder / "evaluation.json").read_text())
    table = [line.split() for line in done.out.splitlines() if line.split()[:1] in (["mean"], ["7"])]
    assert table == [
        ["7", "324", f"{100 * measures['average_precision']['7']:.2f}", *(cell for cell in table[0][3:])],
        ["mean", *(f"{100 * measures['mAP']:.2f}", f"{measures['mean_diagonal_confidence']:.3f}"),
         f"{measures['mean_off_diagonal_confidence']:.3f}"],
    ]  # fmt: skip
    assert "runs/ml-digits-smoke-baseline-001" in done.out


def test_run_folder_holds_settings_log_checkpoint_measures_and_picture(finished: Path) -> None:
    expected = {
        "checkpoints", "config.yaml", "confidence_map.png", "contextual_bias.csv", "evaluation.csv", "evaluation.json",
        "metrics.csv", "model.safetensors",
    }  # fmt: skip
    assert {path.name for path in finished.iterdir()} == expected
    assert [path.name for path in (finished / "checkpoints").iterdir()] == ["last.ckpt"]
    assert (finished / "confidence_map.png").read_bytes().startswith(b"\x89PNG")
    assert yaml.safe_load((finished / "config.yaml").read_text())["recipe"] == "ml-digits-smoke"

    measures = json.loads((finished / "evaluation.json").read_text())
    assert (measures["recipe"], measures["method"], measures["seed"]) == ("ml-digits-smoke", "minmax", 0)
    assert sum(measures["images"].values()) == 360 * 9
    with (finished / "evaluation.csv").open(newline="") as file:
        rows = {row["class"]: row for row in csv.DictReader(file)}
    assert float(rows["mean"]["average_precision"]) == measures["mAP"]
    assert float(rows["3"]["average_precision"]) == measures["average_precision"]["3"]


def test_training_log_holds_loss_parts_partners_and_learning_rate(finished: Path) -> None:
    with (finished / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    steps = [row for row in rows if row["loss"]]
    assert [int(row["step"]) for row in steps] == list(range(8))
    for row in steps:
        parts = float(row["loss_identical"]) + float(row["loss_disparate"])
        assert float(row["loss"]) == pytest.approx(float(row["loss_original"]) + float(row["lam"]) * parts, rel=1e-4)
        assert 0.9 < float(row["partner_share"]) <= 1  # five of ten classes: nearly all pairs are compatible
        assert float(row["lr"]) == pytest.approx(0.001)
    assert [float(row["lam"]) for row in steps] == pytest.approx([min(step / 3.2, 1) for step in range(8)])
    assert len([row for row in rows if row["val_mAP"]]) == 2


def test_trained_weights_load_into_the_plain_network(finished: Path) -> None:
    with safe_open(finished / "model.safetensors", "pt") as file:
        about = file.metadata()
    assert about["backbone"] == "simple_cnn"
    assert json.loads(about["classes"]) == list("0123456789")
    network = create_network(about["backbone"], num_classes=10, in_channels=1)
    assert type(network.get_classifier()) is nn.Linear
    network.load_state_dict(load_file(finished / "model.safetensors"), strict=True)

    trained = IndeedModule.load_from_checkpoint(finished / "checkpoints" / "last.ckpt", map_location="cpu")
    assert trained.method == "minmax"
    images = torch.rand(5, 1, 24, 24)
    torch.testing.assert_close(network(images), trained(images), rtol=0, atol=1e-6)
    assert network(images).std() > 0


def test_an_earlier_run_is_left_alone_and_the_same_command_gives_the_same_weights(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    monkeypatch.chdir(finished.parents[1])
    cli = run([*SMOKE, *QUIET])
    assert cli.run_folder.name == "ml-digits-smoke-minmax-002"
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before
    assert_same(*(weights_of(folder / "checkpoints" / "last.ckpt") for folder in (finished, cli.run_folder)))
    first, second = (load_file(folder / "model.safetensors") for folder in (finished, cli.run_folder))
    assert_same(first, second)


def test_another_seed_gives_other_weights(finished: Path, in_tmp: Path) -> None:
    cli = run([*SMOKE, *QUIET, "--seed_everything", "1", "--trainer.limit_test_batches", "2"])
    first, second = (load_file(folder / "model.safetensors") for folder in (finished, cli.run_folder))
    assert not torch.equal(first["classifier.weight"], second["classifier.weight"])


@pytest.mark.parametrize("step", [3, 6], ids=["within the first epoch", "within the second epoch"])
def test_resuming_gives_the_weights_of_the_uninterrupted_run(step: int, finished: Path, in_tmp: Path) -> None:
    checkpoint = finished.parents[1] / "steps" / f"step={step}.ckpt"
    cli = run([*SMOKE, *QUIET, "--ckpt_path", str(checkpoint), "--trainer.limit_test_batches", "2"])
    assert cli.trainer.global_step == 8
    assert_same(*(weights_of(folder / "checkpoints" / "last.ckpt") for folder in (finished, cli.run_folder)))


def test_resuming_after_a_whole_epoch_gives_the_weights_of_the_uninterrupted_run(in_tmp: Path) -> None:
    epochs = [
        "--trainer.callbacks+", "lightning.pytorch.callbacks.ModelCheckpoint", "--trainer.callbacks.dirpath", "epochs",
        "--trainer.callbacks.filename", "{epoch}", "--trainer.callbacks.save_top_k", "-1",
    ]  # fmt: skip
    settings = [
        "--lr_scheduler.step_size", "1", "--trainer.max_epochs", "3", "--trainer.limit_val_batches", "2",
        "--trainer.limit_test_batches", "2",
    ]  # fmt: skip
    whole = run([*SMOKE, *QUIET, *settings, *epochs]).run_folder
    resumed = run([*SMOKE, *QUIET, *settings, "--ckpt_path", "epochs/epoch=0.ckpt"]).run_folder
    assert_same(*(weights_of(folder / "checkpoints" / "last.ckpt") for folder in (whole, resumed)))


def test_test_command_repeats_the_measures(finished: Path, in_tmp: Path) -> None:
    checkpoint = str(finished / "checkpoints" / "last.ckpt")
    cli = run(
        ["test", "--recipe", "ml-digits-smoke", "--ckpt_path", checkpoint, "--trainer.accelerator", "cpu", *QUIET]
    )
    measures = [json.loads((folder / "evaluation.json").read_text()) for folder in (finished, cli.run_folder)]
    assert measures[0] == measures[1]


def test_a_test_fetches_no_pretrained_weights(finished: Path, in_tmp: Path) -> None:
    saved = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)
    saved["hyper_parameters"]["pretrained"] = True  # which simple_cnn would refuse
    torch.save(saved, "pretrained.ckpt")
    arguments = ["test", "--recipe", "ml-digits-smoke", "--ckpt_path", "pretrained.ckpt", *QUIET]
    cli = run([*arguments, "--trainer.accelerator", "cpu", "--trainer.limit_test_batches", "2"])
    in_the_file = load_file(finished / "model.safetensors")  # which sorts the names
    assert_same(dict(sorted(cli.model.plain_state_dict().items())), in_the_file)


def test_a_logger_of_the_user_writes_beside_the_run_folder(in_tmp: Path) -> None:
    logger = "lightning.pytorch.loggers.CSVLogger"
    short = ["--trainer.max_epochs", "1", "--trainer.limit_val_batches", "2", "--trainer.limit_test_batches", "2"]
    cli = run([*SMOKE, *QUIET, *short, "--trainer.logger", logger, "--trainer.logger.save_dir", "mine"])
    assert {"checkpoints", "config.yaml", "metrics.csv"} <= {path.name for path in cli.run_folder.iterdir()}
    logs = [path.read_text() for path in (cli.run_folder / "metrics.csv", *in_tmp.glob("mine/**/metrics.csv"))]
    assert len(logs) == 2
    assert logs[0] == logs[1]


# ------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "ml-nothing"], f"unknown recipe 'ml-nothing'; the recipes are: {RECIPES}"),
        (["--recipe"], "--recipe: which one?"),
        ([], f"--recipe: name one of {RECIPES}, or give a configuration with --config"),
        (["--recipe=ml-digits-smoke", "--model.method", "focal"], "model.method"),
        (["--recipe=ml-digits-smoke", "--model.strategy", "nearest"], "model.strategy"),
        (["--recipe=ml-digits-smoke", "--model.backbone", "vgg0"], "unknown backbone 'vgg0'"),
        (["--recipe=ml-digits-smoke", "--model.lam_warmup", "2"], "lam_warmup: expected a share in [0, 1], got 2"),
        (["--recipe=ml-digits-smoke", "--model.norm", "l2"], "norm: method 'minmax' fixes it"),
        (
            ["--recipe=ml-digits-smoke", "--trainer.max_epochs", "-2"],
            "--trainer.max_epochs: expected at least 1, got -2",
        ),
        (["--recipe=ml-digits-smoke", "--trainer.max_epochs", "many"], "trainer.max_epochs"),
        (["--recipe=ml-digits-smoke", "--threads", "0"], "--threads: expected at least 1, got 0"),
        (["--recipe=ml-digits-smoke", "--data.objects", "10"], "objects: expected 1 to 9"),
        (["--recipe=ml-digits-smoke", "--data.objcts", "3"], "Option 'objcts' is not accepted"),
        (["--recipe=ml-digits-smoke", "--optimizer.lr", "-1"], "Invalid learning rate: -1"),
        (["--recipe=ml-digits-smoke", "--ckpt_path", "gone.ckpt"], "--ckpt_path: there is no file gone.ckpt"),
        (["--recipe=ml-digits-smoke", "--ckpt_path", __file__], "torch cannot read"),
        (["--recipe=ml-digits-smoke", "--runs_dir", __file__], "--runs_dir: "),
        (["--config", "gone.yaml"], "gone.yaml"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: list[str], message: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", *arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("indeed: error: ")
    assert message in error
    assert not list(in_tmp.iterdir())


def test_checkpoint_of_a_run_with_other_settings_is_refused(
    finished: Path, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(finished / "checkpoints" / "last.ckpt")
    with pytest.raises(SystemExit) as stop:
        main([*SMOKE, "--model.method", "l2", "--ckpt_path", checkpoint])
    assert stop.value.code == 2
    assert "it was trained with model.method 'minmax', not 'l2'" in capsys.readouterr().err

    saved = torch.load(checkpoint, weights_only=True)
    saved["hyper_parameters"]["num_classes"] = 20
    torch.save(saved, "other.pt")
    with pytest.raises(SystemExit):
        main([*SMOKE, "--ckpt_path", "other.pt"])
    assert "it was trained with num_classes 20, the data have 10" in capsys.readouterr().err

    saved["hyper_parameters"]["num_classes"] = 10
    saved["run"]["classes"][3] = "drei"
    torch.save(saved, "other.pt")
    with pytest.raises(SystemExit):
        main([*SMOKE, "--ckpt_path", "other.pt"])
    assert "it was trained with a class 'drei' where the data have '3'" in capsys.readouterr().err

    torch.save({"weights": torch.zeros(1)}, "other.pt")
    with pytest.raises(SystemExit):
        main([*SMOKE, "--ckpt_path", "other.pt"])
    assert "other.pt is not a checkpoint of this trainer" in capsys.readouterr().err
    assert [path.name for path in in_tmp.iterdir()] == ["other.pt"]


def test_checkpoint_of_another_recipe_is_refused(
    finished: Path, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the same network with the same settings, on other data."""
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--recipe", "ml-digits-biased-smoke", "--ckpt_path", str(finished / "checkpoints" / "last.ckpt")])
    assert stop.value.code == 2
    message = "indeed: error: --ckpt_path: it is of the recipe ml-digits-smoke, not ml-digits-biased-smoke\n"
    assert capsys.readouterr().err == message
    assert not list(in_tmp.iterdir())


def test_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train"])
    assert stop.value.code == 2
    assert "unknown command 'train'" in capsys.readouterr().err


def test_the_package_and_the_plain_network_need_no_lightning(finished: Path) -> None:
    check = (
        "import sys, indeed_ext, indeed_ext.train.recipes\n"
        "from indeed_ext.train.backbones import create_network\n"
        "from safetensors.torch import load_file\n"
        "create_network('simple_cnn', 10, 1).load_state_dict(load_file(sys.argv[1]), strict=True)\n"
        "sys.exit(any(name in sys.modules for name in ('lightning', 'torchmetrics', 'matplotlib', 'sklearn')))\n"
    )
    subprocess.run([sys.executable, "-c", check, str(finished / "model.safetensors")], check=True)
