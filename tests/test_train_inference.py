"""What a trained network is used for: labels of a folder, activation maps, and files for use elsewhere."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")

import trees
from PIL import Image
from sklearn.metrics import f1_score
from torch import nn

from indeed_ext.train.backbones import create_network
from indeed_ext.train.cli import main
from indeed_ext.train.evaluation import Evaluation
from indeed_ext.train.inference import class_activation
from indeed_ext.train.trained import About, Classifier, load_image, load_trained, save_trained

NAMES = ["ant", "bee", "cat"]
ABOUT = About("test_resnet", NAMES, 3, [32, 40], [0.5, 0.4, 0.3], [0.2, 0.3, 0.4], [0.2, 0.99, 0.5])


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder with a network, and a folder of images with one picture per size."""
    monkeypatch.chdir(tmp_path)
    network = create_network(ABOUT.backbone, 3, 3)
    with torch.no_grad():
        network.get_classifier().bias.copy_(torch.tensor([0.0, 1.0, 5.0]))
    Path("run").mkdir()
    save_trained(network.state_dict(), ABOUT, Path("run/model.safetensors"))
    for seed, name in enumerate(("b.png", "a/c.jpg", "d.PNG")):
        trees.picture(Path("images") / name, seed, (50 + seed, 40))
    Path("images/readme.txt").write_text("no image")
    return Path("run")


def test_a_trained_network_comes_back_with_what_it_needs(model: Path) -> None:
    classifier, about = load_trained(model)
    assert about == ABOUT
    image = load_image(Path("images/b.png"), about)
    assert image.shape == (3, 32, 40)
    assert 0 <= image.min() < image.max() <= 1
    mean, std = (torch.tensor(values)[:, None, None] for values in (ABOUT.mean, ABOUT.std))
    with torch.no_grad():
        expected = classifier.network(((image - mean) / std)[None]).sigmoid()
        torch.testing.assert_close(classifier(image[None]), expected)


def test_predict_writes_labels_by_the_thresholds(model: Path) -> None:
    main(["predict", "run", "images", "--batch_size", "2"])
    with open("labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["a/c.jpg", "b.png", "d.PNG"]
    classifier, about = load_trained(model)
    for row in rows:
        with torch.no_grad():
            expected = classifier(load_image(Path("images") / row["file"], about)[None])[0].tolist()
        assert [float(row[f"probability_{name}"]) for name in NAMES] == pytest.approx(expected, abs=1e-4)
        present = [name for name, value, least in zip(NAMES, expected, ABOUT.thresholds, strict=True) if value >= least]
        assert row["labels"] == ";".join(present)
    assert any(row["labels"] for row in rows)


def test_thresholds_are_the_best_ones() -> None:
    generator = torch.Generator().manual_seed(3)
    labels = torch.rand(60, 3, generator=generator) < 0.4
    labels[:, 2] = False
    logits = torch.randn(60, 3, generator=generator) + 1.5 * labels
    evaluation = Evaluation()
    evaluation.update(logits, labels)
    thresholds = evaluation.thresholds()
    assert thresholds[2] == 0.5  # nothing to tune it on
    scores = logits.sigmoid()
    for column in range(2):
        present = labels[:, column].numpy()
        best = max(f1_score(present, (scores[:, column] >= value).numpy()) for value in scores[:, column])
        reached = f1_score(present, (scores[:, column] >= thresholds[column]).numpy())
        assert reached == pytest.approx(best)


class Corner(nn.Module):
    """Average pooling and a linear classifier on the image itself: its activation maps are known."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(3, 2, bias=False)
        with torch.no_grad():
            self.classifier.weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, -1.0]]))

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def forward_head(self, x: torch.Tensor, pre_logits: bool) -> torch.Tensor:
        return x.mean((2, 3))

    def get_classifier(self) -> nn.Module:
        return self.classifier


def test_activation_of_a_linear_network_is_its_weighted_map() -> None:
    image = torch.rand(3, 4, 5)
    maps, probabilities = class_activation(Classifier(Corner(), [0.0], [1.0]), image)
    for found, expected in zip(maps, (image[0], (2 * image[1] - image[2]).clamp(min=0)), strict=True):
        torch.testing.assert_close(found, expected / expected.max())
    weight = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, -1.0]])
    torch.testing.assert_close(probabilities, (weight @ image.mean((1, 2))).sigmoid())


def test_activation_maps_are_drawn(model: Path) -> None:
    main(["cam", "run", "images/b.png", "images/a/c.jpg", "--classes", "cat", "ant", "--output", "maps"])
    main(["cam", "run", "images/d.PNG"])
    for path in ("maps/b-activation.png", "maps/c-activation.png", "activation/d-activation.png"):
        with Image.open(path) as picture:
            assert min(picture.size) > 100


def test_an_exported_program_gives_the_probabilities_for_any_batch(model: Path) -> None:
    main(["export", "run"])
    program = torch.export.load("run/model.pt2").module()
    classifier, _ = load_trained(model)
    for count in (2, 5):
        images = torch.rand(count, 3, 32, 40)
        with torch.no_grad():
            torch.testing.assert_close(program(images), classifier(images), rtol=1e-4, atol=1e-5)


def test_onnx_gives_the_probabilities(model: Path) -> None:
    pytest.importorskip("onnxscript")
    main(["export", "run", "--format", "onnx"])
    from onnx.reference import ReferenceEvaluator

    images = torch.rand(3, 3, 32, 40)
    assert {path.name for path in Path("run").iterdir()} == {"model.safetensors", "model.onnx"}  # weights included
    (found,) = ReferenceEvaluator("run/model.onnx").run(None, {"images": images.numpy()})
    with torch.no_grad():
        expected = load_trained(model)[0](images)
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-4)


def test_an_earlier_table_is_not_lost_to_a_broken_image(model: Path) -> None:
    Path("images/z.png").write_bytes(b"no picture")
    Path("labels.csv").write_text("mine")
    with pytest.raises(SystemExit):
        main(["predict", "run", "images", "--batch_size", "1"])
    assert Path("labels.csv").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "gone", "images"], "there is no file gone"),
        (["predict", "images/readme.txt", "images"], "readme.txt is not a network that `indeed fit` wrote"),
        (["predict", "run", "gone"], "there is no folder gone"),
        (["predict", "run", "run"], "there are no images in run"),
        (["predict", "run", "broken"], "cannot read the image broken/x.png"),
        (["predict", "run", "broken", "--workers", "1"], "cannot read the image broken/x.png"),
        (["predict", "run", "images", "--output", "gone/labels.csv"], "there is no folder gone to write labels.csv to"),
        (["cam", "run", "images/gone.png"], "there is no image images/gone.png"),
        (["cam", "run", "images/b.png", "--classes", "dog"], "unknown class 'dog'; the classes are: ant, bee, cat"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("broken").mkdir()
    Path("broken/x.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
