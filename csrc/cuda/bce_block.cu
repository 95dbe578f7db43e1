// Cross-entropies of a block of classes and their effective gradients in place: the epilogue of the logit products.
#include "cuda/cross_entropies.h"
#include "cuda/device.h"

namespace indeed::cuda {
namespace {

// Block k takes the samples of chunk k, one after the other. A thread always has the same classes, so it adds to
// partials [chunks, classes] alone.
template <typename T>
__global__ void __launch_bounds__(kClassThreads) bce_block_kernel(BceBlock<T> b, RowView rows, int64_t batch,
                                                                  int64_t chunk_samples, T* partials) {
  INDEED_SHARED(double, shared, (kClassThreads / kWarp) * kRowSums);
  const BlockWeights<T> weights = block_weights(b);
  const int64_t first_sample = blockIdx.x * chunk_samples;
  const int64_t end = first_sample + chunk_samples < batch ? first_sample + chunk_samples : batch;
  for (int64_t sample = first_sample; sample < end; ++sample) {
    const int64_t own_begin = rows.own_begin[sample], own_end = rows.own_begin[sample + 1];
    const bool several = own_end - own_begin > 1;
    ThreadSums<T> sums;
    for (int64_t tile = 0; tile < b.classes; tile += blockDim.x) {
      const int64_t c = tile + threadIdx.x;
      const bool active = c < b.classes;
      const ClassBit bit(b.first_class + (active ? c : 0));
      const bool present = bit.of(b.present, sample, b.words);
      const bool known = active && (b.known == nullptr || bit.of(b.known, sample, b.words));
      const T o = active ? b.original[sample * b.stride + c] : T(0);
      const T bias = active && b.bias != nullptr ? b.bias[b.first_class + c] : T(0);
      const T pos_weight = active && b.pos_weight != nullptr ? b.pos_weight[b.first_class + c] : T(1);
      const BceTerm<T> term_o = known_term(o + bias, present, known, pos_weight);
      T grad_o = 0, grad_bias = 0;
      for (int64_t k = own_begin; k < own_end; ++k) {
        const int64_t row = rows.own[k];
        const T weight = b.row_weight != nullptr ? b.row_weight[row] : weights.scale;
        sums.value[0] += term_o.value;
        grad_o += weight * term_o.slope;
        grad_bias += weight * term_o.slope;
        if (b.blocks != 0) {
          const int64_t partner = rows.partner[row];
          const bool partner_present = bit.of(b.present, partner, b.words);
          const bool both = known && (b.known == nullptr || bit.of(b.known, partner, b.words));
          const T q = active ? b.identical[row * b.stride + c] : T(0);
          const T d = o - q;
          BceTerm<T> term_i{T(0), T(0)}, term_d{T(0), T(0)};
          if (b.blocks & kIdenticalBlock) term_i = known_term(q + bias, present && partner_present, both, pos_weight);
          if (b.blocks & kDisparateBlock) term_d = known_term(d + bias, present && !partner_present, both, pos_weight);
          sums.value[1] += term_i.value;
          sums.value[2] += term_d.value;
          const T g_i = weight * weights.identical * term_i.slope, g_d = weight * weights.disparate * term_d.slope;
          const T g = g_i - g_d;
          sums.value[3] += g * q;
          sums.value[4] += g * d;
          grad_o += g_d;
          grad_bias += g_i + g_d;
          if (b.gradients && active) b.identical[row * b.stride + c] = g;
        }
        if (several) flush_sums(sums, shared, b.sums + row, b.first_class == 0 && tile == 0);
      }
      if (!b.gradients || !active) continue;
      b.original[sample * b.stride + c] = grad_o;
      if (partials == nullptr) continue;
      T* partial = partials + blockIdx.x * b.classes + c;
      *partial = sample == first_sample ? grad_bias : *partial + grad_bias;
    }
    if (own_end - own_begin == 1) flush_sums(sums, shared, b.sums + rows.own[own_begin], b.first_class == 0);
  }
}

}  // namespace

template <typename T>
void Device::bce_block(const BceBlock<T>& block, const Rows& rows, int64_t batch, T* bias_partials) const {
  const dim3 grid(static_cast<unsigned>(bias_chunks(batch)));
  INDEED_LAUNCH(bce_block_kernel<T>, grid, class_threads(block.classes), 0, stream_, block, rows.view(), batch,
                chunk_samples(batch), bias_partials);
}

template void Device::bce_block<float>(const BceBlock<float>&, const Rows&, int64_t, float*) const;
template void Device::bce_block<double>(const BceBlock<double>&, const Rows&, int64_t, double*) const;

}  // namespace indeed::cuda
