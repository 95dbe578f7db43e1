"""``indeed predict``, ``indeed cam`` and ``indeed export``: what a trained network is used for."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from . import plots
from .data.reading import SUFFIXES, normalise
from .errors import DataError, fail, fail_on
from .trained import About, Classifier, load_image, load_trained

FORMATS = {"torch.export": ".pt2", "onnx": ".onnx"}


class Folder(Dataset):
    """The images of a folder, as the network takes them."""

    def __init__(self, paths: list[Path], about: About) -> None:
        self.paths, self.about = paths, about

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return load_image(self.paths[index], self.about)


def find_images(folder: Path) -> list[Path]:
    """The image files in a folder and its folders, in the order of their names.

    Raises:
        DataError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise DataError(f"there are no images in {folder}")
    return paths


@torch.inference_mode()
def predict(model: Path, folder: Path, output: Path, batch_size: int, workers: int) -> int:
    """Write a CSV with the labels and the probabilities of every image in ``folder``; returns how many there are.

    It is written once all images are read: an earlier one is not lost to an image that cannot be.
    """
    if not output.parent.is_dir():
        raise DataError(f"there is no folder {output.parent} to write {output.name} to")
    classifier, about = load_trained(model)
    paths = find_images(folder)
    loader = DataLoader(Folder(paths, about), batch_size, num_workers=workers)
    thresholds = torch.tensor(about.thresholds)
    probabilities = torch.cat([classifier(images) for images in loader])
    with output.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "labels", *(f"probability_{name}" for name in about.classes)])
        for path, row in zip(paths, probabilities, strict=True):
            present = [name for name, yes in zip(about.classes, row >= thresholds, strict=True) if yes]
            file_name = path.relative_to(folder).as_posix()
            writer.writerow([file_name, ";".join(present), *(f"{value:.4f}" for value in row.tolist())])
    return len(paths)


def class_activation(classifier: Classifier, image: Tensor) -> tuple[Tensor, Tensor]:
    """Where an image shows evidence for each class.

    By Grad-CAM, which for a network that ends in average pooling and a linear classifier is the class activation map
    itself up to a factor, and which is defined for the others as well.

    Args:
        classifier: the trained network.
        image: ``[in_channels, H, W]`` in [0, 1].

    Returns:
        ``(maps [C, H, W] in [0, 1], probabilities [C])``.
    """
    network = classifier.network
    features = network.forward_features(normalise(image[None], classifier.mean, classifier.std)).detach()
    features.requires_grad_()
    pooled = network.forward_head(features, pre_logits=True).relu()
    logits = network.get_classifier()(pooled)[0]
    maps = []
    for logit in logits:
        (gradient,) = torch.autograd.grad(logit, features, retain_graph=True)
        maps.append((gradient.mean((2, 3), keepdim=True) * features).sum(1).relu())
    small = torch.stack(maps).detach()
    large = torch.nn.functional.interpolate(small, image.shape[1:], mode="bilinear", align_corners=False)[:, 0]
    peak = large.amax((1, 2), keepdim=True)
    return large / peak.clamp(min=1e-12), logits.detach().sigmoid()


def draw_activation(model: Path, pictures: list[Path], output: Path, classes: list[str] | None) -> list[Path]:
    """Draw the activation maps of pictures into the folder ``output``.

    Args:
        classes: of these; None: of those that are called present, or of the likeliest where none is.
    """
    classifier, about = load_trained(model)
    column = {name: index for index, name in enumerate(about.classes)}
    thresholds = torch.tensor(about.thresholds)
    for name in classes or ():
        if name not in column:
            raise DataError(f"unknown class {name!r}; the classes are: {', '.join(about.classes)}")
    images = [load_image(picture, about) for picture in pictures]
    output.mkdir(parents=True, exist_ok=True)
    written = []
    for picture, image in zip(pictures, images, strict=True):
        maps, probabilities = class_activation(classifier, image)
        chosen = [column[name] for name in classes or ()]
        if not chosen:
            present = (probabilities >= thresholds).nonzero().flatten().tolist()
            chosen = present or [int(probabilities.argmax())]
        called = {True: "present", False: "absent"}
        shown = {
            f"{about.classes[index]}: probability {probabilities[index]:.2f}, "
            f"called {called[bool(probabilities[index] >= thresholds[index])]}"
            + ("" if maps[index].any() else "\n(no evidence anywhere)"): maps[index]
            for index in chosen
        }
        written.append(output / f"{picture.stem}-activation.png")
        plots.activation_map(image, shown, f"{picture.name}: where it shows evidence for a class", written[-1])
    return written


def export(model: Path, kind: str, output: Path) -> None:
    """Write the network, from images in [0, 1] to probabilities, for use without this package; any batch size."""
    classifier, about = load_trained(model)
    example = torch.rand(2, about.in_channels, *about.image_size)
    batch = ({0: torch.export.Dim("batch")},)
    if kind == "torch.export":
        torch.export.save(torch.export.export(classifier, (example,), dynamic_shapes=batch), output)
        return
    torch.onnx.export(
        classifier, (example,), str(output), dynamo=True, dynamic_shapes=batch, input_names=["images"],
        output_names=["probabilities"], external_data=False, verbose=False,
    )  # fmt: skip


def main(argv: list[str]) -> None:
    """Run ``predict``, ``cam`` or ``export``; what is wrong with the input is one line and status 2."""
    try:
        _run(_parser().parse_args(argv))
    except ModuleNotFoundError as error:
        fail(f"{error.name} is not installed; ONNX needs pip install 'indeed_ext[onnx]'")
    except DataError as error:
        fail_on(error)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("indeed", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    texts = {
        "predict": "Label the images of a folder: a CSV with the labels found and all probabilities.",
        "cam": "Draw where an image shows evidence for a class (class activation maps).",
        "export": "Write a trained network for use without this package: images in [0, 1] to probabilities.",
    }
    parsers = {name: commands.add_parser(name, help=text, description=text) for name, text in texts.items()}
    for sub in parsers.values():
        sub.add_argument("model", type=Path, help="the folder of a run, or its model.safetensors")
    parsers["predict"].add_argument("folder", type=Path, help="images, in any depth")
    parsers["predict"].add_argument("--output", type=Path, default=Path("labels.csv"), help="default: labels.csv")
    parsers["predict"].add_argument("--batch_size", type=int, default=32, help="default: 32")
    parsers["predict"].add_argument("--workers", type=int, default=0, help="processes that read images, default: 0")
    parsers["cam"].add_argument("images", type=Path, nargs="+")
    parsers["cam"].add_argument("--classes", nargs="+", help="default: those called present")
    parsers["cam"].add_argument("--output", type=Path, default=Path("activation"), help="folder, default: activation")
    parsers["export"].add_argument("--format", choices=FORMATS, default="torch.export")
    parsers["export"].add_argument("--output", type=Path, help="default: beside the model, ending in .pt2 or .onnx")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    model: Path = arguments.model
    if arguments.command == "predict":
        count = predict(model, arguments.folder, arguments.output, arguments.batch_size, arguments.workers)
        print(f"{arguments.output}: labels of {count} images")
    elif arguments.command == "cam":
        for path in draw_activation(model, arguments.images, arguments.output, arguments.classes):
            print(path)
    else:
        beside = (model if model.is_dir() else model.parent) / f"model{FORMATS[arguments.format]}"
        output = arguments.output or beside
        export(model, arguments.format, output)
        print(output)
