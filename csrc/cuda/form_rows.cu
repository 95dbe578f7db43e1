// Identical features of every row and the statistics of their maps; for the fused loss also the copy of the features
// above them and the index of the rows, as all of these need only features and pairs.
#include <limits>
#include <type_traits>

#include "cuda/device.h"
#include "cuda/lanes.h"
#include "cuda/reduce.h"
#include "cuda/row_index.h"

namespace indeed::cuda {
namespace {

constexpr int kThreads = 256;

template <typename In, typename T>
struct FormTask {
  const In* features;  // [B, n]
  int64_t width;
  int64_t copied;  // samples copied into the stack: B, or 0
  bool minmax;
  double eps;
  T* stack;      // [copied, n]
  T* identical;  // [R, n]
  T* disparate;  // [R, n] or null
  MapStatistics<T>* statistics;
};

// By one block; every thread gets the result.
template <typename T, int kLanes, typename In>
__device__ MapStatistics<T> map_statistics(const FormTask<In, T>& task, const In* source, const In* partner,
                                           double* shared) {
  const auto for_each_u = [&](auto visit) {
    const int64_t step = static_cast<int64_t>(blockDim.x) * kLanes;
    for (int64_t k = static_cast<int64_t>(threadIdx.x) * kLanes; k < task.width; k += step) {
      const Lanes<In, kLanes> s = load_lanes<kLanes>(source + k), p = load_lanes<kLanes>(partner + k);
      INDEED_UNROLL
      for (int l = 0; l < kLanes; ++l) visit(static_cast<T>(s.lane[l]) * static_cast<T>(p.lane[l]));
    }
  };
  const auto reduce = [&](T value, auto combine) {
    return static_cast<T>(block_reduce(static_cast<double>(value), combine, shared));
  };
  T low = std::numeric_limits<T>::infinity(), high = -low;
  if (!task.minmax) {
    T sum = 0;
    for_each_u([&](T u) { sum += u * u; });
    sum = reduce(sum, Sum{});
    T norm = std::sqrt(sum);
    if (!is_accurate_square_sum(sum) && sum == sum) {
      T largest = 0;
      for_each_u([&](T u) { largest = std::abs(u) > largest ? std::abs(u) : largest; });
      largest = reduce(largest, Greatest{});
      T scaled = 0;
      for_each_u([&](T u) { scaled += u / largest * (u / largest); });
      scaled = reduce(scaled, Sum{});
      if (largest > T(0) && largest < low) norm = largest * std::sqrt(scaled);
    }
    return l2_statistics(norm, task.eps);
  }
  T nan = 0;  // the sum of all NaN, which would vanish in comparisons
  for_each_u([&](T u) {
    low = u < low ? u : low;
    high = u > high ? u : high;
    nan += u == u ? T(0) : u;
  });
  nan = reduce(nan, Sum{});
  low = reduce(low, Least{}) + nan;
  high = reduce(high, Greatest{}) + nan;
  int low_count = 0, high_count = 0;
  for_each_u([&](T u) {
    low_count += u == low ? 1 : 0;
    high_count += u == high ? 1 : 0;
  });
  const auto total = [&](int count) { return static_cast<int64_t>(block_reduce(double(count), Sum{}, shared)); };
  const int64_t all_low = total(low_count), all_high = total(high_count);
  return minmax_statistics(low, high, all_low, all_high, task.eps);
}

template <typename T, int kLanes, typename In>
__device__ void form_row(const FormTask<In, T>& task, const PairView& pairs, int64_t row, double* shared) {
  const int64_t first = static_cast<int64_t>(threadIdx.x) * kLanes, step = static_cast<int64_t>(blockDim.x) * kLanes;
  T* identical = task.identical + row * task.width;
  T* disparate = task.disparate != nullptr ? task.disparate + row * task.width : nullptr;
  if (!is_valid(pairs, row)) {
    for (int64_t k = threadIdx.x; k < task.width; k += blockDim.x) {
      identical[k] = std::numeric_limits<T>::quiet_NaN();
      if (disparate != nullptr) disparate[k] = identical[k];
    }
    return;
  }
  const In* source = task.features + source_of(pairs, row) * task.width;
  const In* partner = task.features + partner_of(pairs, row) * task.width;
  const MapStatistics<T> s = map_statistics<T, kLanes>(task, source, partner, shared);
  if (threadIdx.x == 0) task.statistics[row] = s;
  for (int64_t k = first; k < task.width; k += step) {
    const Lanes<In, kLanes> f = load_lanes<kLanes>(source + k), p = load_lanes<kLanes>(partner + k);
    Lanes<T, kLanes> same, rest;
    INDEED_UNROLL
    for (int l = 0; l < kLanes; ++l) {
      const T own = static_cast<T>(f.lane[l]);
      same.lane[l] = map_value(own * static_cast<T>(p.lane[l]), s) * own;
      rest.lane[l] = own - same.lane[l];
    }
    store_lanes(identical + k, same);
    if (disparate != nullptr) store_lanes(disparate + k, rest);
  }
}

// Blocks [0, copied): copy a sample and index its rows. Further blocks: form a row each.
template <typename In, typename T, int kLanes>
__global__ void __launch_bounds__(kThreads, 4) form_rows_kernel(FormTask<In, T> task, PairView pairs, RowIndex index) {
  INDEED_SHARED(double, shared, kMaxWarps);
  const int64_t block = blockIdx.x;
  if (block >= task.copied) {
    form_row<T, kLanes>(task, pairs, block - task.copied, shared);
    return;
  }
  if (warp_index() == 0) index_sample(pairs, index, block);
  if (block == 0 && warp_index() == warp_count() - 1) index_sample(pairs, index, pairs.batch);
  for (int64_t row = block * blockDim.x + threadIdx.x; row < pairs.count; row += task.copied * blockDim.x) {
    index_row(pairs, index, row);
  }
  const int64_t step = static_cast<int64_t>(blockDim.x) * kLanes;
  for (int64_t k = static_cast<int64_t>(threadIdx.x) * kLanes; k < task.width; k += step) {
    const Lanes<In, kLanes> f = load_lanes<kLanes>(task.features + block * task.width + k);
    Lanes<T, kLanes> wide;
    INDEED_UNROLL
    for (int l = 0; l < kLanes; ++l) wide.lane[l] = static_cast<T>(f.lane[l]);
    store_lanes(task.stack + block * task.width + k, wide);
  }
}

template <typename In, typename T>
void launch(const FormTask<In, T>& task, const PairView& pairs, const RowIndex& index, bool with_rows,
            cudaStream_t stream) {
  const int64_t blocks = task.copied + (with_rows ? pairs.count : 0);
  if (blocks == 0) return;
  constexpr int kLanes = kVectorBytes / sizeof(In);
  const bool aligned = fits_lanes<kLanes>(task.features, task.width) &&
                       fits_lanes<kLanes>(static_cast<const T*>(task.stack), task.width) &&
                       fits_lanes<kLanes>(static_cast<const T*>(task.identical), task.width) &&
                       fits_lanes<kLanes>(static_cast<const T*>(task.disparate), task.width);
  const dim3 threads = block_size(cdiv(task.width, aligned ? kLanes : 1), kThreads);
  if (aligned) {
    INDEED_LAUNCH((form_rows_kernel<In, T, kLanes>), grid_size(blocks), threads, 0, stream, task, pairs, index);
  } else {
    INDEED_LAUNCH((form_rows_kernel<In, T, 1>), grid_size(blocks), threads, 0, stream, task, pairs, index);
  }
}

}  // namespace

template <typename T>
void Device::form_stack(const Tensor& any_features, const Rows& rows, bool with_rows, bool minmax, double eps,
                        T* stack, MapStatistics<T>* statistics) const {
  // Very narrow rows are computed in double whatever their type.
  const Tensor features =
      std::is_same_v<T, double> ? as_type(any_features, ScalarType::Double) : contiguous(any_features);
  const int64_t batch = features.size(0), width = features.size(1);
  if (batch == 0) return rows.index(*this);
  const auto form = [&](auto sample) {
    using In = decltype(sample);
    const FormTask<In, T> task{static_cast<const In*>(features.const_data_ptr()), width, batch, minmax, eps, stack,
                               stack + batch * width, nullptr, statistics};
    launch(task, rows.pairs(), rows.arrays(), with_rows, stream_);
  };
  if constexpr (std::is_same_v<T, double>) {
    form(double{});
  } else if (features.scalar_type() == ScalarType::Half) {
    form(torch::headeronly::Half{});
  } else if (features.scalar_type() == ScalarType::BFloat16) {
    form(torch::headeronly::BFloat16{});
  } else {
    form(float{});
  }
}

template <typename T>
void Device::form_rows(const T* features, int64_t width, const Rows& rows, bool minmax, double eps, T* identical,
                       T* disparate, MapStatistics<T>* statistics) const {
  const FormTask<T, T> task{features, width, 0, minmax, eps, nullptr, identical, disparate, statistics};
  launch(task, rows.pairs(), rows.arrays(), true, stream_);
}

#define INDEED_INSTANTIATE(T)                                                                                    \
  template void Device::form_stack<T>(const Tensor&, const Rows&, bool, bool, double, T*, MapStatistics<T>*) const; \
  template void Device::form_rows<T>(const T*, int64_t, const Rows&, bool, double, T*, T*, MapStatistics<T>*) const;
INDEED_INSTANTIATE(float)
INDEED_INSTANTIATE(double)
#undef INDEED_INSTANTIATE

}  // namespace indeed::cuda
