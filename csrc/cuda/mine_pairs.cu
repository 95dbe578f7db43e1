// Pair mining. The result is defined by (labels, seed) alone, see common/hash.h, and is that of the CPU bit for bit.
#include "common/hash.h"
#include "cuda/device.h"
#include "cuda/reduce.h"

namespace indeed::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kMatchingThreads = 1024;
constexpr int32_t kNone = -1;

// Positive bits [batch, words].
struct Labels {
  const uint32_t* positive_bits;
  int64_t words;

  // Eqs. (1) and (2): a common label, and different label sets.
  __device__ bool compatible(int64_t i, int64_t j) const {
    const uint32_t *a = positive_bits + i * words, *b = positive_bits + j * words;
    uint32_t common = 0, different = 0;
    for (int64_t w = 0; w < words; ++w) {
      const uint32_t mine = a[w], other = b[w];
      common |= mine & other;
      different |= mine ^ other;
    }
    return common != 0 && different != 0;
  }
};

// The first compatible of the probes, else the compatible sample whose rank a last draw gives. One warp per sample:
// its lanes are the probes.
static_assert(kAnchorProbes == kWarp);

__device__ int64_t draw_anchor(const Labels& labels, int64_t batch, uint32_t hash, int64_t i) {
  const int64_t probe = scale_hash(anchor_hash(hash, lane_index()), static_cast<uint32_t>(batch));
  const unsigned hits = __ballot_sync(kFullMask, labels.compatible(i, probe));
  if (hits != 0) return __shfl_sync(kFullMask, static_cast<int32_t>(probe), __ffs(hits) - 1);

  uint32_t count = 0;
  for (int64_t first = 0; first < batch; first += kWarp) {
    const int64_t j = first + lane_index();
    count += __popc(__ballot_sync(kFullMask, j < batch && labels.compatible(i, j)));
  }
  if (count == 0) return i;
  uint32_t rank = scale_hash(anchor_hash(hash, kAnchorProbes), count);
  for (int64_t first = 0; first < batch; first += kWarp) {
    const int64_t j = first + lane_index();
    unsigned found = __ballot_sync(kFullMask, j < batch && labels.compatible(i, j));
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

__global__ void __launch_bounds__(kThreads) anchor_kernel(Labels labels, int64_t batch, const int64_t* seed,
                                                          int64_t* partner) {
  const uint32_t stream = stream_hash(*seed);
  const int64_t warps = static_cast<int64_t>(gridDim.x) * warp_count();
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * warp_count() + warp_index(); i < batch; i += warps) {
    const int64_t chosen = draw_anchor(labels, batch, sample_hash(stream, static_cast<uint32_t>(i)), i);
    if (lane_index() == 0) partner[i] = chosen;
  }
}

// Bits of the compatible samples of every sample, rows [batch, row_words]; one warp per word.
__global__ void __launch_bounds__(kThreads) compatibility_kernel(Labels labels, int64_t batch, int64_t row_words,
                                                                 uint32_t* rows) {
  const int64_t warps = static_cast<int64_t>(gridDim.x) * warp_count(), count = batch * row_words;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * warp_count() + warp_index(); at < count; at += warps) {
    const int64_t i = at / row_words, j = at % row_words * kWordBits + lane_index();
    const unsigned bits = __ballot_sync(kFullMask, j < batch && labels.compatible(i, j));
    if (lane_index() == 0) rows[at] = bits;
  }
}

// What the rounds of the matching keep of every sample, in shared memory where it fits, else in global memory.
struct MatchingState {
  int32_t* best;      // [batch] cheapest free neighbour at the last look, or kNone
  uint32_t* degree;   // [batch] number of compatible samples
  uint32_t* matched;  // [row_words] bits

  __device__ bool is_matched(int64_t i) const { return (matched[i / kWordBits] >> (i % kWordBits)) & 1u; }
};

constexpr int64_t matching_words(int64_t batch, int64_t row_words) { return 2 * batch + row_words; }

struct MatchingTask {
  const uint32_t* rows;  // [batch, row_words] compatibility
  int64_t batch, row_words;
  const int64_t* seed;
  bool balanced;
  uint32_t* state;       // matching_words, or null: dynamic shared memory
  int64_t* partner;
};

// By one warp; every lane gets the result. Among equal costs the lower index wins.
__device__ int32_t cheapest_free(const MatchingTask& task, const MatchingState& state, uint32_t stream, int64_t i) {
  const uint32_t hash = sample_hash(stream, static_cast<uint32_t>(i));
  uint64_t least = ~uint64_t{0};
  int32_t best = kNone;
  for (int64_t w = 0; w < task.row_words; ++w) {
    const uint32_t open = task.rows[i * task.row_words + w] & ~state.matched[w];
    if (((open >> lane_index()) & 1u) == 0) continue;
    const int64_t j = w * kWordBits + lane_index();
    const uint32_t edge = edge_hash(hash, sample_hash(stream, static_cast<uint32_t>(j)));
    const uint64_t cost = task.balanced
                              ? balanced_cost(edge, static_cast<uint64_t>(state.degree[i]) * state.degree[j])
                              : matching_cost(edge);
    if (best != kNone && cost >= least) continue;  // a lane meets its neighbours in ascending order
    least = cost;
    best = static_cast<int32_t>(j);
  }
  INDEED_UNROLL
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const uint64_t cost = __shfl_xor_sync(kFullMask, static_cast<unsigned long long>(least), offset);
    const int32_t other = __shfl_xor_sync(kFullMask, best, offset);
    const bool better = other != kNone && (best == kNone || cost < least || (cost == least && other < best));
    least = better ? cost : least;
    best = better ? other : best;
  }
  return best;
}

// Greedy matching by mutual best: every free sample points at its cheapest free neighbour, mutual pointers match, and
// so on until no free sample has a free neighbour. One block, because rounds need a barrier among all samples; a
// sample looks again only when the neighbour it points at was taken, so all rounds together cost little more than
// the first.
__global__ void __launch_bounds__(kMatchingThreads, 1) matching_kernel(MatchingTask task) {
  INDEED_DYNAMIC_SHARED(uint32_t, dynamic);
  INDEED_SHARED(uint32_t, progress, 1);
  uint32_t* memory = task.state != nullptr ? task.state : dynamic;
  const MatchingState state{reinterpret_cast<int32_t*>(memory), memory + task.batch, memory + 2 * task.batch};
  const uint32_t stream = stream_hash(*task.seed);

  for (int64_t w = threadIdx.x; w < task.row_words; w += blockDim.x) state.matched[w] = 0;
  for (int64_t i = warp_index(); i < task.batch; i += warp_count()) {
    uint32_t degree = 0;
    for (int64_t w = lane_index(); w < task.row_words; w += kWarp) degree += __popc(task.rows[i * task.row_words + w]);
    degree = warp_reduce(degree, Sum{});
    if (lane_index() != 0) continue;
    state.degree[i] = degree;
    state.best[i] = kNone;
    task.partner[i] = i;
  }
  __syncthreads();

  for (bool first = true;; first = false) {
    if (threadIdx.x == 0) progress[0] = 0;
    for (int64_t i = warp_index(); i < task.batch; i += warp_count()) {
      const int32_t before = state.best[i];
      // Matched, without a free neighbour for good, or the last choice still stands.
      if (!first && (before == kNone || state.is_matched(i) || !state.is_matched(before))) continue;
      const int32_t best = cheapest_free(task, state, stream, i);
      __syncwarp();  // every lane has read the last choice before it changes
      if (lane_index() == 0) state.best[i] = best;
    }
    __syncthreads();
    for (int64_t i = threadIdx.x; i < task.batch; i += blockDim.x) {
      const int32_t best = state.best[i];
      // A sample matched in an earlier round still points at its partner: it is done.
      if (best == kNone || task.partner[i] != i || state.best[best] != i) continue;
      task.partner[i] = best;
      atomicOr(&state.matched[i / kWordBits], 1u << (i % kWordBits));
      atomicOr(progress, 1u);
    }
    __syncthreads();
    const bool more = progress[0] != 0;
    __syncthreads();
    if (!more) return;
  }
}

// One warp each for so many items.
dim3 warps_for(int64_t count) { return grid_size(std::min<int64_t>(cdiv(count, kThreads / kWarp), 1 << 16)); }

void launch_matching(const Device& device, const Labels& labels, int64_t batch, const Tensor& like,
                     const int64_t* seed, bool balanced, int64_t* partner) {
  // What every GPU gives a block without asking.
  constexpr size_t kSharedBytes = 48 * 1024 - 1024;
  const int64_t row_words = cdiv(batch, kWordBits), state_words = matching_words(batch, row_words);
  const size_t state_bytes = static_cast<size_t>(state_words) * sizeof(uint32_t);
  const bool shared = state_bytes <= kSharedBytes;
  using Scratch = Device::Scratch;
  Scratch scratch(like, Scratch::bytes_of<uint32_t>(batch * row_words) +
                            (shared ? 0 : Scratch::bytes_of<uint32_t>(state_words)));
  uint32_t* rows = scratch.take<uint32_t>(batch * row_words);
  uint32_t* state = shared ? nullptr : scratch.take<uint32_t>(state_words);
  INDEED_LAUNCH(compatibility_kernel, warps_for(batch * row_words), dim3(kThreads), 0, device.stream(), labels,
                batch, row_words, rows);
  const MatchingTask task{rows, batch, row_words, seed, balanced, state, partner};
  INDEED_LAUNCH(matching_kernel, dim3(1), block_size(batch * kWarp, kMatchingThreads), shared ? state_bytes : 0,
                device.stream(), task);
}

}  // namespace

Tensor Device::mine_pairs(Tensor positive_bits_any, Tensor seed, int64_t strategy) {
  require_mining_arguments(positive_bits_any, seed, strategy);
  const Device device(positive_bits_any);
  device.require_same("seed", seed);
  const Tensor positive_bits = to_contiguous(positive_bits_any);
  const int64_t batch = positive_bits.size(0);
  const Tensor partner = empty_like_type(positive_bits, {batch}, ScalarType::Long);
  if (batch == 0) return partner;

  const Labels labels{label_words(positive_bits), positive_bits.size(1)};
  const int64_t* seed_data = seed.const_data_ptr<int64_t>();
  int64_t* out = partner.mutable_data_ptr<int64_t>();
  if (static_cast<Strategy>(strategy) == Strategy::kAnchor) {
    INDEED_LAUNCH(anchor_kernel, warps_for(batch), dim3(kThreads), 0, device.stream(), labels, batch, seed_data, out);
  } else {
    const bool balanced = static_cast<Strategy>(strategy) == Strategy::kBalanced;
    launch_matching(device, labels, batch, positive_bits, seed_data, balanced, out);
  }
  return partner;
}

}  // namespace indeed::cuda
