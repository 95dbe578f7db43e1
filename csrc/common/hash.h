// The counter-based hash behind every random choice of pair mining: (seed, i, j) in 32-bit arithmetic,
// so that the same labels and seed give the same partners on every backend and machine.
#pragma once

#include "common/host_device.h"
#include "common/options.h"

namespace indeed {

constexpr uint32_t kAnchorProbes = 32;
constexpr uint32_t kBalancedFractionBits = 20;
constexpr uint64_t kBalancedSpread = 6;

INDEED_HD uint32_t mix(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7FEB352Du;
  x ^= x >> 15;
  x *= 0x846CA68Bu;
  return x ^ (x >> 16);
}

INDEED_HD uint32_t stream_hash(int64_t seed) {
  const uint64_t bits = static_cast<uint64_t>(seed);
  return mix(static_cast<uint32_t>(bits) + mix(static_cast<uint32_t>(bits >> 32) + 0x9E3779B9u));
}

INDEED_HD uint32_t sample_hash(uint32_t stream, uint32_t sample) { return mix(stream + sample * 0x9E3779B9u); }

// Symmetric in its two sample hashes.
INDEED_HD uint32_t edge_hash(uint32_t first, uint32_t second) { return mix(first + second); }

INDEED_HD uint32_t anchor_hash(uint32_t sample, uint32_t draw) { return mix(sample ^ mix(draw + 0x85EBCA6Bu)); }

// A hash scaled into [0, count).
INDEED_HD uint32_t scale_hash(uint32_t hash, uint32_t count) {
  return static_cast<uint32_t>((static_cast<uint64_t>(hash) * count) >> 32);
}

// Greedy matchings take edges in ascending order of (cost, lower index, higher index).
INDEED_HD uint64_t matching_cost(uint32_t hash) { return 0xFFFFFFFFu - hash; }

// deg_i * deg_j * (1 + rho), rho in [0, kBalancedSpread), in fixed point.
INDEED_HD uint64_t balanced_cost(uint32_t hash, uint64_t degree_product) {
  const uint64_t rho = (static_cast<uint64_t>(hash) * kBalancedSpread) >> (32 - kBalancedFractionBits);
  return degree_product * ((uint64_t{1} << kBalancedFractionBits) + rho);
}

}  // namespace indeed
