// Schemas and registration of the operators with torch's dispatcher, through LibTorch's stable ABI.
#include "operators.h"

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(indeed_ext, m) {
  m.def("pack_labels(Tensor labels) -> (Tensor, Tensor)");
  m.def("mine_pairs(Tensor present, Tensor seed, int strategy) -> Tensor");
  m.def("identical_disparate(Tensor features, Tensor pairs, int norm, float eps) -> (Tensor, Tensor)");
  m.def(
      "identical_disparate_backward(Tensor grad_identical, Tensor grad_disparate, Tensor features, Tensor pairs, "
      "int norm, float eps) -> Tensor");
  m.def(
      "six_way_bce(Tensor logits, Tensor identical_logits, Tensor disparate_logits, Tensor present, Tensor? known, "
      "Tensor pairs, Tensor lam, Tensor? pos_weight, int reduction, int blocks) -> (Tensor, Tensor)");
  m.def(
      "six_way_bce_backward(Tensor grad_loss, Tensor logits, Tensor identical_logits, Tensor disparate_logits, "
      "Tensor present, Tensor? known, Tensor pairs, Tensor lam, Tensor? pos_weight, int reduction, int blocks) "
      "-> (Tensor, Tensor, Tensor)");
  m.def(
      "fused_indeed_loss(Tensor features, Tensor weight, Tensor? bias, Tensor present, Tensor? known, Tensor pairs, "
      "Tensor lam, Tensor? pos_weight, Tensor? row_weight, int norm, float eps, int reduction, int blocks, "
      "int gradients) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "indeed_loss(Tensor features, Tensor weight, Tensor? bias, Tensor labels, Tensor? known, bool packed, "
      "Tensor? pairs, Tensor? seed, Tensor lam, Tensor? pos_weight, int strategy, int norm, float eps, int reduction, "
      "int blocks, int gradients) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(indeed_ext, CPU, m) {
  m.impl("pack_labels", TORCH_BOX(&indeed::pack_labels));
  m.impl("mine_pairs", TORCH_BOX(&indeed::mine_pairs));
  m.impl("identical_disparate", TORCH_BOX(&indeed::identical_disparate));
  m.impl("identical_disparate_backward", TORCH_BOX(&indeed::identical_disparate_backward));
  m.impl("six_way_bce", TORCH_BOX(&indeed::six_way_bce));
  m.impl("six_way_bce_backward", TORCH_BOX(&indeed::six_way_bce_backward));
  m.impl("fused_indeed_loss", TORCH_BOX(&indeed::fused_indeed_loss));
  m.impl("indeed_loss", TORCH_BOX(&indeed::indeed_loss));
}
