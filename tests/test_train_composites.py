"""Composites: what is drawn, what is painted, what is labelled, and that the parts of the digits stay apart."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("lightning")

from indeed_ext.train.data.composites import (
    CELLS,
    CompositeLoader,
    Draws,
    Pool,
    compose,
    composite_labels,
    draw_composites,
    every_single,
)
from indeed_ext.train.data.digits import DigitsData

NUM_CLASSES = 10


def small_pool(channels: int = 1) -> Pool:
    """37 images of 3 x 2 pixels, none with a zero pixel, every class there at least three times."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(1, 256, (37, channels, 3, 2), generator=generator, dtype=torch.uint8)
    return Pool(images, torch.arange(37) % NUM_CLASSES)


@pytest.fixture(scope="module")
def digits() -> DigitsData:
    torch.manual_seed(0)
    data = DigitsData(objects=5, epoch_size=256, batch_size=32)
    data.setup("fit")
    return data


@pytest.mark.parametrize("objects", [1, 2, 5, 9])
def test_classes_and_cells_of_a_composite_are_distinct(objects: int) -> None:
    labels = small_pool().labels
    draws = draw_composites(labels, 500, objects, NUM_CLASSES, torch.Generator().manual_seed(1))
    assert draws.sources.shape == draws.cells.shape == (500, objects)
    for index in (labels[draws.sources], draws.cells):
        assert all(len(set(row)) == objects for row in index.tolist())
    assert draws.cells.min() >= 0
    assert draws.cells.max() < CELLS


def test_draws_are_uniform_over_classes_cells_and_images() -> None:
    labels = small_pool().labels
    count, objects = 20_000, 3
    draws = draw_composites(labels, count, objects, NUM_CLASSES, torch.Generator().manual_seed(2))
    # Five standard deviations of a binomial count.
    expected_per_class = count * objects / NUM_CLASSES
    per_class = torch.bincount(labels[draws.sources].flatten(), minlength=NUM_CLASSES)
    assert (per_class - expected_per_class).abs().max() < 5 * expected_per_class**0.5
    expected_per_cell = count * objects / CELLS
    per_cell = torch.bincount(draws.cells.flatten(), minlength=CELLS)
    assert (per_cell - expected_per_cell).abs().max() < 5 * expected_per_cell**0.5
    expected_per_image = expected_per_class / torch.bincount(labels)[labels]
    per_image = torch.bincount(draws.sources.flatten(), minlength=len(labels))
    assert ((per_image - expected_per_image).abs() < 5 * expected_per_image**0.5).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_every_object_is_painted_in_its_cell_and_labelled(channels: int) -> None:
    pool = small_pool(channels)
    draws = draw_composites(pool.labels, 40, 4, NUM_CLASSES, torch.Generator().manual_seed(3))
    pictures, labels = compose(pool.images, draws), composite_labels(pool.labels, draws, NUM_CLASSES)
    assert pictures.shape == (40, channels, 9, 6)
    assert pictures.dtype == torch.uint8
    assert labels.dtype == torch.bool
    for picture, present, sources, cells in zip(
        pictures, labels, draws.sources.tolist(), draws.cells.tolist(), strict=True
    ):
        expected = torch.zeros_like(picture)
        for source, cell in zip(sources, cells, strict=True):
            row, column = divmod(cell, 3)
            expected[:, 3 * row : 3 * row + 3, 2 * column : 2 * column + 2] = pool.images[source]
        assert torch.equal(picture, expected)
        assert set(present.nonzero().flatten().tolist()) == {int(pool.labels[source]) for source in sources}


def test_every_single_shows_each_image_once_in_each_cell() -> None:
    draws = every_single(small_pool().labels)
    pairs = set(zip(draws.sources.flatten().tolist(), draws.cells.flatten().tolist(), strict=True))
    assert pairs == {(source, cell) for source in range(37) for cell in range(CELLS)}
    assert len(draws.sources) == 37 * CELLS


def test_an_epoch_depends_on_seed_and_epoch_alone(digits: DigitsData) -> None:
    again = DigitsData(objects=5, epoch_size=256, batch_size=64)
    again.seed = digits.seed
    again.setup("fit")
    assert all(torch.equal(a, b) for a, b in zip(digits.draw_epoch(3), again.draw_epoch(3), strict=True))
    other_seed = DigitsData(objects=5, epoch_size=256, batch_size=32)
    other_seed.seed = digits.seed + 1
    other_seed.setup("fit")
    seen = [digits.draw_epoch(0), digits.draw_epoch(1), other_seed.draw_epoch(0), other_seed.draw_epoch(1)]
    for i, first in enumerate(seen):
        for second in seen[i + 1 :]:
            assert not torch.equal(first.sources, second.sources)


def test_seed_is_that_of_torch() -> None:
    torch.manual_seed(1234)
    assert DigitsData().seed == 1234


@pytest.mark.parametrize(("drop_last", "expected"), [(True, 40), (False, 50)])
def test_loader_gives_the_draws_in_order(drop_last: bool, expected: int) -> None:
    pool = small_pool()
    draws = draw_composites(pool.labels, 50, 3, NUM_CLASSES, torch.Generator().manual_seed(4))
    loader = CompositeLoader(pool, NUM_CLASSES, 20, lambda: draws, 50, drop_last)
    batches = list(loader)
    assert len(batches) == len(loader)
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    part = Draws(draws.sources[:expected], draws.cells[:expected])
    assert torch.equal(images, compose(pool.images, part))
    assert torch.equal(labels, composite_labels(pool.labels, part, NUM_CLASSES))


def test_loader_continues_where_another_stopped() -> None:
    pool = small_pool()
    draws = draw_composites(pool.labels, 50, 3, NUM_CLASSES, torch.Generator().manual_seed(4))

    def loader() -> CompositeLoader:
        return CompositeLoader(pool, NUM_CLASSES, 10, lambda: draws, 50, drop_last=True)

    whole = [images for images, _ in loader()]
    interrupted, resumed = loader(), loader()
    stream = iter(interrupted)
    for _ in range(2):
        next(stream)
    resumed.load_state_dict(interrupted.state_dict())
    assert all(torch.equal(a, b) for a, (b, _) in zip(whole[2:], resumed, strict=True))
    assert len(list(resumed)) == 5  # the pass after that is whole again

    finished = loader()
    list(finished)
    resumed.load_state_dict(finished.state_dict())
    assert len(list(resumed)) == 5


def test_parts_of_the_digits_share_no_image(digits: DigitsData) -> None:
    parts = [{image.numpy().tobytes() for image in pool.images} for pool in digits.pools]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    sizes = [len(pool.labels) for pool in digits.pools]
    assert sizes == [1257, 180, 360]
    assert sum(sizes) == 1797


def test_parts_of_the_digits_hold_every_class_in_proportion(digits: DigitsData) -> None:
    for pool in digits.pools:
        share = torch.bincount(pool.labels, minlength=10) / len(pool.labels)
        assert (share - 0.1).abs().max() < 0.01
        assert pool.images.shape[1:] == (1, 8, 8)
        assert pool.images.max() == 255


def test_training_shows_training_digits_and_the_test_single_test_digits(digits: DigitsData) -> None:
    images, labels = next(iter(digits.train_dataloader()))
    assert images.shape == (32, 1, 24, 24)
    assert (labels.sum(1) == 5).all()
    known = {image.numpy().tobytes() for image in digits.pools[0].images}
    blank = bytes(64)
    cells = images.view(32, 3, 8, 3, 8).permute(0, 1, 3, 2, 4).reshape(-1, 8, 8)
    shown = {cell.contiguous().numpy().tobytes() for cell in cells} - {blank}
    assert shown <= known
    assert all((present.sum(1) == 1).all() for _, present in digits.test_dataloader()[0])
    assert sum(len(batch) for batch, _ in digits.test_dataloader()[0]) == 360 * CELLS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objects": 0}, "objects: expected 1 to 9"),
        ({"objects": 10}, "objects: expected 1 to 9"),
        ({"batch_size": 0}, "batch_size: expected at least 1"),
        ({"batch_size": 64, "epoch_size": 63}, "epoch_size: expected at least one batch"),
    ],
)
def test_impossible_settings_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DigitsData(**arguments)
