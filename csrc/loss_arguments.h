// What the two loss operators have in common: label words, loss weights, the scale of the reduction.
#pragma once

#include <vector>

#include "arguments.h"
#include "common/options.h"
#include "common/row_tasks.h"

namespace indeed {

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

inline const uint32_t* label_words(const Tensor& words) {
  return reinterpret_cast<const uint32_t*>(words.const_data_ptr<int32_t>());
}

inline const uint32_t* label_words(const std::optional<Tensor>& words) {
  return words.has_value() ? label_words(*words) : nullptr;
}

// lam: float64 [2] on the device of the features; on a GPU its values are known to kernels only.
inline Tensor require_loss_weights(const Tensor& lam) {
  require_dtype("lam", lam, ScalarType::Double);
  require_shape("lam", lam, {2});
  return dense(lam);
}

// What the gradient of a row is multiplied with when the upstream gradient is one.
inline double reduction_scale(Reduction reduction, int64_t rows) {
  return reduction == Reduction::kMean ? 1.0 / static_cast<double>(rows > 0 ? rows : 1) : 1.0;
}

// Uninitialised (loss [] or [R], components [3]).
inline std::tuple<Tensor, Tensor> empty_loss(Reduction reduction, int64_t rows, const Tensor& like, ScalarType dtype) {
  Tensor loss =
      reduction == Reduction::kNone ? empty_like_type(like, {rows}, dtype) : empty_like_type(like, {}, dtype);
  return {loss, empty_like_type(like, {3}, dtype)};
}

template <typename T>
const T* optional_data(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? tensor->const_data_ptr<T>() : nullptr;
}

}  // namespace indeed
