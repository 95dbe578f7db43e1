// Pair mining. The result is defined by (labels, seed) alone, see common/hash.h, and is that of the CPU bit for bit.
#include <optional>

#include "common/hash.h"
#include "cuda/matching.h"

namespace indeed::cuda {
namespace {

constexpr int kThreads = 256;

// The first compatible of the probes, else the compatible sample whose rank a last draw gives. One warp per sample:
// its lanes are the probes.
static_assert(kAnchorProbes == kWarp);

__device__ int64_t draw_anchor(const Labels& labels, int64_t batch, uint32_t hash, int64_t i) {
  const int64_t probe = scale_hash(anchor_hash(hash, lane_index()), static_cast<uint32_t>(batch));
  const unsigned hits = compatible_lanes(labels, i, probe, true);
  if (hits != 0) return __shfl_sync(kFullMask, static_cast<int32_t>(probe), __ffs(hits) - 1);

  const auto compatible_from = [&](int64_t first) {
    return compatible_lanes(labels, i, first + lane_index(), first + lane_index() < batch);
  };
  // A lane counts what a 32nd of the batch holds, so that only one such part is looked through again for the rank.
  const int64_t part = cdiv(cdiv(batch, kWarp), kWarp) * kWarp;
  uint32_t counted = 0;
  for (int64_t begin = 0, lane = 0; begin < batch; begin += part, ++lane) {
    for (int64_t first = begin; first < begin + part && first < batch; first += kWarp) {
      const uint32_t found = __popc(compatible_from(first));
      counted += lane == lane_index() ? found : 0;
    }
  }
  const uint32_t count = warp_reduce(counted, Sum{});
  if (count == 0) return i;
  uint32_t rank = scale_hash(anchor_hash(hash, kAnchorProbes), count);
  int64_t first = 0;
  for (int lane = 0; first < batch; ++lane, first += part) {
    const uint32_t here = __shfl_sync(kFullMask, counted, lane);
    if (rank < here) break;
    rank -= here;
  }
  for (; first < batch; first += kWarp) {
    unsigned found = compatible_from(first);
    const uint32_t here = __popc(found);
    if (rank >= here) {
      rank -= here;
      continue;
    }
    for (; rank > 0; --rank) found &= found - 1;
    return first + __ffs(found) - 1;
  }
  return i;
}

__global__ void __launch_bounds__(kThreads, 4) anchor_kernel(Labels labels, int64_t batch, const int64_t* seed,
                                                          int64_t* partner) {
  const uint32_t stream = stream_hash(*seed);
  const int64_t warps = static_cast<int64_t>(gridDim.x) * warp_count();
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * warp_count() + warp_index(); i < batch; i += warps) {
    const int64_t chosen = draw_anchor(labels, batch, sample_hash(stream, static_cast<uint32_t>(i)), i);
    if (lane_index() == 0) partner[i] = chosen;
  }
}

}  // namespace

Tensor Device::mine_pairs(Tensor positive_bits_any, Tensor seed, int64_t strategy) {
  require_mining_arguments(positive_bits_any, seed, strategy);
  const Device device(positive_bits_any);
  device.require_same("seed", seed);
  const Tensor positive_bits = to_contiguous(positive_bits_any);
  const int64_t batch = positive_bits.size(0), words = positive_bits.size(1);
  const Tensor partner = empty_like_type(positive_bits, {batch}, ScalarType::Long);
  if (batch == 0) return partner;

  Labels labels{label_words(positive_bits), words, nullptr, nullptr};
  std::optional<Scratch> lists;
  if (needs_lists(words)) {
    lists.emplace(positive_bits, Scratch::bytes_of<int32_t>(batch * kListed) + Scratch::bytes_of<uint32_t>(batch));
    int32_t* classes = lists->take<int32_t>(batch * kListed);
    uint32_t* count = lists->take<uint32_t>(batch);
    list_classes(device, labels.positive_bits, batch, words, classes, count);
    labels.classes = classes;
    labels.count = count;
  }
  const int64_t* seed_data = seed.const_data_ptr<int64_t>();
  int64_t* out = partner.mutable_data_ptr<int64_t>();
  if (static_cast<Strategy>(strategy) == Strategy::kAnchor) {
    const dim3 grid = grid_size(std::min<int64_t>(cdiv(batch, kThreads / kWarp), 1 << 16));
    INDEED_LAUNCH(anchor_kernel, grid, dim3(kThreads), 0, device.stream(), labels, batch, seed_data, out);
  } else {
    const bool balanced = static_cast<Strategy>(strategy) == Strategy::kBalanced;
    launch_matching(device, labels, batch, positive_bits, seed_data, balanced, out);
  }
  return partner;
}

}  // namespace indeed::cuda
