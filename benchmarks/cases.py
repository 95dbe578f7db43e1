"""Shapes, settings and inputs of the measurements, the same for the suites and the report."""

from __future__ import annotations

import itertools
from argparse import ArgumentTypeError
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import indeed_ext

NORMS = ("l2", "minmax")
STRATEGIES = ("anchor", "matching", "balanced")
#: A partner vector mined by a strategy, or a list of B / 2 random pairs, each used both ways.
PAIRINGS = (*STRATEGIES, "list")

LABELS_PER_SAMPLE = 3


@dataclass(frozen=True)
class Shape:
    """Batch size B, feature width n, number of classes C; written ``BxnxC``."""

    batch: int
    width: int
    classes: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.width}x{self.classes}"

    @staticmethod
    def parse(text: str) -> Shape:
        """The inverse of ``str``.

        Raises:
            ArgumentTypeError: not three positive integers with ``x`` between.
        """
        sizes = text.lower().split("x")
        if len(sizes) != 3 or not all(size.isdecimal() and int(size) for size in sizes):
            raise ArgumentTypeError(f"expected BATCHxWIDTHxCLASSES, such as 128x2048x80, got {text!r}")
        return Shape(*map(int, sizes))


#: From a small network on 20 classes to a wide one on 1000; 2048 is ResNet-50, 2432 TResNet-L, 4096 VGG-16.
SHAPES = (
    Shape(64, 512, 20),
    Shape(128, 512, 10),
    Shape(128, 2048, 20),
    Shape(128, 2048, 80),
    Shape(256, 2048, 80),
    Shape(512, 2048, 80),
    Shape(64, 2432, 80),
    Shape(256, 4096, 1000),
)


@dataclass(frozen=True)
class Case:
    """One setting of the loss."""

    shape: Shape
    norm: str = "l2"
    pairing: str = "anchor"
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    zeros: bool = True  # in half of the features, as after a ReLU; none are zero otherwise, as after average pooling

    def __str__(self) -> str:
        kind = "" if self.zeros else "-without-zeros"
        return f"{self.shape}-{self.norm}-{self.pairing}-{dtype_name(self.dtype)}{kind}"

    @property
    def strategy(self) -> str | None:
        """How partners are mined; None where pairs are always given."""
        return self.pairing if self.pairing in STRATEGIES else None

    @property
    def rows(self) -> int:
        """Directed rows R: B for a partner vector, 2P for a pair list."""
        return self.shape.batch if self.strategy else 2 * list_length(self.shape.batch)


@dataclass(frozen=True)
class Step:
    """A training step as a GPU is measured and forecast at: a case from float32 labels, mining included or not."""

    case: Case
    mined: bool

    def __str__(self) -> str:
        return f"{self.case.shape}-{dtype_name(self.case.dtype)}"


#: Of a batch that is small for a GPU to one that fills it, and more classes than fit into memory as logits.
GPU_SHAPES = {
    Shape(128, 2048, 80): True,
    Shape(512, 2048, 80): True,
    Shape(4096, 2048, 80): True,
    Shape(256, 4096, 1000): True,
    Shape(512, 256, 670_000): False,  # mining is left out, as plain PyTorch would need all of its memory for it
}
GPU_DTYPES = (torch.bfloat16, torch.float32)
LABEL_DTYPE = torch.float32


def gpu_steps(
    shapes: Sequence[Shape] = tuple(GPU_SHAPES), dtypes: Sequence[torch.dtype] = GPU_DTYPES, device: str = "cuda"
) -> list[Step]:
    """Every shape in every type; a shape that is not of :data:`GPU_SHAPES` is mined."""
    return [
        Step(Case(shape, dtype=dtype, device=device), GPU_SHAPES.get(shape, True))
        for shape, dtype in itertools.product(shapes, dtypes)
    ]


def cases(
    shapes: Sequence[Shape] = SHAPES, norms: Sequence[str] = NORMS, pairings: Sequence[str] = PAIRINGS, **settings
) -> Iterator[Case]:
    """Every combination, the pairing changing fastest."""
    for shape, norm, pairing in itertools.product(shapes, norms, pairings):
        yield Case(shape, norm, pairing, **settings)


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def list_length(batch: int) -> int:
    """P of the pair lists measured here."""
    return max(batch // 2, 1)


# --------------------------------------------------------------------------- inputs


@dataclass(frozen=True)
class Inputs:
    """Arguments of one case; ``pairs`` serves where pairs are given."""

    features: Tensor
    weight: Tensor
    bias: Tensor
    labels: Tensor
    pairs: Tensor

    @property
    def leaves(self) -> tuple[Tensor, Tensor, Tensor]:
        """The tensors that gradients are taken of."""
        return self.features, self.weight, self.bias


def make_inputs(case: Case, seed: int = 0) -> Inputs:
    """Inputs as training has them: no negative features, a classifier of PyTorch's scale, float 0/1 labels."""
    shape, generator = case.shape, torch.Generator().manual_seed(seed)
    labels = make_labels(shape.batch, shape.classes, generator)
    pairs = _pairs(case, labels, generator)
    features = torch.randn(shape.batch, shape.width, generator=generator)
    features = features.relu_() if case.zeros else features.abs_()
    weight = torch.randn(shape.classes, shape.width, generator=generator).div_(shape.width**0.5)
    bias = torch.randn(shape.classes, generator=generator).mul_(0.1)

    def leaf(tensor: Tensor) -> Tensor:
        return tensor.to(case.device, case.dtype).requires_grad_()

    return Inputs(leaf(features), leaf(weight), leaf(bias), labels.to(case.device), pairs.to(case.device))


def make_labels(batch: int, classes: int, generator: torch.Generator | None = None) -> Tensor:
    """Sparse labels as photographs have: about three a sample, class c drawn in proportion to 1 / (c + 1).

    At 80 classes the first stands in about half of the samples, as people do in common data sets.
    """
    generator = generator or torch.Generator().manual_seed(0)
    frequency = 1 / torch.arange(1, classes + 1, dtype=torch.float64)
    most = 3 * LABELS_PER_SAMPLE
    drawn = torch.multinomial(frequency, batch * most, replacement=True, generator=generator).view(batch, most)
    count = 1 + torch.poisson(torch.full((batch, 1), LABELS_PER_SAMPLE - 1.0), generator=generator)
    kept = torch.arange(most) < count
    # Whatever is not kept repeats the first draw, so that it adds no label.
    return torch.zeros(batch, classes).scatter_(1, torch.where(kept, drawn, drawn[:, :1]), 1.0)


def _pairs(case: Case, labels: Tensor, generator: torch.Generator) -> Tensor:
    if case.strategy:
        return indeed_ext.mine_pairs(labels, strategy=case.strategy, generator=generator)
    batch = case.shape.batch
    first = torch.randint(batch, (list_length(batch),), generator=generator)
    step = torch.randint(1, max(batch, 2), (len(first),), generator=generator)
    return torch.stack([first, (first + step) % batch], 1)
