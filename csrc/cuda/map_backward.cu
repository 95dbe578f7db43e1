// The gradient of the features through the identical maps. Every sample gathers from its own and its incoming rows in
// a fixed order: no atomics.
#include <limits>

#include "cuda/device.h"
#include "cuda/lanes.h"
#include "cuda/reduce_loss.h"

namespace indeed::cuda {
namespace {

constexpr int kThreads = kReduceThreads;

template <typename T, typename Feature>
__device__ MapDerivative<T> derivative_of(const MapBackward<T, Feature>& b, int64_t row, bool minmax) {
  return map_derivative(b.statistics[row], minmax, static_cast<T>(b.sums[row].dot_identical),
                        static_cast<T>(b.sums[row].dot_disparate));
}

// Block (x, y): sample x, tile y of the features; the first blocks are those of the reductions.
template <typename T, typename Feature, typename Out, bool kMinmax, int kLanes>
__global__ void __launch_bounds__(kThreads, 4)
    map_backward_kernel(MapBackward<T, Feature> b, RowView rows, Out* out, ReductionTask<T, Out> reductions,
                        int64_t reduction_blocks) {
  INDEED_SHARED(double, shared, kReduceThreads);
  if (blockIdx.x < reduction_blocks) {
    if (blockIdx.y == 0) reduce_loss_and_bias(reductions, blockIdx.x, shared);
    return;
  }
  const int64_t sample = blockIdx.x - reduction_blocks;
  const int64_t j = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * kLanes;
  if (j >= b.width) return;
  const Lanes<T, kLanes> f = load_lanes_as<T, kLanes>(b.features + sample * b.feature_stride + j);
  Lanes<T, kLanes> sum{};
  if (b.base != nullptr) sum = load_lanes<kLanes>(b.base + sample * b.gradient_stride + j);

  for (int64_t k = rows.own_begin[sample]; k < rows.own_begin[sample + 1]; ++k) {
    const int64_t row = rows.own[k], reverse_row = rows.reverse_row[row];
    if (reverse_row == kInvalidRow) {
      INDEED_UNROLL
      for (int l = 0; l < kLanes; ++l) sum.lane[l] = std::numeric_limits<T>::quiet_NaN();
      continue;
    }
    const MapStatistics<T> s = b.statistics[row];
    const Lanes<T, kLanes> partner = load_lanes_as<T, kLanes>(b.features + rows.partner[row] * b.feature_stride + j);
    const Lanes<T, kLanes> t = load_lanes<kLanes>(b.map_gradient + row * b.gradient_stride + j);
    // The reverse row (partner, f) shares u: what it sends to its partner, this sample, is gathered here too.
    MapDerivative<T> derivative = derivative_of(b, row, kMinmax);
    Lanes<T, kLanes> reverse_t{};
    if (reverse_row >= 0) {
      derivative = derivative + derivative_of(b, reverse_row, kMinmax);
      reverse_t = load_lanes<kLanes>(b.map_gradient + reverse_row * b.gradient_stride + j);
    }
    INDEED_UNROLL
    for (int l = 0; l < kLanes; ++l) {
      const T u = f.lane[l] * partner.lane[l], m = map_value(u, s);
      const T dm = t.lane[l] * f.lane[l] + reverse_t.lane[l] * partner.lane[l];
      const T du = product_gradient<kMinmax>(u, m, dm, s, derivative);
      sum.lane[l] += m * t.lane[l] + du * partner.lane[l] * s.rescale;
    }
    if (b.grad_source != nullptr) {
      const Lanes<T, kLanes> grad_source = load_lanes<kLanes>(b.grad_source + row * b.gradient_stride + j);
      INDEED_UNROLL
      for (int l = 0; l < kLanes; ++l) sum.lane[l] += grad_source.lane[l];
    }
  }

  for (int64_t k = rows.incoming_begin[sample]; k < rows.incoming_begin[sample + 1]; ++k) {
    const int64_t row = rows.incoming[k];
    if (rows.reverse_row[row] >= 0) continue;  // its reverse row, an own row, carried it
    const MapStatistics<T> s = b.statistics[row];
    const MapDerivative<T> derivative = derivative_of(b, row, kMinmax);
    const Lanes<T, kLanes> source = load_lanes_as<T, kLanes>(b.features + rows.source[row] * b.feature_stride + j);
    const Lanes<T, kLanes> t = load_lanes<kLanes>(b.map_gradient + row * b.gradient_stride + j);
    INDEED_UNROLL
    for (int l = 0; l < kLanes; ++l) {
      const T u = source.lane[l] * f.lane[l], m = map_value(u, s), dm = t.lane[l] * source.lane[l];
      sum.lane[l] += product_gradient<kMinmax>(u, m, dm, s, derivative) * source.lane[l] * s.rescale;
    }
  }

  Lanes<Out, kLanes> result;
  INDEED_UNROLL
  for (int l = 0; l < kLanes; ++l) result.lane[l] = static_cast<Out>(sum.lane[l]);
  store_lanes(out + sample * b.feature_stride + j, result);
}

template <int kLanes, bool kMinmax, typename T, typename Feature, typename Out>
void launch(const MapBackward<T, Feature>& task, const RowView& rows, int64_t batch, Out* out,
            const ReductionTask<T, Out>& reductions, cudaStream_t stream) {
  const int64_t lanes = cdiv(task.width, kLanes);
  const int64_t extra = reductions.blocks();
  const dim3 threads = block_size(extra > 0 ? kThreads : lanes, kThreads);
  INDEED_LAUNCH((map_backward_kernel<T, Feature, Out, kMinmax, kLanes>), grid_size(extra + batch, cdiv(lanes, threads.x)),
                threads, 0, stream, task, rows, out, reductions, extra);
}

}  // namespace

template <typename T, typename Feature>
void Device::map_backward(const MapBackward<T, Feature>& task, const Rows& rows, int64_t batch,
                          const Tensor& grad_features, const Reductions<T>& reductions) const {
  if (batch == 0 || task.width == 0) return reduce(reductions, rows);
  using Out = GradientOf<Feature>;
  constexpr int kLanes = kVectorBytes / sizeof(T);
  Out* out = static_cast<Out*>(grad_features.mutable_data_ptr());
  const bool aligned = task.width % kLanes == 0 && fits_lanes<kLanes>(task.features, task.feature_stride) &&
                       fits_lanes<kLanes>(task.map_gradient, task.gradient_stride) &&
                       fits_lanes<kLanes>(task.base, task.gradient_stride) &&
                       fits_lanes<kLanes>(task.grad_source, task.gradient_stride) &&
                       fits_lanes<kLanes>(static_cast<const Out*>(out), task.feature_stride);
  const auto run = task.minmax ? (aligned ? launch<kLanes, true, T, Feature, Out> : launch<1, true, T, Feature, Out>)
                               : (aligned ? launch<kLanes, false, T, Feature, Out> : launch<1, false, T, Feature, Out>);
  run(task, rows.view(), batch, out, reduction_task<T, Out>(reductions, rows.view()), stream_);
}

#define INDEED_INSTANTIATE(T, Feature)                                                                         \
  template void Device::map_backward(const MapBackward<T, Feature>&, const Rows&, int64_t, const Tensor&, \
                                     const Reductions<T>&) const;
INDEED_INSTANTIATE(float, float)
INDEED_INSTANTIATE(double, double)
INDEED_INSTANTIATE(float, Half)
INDEED_INSTANTIATE(float, BFloat16)
#undef INDEED_INSTANTIATE

}  // namespace indeed::cuda
