// The blocks of eq. (5) as an operator of their own, for classifiers that are not linear.
#include "common/options.h"
#include "cpu/row_kernels.h"
#include "operators.h"
#include "parallel.h"

namespace indeed {
namespace {

template <typename T>
std::tuple<Tensor, Tensor> forward(const Tensor& features, const DirectedRows& rows, bool minmax, double eps,
                                   std::vector<MapStatistics<T>>& statistics) {
  const int64_t width = features.size(1);
  Tensor identical = empty_like_type(features, {rows.count(), width}, features.scalar_type());
  Tensor disparate = empty_like_type(features, {rows.count(), width}, features.scalar_type());
  statistics.resize(rows.count());
  parallel_rows(rows.count(), width, [&](int64_t begin, int64_t end) {
    cpu::row_kernels<T>().form_rows(features.const_data_ptr<T>(), width, rows.view(), minmax, eps, begin, end,
                                    identical.mutable_data_ptr<T>(), disparate.mutable_data_ptr<T>(),
                                    statistics.data());
  });
  return {identical, disparate};
}

template <typename T>
Tensor backward(const Tensor& grad_identical, const Tensor& grad_disparate, const Tensor& features,
                const DirectedRows& rows, bool minmax, double eps) {
  const int64_t batch = features.size(0), width = features.size(1);
  std::vector<MapStatistics<T>> statistics;
  const auto [identical, unused] = forward<T>(features, rows, minmax, eps, statistics);
  // ∂I = m f and ∂D = (1 - m) f meet the map as T = ∂I - ∂D, and the source as m T + ∂D.
  const Tensor map_gradient = torch::stable::subtract(grad_identical, grad_disparate);
  std::vector<cpu::RowSums> sums(rows.count());
  parallel_rows(rows.count(), width, [&](int64_t begin, int64_t end) {
    cpu::row_kernels<T>().map_dots(features.const_data_ptr<T>(), identical.template const_data_ptr<T>(),
                                   map_gradient.const_data_ptr<T>(), width, rows.view(), begin, end, sums.data());
  });
  Tensor gradient = empty_like_type(features, {batch, width}, features.scalar_type());
  const cpu::MapBackward<T> task{width,
                                 minmax,
                                 features.const_data_ptr<T>(),
                                 map_gradient.const_data_ptr<T>(),
                                 nullptr,
                                 grad_disparate.const_data_ptr<T>(),
                                 width,
                                 width,
                                 statistics.data(),
                                 sums.data(),
                                 gradient.mutable_data_ptr<T>()};
  parallel_rows(batch, width, [&](int64_t begin, int64_t end) {
    cpu::row_kernels<T>().map_backward(task, rows.view(), begin, end);
  });
  return gradient;
}

bool is_minmax(int64_t norm) { return static_cast<Norm>(norm) == Norm::kMinmax; }

}  // namespace

std::tuple<Tensor, Tensor> identical_disparate(Tensor features, Tensor pairs, int64_t norm, double eps) {
  require(features.dim() == 2, "features: expected 2 dimensions, got ", features.dim());
  const ScalarType type = features.scalar_type();
  const ScalarType dtype = computation_type(accumulation_type("features", type), features.size(1));
  const DirectedRows rows(pairs, features.size(0));
  const Tensor wide = as_type(features, dtype);
  std::vector<MapStatistics<double>> double_statistics;
  std::vector<MapStatistics<float>> float_statistics;
  const auto [identical, disparate] = dtype == ScalarType::Double
                                          ? forward<double>(wide, rows, is_minmax(norm), eps, double_statistics)
                                          : forward<float>(wide, rows, is_minmax(norm), eps, float_statistics);
  return {as_type(identical, type), as_type(disparate, type)};
}

Tensor identical_disparate_backward(Tensor grad_identical, Tensor grad_disparate, Tensor features, Tensor pairs,
                                    int64_t norm, double eps) {
  require(features.dim() == 2, "features: expected 2 dimensions, got ", features.dim());
  const ScalarType type = features.scalar_type();
  const ScalarType dtype = computation_type(accumulation_type("features", type), features.size(1));
  const DirectedRows rows(pairs, features.size(0));
  require_shape("grad_identical", grad_identical, {rows.count(), features.size(1)});
  require_shape("grad_disparate", grad_disparate, {rows.count(), features.size(1)});
  const Tensor wide = as_type(features, dtype);
  const Tensor identical = as_type(grad_identical, dtype), disparate = as_type(grad_disparate, dtype);
  const Tensor gradient = dtype == ScalarType::Double
                              ? backward<double>(identical, disparate, wide, rows, is_minmax(norm), eps)
                              : backward<float>(identical, disparate, wide, rows, is_minmax(norm), eps);
  return as_type(gradient, type);
}

}  // namespace indeed
