// Identical and disparate features, eqs. (3) to (5), as an operator of their own, for classifiers that are not linear.
#pragma once

#include <tuple>

#include "operators/arguments.h"

namespace indeed {

template <typename T, typename Device>
std::tuple<Tensor, Tensor> form_rows(const Device& device, const Tensor& features, const typename Device::Rows& rows,
                                       bool minmax, double eps) {
  const int64_t width = features.size(1);
  Tensor identical = empty_like_type(features, {rows.count(), width}, features.scalar_type());
  Tensor disparate = empty_like_type(features, {rows.count(), width}, features.scalar_type());
  typename Device::Scratch scratch(features, Device::Scratch::template bytes_of<MapStatistics<T>>(rows.count()));
  device.template form_rows<T>(features.const_data_ptr<T>(), width, rows, minmax, eps, identical.mutable_data_ptr<T>(),
                               disparate.mutable_data_ptr<T>(), scratch.template take<MapStatistics<T>>(rows.count()));
  return {identical, disparate};
}

template <typename T, typename Device>
Tensor rows_backward(const Device& device, const Tensor& grad_identical, const Tensor& grad_disparate,
                       const Tensor& features, const typename Device::Rows& rows, bool minmax, double eps) {
  using Scratch = typename Device::Scratch;
  const int64_t batch = features.size(0), width = features.size(1);
  Scratch scratch(features, Scratch::template bytes_of<MapStatistics<T>>(rows.count()) +
                                Scratch::template bytes_of<RowSums>(rows.count()) +
                                Scratch::template bytes_of<T>(rows.count() * width));
  auto* statistics = scratch.template take<MapStatistics<T>>(rows.count());
  auto* sums = scratch.template take<RowSums>(rows.count());
  T* identical = scratch.template take<T>(rows.count() * width);
  const T* data = features.const_data_ptr<T>();
  device.template form_rows<T>(data, width, rows, minmax, eps, identical, nullptr, statistics);
  // ∂I = m f and ∂D = (1 - m) f meet the map as T = ∂I - ∂D, and the source as m T + ∂D.
  const Tensor map_gradient = torch::stable::subtract(grad_identical, grad_disparate);
  const T* map_gradient_data = map_gradient.const_data_ptr<T>();
  device.map_dots(data, static_cast<const T*>(identical), map_gradient_data, width, rows, sums);
  Tensor gradient = empty_like_type(features, {batch, width}, features.scalar_type());
  const MapBackward<T> task{
      width, minmax, data, map_gradient_data, nullptr, grad_disparate.const_data_ptr<T>(), statistics, sums, width,
      width};
  device.map_backward(task, rows, batch, gradient);
  return gradient;
}

// features [B, n], pairs [B] or [P, 2] -> identical and disparate features [R, n].
template <typename Device>
std::tuple<Tensor, Tensor> identical_disparate(Tensor features, Tensor pairs, int64_t norm, double eps) {
  require_matrix("features", features);
  const ScalarType type = features.scalar_type();
  const ScalarType dtype = computation_type(accumulation_type("features", type), features.size(1));
  const Device device(features);
  const typename Device::Rows rows(device, pairs, features.size(0));
  rows.index(device);
  const Tensor wide = as_type(features, dtype);
  const auto [identical, disparate] = dtype == ScalarType::Double
                                          ? form_rows<double>(device, wide, rows, is_minmax(norm), eps)
                                          : form_rows<float>(device, wide, rows, is_minmax(norm), eps);
  return {as_type(identical, type), as_type(disparate, type)};
}

template <typename Device>
Tensor identical_disparate_backward(Tensor grad_identical, Tensor grad_disparate, Tensor features, Tensor pairs,
                                    int64_t norm, double eps) {
  require_matrix("features", features);
  const ScalarType type = features.scalar_type();
  const ScalarType dtype = computation_type(accumulation_type("features", type), features.size(1));
  const Device device(features);
  device.require_same("grad_identical", grad_identical);
  device.require_same("grad_disparate", grad_disparate);
  const typename Device::Rows rows(device, pairs, features.size(0));
  rows.index(device);
  require_shape("grad_identical", grad_identical, {rows.count(), features.size(1)});
  require_shape("grad_disparate", grad_disparate, {rows.count(), features.size(1)});
  const Tensor wide = as_type(features, dtype);
  const Tensor identical = as_type(grad_identical, dtype), disparate = as_type(grad_disparate, dtype);
  const Tensor gradient =
      dtype == ScalarType::Double
          ? rows_backward<double>(device, identical, disparate, wide, rows, is_minmax(norm), eps)
          : rows_backward<float>(device, identical, disparate, wide, rows, is_minmax(norm), eps);
  return as_type(gradient, type);
}

}  // namespace indeed
