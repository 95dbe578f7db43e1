// The shape contracts of the operators, the same on every device. A failed check is std::invalid_argument, which is
// Python's ValueError; what users see first are the checks of indeed_ext/validation.py.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <optional>
#include <sstream>
#include <stdexcept>

#include "common/options.h"
#include "common/row_tasks.h"

namespace indeed {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

template <typename... Parts>
void require(bool condition, const Parts&... parts) {
  if (condition) [[likely]]
    return;
  std::ostringstream message;
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

inline void require_shape(const char* name, const Tensor& tensor, std::initializer_list<int64_t> expected) {
  bool same = tensor.dim() == static_cast<int64_t>(expected.size());
  int64_t axis = 0;
  for (int64_t size : expected) same = same && tensor.size(axis++) == size;
  if (same) [[likely]]
    return;
  std::ostringstream message;
  message << name << ": expected shape (";
  for (int64_t size : expected) message << size << ", ";
  message << "), got (";
  for (int64_t i = 0; i < tensor.dim(); ++i) message << tensor.size(i) << ", ";
  message << ")";
  throw std::invalid_argument(message.str());
}

inline void require_matrix(const char* name, const Tensor& tensor) {
  require(tensor.dim() == 2, name, ": expected 2 dimensions, got ", tensor.dim());
}

inline void require_dtype(const char* name, const Tensor& tensor, ScalarType dtype) {
  require(tensor.scalar_type() == dtype, name, ": unexpected dtype");
}

inline Tensor to_contiguous(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

inline OptionalTensor to_contiguous(const OptionalTensor& tensor) {
  return tensor.has_value() ? OptionalTensor(to_contiguous(*tensor)) : std::nullopt;
}

inline Tensor as_type(const Tensor& tensor, ScalarType dtype) {
  return tensor.scalar_type() == dtype ? to_contiguous(tensor) : to_contiguous(torch::stable::to(tensor, dtype));
}

inline OptionalTensor as_type(const OptionalTensor& tensor, ScalarType dtype) {
  return tensor.has_value() ? OptionalTensor(as_type(*tensor, dtype)) : std::nullopt;
}

// The type sums are held in: float32 for half types, the type itself otherwise.
inline ScalarType accumulation_type(const char* name, ScalarType dtype) {
  if (dtype == ScalarType::Half || dtype == ScalarType::BFloat16) return ScalarType::Float;
  require(dtype == ScalarType::Float || dtype == ScalarType::Double, name,
          ": expected float32, float64, bfloat16 or float16");
  return dtype;
}

// The type rows of this width are computed in. The gradient through the map of a very narrow row cancels almost wholly
// (at n = 1 to nothing) before it is divided by the range; in float32 what is left would be rounding. Double costs next
// to nothing there.
inline ScalarType computation_type(ScalarType accumulation, int64_t width) {
  return width < kNarrowWidth ? ScalarType::Double : accumulation;
}

// The type in which gradients made in the forward are saved for the backward: the loss scale that keeps those of
// float16 in range is part of the upstream gradient, which comes later.
inline ScalarType saved_grad_type(ScalarType type) { return type == ScalarType::Half ? ScalarType::Float : type; }

// Of at most two dimensions. By the C function, as new_empty goes through the dispatcher by the operator's name.
inline Tensor empty_like_type(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType dtype) {
  const std::array<int64_t, 2> strides{sizes.size() == 2 ? std::max<int64_t>(sizes.begin()[1], 1) : 1, 1};
  const torch::stable::Device device = like.device();
  const auto code = [](auto value) { return torch::stable::detail::to<int32_t>(torch::stable::detail::from(value)); };
  AtenTensorHandle made = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.begin(), strides.data(),
                                                  code(dtype), code(device.type()), device.index(), &made));
  return Tensor(made);
}

template <typename T>
const T* optional_data(const OptionalTensor& tensor) {
  return tensor.has_value() ? tensor->const_data_ptr<T>() : nullptr;
}

inline bool is_minmax(int64_t norm) { return static_cast<Norm>(norm) == Norm::kMinmax; }

// ------------------------------------------------------------------------------ labels and pairs

inline int64_t label_word_count(int64_t classes) { return (classes + kWordBits - 1) / kWordBits; }

// positive_bits, valid_bits: int32 [B, ceil(C / 32)].
inline void require_label_words(const Tensor& positive_bits, const OptionalTensor& valid_bits, int64_t batch,
                                int64_t classes) {
  require_dtype("labels", positive_bits, ScalarType::Int);
  require_shape("labels", positive_bits, {batch, label_word_count(classes)});
  if (!valid_bits.has_value()) return;
  require_dtype("labels", *valid_bits, ScalarType::Int);
  require_shape("labels", *valid_bits, {batch, label_word_count(classes)});
}

inline const uint32_t* label_words(const Tensor& words) {
  return reinterpret_cast<const uint32_t*>(words.const_data_ptr<int32_t>());
}

inline const uint32_t* label_words(const OptionalTensor& words) {
  return words.has_value() ? label_words(*words) : nullptr;
}

// Directed rows that pairs int64 [B] or [P, 2] stand for.
inline int64_t require_pairs(const Tensor& pairs, int64_t batch) {
  require_dtype("pairs", pairs, ScalarType::Long);
  if (pairs.dim() == 2) {
    require_shape("pairs", pairs, {pairs.size(0), 2});
  } else {
    require_shape("pairs", pairs, {batch});
  }
  return pairs.numel();
}

// positive_bits int32 [B, W], seed int64 [].
inline void require_mining_arguments(const Tensor& positive_bits, const Tensor& seed, int64_t strategy) {
  require_matrix("labels", positive_bits);
  require_dtype("labels", positive_bits, ScalarType::Int);
  require_dtype("seed", seed, ScalarType::Long);
  require(seed.numel() == 1, "seed: expected one value, got ", seed.numel());
  require(strategy >= 0 && strategy <= static_cast<int64_t>(Strategy::kBalanced), "strategy: unknown code ", strategy);
  require(positive_bits.size(0) <= INT32_MAX, "labels: expected fewer than 2**31 rows, got ", positive_bits.size(0));
}

// --------------------------------------------------------------------------------------- the loss

// lam: float64 [2] on the device of the features, in place of the numbers.
inline LossWeights loss_weights(double identical, double disparate, const OptionalTensor& lam) {
  if (!lam.has_value()) return {identical, disparate, nullptr};
  require_dtype("lam", *lam, ScalarType::Double);
  require_shape("lam", *lam, {2});
  require(lam->is_contiguous(), "lam: expected a contiguous tensor");
  return {identical, disparate, lam->const_data_ptr<double>()};
}

// What the gradient of a row is multiplied with when the upstream gradient is one.
inline double reduction_scale(Reduction reduction, int64_t rows) {
  return reduction == Reduction::kMean ? 1.0 / static_cast<double>(rows > 0 ? rows : 1) : 1.0;
}

// What is left to sum when the cross-entropies of a class chunk are there: the bias gradient of its classes and, after
// the last chunk, the loss.
template <typename T>
struct Reductions {
  BiasSums<T> bias;
  const Tensor* grad_bias;  // [C] or null
  LossSums sums;
  const Tensor* loss;  // [] or [R], or null
  const Tensor* components;
};

// Uninitialised (loss [] or [R], components [3]).
inline std::tuple<Tensor, Tensor> empty_loss(Reduction reduction, int64_t rows, const Tensor& like, ScalarType dtype) {
  Tensor loss =
      reduction == Reduction::kNone ? empty_like_type(like, {rows}, dtype) : empty_like_type(like, {}, dtype);
  return {loss, empty_like_type(like, {3}, dtype)};
}

}  // namespace indeed
