// How a device registers its implementations. indeed_ext/schemas.py defines the operators; a build of the same sources
// for tests may name another dispatcher namespace.
#pragma once

#include <torch/csrc/stable/library.h>

#if !defined(INDEED_OPERATOR_NAMESPACE)
#define INDEED_OPERATOR_NAMESPACE indeed_ext
#endif

// One more macro, so that the namespace is expanded before torch's macros make a name of it.
#define INDEED_LIBRARY_IMPL(namespace_name, key, m) STABLE_TORCH_LIBRARY_IMPL(namespace_name, key, m)

// The operators whose composition is one template over the device; packing and mining are the device's own.
#define INDEED_REGISTER_OPERATORS(m, device)                                                       \
  m.impl("pack_labels", TORCH_BOX(&device::Device::pack_labels));                                  \
  m.impl("mine_pairs", TORCH_BOX(&device::Device::mine_pairs));                                    \
  m.impl("identical_disparate", TORCH_BOX(&indeed::identical_disparate<device::Device>));          \
  m.impl("identical_disparate_backward",                                                           \
         TORCH_BOX(&indeed::identical_disparate_backward<device::Device>));                        \
  m.impl("six_way_bce", TORCH_BOX(&indeed::six_way_bce<device::Device>));                          \
  m.impl("six_way_bce_backward", TORCH_BOX(&indeed::six_way_bce_backward<device::Device>));        \
  m.impl("fused_indeed_loss", TORCH_BOX(&indeed::fused_indeed_loss<device::Device>));              \
  m.impl("scale_gradients", TORCH_BOX(&indeed::scale_gradients<device::Device>))
