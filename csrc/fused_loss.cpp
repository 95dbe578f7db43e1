// The whole loss, with gradients made in the forward, class block by class block:
//
//   X = [f; I]                                       [B + R, n], each original once, each identical feature once
//   per block:  [O; Q] <- X Wᵀ                       [B + R, block], no [rows, C] matrix for large C
//               loss, [G_O; G_I] <- cross-entropies, in place    (disparate logits are O - Q)
//               ∂W <- [G_O; G_I]ᵀ X,   [V; T] += [G_O; G_I] W
//   ∂f <- V + what T sends through the maps
//
// Half types are computed in float32, very narrow rows in double, a class block of the weight at a time.
#include "common/options.h"
#include "cpu/row_kernels.h"
#include "gemm.h"
#include "loss_arguments.h"
#include "operators.h"
#include "parallel.h"
#include "workspace.h"

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
        rows_(rows.view()),
        lam_(lam),
        dtype_(dtype),
        waiting_dtype_(waiting_dtype(request.features.scalar_type())),
        batch_(request.features.size(0)),
        width_(request.features.size(1)),
        classes_(request.weight.size(0)),
        stacked_rows_(batch_ + (request.blocks != 0 ? rows.count() : 0)),
        block_(class_block(stacked_rows_, classes_)),
        bias_(optional_as(request.bias, dtype)),
        pos_weight_(optional_as(request.pos_weight, dtype)),
        row_weight_(optional_as(request.row_weight, dtype)),
        workspace_(workspace_bytes()),
        sums_(rows.count()) {}

  void run() {
    stack_ = workspace_.take<T>(stacked_rows_ * width_);
    logits_ = workspace_.take<T>(stacked_rows_ * block_);
    form_stack();
    allocate_gradients();
    if (batch_ > 0) {
      for (int64_t first = 0; first < classes_; first += block_) {
        class_block_step(first, std::min(block_, classes_ - first));
      }
    }
    if (wants(kGradFeatures) && has_rows()) map_backward();
  }

  const std::vector<cpu::RowSums>& sums() const { return sums_; }

  // The gradients in the type they wait in; empty where not asked for.
  std::tuple<Tensor, Tensor, Tensor> gradients() const {
    const auto result = [&](const Tensor& gradient, int64_t bit) {
      return wants(bit) ? as_type(gradient, waiting_dtype_) : empty_like_type(request_.features, {0}, waiting_dtype_);
    };
    return {result(grad_features_, kGradFeatures), result(grad_weight_, kGradWeight), result(grad_bias_, kGradBias)};
  }

 private:
  // float16 gradients wait in float32: the loss scale that keeps them in range comes with the upstream gradient.
  static ScalarType waiting_dtype(ScalarType type) { return type == ScalarType::Half ? ScalarType::Float : type; }

  bool wants(int64_t bit) const { return (request_.gradients & bit) != 0; }
  bool has_rows() const { return stacked_rows_ > batch_; }

  // Whether [V; T] needs room beside ∂f: without rows there is only V, which is ∂f.
  bool stacks_gradient() const { return wants(kGradFeatures) && has_rows(); }

  size_t workspace_bytes() const {
    const size_t stack = Workspace::bytes_of<T>(stacked_rows_ * width_);
    return stack + Workspace::bytes_of<T>(stacked_rows_ * block_) + (stacks_gradient() ? stack : 0);
  }

  static T* data(const Tensor& tensor) { return static_cast<T*>(tensor.mutable_data_ptr()); }
  Matrix matrix(T* data, int64_t rows, int64_t columns) const { return {data, rows, columns, columns, dtype_}; }
  Matrix whole(const Tensor& tensor) const { return matrix(data(tensor), tensor.size(0), tensor.size(1)); }
  Matrix stack() const { return matrix(stack_, stacked_rows_, width_); }

  void form_stack() {
    if (request_.features.scalar_type() == dtype_ && request_.features.is_contiguous()) {
      const T* features = static_cast<const T*>(request_.features.const_data_ptr());
      parallel_rows(batch_, width_, [&](int64_t begin, int64_t end) {
        std::copy(features + begin * width_, features + end * width_, stack_ + begin * width_);
      });
    } else {
      Tensor top = matrix(stack_, batch_, width_).view();
      torch::stable::copy_(top, request_.features);
    }
    if (!has_rows()) return;
    statistics_.resize(rows_.count);
    parallel_rows(rows_.count, width_, [&](int64_t begin, int64_t end) {
      cpu::row_kernels<T>().form_rows(stack_, width_, rows_, request_.minmax, request_.eps, begin, end,
                                      stack_ + batch_ * width_, nullptr, statistics_.data());
    });
  }

  void allocate_gradients() {
    if (wants(kGradFeatures)) {
      grad_features_ = empty_like_type(request_.features, {batch_, width_}, dtype_);
      stack_gradient_ = stacks_gradient() ? workspace_.take<T>(stacked_rows_ * width_) : data(grad_features_);
      if (classes_ == 0) std::fill(stack_gradient_, stack_gradient_ + stacked_rows_ * width_, T(0));
    }
    if (wants(kGradWeight)) {
      grad_weight_ = empty_like_type(request_.features, {classes_, width_}, waiting_dtype_);
      if (batch_ == 0) torch::stable::zero_(grad_weight_);
    }
    if (wants(kGradBias)) {
      grad_bias_ = empty_like_type(request_.features, {classes_}, dtype_);
      torch::stable::zero_(grad_bias_);
    }
  }

  void class_block_step(int64_t first, int64_t count) {
    const Tensor weight = weight_block(first, count);
    const Matrix logits = matrix(logits_, stacked_rows_, count);
    gemm(logits, stack().view(), whole(weight).transposed(), false);
    cross_entropies(first, count);
    if (wants(kGradWeight)) weight_gradient(first, count, logits);
    if (wants(kGradFeatures)) {
      gemm(matrix(stack_gradient_, stacked_rows_, width_), logits.view(), whole(weight).view(), first > 0);
    }
  }

  // Classes [first, first + count) of the weight in the accumulation type.
  Tensor weight_block(int64_t first, int64_t count) const {
    if (count == classes_) return as_type(request_.weight, dtype_);
    return as_type(torch::stable::narrow(const_cast<Tensor&>(request_.weight), 0, first, count), dtype_);
  }

  void cross_entropies(int64_t first, int64_t count) {
    cpu::BceBlock<T> block{};
    block.first_class = first;
    block.classes = block.stride = count;
    block.original = logits_;
    block.identical = logits_ + batch_ * count;
    block.bias = optional_data<T>(bias_);
    block.pos_weight = optional_data<T>(pos_weight_);
    block.present = reinterpret_cast<const uint32_t*>(request_.present.const_data_ptr<int32_t>());
    block.known = reinterpret_cast<const uint32_t*>(optional_data<int32_t>(request_.known));
    block.words = request_.present.size(1);
    block.blocks = request_.blocks;
    block.lam_identical = static_cast<T>(lam_.identical);
    block.lam_disparate = static_cast<T>(lam_.disparate);
    block.row_weight = optional_data<T>(row_weight_);
    block.scale = static_cast<T>(reduction_scale(request_.reduction, rows_.count));
    block.gradients = request_.gradients != 0;
    block.sums = sums_.data();

    // The bias gradient is summed per chunk of samples, then over chunks, so that its bits do not depend on threads.
    const int64_t chunks = (batch_ + kBiasChunk - 1) / kBiasChunk;
    std::vector<T> partial(wants(kGradBias) ? chunks * count : 0, T(0));
    parallel_rows(chunks, kBiasChunk * count, [&](int64_t begin, int64_t end) {
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        T* sum = partial.empty() ? nullptr : partial.data() + chunk * count;
        const int64_t last = std::min(batch_, (chunk + 1) * kBiasChunk);
        cpu::row_kernels<T>().bce_block(block, rows_, chunk * kBiasChunk, last, sum);
      }
    });
    if (!wants(kGradBias)) return;
    T* bias = data(grad_bias_) + first;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      for (int64_t c = 0; c < count; ++c) bias[c] += partial[chunk * count + c];
    }
  }

  void weight_gradient(int64_t first, int64_t count, const Matrix& effective) {
    if (waiting_dtype_ == dtype_) {
      gemm(matrix(data(grad_weight_) + first * width_, count, width_), effective.transposed(), stack().view(), false);
      return;
    }
    const Tensor block = empty_like_type(request_.features, {count, width_}, dtype_);
    gemm(whole(block), effective.transposed(), stack().view(), false);
    Tensor target = torch::stable::narrow(grad_weight_, 0, first, count);
    torch::stable::copy_(target, block);
  }

  void map_backward() {
    const cpu::MapBackward<T> task{width_,          request_.minmax, stack_,
                                   stack_gradient_ + batch_ * width_, stack_gradient_,
                                   nullptr,         statistics_.data(), sums_.data(), data(grad_features_)};
    parallel_rows(batch_, width_, [&](int64_t begin, int64_t end) {
      cpu::row_kernels<T>().map_backward(task, rows_, begin, end);
    });
  }

  static constexpr int64_t kBiasChunk = 16;

  const Request& request_;
  const RowView rows_;
  const LossWeights& lam_;
  const ScalarType dtype_, waiting_dtype_;
  const int64_t batch_, width_, classes_, stacked_rows_, block_;
  const std::optional<Tensor> bias_, pos_weight_, row_weight_;
  Workspace workspace_;
  std::vector<cpu::RowSums> sums_;
  std::vector<MapStatistics<T>> statistics_;
  T* stack_ = nullptr;           // X = [f; I], [B + R, n]
  T* logits_ = nullptr;          // [O; Q], then [G_O; G_I], [B + R, block]
  T* stack_gradient_ = nullptr;  // [V; T], [B + R, n]
  Tensor grad_features_, grad_weight_, grad_bias_;
};

template <typename T>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> evaluate(const Request& request, const DirectedRows& rows,
                                                            const LossWeights& lam, ScalarType dtype,
                                                            ScalarType loss_dtype) {
  FusedLoss<T> loss(request, rows, lam, dtype);
  loss.run();
  auto [value, components] = finish_loss(loss.sums(), lam, request.reduction, request.features, loss_dtype);
  auto [grad_features, grad_weight, grad_bias] = loss.gradients();
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
  const ScalarType loss_dtype = accumulation_type("features", features.scalar_type());
  const ScalarType dtype = computation_type(loss_dtype, width);
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
  return dtype == ScalarType::Double ? evaluate<double>(request, rows, weights, dtype, loss_dtype)
                                     : evaluate<float>(request, rows, weights, dtype, loss_dtype);
}

}  // namespace indeed
