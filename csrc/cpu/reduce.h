// The end of a class chunk, in a fixed order: the bias gradient from its partial sums, the loss from those of the rows.
#pragma once

#include <algorithm>

#include "operators/arguments.h"

namespace indeed::cpu {

template <typename T, typename Out>
void reduce_bias(const BiasSums<T>& task, Out* out) {
  constexpr int64_t kBlock = 64;
  for (int64_t first = 0; first < task.classes; first += kBlock) {
    const int64_t count = std::min(kBlock, task.classes - first);
    T sum[kBlock]{};
    for (int64_t group = 0; group < task.groups; ++group) {
      for (int64_t c = 0; c < count; ++c) sum[c] += task.partials[group * task.classes + first + c];
    }
    std::copy(sum, sum + count, out + first);
  }
}

template <typename T>
void reduce_loss(const LossSums& task, int64_t rows, T* loss, T* components) {
  const Reduction reduction = static_cast<Reduction>(task.reduction);
  double parts[3] = {0, 0, 0}, total = 0;
  for (int64_t row = 0; row < rows; ++row) {
    const RowSums& s = task.sums[row];
    const double value = row_loss(s, task.lam);
    if (reduction == Reduction::kNone) loss[row] = static_cast<T>(value);
    total += value;
    parts[0] += s.original;
    parts[1] += s.identical;
    parts[2] += s.disparate;
  }
  const double scale = reduction_scale(reduction, rows);
  if (reduction != Reduction::kNone) loss[0] = static_cast<T>(total * scale);
  for (int part = 0; part < 3; ++part) components[part] = static_cast<T>(parts[part] * scale);
}

template <typename T>
void reduce(const Reductions<T>& task, int64_t rows) {
  if (task.grad_bias != nullptr) {
    void* out = task.grad_bias->mutable_data_ptr();
    if (task.grad_bias->scalar_type() == ScalarType::BFloat16) {
      reduce_bias(task.bias, static_cast<torch::headeronly::BFloat16*>(out) + task.bias.first_class);
    } else {
      reduce_bias(task.bias, static_cast<T*>(out) + task.bias.first_class);
    }
  }
  if (task.loss == nullptr) return;
  reduce_loss(task.sums, rows, static_cast<T*>(task.loss->mutable_data_ptr()), static_cast<T*>(task.components->mutable_data_ptr()));
}

}  // namespace indeed::cpu
