// Checks and accessors for operator arguments. A failed check is std::invalid_argument, Python's ValueError.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <sstream>
#include <stdexcept>

namespace indeed {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

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

inline void require_dtype(const char* name, const Tensor& tensor, ScalarType dtype) {
  require(tensor.scalar_type() == dtype, name, ": unexpected dtype");
}

inline Tensor dense(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

inline Tensor as_type(const Tensor& tensor, ScalarType dtype) {
  return tensor.scalar_type() == dtype ? dense(tensor) : dense(torch::stable::to(tensor, dtype));
}

// The type sums are held in: float32 for half types, the type itself otherwise.
inline ScalarType accumulation_type(const char* name, ScalarType dtype) {
  if (dtype == ScalarType::Half || dtype == ScalarType::BFloat16) return ScalarType::Float;
  require(dtype == ScalarType::Float || dtype == ScalarType::Double, name,
          ": expected float32, float64, bfloat16 or float16");
  return dtype;
}

// The type rows of this width are computed in. The gradient through the map of a very narrow row cancels almost wholly
// (at n = 1 to nothing) before it is scaled by 1 / range; in float32 what is left would be rounding. Double costs next
// to nothing there.
inline ScalarType computation_type(ScalarType accumulation, int64_t width) {
  constexpr int64_t kNarrowWidth = 16;
  return width < kNarrowWidth ? ScalarType::Double : accumulation;
}

inline Tensor empty_like_type(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType dtype) {
  return torch::stable::new_empty(like, torch::headeronly::IntHeaderOnlyArrayRef(sizes.begin(), sizes.size()), dtype);
}

}  // namespace indeed
