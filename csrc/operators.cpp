// Schemas of the operators, the same for every device; their results and gradients stand in indeed_ext/operators.py.
#include "registration.h"

INDEED_LIBRARY(INDEED_OPERATOR_NAMESPACE, m) {
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
