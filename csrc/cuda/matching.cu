// Greedy matching by mutual best: every free sample points at its cheapest free neighbour, mutual pointers match, and
// so on until no free sample has a free neighbour.
//
// A round ends with a barrier among all samples, so rounds run in one block. What is expensive does not: looking
// through all neighbours of a sample. Kernels over the whole GPU list the cheapest neighbours of every sample, and a
// round reads on in the list where the last choice was taken. A sample whose list is used up drops out; it holds up
// only those that point at it, because mutual pointers are right whatever the others do. When nothing moves any more
// the next launch lists anew for the samples that dropped out. After a fixed number of such phases the block itself
// looks through what is left.
#include "cuda/matching.h"

#include "common/hash.h"
#include "cuda/lanes.h"

namespace indeed::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kRoundThreads = 1024;
// One neighbour per lane of the warp that lists them.
constexpr int kShortlist = kWarp;
// Up to here the first look of all samples takes one block less time than the launch that would list neighbours.
constexpr int64_t kDirectBatch = 256;

constexpr int32_t kNobody = -1;    // no free neighbour is left
constexpr int32_t kUsedUp = -2;    // nor is one in the list, but there may be others
constexpr int32_t kNotLooked = -3;
// Above every cost: degrees are below 2^20 wherever the compatibility of all pairs fits into memory.
constexpr uint64_t kBeyond = ~uint64_t{0};

struct MatchingTask {
  int64_t batch, row_words;
  bool balanced;
  uint32_t* rows;      // [batch, row_words] bits of the compatible samples
  uint32_t* degree;    // [batch] how many they are
  uint32_t* hash;      // [batch] sample_hash
  int32_t* shortlist;  // [batch, kShortlist] cheapest neighbours that were free, cheapest first, then kNobody; or null
  uint32_t* matched;   // [row_words] bits, as the last rounds left them
  int32_t* state;      // see Rounds; null: dynamic shared memory
  int64_t* partner;
};

__device__ bool has_bit(const uint32_t* bits, int64_t sample) {
  const uint32_t i = static_cast<uint32_t>(sample);  // without a sign, division is a shift
  return (bits[i / 32] >> (i % 32)) & 1u;
}

struct Neighbour {
  uint64_t cost = kBeyond;
  int32_t sample = kNobody;
};

// What the costs of all edges of one sample need of it.
struct Sample {
  uint32_t hash, degree;

  __device__ Sample(const MatchingTask& task, int64_t i) : hash(task.hash[i]), degree(task.degree[i]) {}

  __device__ uint64_t cost(const MatchingTask& task, int32_t j) const {
    const uint32_t edge = edge_hash(hash, task.hash[j]);
    return task.balanced ? balanced_cost(edge, static_cast<uint64_t>(degree) * task.degree[j]) : matching_cost(edge);
  }
};

// Compatibility, degree and hash of every sample, who is alone for now; one block per sample.
__global__ void __launch_bounds__(kThreads) neighbours_kernel(Labels labels, const int64_t* seed, MatchingTask task) {
  INDEED_SHARED(uint32_t, shared, kMaxWarps);
  const uint32_t stream = stream_hash(*seed);
  for (int64_t i = blockIdx.x; i < task.batch; i += gridDim.x) {
    uint32_t found = 0;
    for (int64_t w = warp_index(); w < task.row_words; w += warp_count()) {
      const int64_t j = w * kWordBits + lane_index();
      const unsigned bits = compatible_lanes(labels, i, j, j < task.batch);
      if (lane_index() != 0) continue;
      task.rows[i * task.row_words + w] = bits;
      found += __popc(bits);
    }
    found = block_reduce(found, Sum{}, shared);
    if (threadIdx.x != 0) continue;
    task.degree[i] = found;
    task.hash[i] = sample_hash(stream, static_cast<uint32_t>(i));
    task.partner[i] = i;
  }
}

// Adds a neighbour to the sorted list whose entries the lanes hold; it goes behind those of the same cost.
__device__ void insert(Neighbour& held, const Neighbour& added) {
  const int rank = __popc(__ballot_sync(kFullMask, held.cost <= added.cost));
  const int below = lane_index() == 0 ? 0 : lane_index() - 1;
  const Neighbour moved{__shfl_sync(kFullMask, held.cost, below), __shfl_sync(kFullMask, held.sample, below)};
  if (lane_index() >= rank) held = lane_index() == rank ? added : moved;
}

// Lists the cheapest free neighbours of every sample, after the first time only of free ones whose lists are used up.
// One warp per sample.
__global__ void __launch_bounds__(kThreads) shortlist_kernel(MatchingTask task, bool first) {
  const int64_t warps = static_cast<int64_t>(gridDim.x) * warp_count();
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * warp_count() + warp_index(); i < task.batch; i += warps) {
    int32_t* entry = task.shortlist + i * kShortlist + lane_index();
    if (!first) {
      if (has_bit(task.matched, i)) continue;
      if (__ballot_sync(kFullMask, *entry == kNobody || !has_bit(task.matched, *entry)) != 0) continue;
    }
    const Sample sample(task, i);
    Neighbour held;
    for (int32_t begin = 0; begin < task.row_words; begin += kWarp) {
      const int32_t w = begin + lane_index();
      uint32_t mine = w < task.row_words ? task.rows[i * task.row_words + w] : 0;
      if (mine != 0 && !first) mine &= ~task.matched[w];
      for (unsigned rest = __ballot_sync(kFullMask, mine != 0); rest != 0; rest &= rest - 1) {
        const int word = __ffs(rest) - 1;
        const bool open = (__shfl_sync(kFullMask, mine, word) >> lane_index()) & 1u;
        const int32_t j = (begin + word) * kWarp;
        const uint64_t cost = open ? sample.cost(task, j + lane_index()) : kBeyond;
        const uint64_t dearest = __shfl_sync(kFullMask, held.cost, kShortlist - 1);
        // In ascending order, so that among equal costs the lower index stays ahead.
        for (unsigned cheap = __ballot_sync(kFullMask, cost < dearest); cheap != 0; cheap &= cheap - 1) {
          const int lane = __ffs(cheap) - 1;
          insert(held, {__shfl_sync(kFullMask, cost, lane), j + lane});
        }
      }
    }
    *entry = held.sample;
  }
}

// What the rounds keep, in shared memory where it fits, else in global memory.
struct Rounds {
  int32_t* best;      // [batch] cheapest free neighbour at the last look, or why there is none
  int32_t* waiting;   // [batch] samples that must look through all neighbours in this round
  uint32_t* matched;  // [row_words] bits

  static constexpr int64_t size(int64_t batch, int64_t row_words) { return 2 * batch + row_words; }
};

// The next free sample of a list.
__device__ int32_t first_free(const MatchingTask& task, const Rounds& rounds, int64_t i) {
  if (task.shortlist == nullptr) return kUsedUp;
  constexpr int kStep = 4;
  for (int k = 0; k < kShortlist; k += kStep) {
    const auto entries = load_lanes<kStep>(task.shortlist + i * kShortlist + k);
    INDEED_UNROLL
    for (int lane = 0; lane < kStep; ++lane) {
      const int32_t j = entries.lane[lane];
      if (j == kNobody || !has_bit(rounds.matched, j)) return j;
    }
  }
  return kUsedUp;
}

// By one warp, from all neighbours; every lane gets the result. Among equal costs the lower index wins.
__device__ int32_t cheapest_free(const MatchingTask& task, const Rounds& rounds, int64_t i) {
  // A lane for each bit where words are few, as small batches look only in this way. A lane for each word where there
  // were lists: few neighbours are still free when those are used up.
  const bool by_bit = task.shortlist == nullptr;
  const uint32_t own_bits = by_bit ? 1u << lane_index() : ~0u;
  const int64_t step = by_bit ? 1 : kWarp;
  const Sample sample(task, i);
  Neighbour least;
  for (int64_t w = by_bit ? 0 : lane_index(); w < task.row_words; w += step) {
    uint32_t open = task.rows[i * task.row_words + w] & ~rounds.matched[w] & own_bits;
    for (; open != 0; open &= open - 1) {  // a lane meets its neighbours in ascending order
      const int32_t j = static_cast<int32_t>(w * kWordBits) + __ffs(open) - 1;
      const uint64_t cost = sample.cost(task, j);
      if (cost < least.cost) least = {cost, j};
    }
  }
  INDEED_UNROLL
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const Neighbour other{__shfl_xor_sync(kFullMask, least.cost, offset),
                          __shfl_xor_sync(kFullMask, least.sample, offset)};
    if (other.cost < least.cost || (other.cost == least.cost && other.sample < least.sample)) least = other;
  }
  return least.sample;
}

// Rounds until nothing moves. Samples whose lists are used up look through all their neighbours in the last of these
// launches, and wait for the next one in the others.
__global__ void __launch_bounds__(kRoundThreads, 1) rounds_kernel(MatchingTask task, bool last) {
  INDEED_DYNAMIC_SHARED(int32_t, dynamic);
  INDEED_SHARED(uint32_t, waiting_count, 2);  // of even and of odd rounds
  INDEED_SHARED(uint32_t, progress, 2);
  int32_t* memory = task.state != nullptr ? task.state : dynamic;
  const Rounds rounds{memory, memory + task.batch, reinterpret_cast<uint32_t*>(memory + 2 * task.batch)};

  for (int64_t w = warp_index(); w < task.row_words; w += warp_count()) {
    const int64_t i = w * kWordBits + lane_index();
    const int64_t partner = i < task.batch ? task.partner[i] : i;
    const unsigned matched = __ballot_sync(kFullMask, partner != i);
    if (i < task.batch) rounds.best[i] = partner != i ? static_cast<int32_t>(partner) : kNotLooked;
    if (lane_index() == 0) rounds.matched[w] = matched;
  }
  if (threadIdx.x < 2) waiting_count[threadIdx.x] = progress[threadIdx.x] = 0;
  __syncthreads();

  for (int odd = 0;; odd ^= 1) {
    for (int64_t i = threadIdx.x; i < task.batch; i += blockDim.x) {
      int32_t best = rounds.best[i];
      const bool taken = best >= 0 && has_bit(rounds.matched, best);
      if (has_bit(rounds.matched, i) || !(taken || best == kNotLooked)) continue;
      best = first_free(task, rounds, i);
      rounds.best[i] = best;
      if (best == kUsedUp && last) {
        rounds.waiting[atomicAdd(&waiting_count[odd], 1u)] = static_cast<int32_t>(i);
      }
    }
    __syncthreads();
    const uint32_t waiting = waiting_count[odd];
    if (threadIdx.x == 0) waiting_count[odd ^ 1] = progress[odd ^ 1] = 0;  // everybody has read those of the last round
    if (waiting > 0) {
      for (uint32_t k = warp_index(); k < waiting; k += warp_count()) {
        const int64_t i = rounds.waiting[k];
        const int32_t best = cheapest_free(task, rounds, i);
        if (lane_index() == 0) rounds.best[i] = best;
      }
      __syncthreads();
    }
    for (int64_t w = warp_index(); w < task.row_words; w += warp_count()) {
      const int64_t i = w * kWordBits + lane_index();
      const int32_t best = i < task.batch ? rounds.best[i] : kNobody;
      // Those matched in an earlier round still point at each other.
      const unsigned matched = __ballot_sync(kFullMask, best >= 0 && rounds.best[best] == i);
      if (lane_index() != 0 || matched == rounds.matched[w]) continue;
      rounds.matched[w] = matched;
      atomicOr(&progress[odd], 1u);
    }
    __syncthreads();
    if (progress[odd] == 0) break;
  }

  for (int64_t i = threadIdx.x; i < task.batch; i += blockDim.x) {
    if (has_bit(rounds.matched, i)) task.partner[i] = rounds.best[i];
  }
  for (int64_t w = threadIdx.x; w < task.row_words; w += blockDim.x) task.matched[w] = rounds.matched[w];
}

// How often neighbours are listed. Random costs leave a 33rd of the samples without a list at a time. Balanced costs
// are low for the same few neighbours of everybody, which are soon taken.
int64_t phase_count(int64_t batch, bool balanced) {
  if (batch <= kDirectBatch) return 0;
  if (balanced) return std::clamp<int64_t>(batch / 256, 1, 16);
  return batch <= 2048 ? 1 : 2;
}

}  // namespace

void launch_matching(const Device& device, const Labels& labels, int64_t batch, const Tensor& like,
                     const int64_t* seed, bool balanced, int64_t* partner) {
  // What every GPU gives a block without asking.
  constexpr size_t kSharedBytes = 48 * 1024 - 1024;
  const int64_t phases = phase_count(batch, balanced);
  const int64_t row_words = cdiv(batch, kWordBits), list_size = phases > 0 ? batch * kShortlist : 0;
  const size_t state_bytes = static_cast<size_t>(Rounds::size(batch, row_words)) * sizeof(int32_t);
  const bool shared = state_bytes <= kSharedBytes;
  using Scratch = Device::Scratch;
  Scratch scratch(like, Scratch::bytes_of<uint32_t>(batch * row_words) + 2 * Scratch::bytes_of<uint32_t>(batch) +
                            Scratch::bytes_of<int32_t>(list_size) + Scratch::bytes_of<uint32_t>(row_words) +
                            (shared ? 0 : state_bytes));
  MatchingTask task{batch, row_words, balanced};
  task.rows = scratch.take<uint32_t>(batch * row_words);
  task.degree = scratch.take<uint32_t>(batch);
  task.hash = scratch.take<uint32_t>(batch);
  task.shortlist = phases > 0 ? scratch.take<int32_t>(list_size) : nullptr;
  task.matched = scratch.take<uint32_t>(row_words);
  task.state = shared ? nullptr : scratch.take<int32_t>(Rounds::size(batch, row_words));
  task.partner = partner;

  constexpr int64_t kMaxBlocks = 1 << 16;
  INDEED_LAUNCH(neighbours_kernel, grid_size(std::min(batch, kMaxBlocks)), block_size(row_words * kWarp, kThreads), 0,
                device.stream(), labels, seed, task);
  const dim3 round_block = block_size(batch * kWarp, kRoundThreads);
  const size_t round_bytes = shared ? state_bytes : 0;
  for (int64_t phase = 0; phase < phases; ++phase) {
    INDEED_LAUNCH(shortlist_kernel, grid_size(std::min(cdiv(batch, kThreads / kWarp), kMaxBlocks)), dim3(kThreads), 0,
                  device.stream(), task, phase == 0);
    INDEED_LAUNCH(rounds_kernel, dim3(1), round_block, round_bytes, device.stream(), task, phase == phases - 1);
  }
  if (phases == 0) INDEED_LAUNCH(rounds_kernel, dim3(1), round_block, round_bytes, device.stream(), task, true);
}

}  // namespace indeed::cuda
