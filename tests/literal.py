"""The paper read literally: loops over pairs, Python sets and integers. Slow, and shares no code with the package.

Equation numbers are the paper's; what it leaves open (unknown labels, degenerate maps, the random keys of
mining) follows the documentation of the package.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Vector = list[float]
MASK32 = (1 << 32) - 1


# ------------------------------------------------------------------------------ loss


@dataclass
class Problem:
    """Features ``[B][n]``, classifier, and labels as sets: the present and the known classes of each sample."""

    features: list[Vector]
    weight: list[Vector]
    bias: Vector
    present: list[set[int]]
    known: list[set[int]]
    norm: str
    lam: tuple[float, float]
    pos_weight: Vector
    eps: float = 1e-12


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def classify(problem: Problem, feature: Vector) -> Vector:
    return [
        bias + sum(w * x for w, x in zip(row, feature, strict=True))
        for row, bias in zip(problem.weight, problem.bias, strict=True)
    ]


def cross_entropy(problem: Problem, logits: Vector, labels: set[int], known: set[int]) -> float:
    """Eq. (10), with the positive term weighted."""
    total = 0.0
    for i in known:
        p = sigmoid(logits[i])
        total -= problem.pos_weight[i] * math.log(p) if i in labels else math.log(1 - p)
    return total


def identical_map(problem: Problem, a: int, b: int) -> Vector:
    """Eqs. (3) and (4)."""
    product = [x * y for x, y in zip(problem.features[a], problem.features[b], strict=True)]
    if problem.norm == "l2":
        low, size = 0.0, math.sqrt(sum(u * u for u in product))
    else:
        low, size = min(product), max(product) - min(product)
    if size <= problem.eps:
        return [0.0] * len(product)
    return [(u - low) / size for u in product]


def row_terms(problem: Problem, a: int, b: int) -> tuple[float, float, float]:
    """What sample a, paired with b, adds to L_O, L_I and L_S of eqs. (7) to (9), with the labels of eq. (11)."""
    feature, mask = problem.features[a], identical_map(problem, a, b)
    identical = [m * x for m, x in zip(mask, feature, strict=True)]
    disparate = [(1 - m) * x for m, x in zip(mask, feature, strict=True)]
    known_both = problem.known[a] & problem.known[b]
    return (
        cross_entropy(problem, classify(problem, feature), problem.present[a], problem.known[a]),
        cross_entropy(problem, classify(problem, identical), problem.present[a] & problem.present[b], known_both),
        cross_entropy(problem, classify(problem, disparate), problem.present[a] - problem.present[b], known_both),
    )


def pair_loss(problem: Problem, a: int, b: int) -> float:
    """Eq. (6): six cross-entropies of one pair."""
    total = 0.0
    for source, other in ((a, b), (b, a)):
        original, identical, disparate = row_terms(problem, source, other)
        total += original + problem.lam[0] * identical + problem.lam[1] * disparate
    return total


# ------------------------------------------------------------------------- gradients


@dataclass
class Gradients:
    """Of the sum of the rows, each times its upstream weight."""

    features: list[Vector]
    weight: list[Vector]
    bias: Vector


def gradients(problem: Problem, rows: Sequence[tuple[int, int]], upstream: Sequence[float]) -> Gradients:
    """The chain rule by hand, row by row, all six features of a pair classified on their own."""
    width, classes = len(problem.features[0]), len(problem.bias)
    total = Gradients(
        [[0.0] * width for _ in problem.features], [[0.0] * width for _ in range(classes)], [0.0] * classes
    )
    for (a, b), scale in zip(rows, upstream, strict=True):
        feature, mask = problem.features[a], identical_map(problem, a, b)
        known_both = problem.known[a] & problem.known[b]
        blocks = (
            (1.0, [1.0] * width, problem.present[a], problem.known[a]),
            (problem.lam[0], mask, problem.present[a] & problem.present[b], known_both),
            (problem.lam[1], [1 - m for m in mask], problem.present[a] - problem.present[b], known_both),
        )
        mask_gradient = [0.0] * width
        for which, (lam, factor, labels, known) in enumerate(blocks):
            classified = [f * x for f, x in zip(factor, feature, strict=True)]
            logits = classify(problem, classified)
            for i in known:
                p = sigmoid(logits[i])
                slope = scale * lam * (-problem.pos_weight[i] * (1 - p) if i in labels else p)
                total.bias[i] += slope
                for k in range(width):
                    total.weight[i][k] += slope * classified[k]
                    back = slope * problem.weight[i][k]
                    total.features[a][k] += back * factor[k]
                    mask_gradient[k] += (0, 1, -1)[which] * back * feature[k]
        product_gradient = map_gradient(problem, a, b, mask, mask_gradient)
        for k in range(width):
            total.features[a][k] += product_gradient[k] * problem.features[b][k]
            total.features[b][k] += product_gradient[k] * problem.features[a][k]
    return total


def map_gradient(problem: Problem, a: int, b: int, mask: Vector, gradient: Vector) -> Vector:
    """From the gradient of the map to that of the product; tied minima and maxima share theirs evenly."""
    product = [x * y for x, y in zip(problem.features[a], problem.features[b], strict=True)]
    indices = range(len(product))
    if problem.norm == "l2":
        size = math.sqrt(sum(u * u for u in product))
        if size <= problem.eps:
            return [0.0] * len(product)
        along = sum(m * g for m, g in zip(mask, gradient, strict=True))
        return [(gradient[k] - mask[k] * along) / size for k in indices]
    low, high = min(product), max(product)
    size = high - low
    if size <= problem.eps:
        return [0.0] * len(product)
    lowest, highest = ([k for k in indices if product[k] == bound] for bound in (low, high))
    to_low = sum(gradient[k] * (1 - mask[k]) for k in indices) / size / len(lowest)
    to_high = sum(gradient[k] * mask[k] for k in indices) / size / len(highest)
    return [gradient[k] / size - to_low * (k in lowest) - to_high * (k in highest) for k in indices]


# ---------------------------------------------------------------------------- mining


def mix(x: int) -> int:
    x &= MASK32
    x ^= x >> 16
    x = x * 0x7FEB352D & MASK32
    x ^= x >> 15
    x = x * 0x846CA68B & MASK32
    return x ^ x >> 16


def sample_hashes(seed: int, batch: int) -> list[int]:
    low, high = seed & MASK32, seed >> 32 & MASK32
    stream = mix(low + mix(high + 0x9E3779B9))
    return [mix(stream + i * 0x9E3779B9) for i in range(batch)]


def compatible(a: set[int], b: set[int]) -> bool:
    """Eqs. (1) and (2)."""
    return bool(a & b) and bool((a - b) | (b - a))


def mine_pairs(present: list[set[int]], strategy: str, seed: int) -> list[int]:
    hashes = sample_hashes(seed, len(present))
    return _anchor(present, hashes) if strategy == "anchor" else _greedy(present, hashes, strategy)


def _anchor(present: list[set[int]], hashes: list[int]) -> list[int]:
    batch = len(present)

    def draw(i: int, number: int, below: int) -> int:
        return mix(hashes[i] ^ mix(number + 0x85EBCA6B)) * below >> 32

    partner = []
    for i in range(batch):
        candidates = [j for j in range(batch) if compatible(present[i], present[j])]
        if not candidates:
            partner.append(i)
            continue
        probes = (draw(i, number, batch) for number in range(32))
        hit = next((j for j in probes if j in candidates), None)
        partner.append(candidates[draw(i, 32, len(candidates))] if hit is None else hit)
    return partner


def _greedy(present: list[set[int]], hashes: list[int], strategy: str) -> list[int]:
    """Take the cheapest edge between two free samples until none is left; the lower indices win a tie."""
    batch = len(present)
    edges = [(i, j) for i in range(batch) for j in range(i + 1, batch) if compatible(present[i], present[j])]
    degree = [sum(i in edge for edge in edges) for i in range(batch)]

    def cost(edge: tuple[int, int]) -> int:
        i, j = edge
        key = mix(hashes[i] + hashes[j])
        if strategy == "matching":
            return -key
        return degree[i] * degree[j] * ((1 << 20) + (key * 6 >> 12))

    partner = list(range(batch))
    for i, j in sorted(edges, key=lambda edge: (cost(edge), edge)):
        if partner[i] == i and partner[j] == j:
            partner[i], partner[j] = j, i
    return partner
