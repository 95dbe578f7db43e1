// The whole loss, with gradients made in the forward, class block by class block. X = [f; I] are the features of the
// samples and the identical features of the rows; I and the gradients by X exist only a few rows or columns at a time.
//
//   samples in parallel:  [O; Q] <- X Wᵀ                           [B + R, block], no [rows, C] matrix for large C
//                         loss, [G_O; G_I] <- cross-entropies, in place    (disparate logits are O - Q)
//   columns in parallel:  ∂W <- [G_O; G_I]ᵀ X
//                         [V; T] += [G_O; G_I] W
//                         ∂f <- V + what T sends through the maps, after the last block
//
// Every sum has an order of its own that no number of threads changes. Half types are computed in float32, very narrow
// rows in double, a class block of the weight at a time.
#include "common/options.h"
#include "cpu/fused_kernels.h"
#include "loss_arguments.h"
#include "operators.h"
#include "parallel.h"
#include "workspace.h"

namespace indeed {
namespace {

// Elements of the buffers a class block needs, logits, their gradients transposed and packed weight, and the fewest classes it is cut down to.
constexpr int64_t kBlockElements = int64_t{1} << 23;
constexpr int64_t kMinBlock = 128;
// Samples that share one partial sum of the bias gradient, the unit of parallel work on samples.
constexpr int64_t kChunk = 16;
// Columns worked on at a time: the gradients by a strip of the stack stay in the second-level cache.
constexpr int64_t kMaxStrip = 64;

int64_t class_block(int64_t rows, int64_t width, int64_t classes) {
  const int64_t fitting = kBlockElements / std::max<int64_t>(2 * rows + width, 1) / kWordBits * kWordBits;
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
        block_(class_block(stacked_rows_, width_, classes_)),
        chunks_((batch_ + kChunk - 1) / kChunk),
        slots_(parallel_slots(4 * stacked_rows_ * width_ * std::min(classes_, block_) / kMultiplications)),
        strip_(strip_width()),
        strips_((width_ + strip_ - 1) / strip_),
        features_(as_type(request.features, dtype)),
        bias_(optional_as(request.bias, dtype)),
        pos_weight_(optional_as(request.pos_weight, dtype)),
        row_weight_(optional_as(request.row_weight, dtype)),
        workspace_(workspace_bytes()),
        sums_(rows.count()),
        statistics_(rows.count()) {}

  void run() {
    logits_ = workspace_.take<T>(stacked_rows_ * block_);
    transposed_ = workspace_.take<T>(transposed_elements());
    weight_panels_ = workspace_.take<T>(panels(block_) * kernels().panel_columns * width_);
    bias_parts_ = workspace_.take<T>(bias_elements());
    scratch_ = workspace_.take<T>(slots_ * scratch_elements());
    stack_gradient_ = workspace_.take<T>(stack_gradient_elements());
    allocate_gradients();
    if (batch_ == 0) return;
    for (int64_t first = 0; first < classes_; first += block_) {
      class_block_step(first, std::min(block_, classes_ - first));
    }
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
  // Work below which a thread is not worth waking.
  static constexpr int64_t kMultiplications = 1 << 18;

  static const cpu::FusedKernels<T>& kernels() { return cpu::fused_kernels<T>(); }

  // float16 gradients wait in float32: the loss scale that keeps them in range comes with the upstream gradient.
  static ScalarType waiting_dtype(ScalarType type) { return type == ScalarType::Half ? ScalarType::Float : type; }

  static T* data(const Tensor& tensor) { return static_cast<T*>(tensor.mutable_data_ptr()); }

  static int64_t panels(int64_t classes) {
    return (classes + kernels().panel_columns - 1) / kernels().panel_columns;
  }

  bool wants(int64_t bit) const { return (request_.gradients & bit) != 0; }
  bool has_one_block() const { return block_ >= classes_; }

  // Narrower where there would be too few strips to go round.
  int64_t strip_width() const {
    int64_t strip = kMaxStrip;
    while (strip > kernels().panel_columns && width_ < 2 * slots_ * strip) strip /= 2;
    return strip;
  }

  int64_t transposed_elements() const { return wants(kGradWeight) ? stacked_rows_ * block_ : 0; }

  int64_t bias_elements() const { return wants(kGradBias) ? chunks_ * block_ : 0; }

  int64_t scratch_elements() const {
    return std::max(kernels().sample_scratch_elements, kernels().strip_scratch_elements(strip_));
  }

  // [V; T]: one strip of it per thread, or all of them where the sum goes on with the next class block.
  int64_t stack_gradient_elements() const {
    return wants(kGradFeatures) ? (has_one_block() ? slots_ : strips_) * stacked_rows_ * strip_ : 0;
  }

  size_t workspace_bytes() const {
    return Workspace::bytes_of<T>(stacked_rows_ * block_) + Workspace::bytes_of<T>(transposed_elements()) +
           Workspace::bytes_of<T>(panels(block_) * kernels().panel_columns * width_) +
           Workspace::bytes_of<T>(bias_elements()) + Workspace::bytes_of<T>(slots_ * scratch_elements()) +
           Workspace::bytes_of<T>(stack_gradient_elements());
  }

  void allocate_gradients() {
    const bool nothing_runs = batch_ == 0 || classes_ == 0;
    const auto allocate = [&](std::initializer_list<int64_t> sizes, bool zero) {
      Tensor tensor = empty_like_type(request_.features, sizes, dtype_);
      if (zero) torch::stable::zero_(tensor);
      return tensor;
    };
    if (wants(kGradFeatures)) grad_features_ = allocate({batch_, width_}, nothing_runs);
    if (wants(kGradBias)) grad_bias_ = allocate({classes_}, nothing_runs);
    if (!wants(kGradWeight)) return;
    grad_weight_ = empty_like_type(request_.features, {classes_, width_}, waiting_dtype_);
    if (nothing_runs) torch::stable::zero_(grad_weight_);
  }

  void class_block_step(int64_t first, int64_t count) {
    const Tensor weight = weight_block(first, count);
    const bool converts = wants(kGradWeight) && waiting_dtype_ != dtype_;
    const Tensor converted = converts ? empty_like_type(request_.features, {count, width_}, dtype_) : grad_weight_;
    const cpu::FusedBlock<T> block = describe(weight, converted, first, count);
    parallel(slots_, panels(count), [&](int64_t, int64_t begin, int64_t end) {
      kernels().pack_weight(block, begin, end);
    });
    logits_and_losses(block);
    if (block.bce.gradients) strips(block);
    if (converts) {
      Tensor target = torch::stable::narrow(grad_weight_, 0, first, count);
      torch::stable::copy_(target, converted);
    }
  }

  // Classes [first, first + count) of the weight in the accumulation type.
  Tensor weight_block(int64_t first, int64_t count) const {
    if (count == classes_) return as_type(request_.weight, dtype_);
    return as_type(torch::stable::narrow(const_cast<Tensor&>(request_.weight), 0, first, count), dtype_);
  }

  cpu::FusedBlock<T> describe(const Tensor& weight, const Tensor& grad_weight, int64_t first, int64_t count) {
    cpu::FusedBlock<T> block{};
    block.features = data(features_);
    block.batch = batch_;
    block.width = width_;
    block.stacked = stacked_rows_;
    block.transposed = transposed_;
    block.weight = data(weight);
    block.weight_panels = weight_panels_;
    block.minmax = request_.minmax;
    block.eps = request_.eps;
    block.statistics = statistics_.data();
    block.first = first == 0;
    block.last = first + count == classes_;
    if (wants(kGradWeight)) {
      block.grad_weight = data(grad_weight) + (grad_weight.size(0) == count ? 0 : first * width_);
    }
    if (wants(kGradFeatures)) block.grad_features = data(grad_features_);

    cpu::BceBlock<T>& bce = block.bce;
    bce.first_class = first;
    bce.classes = bce.stride = count;
    bce.original = logits_;
    bce.identical = logits_ + batch_ * count;
    bce.bias = optional_data<T>(bias_);
    bce.pos_weight = optional_data<T>(pos_weight_);
    bce.present = reinterpret_cast<const uint32_t*>(request_.present.const_data_ptr<int32_t>());
    bce.known = reinterpret_cast<const uint32_t*>(optional_data<int32_t>(request_.known));
    bce.words = request_.present.size(1);
    bce.blocks = request_.blocks;
    bce.lam_identical = static_cast<T>(lam_.identical);
    bce.lam_disparate = static_cast<T>(lam_.disparate);
    bce.row_weight = optional_data<T>(row_weight_);
    bce.scale = static_cast<T>(reduction_scale(request_.reduction, rows_.count));
    bce.gradients = request_.gradients != 0;
    bce.sums = sums_.data();
    return block;
  }

  void logits_and_losses(const cpu::FusedBlock<T>& block) {
    const int64_t count = block.bce.classes;
    parallel(slots_, chunks_, [&](int64_t slot, int64_t begin, int64_t end) {
      kernels().logits(block, rows_, begin * kChunk, std::min(batch_, end * kChunk), scratch(slot));
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        T* sum = wants(kGradBias) ? bias_parts_ + chunk * count : nullptr;
        if (sum != nullptr) std::fill(sum, sum + count, T(0));
        const int64_t last = std::min(batch_, (chunk + 1) * kChunk);
        cpu::row_kernels<T>().bce_block(block.bce, rows_, chunk * kChunk, last, sum);
        if (wants(kGradWeight)) kernels().transpose_gradients(block, rows_, chunk * kChunk, last);
      }
    });
    if (!wants(kGradBias)) return;
    T* bias = data(grad_bias_) + block.bce.first_class;
    std::copy(bias_parts_, bias_parts_ + count, bias);
    for (int64_t chunk = 1; chunk < chunks_; ++chunk) {
      for (int64_t c = 0; c < count; ++c) bias[c] += bias_parts_[chunk * count + c];
    }
  }

  void strips(const cpu::FusedBlock<T>& block) {
    parallel(slots_, strips_, [&](int64_t slot, int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        T* stack_gradient = stack_gradient_ + (has_one_block() ? slot : k) * stacked_rows_ * strip_;
        kernels().gradients(block, rows_, k * strip_, std::min(width_, (k + 1) * strip_), strip_, stack_gradient,
                            scratch(slot));
      }
    });
  }

  T* scratch(int64_t slot) const { return scratch_ + slot * scratch_elements(); }

  const Request& request_;
  const RowView rows_;
  const LossWeights& lam_;
  const ScalarType dtype_, waiting_dtype_;
  const int64_t batch_, width_, classes_, stacked_rows_, block_, chunks_, slots_, strip_, strips_;
  const Tensor features_;
  const std::optional<Tensor> bias_, pos_weight_, row_weight_;
  Workspace workspace_;
  std::vector<cpu::RowSums> sums_;
  std::vector<MapStatistics<T>> statistics_;
  T* logits_ = nullptr;          // [O; Q], then [G_O; G_I], [B + R, block]
  T* transposed_ = nullptr;      // [G_O; G_I]ᵀ, [block, B + R]
  T* weight_panels_ = nullptr;   // Wᵀ of the block, packed
  T* bias_parts_ = nullptr;      // [chunks, block]
  T* scratch_ = nullptr;         // one piece per thread
  T* stack_gradient_ = nullptr;  // strips of [V; T]
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
  if (bias.has_value()) {
    require_shape("bias", *bias, {classes});
    require_dtype("bias", *bias, features.scalar_type());
  }
  if (pos_weight.has_value()) require_shape("pos_weight", *pos_weight, {classes});
  require_label_words(present, known, batch, classes);
  const DirectedRows rows(pairs, batch);
  if (row_weight.has_value()) require_shape("row_weight", *row_weight, {rows.count()});
  const LossWeights weights(lam);
  require(bias.has_value() || (gradients & kGradBias) == 0, "gradients: there is no bias to differentiate");

  present = dense(present);
  require_no_stray_bits(present, classes);
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
