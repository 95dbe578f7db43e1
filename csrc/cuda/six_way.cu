// Cross-entropies of logits of three classifiers, and their gradients.
#include "cuda/cross_entropies.h"
#include "cuda/device.h"

namespace indeed::cuda {
namespace {

// One block per sample.
template <typename T>
__global__ void __launch_bounds__(kClassThreads) six_way_kernel(SixWayLogits<T> x, BceBlock<T> b, RowView rows) {
  INDEED_SHARED(double, shared, (kClassThreads / kWarp) * kRowSums);
  const BlockWeights<T> weights = block_weights(b);
  const int64_t sample = blockIdx.x;
  const int64_t own_begin = rows.own_begin[sample], own_end = rows.own_begin[sample + 1];
  const bool several = own_end - own_begin > 1;
  ThreadSums<T> sums;
  for (int64_t tile = 0; tile < x.classes; tile += blockDim.x) {
    const int64_t c = tile + threadIdx.x;
    const bool active = c < x.classes;
    const ClassBit bit(active ? c : 0);
    const bool present = bit.of(b.present, sample, b.words);
    const bool known = active && (b.known == nullptr || bit.of(b.known, sample, b.words));
    const T pos_weight = active && b.pos_weight != nullptr ? b.pos_weight[c] : T(1);
    const T o = active ? x.original[sample * x.classes + c] : T(0);
    const BceTerm<T> term_o = known_term(o, present, known, pos_weight);
    T grad_o = 0;
    for (int64_t k = own_begin; k < own_end; ++k) {
      const int64_t row = rows.own[k];
      const T weight = b.row_weight != nullptr ? b.row_weight[row] : weights.scale;
      sums.value[0] += term_o.value;
      grad_o += weight * term_o.slope;
      const int64_t partner = rows.partner[row], at = row * x.classes + c;
      const bool partner_present = bit.of(b.present, partner, b.words);
      const bool both = known && (b.known == nullptr || bit.of(b.known, partner, b.words));
      BceTerm<T> term_i{T(0), T(0)}, term_d{T(0), T(0)};
      if (b.blocks & kIdenticalBlock) {
        term_i = known_term(active ? x.identical[at] : T(0), present && partner_present, both, pos_weight);
      }
      if (b.blocks & kDisparateBlock) {
        term_d = known_term(active ? x.disparate[at] : T(0), present && !partner_present, both, pos_weight);
      }
      sums.value[1] += term_i.value;
      sums.value[2] += term_d.value;
      if (b.gradients && active) {
        x.grad_identical[at] = weight * weights.identical * term_i.slope;
        x.grad_disparate[at] = weight * weights.disparate * term_d.slope;
      }
      if (several) flush_sums(sums, shared, b.sums + row, tile == 0);
    }
    if (b.gradients && active) x.grad_original[sample * x.classes + c] = grad_o;
  }
  // A sample without classes still sets the sums of its rows.
  if (several && x.classes > 0) return;
  for (int64_t k = own_begin; k < own_end; ++k) flush_sums(sums, shared, b.sums + rows.own[k], true);
}

}  // namespace

template <typename T>
void Device::six_way(const SixWayLogits<T>& logits, const BceBlock<T>& block, const Rows& rows, int64_t batch) const {
  if (batch == 0) return;
  INDEED_LAUNCH(six_way_kernel<T>, dim3(static_cast<unsigned>(batch)), class_threads(logits.classes), 0, stream_,
                logits, block, rows.view());
}

template void Device::six_way<float>(const SixWayLogits<float>&, const BceBlock<float>&, const Rows&, int64_t) const;
template void Device::six_way<double>(const SixWayLogits<double>&, const BceBlock<double>&, const Rows&,
                                      int64_t) const;

}  // namespace indeed::cuda
