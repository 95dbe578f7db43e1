"""The counter-based hash behind every random choice of mining, as in ``csrc/common/hash.h``: 32-bit arithmetic."""

import triton.language as tl

from .jit import device_function

ANCHOR_PROBES = tl.constexpr(32)
_GOLDEN = tl.constexpr(0x9E3779B9)
_DRAW = tl.constexpr(0x85EBCA6B)
_FIRST = tl.constexpr(0x7FEB352D)
_SECOND = tl.constexpr(0x846CA68B)
_FRACTION_BITS = tl.constexpr(20)
_UNIT = tl.constexpr(1 << 20)
_SPREAD = tl.constexpr(6)


@device_function
def _mix(x):
    x = x ^ (x >> 16)
    x = x * tl.full([1], _FIRST, tl.uint32)
    x = x ^ (x >> 15)
    x = x * tl.full([1], _SECOND, tl.uint32)
    return x ^ (x >> 16)


@device_function
def stream_hash(seed):
    """uint32 [1] from a pointer to the int64 seed."""
    bits = tl.load(seed)
    high = (bits >> 32).to(tl.uint32)
    return _mix(bits.to(tl.uint32) + _mix(high + tl.full([1], _GOLDEN, tl.uint32)))


@device_function
def sample_hash(stream, sample):
    return _mix(stream + sample.to(tl.uint32) * tl.full([1], _GOLDEN, tl.uint32))


@device_function
def edge_hash(first, second):
    """Symmetric in its two sample hashes."""
    return _mix(first + second)


@device_function
def anchor_hash(sample, draw):
    return _mix(sample ^ _mix(draw.to(tl.uint32) + tl.full([1], _DRAW, tl.uint32)))


@device_function
def scale_hash(hashed, count):
    """A hash scaled into [0, count): int64."""
    return (hashed.to(tl.int64) * count) >> 32


@device_function
def matching_cost(hashed):
    return 0xFFFFFFFF - hashed.to(tl.int64)


@device_function
def balanced_cost(hashed, degree):
    """deg_j * (1 + rho), rho in [0, spread), in fixed point: what the costs of a sample i have but deg_i in common."""
    rho = (hashed.to(tl.int64) * _SPREAD) >> (32 - _FRACTION_BITS)
    return degree * (_UNIT + rho)
