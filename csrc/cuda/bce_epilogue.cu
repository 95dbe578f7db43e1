// Cross-entropies of a chunk of classes and their gradients: the epilogue of the logit products, in place, or for
// logits of three classifiers, into tensors of their own.
#include <limits>

#include "common/bce.h"
#include "cuda/device.h"
#include "cuda/reduce.h"

namespace indeed::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kRowSums = sizeof(RowSums) / sizeof(double);
static_assert(kRowSums == 5);

// The label of one class of one sample; `wrong` if it is no label at all.
struct Label {
  bool positive, valid, wrong;
};

template <typename T>
__device__ Label label_of(const BceChunk<T>& b, int64_t sample, int64_t c) {
  const int64_t word = sample * b.words + c / kWordBits;
  const uint32_t mask = 1u << (c % kWordBits);
  const bool positive = (b.positive_bits[word] & mask) != 0;
  const bool valid = b.valid_bits == nullptr || (b.valid_bits[word] & mask) != 0;
  return {positive, valid, positive && !valid};
}

template <typename T>
__device__ T nan_if(bool condition) {
  return condition ? std::numeric_limits<T>::quiet_NaN() : T(0);
}

template <typename T>
__device__ BceTerm<T> labelled_term(T logit, Label label, T pos_weight) {
  const T none = nan_if<T>(label.wrong);
  return label.valid ? bce_term(logit, label.positive, pos_weight) : BceTerm<T>{none, none};
}

// What a thread has summed of a row, in the order of RowSums.
template <typename T>
struct ThreadSums {
  T value[kRowSums] = {};
};

// Sets or increases the sums of a row by those of the block's threads, and clears the latter.
template <typename T>
__device__ void flush_sums(ThreadSums<T>& sums, double* shared, RowSums* row, bool set) {
  INDEED_UNROLL
  for (int k = 0; k < kRowSums; ++k) {
    const double sum = warp_reduce(static_cast<double>(sums.value[k]), Sum{});
    if (lane_index() == 0) shared[warp_index() * kRowSums + k] = sum;
    sums.value[k] = T(0);
  }
  __syncthreads();
  if (threadIdx.x < kRowSums) {
    double sum = 0;
    for (int warp = 0; warp < warp_count(); ++warp) sum += shared[warp * kRowSums + threadIdx.x];
    double* field = &row->original + threadIdx.x;
    *field = set ? sum : *field + sum;
  }
  __syncthreads();
}

// Block k takes the samples of group k, one after the other, and the last block the rows without a source. A thread
// always has the same classes, so it adds to partials [groups, classes] alone. kSixWay: the logits are those of x.
//
// grad_logits are summed without the scale that all rows share, which they get when they are stored. Those of
// float16 are stored without it, as averages would leave its range; the products with them supply it.
template <typename Operand, bool kSixWay>
__global__ void __launch_bounds__(kThreads)
    bce_epilogue_kernel(BceChunk<SumOf<Operand>> b, const Operand* bias_vector, Operand* gradients,
                        SixWayLogits<SumOf<Operand>> x, RowView rows, int64_t batch, int64_t group_samples,
                        SumOf<Operand>* partials) {
  using T = SumOf<Operand>;
  INDEED_SHARED(double, shared, (kThreads / kWarp) * kRowSums);
  const TermWeights<T> weights = term_weights(b);
  const T scale = b.row_weight != nullptr ? T(1) : weights.scale;
  const T stored_scale = std::is_same_v<Operand, Half> ? T(1) : scale;
  const T dot_scale = std::is_same_v<Operand, Half> ? scale : T(1);
  const int64_t first_sample = blockIdx.x * group_samples;
  T* partial = partials != nullptr ? partials + blockIdx.x * b.classes : nullptr;
  if (first_sample >= batch) {
    const int64_t begin = rows.own_begin[batch];
    for (int64_t c = threadIdx.x; c < b.classes; c += blockDim.x) {
      if (partial != nullptr) partial[c] = nan_if<T>(begin < rows.count);
      for (int64_t k = begin; kSixWay && b.gradients && k < rows.count; ++k) {
        const int64_t at = rows.own[k] * b.stride + c;
        x.grad_identical[at] = x.grad_disparate[at] = nan_if<T>(true);
      }
    }
    return;
  }
  const T* original = kSixWay ? x.original : b.original;
  const T* identical = kSixWay ? x.identical : b.identical;
  Operand* grad_identical = gradients + batch * b.stride;
  const bool has_identical = (b.term_mask & kIdenticalTerm) != 0, has_disparate = (b.term_mask & kDisparateTerm) != 0;
  const int64_t end = first_sample + group_samples < batch ? first_sample + group_samples : batch;
  for (int64_t sample = first_sample; sample < end; ++sample) {
    const int64_t own_begin = rows.own_begin[sample], own_end = rows.own_begin[sample + 1];
    const bool several = own_end - own_begin > 1;
    ThreadSums<T> sums;
    for (int64_t tile = 0; tile < b.classes; tile += blockDim.x) {
      const int64_t c = tile + threadIdx.x, class_index = b.first_class + c;
      const bool active = c < b.classes;
      const Label label = active ? label_of(b, sample, class_index) : Label{};
      const T o = active ? original[sample * b.stride + c] : T(0);
      const T bias = active && bias_vector != nullptr ? static_cast<T>(bias_vector[class_index]) : T(0);
      const T pos_weight = active && b.pos_weight != nullptr ? b.pos_weight[class_index] : T(1);
      const BceTerm<T> sample_term = labelled_term(o + bias, label, pos_weight);
      T grad_o = 0, grad_bias = 0;
      for (int64_t k = own_begin; k < own_end; ++k) {
        const int64_t row = rows.own[k], at = row * b.stride + c;
        const bool invalid = rows.reverse_row[row] == kInvalidRow;
        const T weight = b.row_weight != nullptr ? b.row_weight[row] : T(1);
        const T none = nan_if<T>(invalid);
        const BceTerm<T> term_o = invalid ? BceTerm<T>{none, none} : sample_term;
        sums.value[0] += term_o.value;
        grad_o += weight * term_o.derivative;
        grad_bias += weight * term_o.derivative;
        if (kSixWay || b.term_mask != 0) {
          const Label partner = active && !invalid ? label_of(b, rows.partner[row], class_index) : Label{};
          const bool valid = label.valid && partner.valid, wrong = label.wrong || partner.wrong;
          const T q = active && (!kSixWay || has_identical) ? identical[at] : T(0);
          const T d = !kSixWay ? o - q : active && has_disparate ? x.disparate[at] : T(0);
          BceTerm<T> term_i{none, none}, term_d{none, none};
          if (has_identical && !invalid) {
            term_i = labelled_term(q + bias, {label.positive && partner.positive, valid, wrong}, pos_weight);
          }
          if (has_disparate && !invalid) {
            term_d = labelled_term(d + bias, {label.positive && !partner.positive, valid, wrong}, pos_weight);
          }
          sums.value[1] += term_i.value;
          sums.value[2] += term_d.value;
          const T g_i = weight * weights.identical * term_i.derivative;
          const T g_d = weight * weights.disparate * term_d.derivative;
          if constexpr (kSixWay) {
            if (b.gradients && active) {
              x.grad_identical[at] = scale * g_i;
              x.grad_disparate[at] = scale * g_d;
            }
          } else {
            // The sums are those of the gradient as it is rounded, which makes T: they cancel in the map's backward.
            const Operand stored = static_cast<Operand>(stored_scale * (g_i - g_d));
            const T g = static_cast<T>(stored);
            if (g != 0) {  // else the logit, of a class that does not count, may have overflowed
              sums.value[3] += dot_scale * g * q;
              sums.value[4] += dot_scale * g * d;
            }
            grad_o += g_d;
            grad_bias += g_i + g_d;
            if (b.gradients && active) grad_identical[at] = stored;
          }
        }
        if (several) flush_sums(sums, shared, b.sums + row, b.first_class == 0 && tile == 0);
      }
      if (!b.gradients || !active) continue;
      if constexpr (kSixWay) {
        x.grad_original[sample * b.stride + c] = scale * grad_o;
      } else {
        gradients[sample * b.stride + c] = static_cast<Operand>(stored_scale * grad_o);
      }
      if (partial == nullptr) continue;
      partial[c] = sample == first_sample ? scale * grad_bias : partial[c] + scale * grad_bias;
    }
    // A sample without classes still sets the sums of its rows.
    if (several && b.classes > 0) continue;
    for (int64_t k = own_begin; k < own_end; ++k) flush_sums(sums, shared, b.sums + rows.own[k], b.first_class == 0);
  }
}

}  // namespace

template <typename Operand>
void Device::bce_epilogue(const BceChunk<SumOf<Operand>>& chunk, const Operand* bias, Operand* gradients,
                          const Rows& rows, int64_t batch, SumOf<Operand>* bias_partials) const {
  INDEED_LAUNCH((bce_epilogue_kernel<Operand, false>), grid_size(bias_groups(batch)),
                block_size(chunk.classes, kThreads), 0, stream_, chunk, bias, gradients,
                SixWayLogits<SumOf<Operand>>{}, rows.view(), batch, group_samples(batch), bias_partials);
}

template <typename T>
void Device::six_way(const SixWayLogits<T>& logits, const BceChunk<T>& chunk, const Rows& rows, int64_t batch) const {
  INDEED_LAUNCH((bce_epilogue_kernel<T, true>), grid_size(batch + 1), block_size(chunk.classes, kThreads), 0, stream_,
                chunk, static_cast<const T*>(nullptr), static_cast<T*>(nullptr), logits, rows.view(), batch, int64_t{1},
                static_cast<T*>(nullptr));
}

#define INDEED_INSTANTIATE(Operand)                                                                                  \
  template void Device::bce_epilogue(const BceChunk<SumOf<Operand>>&, const Operand*, Operand*, const Rows&, int64_t, \
                                     SumOf<Operand>*) const;
INDEED_INSTANTIATE(float)
INDEED_INSTANTIATE(double)
INDEED_INSTANTIATE(Half)
INDEED_INSTANTIATE(BFloat16)
#undef INDEED_INSTANTIATE

template void Device::six_way(const SixWayLogits<float>&, const BceChunk<float>&, const Rows&, int64_t) const;
template void Device::six_way(const SixWayLogits<double>&, const BceChunk<double>&, const Rows&, int64_t) const;

}  // namespace indeed::cuda
