"""Mining on a GPU at the sizes and labels that choose its kernels: bit for bit the partners of the reference."""

from __future__ import annotations

from collections.abc import Callable

import kit
import pytest
import torch
from cuda_emulation.build import Unavailable
from torch import Tensor

from indeed_ext import mine_pairs, pack_labels, reference

MATCHINGS = ("matching", "balanced")


@pytest.fixture(params=[*(["cuda"] if torch.cuda.is_available() else []), "cuda-emulated"])
def mine(request: pytest.FixtureRequest) -> Callable[..., Tensor]:
    """``mine_pairs`` of labels on the CPU by a backend, whose results come to the CPU."""
    if request.param == "cuda-emulated":
        error = kit.emulation_error()
        if isinstance(error, Unavailable):
            pytest.skip(str(error))
        if error is not None:
            raise error
    backend = kit.REGISTRY[request.param]

    def mine(labels: Tensor, strategy: str, seed: int) -> Tensor:
        return mine_pairs(labels.to(backend.device), strategy=strategy, seed=seed, backend=backend.name).cpu()

    return mine


def _assert_of_the_reference(mine: Callable[..., Tensor], labels: Tensor, strategy: str, seed: int = 9) -> None:
    expected = reference.mine_pairs(labels, strategy=strategy, seed=seed)
    assert torch.equal(mine(labels, strategy, seed), expected)


# ---------------------------------------------------------------------------- batches


@pytest.mark.parametrize("batch", [1, 2, 33, 256, 257, 300])
@pytest.mark.parametrize("strategy", kit.STRATEGIES)
def test_batches(mine: Callable[..., Tensor], strategy: str, batch: int) -> None:
    """Up to 256 samples look for neighbours in the rounds, larger batches list them first."""
    generator = torch.Generator().manual_seed(batch)
    for density in (0.04, 0.3):
        labels = kit.random_labels(generator, batch, 70, density=density, unknown=True)
        _assert_of_the_reference(mine, labels, strategy)


@pytest.mark.parametrize("strategy", MATCHINGS)
def test_large_batches_with_many_neighbours(mine: Callable[..., Tensor], strategy: str) -> None:
    labels = kit.random_labels(torch.Generator().manual_seed(1), 2100, 5)
    _assert_of_the_reference(mine, labels, strategy)


@pytest.mark.parametrize("strategy", MATCHINGS)
def test_large_batches_whose_state_is_in_global_memory(mine: Callable[..., Tensor], strategy: str) -> None:
    labels = kit.random_labels(torch.Generator().manual_seed(2), 6100, 400, density=0.004)
    words = pack_labels(labels)
    expected = mine_pairs(words, strategy=strategy, seed=9, num_classes=400, backend="cpu")
    assert int((expected != torch.arange(6100)).sum()) > 3000
    assert torch.equal(mine(labels, strategy, 9), expected)


# -------------------------------------------------------------------------- neighbours


def _hubs(batch: int, hubs: int) -> Tensor:
    """Hubs are compatible with everybody, the others only with them."""
    leaves = torch.cat([torch.eye(batch - hubs), torch.zeros(batch - hubs, hubs)], 1)
    return torch.cat([torch.cat([torch.ones(hubs, batch - hubs), torch.eye(hubs)], 1), leaves]).long()


@pytest.mark.parametrize(("batch", "hubs"), [(40, 1), (300, 1), (300, 31), (300, 33), (300, 80)])
@pytest.mark.parametrize("strategy", kit.STRATEGIES)
def test_hubs(mine: Callable[..., Tensor], strategy: str, batch: int, hubs: int) -> None:
    """Leaves have as many neighbours as there are hubs, one less and more than a list of 32 holds; most stay alone."""
    labels = _hubs(batch, hubs)
    shuffled = labels[torch.randperm(batch, generator=torch.Generator().manual_seed(hubs))]
    for each in (labels, shuffled):
        _assert_of_the_reference(mine, each, strategy)


@pytest.mark.parametrize("strategy", MATCHINGS)
def test_lists_that_are_used_up(mine: Callable[..., Tensor], strategy: str) -> None:
    """Everybody is compatible, so one in 33 still looks for a neighbour when its 32 cheapest are taken."""
    batch = 530
    labels = torch.cat([torch.ones(batch, 1), torch.eye(batch)], 1).long()
    for seed in (1, 2):
        partner = reference.mine_pairs(labels, strategy=strategy, seed=seed)
        cost = reference._edge_cost(
            reference.compatible_pairs(labels == 1), reference.sample_hash(torch.tensor(seed), batch), strategy
        )
        cheaper = (cost < cost.gather(1, partner[:, None])).sum(1)
        assert int((cheaper > 32).sum()) >= 5
        _assert_of_the_reference(mine, labels, strategy, seed)


@pytest.mark.parametrize("strategy", MATCHINGS)
def test_skewed_labels_take_several_phases(mine: Callable[..., Tensor], strategy: str) -> None:
    """Neighbours with few others are cheap for everybody: lists are written again, then the block looks itself."""
    generator, chance = torch.Generator().manual_seed(3), 0.5 / torch.arange(1, 81) ** 0.8
    labels = (torch.rand(600, 80, generator=generator) < chance).long()
    _assert_of_the_reference(mine, labels, strategy)


@pytest.mark.parametrize(("batch", "seed"), [(256, 222), (256, 685), (600, 222), (600, 305)])
def test_among_equal_costs_the_lower_index_wins(mine: Callable[..., Tensor], batch: int, seed: int) -> None:
    """Seeds for which the other choice would give other pairs, when neighbours are listed and when they are not."""
    labels = torch.cat([torch.ones(batch, 1), torch.eye(batch)], 1).long()
    compatible = reference.compatible_pairs(labels == 1)
    cost = reference._edge_cost(compatible, reference.sample_hash(torch.tensor(seed), batch), "balanced")
    higher_wins = batch - 1 - reference._mutual_best(compatible.flip(0, 1), cost.flip(0, 1)).flip(0)
    expected = reference._mutual_best(compatible, cost)
    assert not torch.equal(higher_wins, expected)
    assert torch.equal(mine(labels, "balanced", seed), expected)


@pytest.mark.parametrize("batch", [33, 400, 1500])
def test_anchors_by_rank(mine: Callable[..., Tensor], batch: int) -> None:
    """So few neighbours that probes miss them, in parts of the batch of one word and of two."""
    labels = torch.zeros(batch, 3, dtype=torch.int64)
    labels[:, 0] = 1
    labels[[1, batch // 3, batch // 2, batch - 2, batch - 1], 1] = 1
    for seed in range(3):
        _assert_of_the_reference(mine, labels, "anchor", seed)
    partner = reference.mine_pairs(labels, strategy="anchor", seed=0)
    hashes = reference.sample_hash(torch.tensor(0), batch)
    probes = torch.stack([(reference.anchor_hash(hashes, draw) * batch) >> 32 for draw in range(32)])
    assert batch == 33 or int((partner != probes).all(0).sum()) > batch // 8


# -------------------------------------------------------------------------- many words


def _many_classes(kind: str, batch: int, classes: int = 5000) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    labels = torch.zeros(batch, classes, dtype=torch.int64)
    counts = {"rare": [0, 1, 3, 6], "dense": [65, 90, 300], "mixed": [1, 5, 63, 64, 65, 200]}[kind]
    pool = torch.randperm(classes, generator=generator)[: 20 if kind == "rare" else 400]
    for row in labels:
        count = counts[int(torch.randint(len(counts), (), generator=generator))]
        row[pool[torch.randperm(len(pool), generator=generator)[:count]]] = 1
    # Equal sets, and sets that differ in the last class alone, by one label more and by another one.
    labels[1::6] = labels[0::6][: len(labels[1::6])]
    labels[2::6] = labels[0::6][: len(labels[2::6])]
    labels[2::6, -1] = 1
    labels[3::6] = labels[2::6][: len(labels[3::6])]
    labels[3::6, -1], labels[3::6, -2] = 0, 1
    return labels


@pytest.mark.parametrize("kind", ["rare", "dense", "mixed"])
@pytest.mark.parametrize("strategy", kit.STRATEGIES)
def test_many_classes(mine: Callable[..., Tensor], strategy: str, kind: str) -> None:
    """Up to 64 labels of a sample are compared as lists, more than that by words."""
    _assert_of_the_reference(mine, _many_classes(kind, 70), strategy)


@pytest.mark.parametrize("classes", [4096, 4097])
@pytest.mark.parametrize("kind", ["rare", "dense", "mixed"])
def test_all_neighbours_with_many_classes(mine: Callable[..., Tensor], kind: str, classes: int) -> None:
    """Two samples at a time: whether they are partners says whether they are compatible."""
    labels = _many_classes(kind, 18, classes)
    compatible = reference.compatible_pairs(labels == 1)
    assert compatible.any()
    for i, j in torch.combinations(torch.arange(18)).tolist():
        partner = mine(labels[[i, j]], "anchor", 0)
        assert partner.tolist() == ([1, 0] if compatible[i, j] else [0, 1]), (i, j)
