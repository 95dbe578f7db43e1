"""ML-X-N, the paper's multi-label sets: composites of N single-label images of different classes on a 3 x 3 canvas.

A composite is never stored: it is a few indices into a pool of source images, drawn for a whole epoch at once
from (seed, epoch), and one gather per batch makes the pictures.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torchvision.transforms import v2

from ..errors import DataError
from .base import Batch, MultilabelData, check_tests

Test = Literal["single", "entire"]

#: Cells along each side of the canvas.
GRID = 3
CELLS = GRID * GRID


@dataclass(frozen=True)
class Pool:
    """Single-label source images.

    Attributes:
        images: ``[M, channels, H, W]`` uint8.
        labels: ``[M]`` int64, the class of each.
    """

    images: Tensor
    labels: Tensor

    def subset(self, indices: Tensor) -> Pool:
        """The images at ``indices [K]``."""
        return Pool(self.images[indices], self.labels[indices])


class Draws(NamedTuple):
    """K composites of N objects: which source image stands in which cell.

    Attributes:
        sources: ``[K, N]`` int64 indices into the pool.
        cells: ``[K, N]`` int64 in [0, 9), row-major, different within a row.
    """

    sources: Tensor
    cells: Tensor


def draw_classes(
    count: int, objects: int, num_classes: int, together: float, generator: torch.Generator | None = None
) -> Tensor:
    """Draw K sets of N distinct classes in which the classes 2k and 2k+1 keep company: int64 ``[K, N]``.

    The N objects make N // 2 couples; each couple is with probability ``together`` such a pair of classes. All
    other objects are of classes whose companion is absent. So for even N a class that is present has its companion
    beside it with probability ``together`` (as long as there are pairs enough: where N exceeds half the classes,
    some couples must be complete).
    """
    pairs = num_classes // 2
    complete = (torch.rand(count, objects // 2, generator=generator) < together).sum(1, keepdim=True)
    complete = complete.clamp(min=max(objects - pairs, 0))
    order = torch.rand(count, pairs, generator=generator).argsort(1)
    alone = torch.randint(2, (count, objects), generator=generator)  # which of a pair comes without the other
    slot = torch.arange(objects).expand(count, objects)
    in_pair = slot < 2 * complete
    pair = torch.where(in_pair, slot // 2, slot - complete)
    return 2 * order.gather(1, pair) + torch.where(in_pair, slot % 2, alone)


def draw_composites(
    labels: Tensor,
    count: int,
    objects: int,
    num_classes: int,
    generator: torch.Generator | None = None,
    together: float | None = None,
) -> Draws:
    """Draw composites: N distinct classes uniformly, of each one source image uniformly, in N distinct cells uniformly.

    Args:
        labels: ``[M]`` classes of the source images; every class must occur.
        count: K, composites to draw.
        objects: N, at most 9 and at most ``num_classes``.
        together: if given, classes are drawn by :func:`draw_classes` rather than uniformly.
    """
    if together is None:
        classes = torch.rand(count, num_classes, generator=generator).argsort(1)[:, :objects]
    else:
        classes = draw_classes(count, objects, num_classes, together, generator)
    cells = torch.rand(count, CELLS, generator=generator).argsort(1)[:, :objects]
    per_class = torch.bincount(labels, minlength=num_classes)
    first = per_class.cumsum(0) - per_class  # where each class begins once the sources are sorted by class
    # float64: a float32 draw times the class size can round up to the size itself.
    within = (torch.rand(count, objects, generator=generator, dtype=torch.float64) * per_class[classes]).long()
    return Draws(labels.argsort(stable=True)[first[classes] + within], cells)


def every_single(labels: Tensor) -> Draws:
    """Each of the M source images alone on the canvas, once in each of the nine cells: 9 M draws with N = 1."""
    sources = torch.arange(len(labels)).repeat_interleave(CELLS)
    cells = torch.arange(CELLS).repeat(len(labels))
    return Draws(sources[:, None], cells[:, None])


def compose(images: Tensor, draws: Draws) -> Tensor:
    """The pictures: ``[K, channels, 3 H, 3 W]`` from source images ``[M, channels, H, W]``; empty cells are 0."""
    count = len(draws.sources)
    channels, height, width = images.shape[1:]
    canvas = images.new_zeros(count, CELLS, channels, height, width)
    canvas[torch.arange(count)[:, None], draws.cells] = images[draws.sources]
    grid = canvas.view(count, GRID, GRID, channels, height, width)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(count, channels, GRID * height, GRID * width)


def composite_labels(labels: Tensor, draws: Draws, num_classes: int) -> Tensor:
    """The label sets: bool ``[K, C]`` from the classes ``[M]`` of the source images."""
    present = torch.zeros(len(draws.sources), num_classes, dtype=torch.bool)
    return present.scatter_(1, labels[draws.sources], True)


class CompositeLoader:
    """Batches (images uint8, labels bool) of composites; every pass asks ``draw`` for its composites.

    Lightning saves the position through ``state_dict``, which is why a run resumed in the middle of an epoch
    sees the batches that the interrupted one would have seen.
    """

    def __init__(
        self,
        pool: Pool,
        num_classes: int,
        batch_size: int,
        draw: Callable[[], Draws],
        size: int,
        drop_last: bool,
        transform: Callable[[Tensor, int], Tensor] | None = None,
    ) -> None:
        self.transform = transform  # of the images of a batch, given its number
        self.pool, self.num_classes, self.batch_size, self.draw = pool, num_classes, batch_size, draw
        self.batches = size // batch_size if drop_last else -(-size // batch_size)
        self.position = 0  # batches of this pass that were given out
        self._start = 0  # where a restored pass continues

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Batch]:
        # A generator: nothing below runs before the first batch is asked for, when the trainer knows its epoch.
        start, self._start = self._start, 0
        draws = self.draw()
        for index in range(start, self.batches):
            self.position = index + 1
            rows = slice(index * self.batch_size, (index + 1) * self.batch_size)
            batch = Draws(draws.sources[rows], draws.cells[rows])
            images = compose(self.pool.images, batch)
            if self.transform is not None:
                images = self.transform(images, index)
            yield images, composite_labels(self.pool.labels, batch, self.num_classes)

    def state_dict(self) -> dict[str, Any]:
        """The position within the pass."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the next pass at the saved position; a finished pass starts anew."""
        self._start = state["position"] % self.batches


class CompositeData(MultilabelData):
    """Trains on composites of N objects; validates on single objects, each in every cell.

    Tests: ``single`` shows one object at a time, in each cell; ``entire`` shows N, all classes equally likely whatever
    ``together`` says, so that the report on contextual bias finds every class with and without its companion.

    Subclasses set ``class_names`` and ``in_channels`` and give the pools: :meth:`load_pools`. No source image is in
    two of them.

    Args:
        objects: N, objects on a training canvas, all of different classes.
        epoch_size: composites drawn for an epoch.
        batch_size: composites in a training step.
        split_seed: which images are held out; keep it to compare runs.
        together: probability with which the classes 2k and 2k+1 occur together in training; null: as chance has it.
        tests: single (one object at a time), entire (N objects, chosen uniformly), or both; the first one counts.
        augment: RandAugment and Cutout on the training images.
    """

    pools: tuple[Pool, Pool, Pool]

    def __init__(
        self,
        objects: int = 5,
        epoch_size: int = 60_000,
        batch_size: int = 128,
        split_seed: int = 0,
        together: float | None = None,
        tests: list[Test] | None = None,
        augment: bool = False,
    ) -> None:
        super().__init__(batch_size)
        limit = min(CELLS, self.num_classes)
        if not 1 <= objects <= limit:
            raise ValueError(f"objects: expected 1 to {limit} (cells of the canvas and classes), got {objects}")
        if epoch_size < batch_size:
            raise ValueError(f"epoch_size: expected at least one batch ({batch_size}), got {epoch_size}")
        if together is not None and not 0 <= together <= 1:
            raise ValueError(f"together: expected a probability in [0, 1], got {together}")
        if together is not None and self.num_classes % 2:
            raise ValueError(f"together: expected an even number of classes, which make pairs, got {self.num_classes}")
        self.tests = check_tests(tests or ["single"], get_args(Test))
        self.objects, self.epoch_size, self.split_seed = objects, epoch_size, split_seed
        self.together, self.augment = together, augment

    @abstractmethod
    def load_pools(self) -> tuple[Pool, Pool, Pool]:
        """Source images for training, validation and testing."""

    def setup(self, stage: str) -> None:
        """Load the source images, once."""
        if not hasattr(self, "pools"):
            self.pools = self.load_pools()
            for name, pool in zip(("training", "validation", "test"), self.pools, strict=True):
                absent = (torch.bincount(pool.labels, minlength=self.num_classes) == 0).nonzero().flatten().tolist()
                if absent:
                    raise DataError(f"no {name} image of class {self.class_names[absent[0]]!r}")

    @property
    def input_size(self) -> tuple[int, ...]:
        """(height, width) of the canvas."""
        return tuple(GRID * side for side in self.pools[0].images.shape[2:])

    def draw_epoch(self, epoch: int) -> Draws:
        """The training composites of an epoch: always the same for the same seed."""
        generator = torch.Generator().manual_seed(_mix(self.seed, epoch))
        labels = self.pools[0].labels
        return draw_composites(labels, self.epoch_size, self.objects, self.num_classes, generator, self.together)

    def train_labels(self) -> Tensor:
        """Labels ``[K, C]`` of the composites of the first epoch."""
        return composite_labels(self.pools[0].labels, self.draw_epoch(0), self.num_classes)

    def train_dataloader(self) -> CompositeLoader:
        """New composites in every epoch, whole batches only."""

        def epoch() -> int:
            return self.trainer.current_epoch if self.trainer else 0

        def augmented(images: Tensor, index: int) -> Tensor:
            return augment_images(images, _mix(_mix(self.seed, epoch()), index))

        return CompositeLoader(
            self.pools[0], self.num_classes, self.batch_size, lambda: self.draw_epoch(epoch()), self.epoch_size,
            drop_last=True, transform=augmented if self.augment else None,
        )  # fmt: skip

    def val_dataloader(self) -> CompositeLoader:
        """Every validation image alone, in each cell."""
        return self._loader(self.pools[1], every_single(self.pools[1].labels))

    def test_dataloader(self) -> list[CompositeLoader]:
        """A loader for each of ``tests``."""
        pool = self.pools[2]
        draws = {"single": lambda: every_single(pool.labels), "entire": self._test_composites}
        return [self._loader(pool, draws[test]()) for test in self.tests]

    def _test_composites(self) -> Draws:
        # The seed is fixed: every run is tested on the same pictures.
        labels = self.pools[2].labels
        generator = torch.Generator().manual_seed(0)
        return draw_composites(labels, CELLS * len(labels), self.objects, self.num_classes, generator)

    def _loader(self, pool: Pool, draws: Draws) -> CompositeLoader:
        batch_size = 4 * self.batch_size  # no gradients are kept
        return CompositeLoader(pool, self.num_classes, batch_size, lambda: draws, len(draws.sources), drop_last=False)


def augment_images(images: Tensor, seed: int) -> Tensor:
    """RandAugment and Cutout, the paper's augmentations, of every image of uint8 ``[K, channels, H, W]`` by itself."""
    # Cutout is a black square of fixed size, half as wide as an object on a canvas of 3 x 3.
    share = 1 / (2 * GRID) ** 2
    transform = v2.Compose([v2.RandAugment(), v2.RandomErasing(p=1.0, scale=(share, share), ratio=(1.0, 1.0))])
    with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's default generator
        torch.manual_seed(seed)
        return torch.stack([transform(image) for image in images])


def _mix(seed: int, epoch: int) -> int:
    """One 63-bit seed from two numbers, so that seed 1, epoch 0 is not seed 0, epoch 1 (a 64-bit finaliser)."""
    value = (seed + 0x9E3779B97F4A7C15 * (epoch + 1)) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return (value ^ (value >> 31)) >> 1
