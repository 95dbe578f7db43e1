// Pair mining. The result is defined by (labels, seed) alone, see common/hash.h; how it is found is free.
#include <algorithm>
#include <bit>

#include "common/hash.h"
#include "cpu/compatibility.h"
#include "cpu/label_kernels.h"
#include "cpu/labels.h"
#include "cpu/parallel.h"
#include "operators/arguments.h"

namespace indeed::cpu {
namespace {

constexpr int64_t kNone = -1;

// Padded to whole words of 64 samples.
std::vector<uint32_t> sample_hashes(int64_t seed, int64_t batch) {
  const uint32_t stream = stream_hash(seed);
  std::vector<uint32_t> hashes((batch + 63) / 64 * 64);
  for (int64_t i = 0; i < batch; ++i) hashes[i] = sample_hash(stream, static_cast<uint32_t>(i));
  return hashes;
}

int64_t count_bits(const std::vector<uint64_t>& bits) {
  int64_t count = 0;
  for (uint64_t word : bits) count += std::popcount(word);
  return count;
}

// The index of set bit number `rank`, which must exist.
int64_t select_bit(const std::vector<uint64_t>& bits, int64_t rank) {
  int64_t w = 0;
  for (;; ++w) {
    const int64_t here = std::popcount(bits[w]);
    if (rank < here) break;
    rank -= here;
  }
  uint64_t word = bits[w];
  for (; rank > 0; --rank) word &= word - 1;
  return w * 64 + std::countr_zero(word);
}

// Every sample draws a compatible partner: by hashed probes of the batch, else by rank among all of them.
void anchor(const Compatibility& compatibility, const std::vector<uint32_t>& hashes, int64_t* partner) {
  const int64_t batch = compatibility.batch();
  const auto draw = [&](int64_t i, std::vector<uint64_t>& row) -> int64_t {
    for (uint32_t probe = 0; probe < kAnchorProbes; ++probe) {
      const int64_t j = scale_hash(anchor_hash(hashes[i], probe), static_cast<uint32_t>(batch));
      if (compatibility.compatible(i, j)) return j;
    }
    compatibility.row(i, row.data());
    const int64_t count = count_bits(row);
    if (count == 0) return i;
    return select_bit(row, scale_hash(anchor_hash(hashes[i], kAnchorProbes), static_cast<uint32_t>(count)));
  };
  parallel_rows(batch, 256, [&](int64_t begin, int64_t end) {
    std::vector<uint64_t> row(compatibility.row_words());
    for (int64_t i = begin; i < end; ++i) partner[i] = draw(i, row);
  });
}

// Greedy matching by mutual best: every free sample points at its cheapest free neighbour, mutual pointers match.
class MutualBest {
 public:
  MutualBest(const Compatibility& compatibility, const std::vector<uint32_t>& hashes, bool balanced)
      : compatibility_(compatibility),
        hashes_(hashes),
        estimated_degrees_(compatibility.row_words() * 64, 1.0f),
        free_(compatibility.row_words(), ~uint64_t{0}),
        shortlists_(compatibility.batch()) {
    if (balanced) count_degrees();
  }

  void run(int64_t* partner) {
    const int64_t batch = compatibility_.batch();
    std::vector<int64_t> best(batch, kNone), active(batch), remaining;
    for (int64_t i = 0; i < batch; ++i) partner[i] = active[i] = i;
    while (!active.empty()) {
      parallel_rows(static_cast<int64_t>(active.size()), 4096, [&](int64_t begin, int64_t end) {
        std::vector<uint64_t> row(compatibility_.row_words());
        for (int64_t k = begin; k < end; ++k) best[active[k]] = cheapest_free(active[k], row);
      });
      remaining.clear();
      for (int64_t i : active) {
        if (best[i] == kNone) continue;
        if (best[best[i]] == i) {
          partner[i] = best[i];
          free_[i / 64] &= ~(uint64_t{1} << (i % 64));
        } else {
          remaining.push_back(i);
        }
      }
      active.swap(remaining);
    }
  }

 private:
  struct Edge {
    uint64_t cost;
    int32_t neighbour;

    bool operator<(const Edge& other) const {
      return cost != other.cost ? cost < other.cost : neighbour < other.neighbour;
    }
  };

  // The cheapest neighbours free at the last look, in order; a longer look is needed only when all are taken.
  static constexpr int kShortlist = 16;
  struct Shortlist {
    Edge edge[kShortlist];
    int size = 0, next = 0;
    bool complete = false;  // it holds every free neighbour there was
  };

  void count_degrees() {
    const int64_t batch = compatibility_.batch();
    degrees_.resize(batch);
    parallel_rows(batch, 4096, [&](int64_t begin, int64_t end) {
      std::vector<uint64_t> row(compatibility_.row_words());
      for (int64_t i = begin; i < end; ++i) {
        compatibility_.row(i, row.data());
        degrees_[i] = static_cast<uint64_t>(count_bits(row));
        estimated_degrees_[i] = static_cast<float>(degrees_[i]);
      }
    });
  }

  bool is_free(int64_t i) const { return (free_[i / 64] >> (i % 64)) & 1; }

  uint64_t cost(int64_t i, int64_t j) const {
    const uint32_t hash = edge_hash(hashes_[i], hashes_[j]);
    return degrees_.empty() ? matching_cost(hash) : balanced_cost(hash, degrees_[i] * degrees_[j]);
  }

  int64_t cheapest_free(int64_t i, std::vector<uint64_t>& row) {
    Shortlist& list = shortlists_[i];
    for (;;) {
      for (; list.next < list.size; ++list.next) {
        if (is_free(list.edge[list.next].neighbour)) return list.edge[list.next].neighbour;
      }
      if (list.complete) return kNone;
      refill(list, i, row);
    }
  }

  // What edges of sample i are estimated at, and the estimate no edge of `cost` or less exceeds. Hashes lose half a
  // unit and float rounding: 2^8 of matching costs near 2^32, 2^-19 of balanced ones.
  CostEstimate estimate() const {
    if (degrees_.empty()) return {4294967295.0f, -2.0f};
    constexpr float kOne = 1u << kBalancedFractionBits;
    return {kOne, 2.0f * kBalancedSpread * kOne / 4294967296.0f};
  }

  float estimate_bound(int64_t i, uint64_t cost) const {
    if (degrees_.empty()) return static_cast<float>(cost) + 1024.0f;
    return static_cast<float>(cost) / static_cast<float>(degrees_[i]) * (1.0f + 1e-5f);
  }

  void refill(Shortlist& list, int64_t i, std::vector<uint64_t>& row) const {
    compatibility_.row(i, row.data());
    const CostEstimate estimated = estimate();
    // Whenever the candidates are many, the cheapest stay, and none dearer than those is taken any more.
    constexpr int kCandidates = 4 * kShortlist;
    Edge candidate[kCandidates];
    int size = 0;
    const auto keep_cheapest = [&] {
      std::nth_element(candidate, candidate + kShortlist - 1, candidate + size);
      size = kShortlist;
    };
    bool complete = true;
    float bound = 0;
    for (int64_t w = 0; w < compatibility_.row_words(); ++w) {
      uint64_t bits = row[w] & free_[w];
      if (bits == 0) continue;
      if (!complete) {
        bits &= mining_kernels().cheap_edges(hashes_[i], hashes_.data() + w * 64, estimated_degrees_.data() + w * 64,
                                             estimated, bound);
      }
      for (; bits != 0; bits &= bits - 1) {
        const int64_t j = w * 64 + std::countr_zero(bits);
        candidate[size++] = {cost(i, j), static_cast<int32_t>(j)};
        if (size < kCandidates) continue;
        keep_cheapest();
        complete = false;
        bound = estimate_bound(i, candidate[kShortlist - 1].cost);
      }
    }
    if (size > kShortlist) {
      keep_cheapest();
      complete = false;
    }
    std::sort(candidate, candidate + size);
    std::copy(candidate, candidate + size, list.edge);
    list.size = size;
    list.next = 0;
    list.complete = complete;
  }

  const Compatibility& compatibility_;
  const std::vector<uint32_t>& hashes_;
  std::vector<uint64_t> degrees_;  // empty unless costs are balanced
  std::vector<float> estimated_degrees_;  // one each unless costs are balanced
  std::vector<uint64_t> free_;
  std::vector<Shortlist> shortlists_;
};

}  // namespace

Tensor mine_pairs(Tensor positive_bits_any, Tensor seed, int64_t strategy) {
  require_mining_arguments(positive_bits_any, seed, strategy);
  const Tensor positive_bits = to_contiguous(positive_bits_any);
  const int64_t batch = positive_bits.size(0);
  Tensor partner = empty_like_type(positive_bits, {batch}, ScalarType::Long);
  if (batch == 0) return partner;

  const auto hashes = sample_hashes(*seed.const_data_ptr<int64_t>(), batch);
  const Compatibility compatibility(reinterpret_cast<const uint32_t*>(positive_bits.const_data_ptr<int32_t>()), batch,
                                         positive_bits.size(1));
  int64_t* out = partner.mutable_data_ptr<int64_t>();
  if (static_cast<Strategy>(strategy) == Strategy::kAnchor) {
    anchor(compatibility, hashes, out);
  } else {
    MutualBest(compatibility, hashes, static_cast<Strategy>(strategy) == Strategy::kBalanced).run(out);
  }
  return partner;
}

}  // namespace indeed::cpu
