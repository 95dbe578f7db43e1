#include "cpu/row_index.h"

#include <numeric>

namespace indeed::cpu {
namespace {

// Rows grouped by the sample `key` names, in ascending order within a group (a counting sort).
void group(const std::vector<int64_t>& key, int64_t batch, std::vector<int64_t>& begin, std::vector<int64_t>& rows) {
  begin.assign(batch + 1, 0);
  for (int64_t sample : key) ++begin[sample + 1];
  std::partial_sum(begin.begin(), begin.end(), begin.begin());
  rows.resize(key.size());
  std::vector<int64_t> next(begin.begin(), begin.end() - 1);
  for (size_t row = 0; row < key.size(); ++row) rows[next[key[row]]++] = static_cast<int64_t>(row);
}

}  // namespace

RowIndex::RowIndex(const Tensor& pairs_tensor, int64_t batch) {
  const int64_t entries = require_pairs(pairs_tensor, batch);
  const bool list = pairs_tensor.dim() == 2;
  const Tensor pairs = to_contiguous(pairs_tensor);
  const int64_t* index = pairs.const_data_ptr<int64_t>();
  for (int64_t k = 0; k < entries; ++k) {
    require(index[k] >= 0 && index[k] < batch, "pairs: expected indices in [0, ", batch, "), got ", index[k]);
  }
  source_.resize(entries);
  partner_.resize(entries);
  reverse_row_.resize(entries);
  if (list) {
    const int64_t half = entries / 2;
    for (int64_t p = 0; p < half; ++p) {
      source_[p] = partner_[p + half] = index[2 * p];
      partner_[p] = source_[p + half] = index[2 * p + 1];
      reverse_row_[p] = p + half;
      reverse_row_[p + half] = p;
    }
  } else {
    std::iota(source_.begin(), source_.end(), 0);
    partner_.assign(index, index + entries);
    for (int64_t i = 0; i < entries; ++i) reverse_row_[i] = index[index[i]] == i ? index[i] : -1;
  }
  group(source_, batch, own_begin_, own_);
}

RowView RowIndex::view() const {
  return {count(), source_.data(), partner_.data(), reverse_row_.data(), own_begin_.data(), own_.data(), nullptr, nullptr};
}

}  // namespace indeed::cpu
