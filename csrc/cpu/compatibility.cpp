#include "cpu/compatibility.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "common/hash.h"

namespace indeed::cpu {
namespace {

// Gives the sets that have more members than the batch has words their bits.
void add_masks(SampleSets& sets, int64_t row_words) {
  const int64_t count = static_cast<int64_t>(sets.begin.size()) - 1;
  sets.mask_of.assign(count, -1);
  int64_t masks = 0;
  for (int64_t s = 0; s < count; ++s) {
    if (sets.begin[s + 1] - sets.begin[s] > row_words) sets.mask_of[s] = masks++;
  }
  sets.masks.assign(masks * row_words, 0);
  for (int64_t s = 0; s < count; ++s) {
    if (sets.mask_of[s] < 0) continue;
    uint64_t* mask = sets.masks.data() + sets.mask_of[s] * row_words;
    for (int64_t k = sets.begin[s]; k < sets.begin[s + 1]; ++k) {
      mask[sets.members[k] / 64] |= uint64_t{1} << (sets.members[k] % 64);
    }
  }
}

// Combines a set into a row: union where `add`, difference otherwise.
void combine(const SampleSets& sets, int64_t set, int64_t row_words, bool add, uint64_t* out) {
  if (sets.mask_of[set] >= 0) {
    const uint64_t* mask = sets.masks.data() + sets.mask_of[set] * row_words;
    for (int64_t w = 0; w < row_words; ++w) out[w] = add ? out[w] | mask[w] : out[w] & ~mask[w];
    return;
  }
  for (int64_t k = sets.begin[set]; k < sets.begin[set + 1]; ++k) {
    const uint64_t bit = uint64_t{1} << (sets.members[k] % 64);
    uint64_t& word = out[sets.members[k] / 64];
    word = add ? word | bit : word & ~bit;
  }
}

}  // namespace

Compatibility::Compatibility(const uint32_t* words, int64_t batch, int64_t words_per_row)
    : words_(words), batch_(batch), words_per_row_(words_per_row), row_words_((batch + 63) / 64) {
  collect_classes();
  group_equal_rows();
}

void Compatibility::collect_classes() {
  class_begin_.assign(batch_ + 1, 0);
  std::vector<int64_t> members(words_per_row_ * kWordBits + 1, 0);
  for (int64_t i = 0; i < batch_; ++i) {
    for (int64_t w = 0; w < words_per_row_; ++w) {
      for (uint32_t bits = words_[i * words_per_row_ + w]; bits != 0; bits &= bits - 1) {
        const int64_t c = w * kWordBits + __builtin_ctz(bits);
        classes_.push_back(static_cast<int32_t>(c));
        ++members[c + 1];
      }
    }
    class_begin_[i + 1] = static_cast<int64_t>(classes_.size());
  }
  std::partial_sum(members.begin(), members.end(), members.begin());
  by_class_.begin = members;
  by_class_.members.resize(classes_.size());
  for (int64_t i = 0; i < batch_; ++i) {
    for (int64_t k = class_begin_[i]; k < class_begin_[i + 1]; ++k) {
      by_class_.members[members[classes_[k]]++] = static_cast<int32_t>(i);
    }
  }
  add_masks(by_class_, row_words_);
}

void Compatibility::group_equal_rows() {
  const auto classes_of = [&](int32_t i) {
    return std::pair{classes_.begin() + class_begin_[i], classes_.begin() + class_begin_[i + 1]};
  };
  // Any order serves that puts equal label sets together. Lists are compared only where their hashes are equal.
  std::vector<uint32_t> hash(batch_, 0);
  for (int64_t i = 0; i < batch_; ++i) {
    for (auto [c, last] = classes_of(i); c != last; ++c) hash[i] = mix(hash[i] + static_cast<uint32_t>(*c) + 1u);
  }
  by_group_.members.resize(batch_);
  std::iota(by_group_.members.begin(), by_group_.members.end(), 0);
  std::sort(by_group_.members.begin(), by_group_.members.end(), [&](int32_t a, int32_t b) {
    if (hash[a] != hash[b]) return hash[a] < hash[b];
    const auto [a_begin, a_end] = classes_of(a);
    const auto [b_begin, b_end] = classes_of(b);
    return std::lexicographical_compare(a_begin, a_end, b_begin, b_end);
  });
  group_.resize(batch_);
  for (int64_t k = 0; k < batch_; ++k) {
    const int32_t sample = by_group_.members[k];
    bool fresh = k == 0 || hash[by_group_.members[k - 1]] != hash[sample];
    if (!fresh) {
      const auto [a_begin, a_end] = classes_of(by_group_.members[k - 1]);
      const auto [b_begin, b_end] = classes_of(sample);
      fresh = !std::equal(a_begin, a_end, b_begin, b_end);
    }
    if (fresh) by_group_.begin.push_back(k);
    group_[sample] = static_cast<int32_t>(by_group_.begin.size()) - 1;
  }
  by_group_.begin.push_back(batch_);
  add_masks(by_group_, row_words_);
}

bool Compatibility::compatible(int64_t i, int64_t j) const {
  if (group_[i] == group_[j]) return false;
  const uint32_t* other = words_ + j * words_per_row_;
  for (int64_t k = class_begin_[i]; k < class_begin_[i + 1]; ++k) {
    const int32_t c = classes_[k];
    if ((other[c / kWordBits] >> (c % kWordBits)) & 1u) return true;
  }
  return false;
}

void Compatibility::row(int64_t i, uint64_t* out) const {
  std::memset(out, 0, row_words_ * sizeof(uint64_t));
  for (int64_t k = class_begin_[i]; k < class_begin_[i + 1]; ++k) {
    combine(by_class_, classes_[k], row_words_, true, out);
  }
  combine(by_group_, group_[i], row_words_, false, out);
}

}  // namespace indeed::cpu
