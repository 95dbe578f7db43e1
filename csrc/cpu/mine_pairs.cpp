// Pair mining. The result is defined by (labels, seed) alone, see common/hash.h; how it is found is free.
#include <algorithm>
#include <bit>
#include <limits>
#include <mutex>
#include <numeric>
#include <tuple>

#include "common/hash.h"
#include "cpu/compatibility.h"
#include "cpu/label_kernels.h"
#include "cpu/labels.h"
#include "cpu/parallel.h"
#include "operators/arguments.h"

namespace indeed::cpu {
namespace {

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

// The greedy matching: edges in ascending order of cost, each taken if both of its samples are still free. Only the cheap
// ones matter at first, so rounds look at all edges among the samples still free and sort those up to some cost.
class GreedyMatching {
 public:
  GreedyMatching(const Compatibility& compatibility, const std::vector<uint32_t>& hashes, bool balanced)
      : compatibility_(compatibility),
        hashes_(hashes),
        estimated_degrees_(compatibility.row_words() * 64, 1.0f),
        free_(compatibility.row_words(), ~uint64_t{0}) {
    if (balanced) count_degrees();
  }

  void run(int64_t* partner) {
    std::iota(partner, partner + compatibility_.batch(), 0);
    std::vector<int32_t> samples(compatibility_.batch());
    std::iota(samples.begin(), samples.end(), 0);
    for (uint64_t bound = 0; bound != kUnbounded;) {
      bound = cost_bound(samples);
      std::vector<Edge> edges = edges_up_to(bound, samples);
      std::sort(edges.begin(), edges.end());
      for (const Edge& edge : edges) {
        if (!is_free(edge.first) || !is_free(edge.second)) continue;
        partner[edge.first] = edge.second;
        partner[edge.second] = edge.first;
        take(edge.first);
        take(edge.second);
      }
      std::erase_if(samples, [&](int32_t i) { return !is_free(i); });
    }
  }

 private:
  static constexpr uint64_t kUnbounded = ~uint64_t{0};
  // How many edges a sample should have in a round, and on how many samples their cost is measured.
  static constexpr int64_t kEdgesPerSample = 2, kMeasuredSamples = 32;

  struct Edge {
    uint64_t cost;
    int32_t first, second;  // in ascending order

    bool operator<(const Edge& other) const {
      return std::tie(cost, first, second) < std::tie(other.cost, other.first, other.second);
    }
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
  void take(int64_t i) { free_[i / 64] &= ~(uint64_t{1} << (i % 64)); }

  uint64_t cost(int64_t i, int64_t j) const {
    const uint32_t hash = edge_hash(hashes_[i], hashes_[j]);
    return degrees_.empty() ? matching_cost(hash) : balanced_cost(hash, degrees_[i] * degrees_[j]);
  }

  // A cost that leaves about kEdgesPerSample edges to a sample, judged by those of a few.
  uint64_t cost_bound(const std::vector<int32_t>& samples) const {
    const auto count = static_cast<int64_t>(samples.size()), measured = std::min(count, kMeasuredSamples);
    std::vector<uint64_t> row(compatibility_.row_words()), costs;
    for (int64_t k = 0; k < measured; ++k) {
      const int64_t i = samples[count * k / measured];
      compatibility_.row(i, row.data());
      for (int64_t w = 0; w < compatibility_.row_words(); ++w) {
        for (uint64_t bits = row[w] & free_[w]; bits != 0; bits &= bits - 1) {
          costs.push_back(cost(i, w * 64 + std::countr_zero(bits)));
        }
      }
    }
    // An edge has two samples.
    const auto wanted = 2 * kEdgesPerSample * measured;
    if (static_cast<int64_t>(costs.size()) <= 2 * wanted) return kUnbounded;
    std::nth_element(costs.begin(), costs.begin() + wanted, costs.end());
    return costs[wanted];
  }

  // What edges of sample i are estimated at, and the estimate no edge of `cost` or less exceeds. Hashes lose half a
  // unit and float rounding: 2^8 of matching costs near 2^32, 2^-19 of balanced ones.
  CostEstimate estimate() const {
    if (degrees_.empty()) return {4294967295.0f, -2.0f};
    constexpr float kOne = 1u << kBalancedFractionBits;
    return {kOne, 2.0f * kBalancedSpread * kOne / 4294967296.0f};
  }

  float estimate_bound(int64_t i, uint64_t cost) const {
    if (cost == kUnbounded) return std::numeric_limits<float>::infinity();
    if (degrees_.empty()) return static_cast<float>(cost) + 1024.0f;
    return static_cast<float>(cost) / static_cast<float>(degrees_[i]) * (1.0f + 1e-5f);
  }

  std::vector<Edge> edges_up_to(uint64_t bound, const std::vector<int32_t>& samples) const {
    std::vector<Edge> all;
    std::mutex mutex;
    const auto count = static_cast<int64_t>(samples.size());
    parallel_rows(count, 4096, [&](int64_t begin, int64_t end) {
      std::vector<uint64_t> row(compatibility_.row_words());
      std::vector<Edge> found;
      for (int64_t k = begin; k < end; ++k) {
        // Early samples have the most edges to later ones: in turn with late ones, each part has its share.
        add_edges(k % 2 == 0 ? samples[k / 2] : samples[count - 1 - k / 2], bound, row, found);
      }
      const std::lock_guard lock(mutex);
      all.insert(all.end(), found.begin(), found.end());
    });
    return all;
  }

  // The edges of sample i to later ones.
  void add_edges(int32_t i, uint64_t bound, std::vector<uint64_t>& row, std::vector<Edge>& found) const {
    // Fewer edges of a word are not worth a look at all of its 64.
    constexpr int kFewEdges = 6;
    compatibility_.row(i, row.data());
    row[i / 64] &= ~uint64_t{1} << (i % 64);
    const float estimated_bound = estimate_bound(i, bound);
    for (int64_t w = i / 64; w < compatibility_.row_words(); ++w) {
      uint64_t bits = row[w] & free_[w];
      if (bits == 0) continue;
      if (std::popcount(bits) > kFewEdges) {
        bits &= mining_kernels().cheap_edges(hashes_[i], hashes_.data() + w * 64, estimated_degrees_.data() + w * 64,
                                             estimate(), estimated_bound);
      }
      for (; bits != 0; bits &= bits - 1) {
        const auto j = static_cast<int32_t>(w * 64 + std::countr_zero(bits));
        const uint64_t price = cost(i, j);
        if (price <= bound) found.push_back({price, i, j});
      }
    }
  }

  const Compatibility& compatibility_;
  const std::vector<uint32_t>& hashes_;
  std::vector<uint64_t> degrees_;  // empty unless costs are balanced
  std::vector<float> estimated_degrees_;  // one each unless costs are balanced
  std::vector<uint64_t> free_;
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
    GreedyMatching(compatibility, hashes, static_cast<Strategy>(strategy) == Strategy::kBalanced).run(out);
  }
  return partner;
}

}  // namespace indeed::cpu
