// Types of the matrix products on a GPU: operands in the type of the features, sums in at least float32.
#pragma once

#include <type_traits>

#include "operators/arguments.h"

namespace indeed::cuda {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

// What sums and logits of such operands are held in.
template <typename Operand>
using SumOf = std::conditional_t<std::is_same_v<Operand, double>, double, float>;

// What gradients are written in; see saved_grad_type.
template <typename Operand>
using GradientOf = std::conditional_t<std::is_same_v<Operand, Half>, float, Operand>;

// Calls `use` with a value of the operand type; T is that of the sums.
template <typename T, typename Use>
void with_operand(ScalarType type, Use use) {
  if constexpr (std::is_same_v<T, float>) {
    if (type == ScalarType::Half) return use(Half{});
    if (type == ScalarType::BFloat16) return use(BFloat16{});
  }
  use(T{});
}

}  // namespace indeed::cuda
