// The whole loss, with gradients made in the forward, class block by class block:
//
//   I, statistics   <- rows of features                        [R, n]
//   per block:  O, Q <- f Wᵀ, I Wᵀ                             [B + R, block], no [rows, C] matrix for large C
//               loss, G_O, G_I <- cross-entropies, in place    (disparate logits are O - Q)
//               ∂W, V, T       <- G_Oᵀ f + G_Iᵀ I,  += G_O W,  += G_I W
//   ∂f <- V + what T sends through the maps
//
// Half types are computed in float32, a class block of the weight at a time.
#include "common/options.h"
#include "cpu/row_kernels.h"
#include "gemm.h"
#include "loss_arguments.h"
#include "operators.h"
#include "parallel.h"

namespace indeed {
namespace {

// Elements of the [B + R, block] logits buffer, and the fewest classes a block is cut down to.
constexpr int64_t kBlockElements = int64_t{1} << 22;
constexpr int64_t kMinBlock = 128;

int64_t class_block(int64_t rows, int64_t classes) {
  const int64_t fitting = kBlockElements / std::max<int64_t>(rows, 1) / kWordBits * kWordBits;
  return std::min(classes, std::max(fitting, kMinBlock));
}

struct Request {
  const Tensor &features, &weight;
  const std::optional<Tensor>& bias;
  const Tensor& present;
  const std::optional<Tensor>& known;
  const std::optional<Tensor>& pos_weight;
  const std::optional<Tensor>& row_weight;
  bool minmax;
  double eps;
  Reduction reduction;
  int64_t blocks, gradients;
};

Matrix matrix(void* data, int64_t rows, int64_t columns, int64_t stride, ScalarType dtype) {
  return {data, rows, columns, stride, dtype};
}

template <typename T>
const T* optional_data(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? tensor->const_data_ptr<T>() : nullptr;
}

std::optional<Tensor> optional_as(const std::optional<Tensor>& tensor, ScalarType dtype) {
  if (!tensor.has_value()) return std::nullopt;
  return as_type(*tensor, dtype);
}

// One evaluation in accumulation type T.
template <typename T>
class FusedLoss {
 public:
  FusedLoss(const Request& request, const DirectedRows& rows, const LossWeights& lam, ScalarType dtype)
      : request_(request),
        rows_(rows),
        view_(rows.view()),
        lam_(lam),
        dtype_(dtype),
        batch_(request.features.size(0)),
        width_(request.features.size(1)),
        classes_(request.weight.size(0)),
        features_(as_type(request.features, dtype)),
        bias_(optional_as(request.bias, dtype)),
        pos_weight_(optional_as(request.pos_weight, dtype)),
        row_weight_(optional_as(request.row_weight, dtype)),
        sums_(rows.count()) {}

  void run() {
    form_identical();
    allocate_gradients();
    const int64_t total = batch_ + row_buffers();
    const int64_t block = class_block(total, classes_);
    logits_ = scratch(total, block);
    for (int64_t first = 0; first < classes_; first += block) {
      class_block_step(first, std::min(block, classes_ - first));
    }
    if (wants(kGradFeatures) && request_.blocks != 0) map_backward();
  }

  const std::vector<cpu::RowSums>& sums() const { return sums_; }

  // The gradients in the type they wait in; empty where not asked for.
  std::tuple<Tensor, Tensor, Tensor> gradients(ScalarType dtype) const {
    const auto result = [&](const Tensor& gradient, int64_t bit) {
      return wants(bit) ? as_type(gradient, dtype) : empty_like_type(request_.features, {0}, dtype);
    };
    return {result(grad_features_, kGradFeatures), result(grad_weight_, kGradWeight), result(grad_bias_, kGradBias)};
  }

  // Weight gradients of half types are converted block by block.
  ScalarType weight_gradient_dtype = ScalarType::Undefined;

 private:
  bool wants(int64_t bit) const { return (request_.gradients & bit) != 0; }
  int64_t row_buffers() const { return request_.blocks != 0 ? rows_.count() : 0; }

  Tensor scratch(int64_t rows, int64_t columns) const {
    return empty_like_type(request_.features, {rows, columns}, dtype_);
  }

  Matrix features() const { return matrix(features_.mutable_data_ptr(), batch_, width_, width_, dtype_); }
  Matrix whole(const Tensor& t) const { return matrix(t.mutable_data_ptr(), t.size(0), t.size(1), t.size(1), dtype_); }

  void form_identical() {
    identical_ = scratch(row_buffers(), width_);
    statistics_.resize(row_buffers());
    parallel_rows(row_buffers(), width_, [&](int64_t begin, int64_t end) {
      cpu::row_kernels<T>().form_rows(features_.template const_data_ptr<T>(), width_, view_, request_.minmax,
                                      request_.eps, begin, end, identical_.template mutable_data_ptr<T>(), nullptr,
                                      statistics_.data());
    });
  }

  void allocate_gradients() {
    if (wants(kGradFeatures)) {
      grad_features_ = scratch(batch_, width_);
      map_gradient_ = scratch(row_buffers(), width_);
      if (classes_ == 0) torch::stable::zero_(grad_features_);
    }
    if (wants(kGradWeight)) {
      grad_weight_ = empty_like_type(request_.features, {classes_, width_}, weight_gradient_dtype);
      if (batch_ == 0) torch::stable::zero_(grad_weight_);
    }
    if (wants(kGradBias)) {
      grad_bias_ = empty_like_type(request_.features, {classes_}, dtype_);
      torch::stable::zero_(grad_bias_);
    }
  }

  void class_block_step(int64_t first, int64_t count) {
    const Tensor weight = weight_block(first, count);
    const Matrix w = whole(weight);
    T* data = logits_.template mutable_data_ptr<T>();
    const Matrix original = matrix(data, batch_, count, count, dtype_);
    const Matrix identical = matrix(data + batch_ * count, row_buffers(), count, count, dtype_);
    gemm(original, features().view(), w.transposed(), false);
    if (row_buffers() > 0) gemm(identical, whole(identical_).view(), w.transposed(), false);

    cross_entropies(first, count, data, data + batch_ * count);

    if (wants(kGradWeight)) weight_gradient(first, count, original, identical);
    if (wants(kGradFeatures)) {
      gemm(whole(grad_features_), original.view(), w.view(), first > 0);
      if (row_buffers() > 0) gemm(whole(map_gradient_), identical.view(), w.view(), first > 0);
    }
  }

  // Classes [first, first + count) of the weight in the accumulation type.
  Tensor weight_block(int64_t first, int64_t count) const {
    return as_type(torch::stable::narrow(const_cast<Tensor&>(request_.weight), 0, first, count), dtype_);
  }

  void cross_entropies(int64_t first, int64_t count, T* original, T* identical) {
    cpu::BceBlock<T> block{};
    block.first_class = first;
    block.classes = block.stride = count;
    block.original = original;
    block.identical = request_.blocks != 0 ? identical : nullptr;
    block.bias = optional_data<T>(bias_);
    block.pos_weight = optional_data<T>(pos_weight_);
    block.present = reinterpret_cast<const uint32_t*>(request_.present.const_data_ptr<int32_t>());
    block.known = reinterpret_cast<const uint32_t*>(optional_data<int32_t>(request_.known));
    block.words = request_.present.size(1);
    block.blocks = request_.blocks;
    block.lam_identical = static_cast<T>(lam_.identical);
    block.lam_disparate = static_cast<T>(lam_.disparate);
    block.row_weight = optional_data<T>(row_weight_);
    block.scale = static_cast<T>(reduction_scale(request_.reduction, rows_.count()));
    block.gradients = request_.gradients != 0;
    block.sums = sums_.data();

    // The bias gradient is summed per chunk of samples, then over chunks, so that its bits do not depend on threads.
    const int64_t chunks = (batch_ + kBiasChunk - 1) / kBiasChunk;
    std::vector<T> partial(wants(kGradBias) ? chunks * count : 0, T(0));
    parallel_rows(chunks, kBiasChunk * count, [&](int64_t begin, int64_t end) {
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        T* sum = partial.empty() ? nullptr : partial.data() + chunk * count;
        const int64_t last = std::min(batch_, (chunk + 1) * kBiasChunk);
        cpu::row_kernels<T>().bce_block(block, view_, chunk * kBiasChunk, last, sum);
      }
    });
    if (!wants(kGradBias)) return;
    T* bias = grad_bias_.template mutable_data_ptr<T>() + first;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      for (int64_t c = 0; c < count; ++c) bias[c] += partial[chunk * count + c];
    }
  }

  void weight_gradient(int64_t first, int64_t count, const Matrix& original, const Matrix& identical) {
    const bool direct = weight_gradient_dtype == dtype_;
    Tensor block = direct ? grad_weight_ : scratch(count, width_);
    T* data = block.template mutable_data_ptr<T>() + (direct ? first * width_ : 0);
    const Matrix out = matrix(data, count, width_, width_, dtype_);
    if (batch_ > 0) gemm(out, original.transposed(), features().view(), false);
    if (row_buffers() > 0) gemm(out, identical.transposed(), whole(identical_).view(), true);
    if (!direct && batch_ > 0) {
      Tensor target = torch::stable::narrow(grad_weight_, 0, first, count);
      torch::stable::copy_(target, block);
    }
  }

  void map_backward() {
    parallel_rows(batch_, width_, [&](int64_t begin, int64_t end) {
      cpu::row_kernels<T>().map_backward(features_.template const_data_ptr<T>(),
                                         map_gradient_.template const_data_ptr<T>(), nullptr, width_, view_,
                                         request_.minmax, statistics_.data(), sums_.data(), begin, end,
                                         grad_features_.template mutable_data_ptr<T>());
    });
  }

  static constexpr int64_t kBiasChunk = 16;

  const Request& request_;
  const DirectedRows& rows_;
  const RowView view_;
  const LossWeights& lam_;
  const ScalarType dtype_;
  const int64_t batch_, width_, classes_;
  const Tensor features_;
  const std::optional<Tensor> bias_, pos_weight_, row_weight_;
  std::vector<cpu::RowSums> sums_;
  std::vector<MapStatistics<T>> statistics_;
  Tensor identical_, logits_, map_gradient_, grad_features_, grad_weight_, grad_bias_;
};

template <typename T>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> evaluate(const Request& request, const DirectedRows& rows,
                                                            const LossWeights& lam, ScalarType dtype) {
  const ScalarType type = request.features.scalar_type();
  // float16 gradients wait in float32: the loss scale that keeps them in range comes with the upstream gradient.
  const ScalarType waiting = type == ScalarType::Half ? ScalarType::Float : type;
  FusedLoss<T> loss(request, rows, lam, dtype);
  loss.weight_gradient_dtype = waiting;
  loss.run();
  auto [value, components] = finish_loss(loss.sums(), lam, request.reduction, request.features, dtype);
  auto [grad_features, grad_weight, grad_bias] = loss.gradients(waiting);
  return {value, components, grad_features, grad_weight, grad_bias};
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> fused_indeed_loss(
    Tensor features, Tensor weight, std::optional<Tensor> bias, Tensor present, std::optional<Tensor> known,
    Tensor pairs, Tensor lam, std::optional<Tensor> pos_weight, std::optional<Tensor> row_weight, int64_t norm,
    double eps, int64_t reduction, int64_t blocks, int64_t gradients) {
  require(features.dim() == 2, "features: expected 2 dimensions, got ", features.dim());
  const int64_t batch = features.size(0), width = features.size(1);
  require(weight.dim() == 2, "weight: expected 2 dimensions, got ", weight.dim());
  const int64_t classes = weight.size(0);
  require_shape("weight", weight, {classes, width});
  const ScalarType dtype = accumulation_type("features", features.scalar_type());
  require_dtype("weight", weight, features.scalar_type());
  if (bias.has_value()) require_shape("bias", *bias, {classes});
  if (pos_weight.has_value()) require_shape("pos_weight", *pos_weight, {classes});
  require_label_words(present, known, batch, classes);
  const DirectedRows rows(pairs, batch);
  if (row_weight.has_value()) require_shape("row_weight", *row_weight, {rows.count()});
  const LossWeights weights(lam);
  require(bias.has_value() || (gradients & kGradBias) == 0, "gradients: there is no bias to differentiate");

  present = dense(present);
  if (known.has_value()) known = dense(*known);
  const Request request{features,   weight, bias,
                        present,    known,  pos_weight,
                        row_weight, static_cast<Norm>(norm) == Norm::kMinmax,
                        eps,        static_cast<Reduction>(reduction),
                        blocks,     gradients};
  return dtype == ScalarType::Double ? evaluate<double>(request, rows, weights, dtype)
                                     : evaluate<float>(request, rows, weights, dtype);
}

}  // namespace indeed
