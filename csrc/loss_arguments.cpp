#include "loss_arguments.h"

namespace indeed {
namespace {

template <typename T>
void write_loss(const std::vector<cpu::RowSums>& sums, const LossWeights& lam, Reduction reduction, Tensor& loss,
                Tensor& components) {
  double parts[3] = {0, 0, 0}, total = 0;
  T* out = loss.mutable_data_ptr<T>();
  for (size_t row = 0; row < sums.size(); ++row) {
    const cpu::RowSums& s = sums[row];
    const double value = s.original + lam.identical * s.identical + lam.disparate * s.disparate;
    if (reduction == Reduction::kNone) out[row] = static_cast<T>(value);
    total += value;
    parts[0] += s.original;
    parts[1] += s.identical;
    parts[2] += s.disparate;
  }
  const double scale = reduction_scale(reduction, static_cast<int64_t>(sums.size()));
  if (reduction != Reduction::kNone) out[0] = static_cast<T>(total * scale);
  T* component = components.mutable_data_ptr<T>();
  for (int part = 0; part < 3; ++part) component[part] = static_cast<T>(parts[part] * scale);
}

}  // namespace

std::tuple<Tensor, Tensor> finish_loss(const std::vector<cpu::RowSums>& sums, const LossWeights& lam,
                                       Reduction reduction, const Tensor& like, ScalarType dtype) {
  Tensor loss = reduction == Reduction::kNone ? empty_like_type(like, {static_cast<int64_t>(sums.size())}, dtype)
                                              : empty_like_type(like, {}, dtype);
  Tensor components = empty_like_type(like, {3}, dtype);
  if (dtype == ScalarType::Double) {
    write_loss<double>(sums, lam, reduction, loss, components);
  } else {
    write_loss<float>(sums, lam, reduction, loss, components);
  }
  return {loss, components};
}

}  // namespace indeed
