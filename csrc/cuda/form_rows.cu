// Identical features of every row and the statistics of their maps; for the fused loss also the copy of the features
// above them and the index of the rows, as all of these need only features and pairs.
#include <limits>

#include "cuda/device.h"
#include "cuda/lanes.h"
#include "cuda/reduce.h"
#include "cuda/row_index.h"

namespace indeed::cuda {
namespace {

constexpr int kThreads = 256;

template <typename Operand>
struct FormTask {
  const Operand* features;  // [B, n]
  int64_t width;
  int64_t copied;  // samples copied into the stack: B, or 0
  bool minmax;
  double eps;
  Operand* stack;      // [copied, n]
  Operand* identical;  // [R, n]
  Operand* disparate;  // [R, n] or null
  MapStatistics<SumOf<Operand>>* statistics;
};

// By one block; every thread gets the result.
template <int kLanes, typename Operand, typename T = SumOf<Operand>>
__device__ MapStatistics<T> map_statistics(const FormTask<Operand>& task, const Operand* source, const Operand* partner,
                                           double* shared) {
  const auto for_each_u = [&](auto visit) {
    const int64_t step = static_cast<int64_t>(blockDim.x) * kLanes;
    for (int64_t k = static_cast<int64_t>(threadIdx.x) * kLanes; k < task.width; k += step) {
      const Lanes<Operand, kLanes> s = load_lanes<kLanes>(source + k), p = load_lanes<kLanes>(partner + k);
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

template <int kLanes, typename Operand>
__device__ void form_row(const FormTask<Operand>& task, const PairView& pairs, int64_t row, double* shared) {
  using T = SumOf<Operand>;
  const int64_t first = static_cast<int64_t>(threadIdx.x) * kLanes, step = static_cast<int64_t>(blockDim.x) * kLanes;
  Operand* identical = task.identical + row * task.width;
  Operand* disparate = task.disparate != nullptr ? task.disparate + row * task.width : nullptr;
  if (!is_valid(pairs, row)) {
    for (int64_t k = threadIdx.x; k < task.width; k += blockDim.x) {
      identical[k] = static_cast<Operand>(std::numeric_limits<T>::quiet_NaN());
      if (disparate != nullptr) disparate[k] = identical[k];
    }
    return;
  }
  const Operand* source = task.features + source_of(pairs, row) * task.width;
  const Operand* partner = task.features + partner_of(pairs, row) * task.width;
  const MapStatistics<T> s = map_statistics<kLanes>(task, source, partner, shared);
  if (threadIdx.x == 0) task.statistics[row] = s;
  for (int64_t k = first; k < task.width; k += step) {
    const Lanes<Operand, kLanes> f = load_lanes<kLanes>(source + k), p = load_lanes<kLanes>(partner + k);
    Lanes<Operand, kLanes> same, rest;
    INDEED_UNROLL
    for (int l = 0; l < kLanes; ++l) {
      const T own = static_cast<T>(f.lane[l]), formed = map_value(own * static_cast<T>(p.lane[l]), s) * own;
      same.lane[l] = static_cast<Operand>(formed);
      rest.lane[l] = static_cast<Operand>(own - formed);
    }
    store_lanes(identical + k, same);
    if (disparate != nullptr) store_lanes(disparate + k, rest);
  }
}

// Blocks [0, copied): copy a sample and index rows. Further blocks: form a row each.
template <typename Operand, int kLanes>
__global__ void __launch_bounds__(kThreads, 4) form_rows_kernel(FormTask<Operand> task, PairView pairs,
                                                                RowIndex index) {
  INDEED_SHARED(double, shared, kMaxWarps);
  INDEED_SHARED(int64_t, index_shared, kThreads);
  const int64_t block = blockIdx.x;
  if (block >= task.copied) {
    form_row<kLanes>(task, pairs, block - task.copied, shared);
    return;
  }
  index_rows(pairs, index, block, task.copied, index_shared);
  const int64_t step = static_cast<int64_t>(blockDim.x) * kLanes;
  for (int64_t k = static_cast<int64_t>(threadIdx.x) * kLanes; k < task.width; k += step) {
    store_lanes(task.stack + block * task.width + k, load_lanes<kLanes>(task.features + block * task.width + k));
  }
}

template <typename Operand>
void launch(const FormTask<Operand>& task, const PairView& pairs, const RowIndex& index, bool with_rows,
            cudaStream_t stream) {
  const int64_t blocks = task.copied + (with_rows ? pairs.count : 0);
  if (blocks == 0) return;
  constexpr int kLanes = kVectorBytes / sizeof(Operand);
  const bool aligned = fits_lanes<kLanes>(task.features, task.width) && fits_lanes<kLanes>(task.stack, task.width) &&
                       fits_lanes<kLanes>(task.identical, task.width) && fits_lanes<kLanes>(task.disparate, task.width);
  // For the index, as many threads as there are rows.
  const int64_t items = std::max(cdiv(task.width, aligned ? kLanes : 1), task.copied > 0 ? pairs.count : 0);
  const dim3 threads = block_size(items, kThreads);
  if (aligned) {
    INDEED_LAUNCH((form_rows_kernel<Operand, kLanes>), grid_size(blocks), threads, 0, stream, task, pairs, index);
  } else {
    INDEED_LAUNCH((form_rows_kernel<Operand, 1>), grid_size(blocks), threads, 0, stream, task, pairs, index);
  }
}

}  // namespace

template <typename Operand>
void Device::form_stack(const Tensor& features, const Rows& rows, bool with_rows, bool minmax, double eps,
                        Operand* stack, MapStatistics<SumOf<Operand>>* statistics) const {
  const int64_t batch = features.size(0), width = features.size(1);
  if (batch == 0) return rows.index(*this);
  const FormTask<Operand> task{static_cast<const Operand*>(features.const_data_ptr()), width, batch, minmax, eps, stack,
                               stack + batch * width, nullptr, statistics};
  launch(task, rows.pairs(), rows.arrays(), with_rows, stream_);
}

template <typename T>
void Device::form_rows(const T* features, int64_t width, const Rows& rows, bool minmax, double eps, T* identical,
                       T* disparate, MapStatistics<T>* statistics) const {
  const FormTask<T> task{features, width, 0, minmax, eps, nullptr, identical, disparate, statistics};
  launch(task, rows.pairs(), rows.arrays(), true, stream_);
}

#define INDEED_INSTANTIATE(Operand)                                                                  \
  template void Device::form_stack(const Tensor&, const Rows&, bool, bool, double, Operand*,         \
                                   MapStatistics<SumOf<Operand>>*) const;
INDEED_INSTANTIATE(float)
INDEED_INSTANTIATE(double)
INDEED_INSTANTIATE(Half)
INDEED_INSTANTIATE(BFloat16)
#undef INDEED_INSTANTIATE

template void Device::form_rows(const float*, int64_t, const Rows&, bool, double, float*, float*,
                                MapStatistics<float>*) const;
template void Device::form_rows(const double*, int64_t, const Rows&, bool, double, double*, double*,
                                MapStatistics<double>*) const;

}  // namespace indeed::cuda
