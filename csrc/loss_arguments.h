// What the two loss operators have in common: label words, loss weights, and the loss from its row sums.
#pragma once

#include <vector>

#include "common/options.h"
#include "cpu/row_kernels.h"

namespace indeed {

// No bit beyond class C is set.
inline void require_no_stray_bits(const Tensor& present, int64_t classes) {
  const int64_t words = present.size(1), used = classes % kWordBits;
  if (used == 0) return;
  const int32_t* word = present.const_data_ptr<int32_t>();
  for (int64_t i = 0; i < present.size(0); ++i) {
    require((static_cast<uint32_t>(word[i * words + words - 1]) >> used) == 0,
            "labels: packed words have bits set beyond class ", classes - 1);
  }
}

// present, known: int32 [B, ceil(C / 32)].
inline void require_label_words(const Tensor& present, const std::optional<Tensor>& known, int64_t batch,
                                int64_t classes) {
  const int64_t words = (classes + kWordBits - 1) / kWordBits;
  require_dtype("labels", present, ScalarType::Int);
  require_shape("labels", present, {batch, words});
  if (known.has_value()) {
    require_dtype("labels", *known, ScalarType::Int);
    require_shape("labels", *known, {batch, words});
  }
}

// lam: float64 [2] on the host.
struct LossWeights {
  double identical, disparate;

  explicit LossWeights(const Tensor& lam) {
    require_dtype("lam", lam, ScalarType::Double);
    require_shape("lam", lam, {2});
    const double* values = dense(lam).const_data_ptr<double>();
    identical = values[0];
    disparate = values[1];
  }
};

// What the gradient of a row is multiplied with when the upstream gradient is one.
inline double reduction_scale(Reduction reduction, int64_t rows) {
  return reduction == Reduction::kMean ? 1.0 / static_cast<double>(rows > 0 ? rows : 1) : 1.0;
}

// (loss [] or [R], components [3]) from the sums of every row, added up in row order.
std::tuple<Tensor, Tensor> finish_loss(const std::vector<cpu::RowSums>& sums, const LossWeights& lam,
                                       Reduction reduction, const Tensor& like, ScalarType dtype);

}  // namespace indeed
