"""Every recipe's smoke variant, from the command line to the evaluation, on tiny folders of the real formats."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import timm
import torch

pytest.importorskip("lightning")

import trees
from safetensors.torch import load_file

from indeed_ext.train.backbones import NETWORKS
from indeed_ext.train.cli import main
from indeed_ext.train.lightning_cli import IndeedCLI, run
from indeed_ext.train.recipes import recipe_names

COCO_NAMES = {1: "person", 3: "car", 90: "ant"}
CPU = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty working folder; the recipes look for data/ in it. They also set the threads of the process."""
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    yield
    torch.set_num_threads(threads)


def voc(root: Path) -> None:
    names = ("dog", "cat", "person")
    trees.voc(root, trees.some_images("1", names), trees.some_images("2", names))


def coco(root: Path) -> None:
    for part in ("train2014", "val2014"):
        listing = [(f"{name}.jpg", shown) for name, shown in trees.some_images(part, list(COCO_NAMES.values()))]
        trees.coco(root, part, listing, COCO_NAMES)


def own_images(root: Path) -> None:
    for part in ("train", "test"):
        listing = [(f"{name}.png", shown) for name, shown in trees.some_images(part, ("ant", "bee", "cat"), 20)]
        trees.table(root / f"{part}.csv", listing)


def features(root: Path) -> None:
    for part in ("train", "test"):
        trees.features(root / f"{part}.npz")


#: What makes the data of a recipe; the others bring theirs.
MAKERS: dict[str, Callable[..., None]] = {
    "ml-mnist": trees.mnist,
    "ml-folder": trees.class_folders,
    "voc-scratch": voc,
    "voc-pretrained": voc,
    "coco": coco,
    "own-images": own_images,
    "features": features,
}


def smoke(recipe: str, monkeypatch: pytest.MonkeyPatch, *options: str) -> IndeedCLI:
    if recipe == "ml-cifar-10":
        trees.cifar10(Path("data"), monkeypatch)
    elif recipe in MAKERS:
        MAKERS[recipe](Path("data"))
    return run(["fit", "--recipe", f"{recipe}-smoke", *CPU, *options])


@pytest.mark.parametrize("recipe", [name for name in recipe_names() if not name.endswith("-smoke")])
def test_smoke_variant_runs(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"{recipe}-smoke" in recipe_names()
    cli = smoke(recipe, monkeypatch)
    about = cli.model.hparams
    weights = load_file(cli.run_folder / "model.safetensors")
    if about.backbone in NETWORKS:
        plain = NETWORKS[about.backbone](num_classes=about.num_classes, in_channels=about.in_channels)
    else:
        plain = timm.create_model(about.backbone, num_classes=about.num_classes, in_chans=about.in_channels)
    plain.load_state_dict(weights, strict=True)
    for number, test in enumerate(cli.datamodule.tests):
        suffix = f"-{test}" if number else ""
        measures = json.loads((cli.run_folder / f"evaluation{suffix}.json").read_text())
        assert measures["test"] == test
        assert 0 < measures["mAP"] <= 1
        assert (cli.run_folder / f"confidence_map{suffix}.png").is_file()
        assert (cli.run_folder / f"contextual_bias{suffix}.csv").read_text().startswith("name,companion,")
    with (cli.run_folder / "metrics.csv").open(newline="") as file:
        steps = [row for row in csv.DictReader(file) if row["loss"]]
    assert len(steps) == cli.trainer.global_step >= 2
    assert all(0 < float(row["loss_original"]) < 100 for row in steps)
    assert all(0 <= float(row["partner_share"]) <= 1 for row in steps)


def test_one_cycle_rises_and_falls_over_the_whole_training(monkeypatch: pytest.MonkeyPatch) -> None:
    cli = smoke("features", monkeypatch, "--trainer.max_epochs", "4", "--trainer.limit_train_batches", "1.0")
    with (cli.run_folder / "metrics.csv").open(newline="") as file:
        rates = [float(row["lr"]) for row in csv.DictReader(file) if row["lr"]]
    assert len(rates) == 16
    top = rates.index(max(rates))
    assert 3 <= top <= 6  # three tenths of the way
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[0] == pytest.approx(0.01 / 25)
    assert rates[-1] < 0.01 / 50


def test_resuming_gives_the_weights_of_the_uninterrupted_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a loader of torch, whose order follows the epoch, and a schedule that goes by the step."""
    settings = ["--trainer.max_epochs", "3"]
    epochs = [
        "--trainer.callbacks+", "lightning.pytorch.callbacks.ModelCheckpoint", "--trainer.callbacks.dirpath", "epochs",
        "--trainer.callbacks.filename", "{epoch}", "--trainer.callbacks.save_top_k", "-1",
    ]  # fmt: skip
    whole = smoke("features", monkeypatch, *settings, *epochs)
    resumed = run(["fit", "--recipe", "features-smoke", *CPU, *settings, "--ckpt_path", "epochs/epoch=0.ckpt"])
    assert resumed.trainer.global_step == whole.trainer.global_step == 9
    first, second = (load_file(cli.run_folder / "model.safetensors") for cli in (whole, resumed))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    early = torch.load("epochs/epoch=0.ckpt", weights_only=True)["state_dict"]["network.classifier.weight"]
    assert not torch.equal(first["classifier.weight"], early)


def test_averaged_weights_clipping_precision_and_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Lightning brings, by the options that the README names.

    (Of the limits to batches, 1 would be all of them: the command line makes it the float that means a share.)
    """
    weights = []
    for extra in ([], ["--trainer.callbacks+", "EMAWeightAveraging", "--trainer.callbacks.decay", "0.5"]):
        cli = run(
            ["fit", "--recipe", "ml-digits-smoke", *CPU, "--trainer.gradient_clip_val", "0.1", "--trainer.precision",
             "bf16-mixed", "--trainer.logger", "TensorBoardLogger", "--trainer.logger.save_dir", "tb", *extra,
             "--trainer.limit_val_batches", "2", "--trainer.limit_test_batches", "2", "--trainer.max_epochs", "1",
             "--data.batch_size", "4", "--data.epoch_size", "8"]
        )  # fmt: skip
        weights.append(load_file(cli.run_folder / "model.safetensors"))
    assert cli.trainer.gradient_clip_val == 0.1
    assert cli.trainer.precision == "bf16-mixed"
    assert list(Path("tb").rglob("events.out.tfevents*"))
    assert list(weights[0]) == list(weights[1])
    assert not torch.equal(weights[0]["classifier.weight"], weights[1]["classifier.weight"])
    saved = torch.load(cli.run_folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(saved["network.classifier.weight"], weights[1]["classifier.weight"])


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_in_one_line(
    workers: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    own_images(Path("data"))
    for path in Path("data").glob("train*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--recipe", "own-images-smoke", *CPU, "--data.workers", str(workers)])
    assert stop.value.code == 2
    error = [line for line in capfd.readouterr().err.splitlines() if line.startswith("indeed: error")]
    assert len(error) == 1
    assert "indeed: error: cannot read the image data/train0" in error[0]


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("ml-mnist", "no MNIST in data"),
        ("ml-cifar-10", "no CIFAR10 in data"),
        ("ml-folder", "data/train"),
        ("voc-scratch", "cannot read data/VOCdevkit/VOC2007/ImageSets/Main/trainval.txt"),
        ("coco", "there is no folder data/train2014"),
        ("own-images", "cannot read data/train.csv"),
        ("features", "there is no file data/train.npz"),
    ],
)
def test_a_missing_data_folder_is_one_line_and_leaves_nothing(
    recipe: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--recipe", f"{recipe}-smoke", *CPU])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("indeed: error: ")
    assert message in error
    assert not list(Path().iterdir())
