// The Python module `indeed_ext._autograd`: calls of the loss as nearly all are, straight from their arguments. Between
// other work the way through Python and torch's own parser of arguments takes as long as a small loss.
#include <Python.h>

#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/autocast_mode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/csrc/utils/pybind.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <tuple>
#include <utility>

#include "autograd/indeed_loss.h"
#include "common/options.h"

namespace indeed {
namespace {

using at::Tensor;

// A dense tensor on the host of no class of its own.
bool is_plain(PyObject* object) {
  return THPVariable_CheckExact(object) && THPVariable_Unpack(object).is_cpu() &&
         THPVariable_Unpack(object).layout() == at::kStrided;
}

// That, or None.
bool is_plain_or_none(PyObject* object) { return object == Py_None || is_plain(object); }

std::optional<Tensor> optional_tensor(PyObject* object) {
  return object == Py_None ? std::nullopt : std::optional<Tensor>(THPVariable_Unpack(object));
}

// Whether a call that names this backend, or none, is served by the kernels for the CPU.
bool is_served_here(PyObject* backend) {
  if (backend == Py_None) {
    const char* chosen = std::getenv("INDEED_BACKEND");
    return chosen == nullptr || *chosen == '\0';
  }
  return PyUnicode_CheckExact(backend) && PyUnicode_CompareWithASCIIString(backend, "cpu") == 0;
}

// Whether something watches or changes what functions of torch are called with.
bool is_observed() {
  return at::impl::torch_function_mode_enabled() || c10::impl::dispatch_mode_enabled() ||
         c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerFrontMode) ||
         torch::jit::tracer::isTracing() || at::autocast::is_autocast_enabled(at::kCPU);
}

// Beyond this there are limits to what strategies take.
constexpr int64_t kMostPlainSamples = int64_t{1} << 20;

// What the settings of a call stand for: strategy, norm, lam, eps and reduction.
struct Settings {
  static constexpr size_t kCount = 5;
  std::array<PyObject*, kCount> objects{};
  Tensor lam;
  int64_t strategy, norm, reduction, blocks;
  double eps;

  // From one call to the next they are the same objects, and objects of these types never change.
  bool stand_for(PyObject* const* settings) const {
    return lam.defined() && std::equal(objects.begin(), objects.end(), settings);
  }

  // Asks the function that knows, which raises what is wrong with them.
  void look_up(PyObject* function, PyObject* const* settings) {
    py::tuple arguments(kCount + 1);
    for (size_t k = 0; k < kCount; ++k) arguments[k] = py::reinterpret_borrow<py::object>(settings[k]);
    arguments[kCount] = py::cast(c10::Device(at::kCPU));
    const py::tuple found = py::reinterpret_steal<py::tuple>(PyObject_CallObject(function, arguments.ptr()));
    if (!found) throw python_error();
    const py::tuple codes = found[1];
    lam = Tensor();
    for (size_t k = 0; k < kCount; ++k) Py_INCREF(settings[k]);
    for (PyObject* object : objects) Py_XDECREF(object);
    std::copy(settings, settings + kCount, objects.begin());
    strategy = codes[0].cast<int64_t>();
    norm = codes[1].cast<int64_t>();
    eps = codes[2].cast<double>();
    reduction = codes[3].cast<int64_t>();
    blocks = codes[4].cast<int64_t>();
    lam = THPVariable_Unpack(py::object(found[0]).ptr());
  }
};

bool are_plain_settings(PyObject* const* settings) {
  const auto is_number = [](PyObject* object) { return PyFloat_CheckExact(object) || PyLong_CheckExact(object); };
  return PyUnicode_CheckExact(settings[0]) && PyUnicode_CheckExact(settings[1]) && is_number(settings[2]) &&
         is_number(settings[3]) && PyUnicode_CheckExact(settings[4]);
}

// The seed in `given`: none, a number or a 0-d tensor; false if it is something else.
bool read_seed(PyObject* given, std::optional<Tensor>& seed) {
  if (given == Py_None) return true;
  if (is_plain(given)) {
    seed = THPVariable_Unpack(given);
    return seed->scalar_type() == at::kLong && seed->dim() == 0;
  }
  if (!PyLong_CheckExact(given)) return false;
  int overflow = 0;
  const int64_t value = PyLong_AsLongLongAndOverflow(given, &overflow);
  if (overflow == 0) seed = at::scalar_tensor(value, at::kLong);
  return overflow == 0;
}

enum Argument { kSettingsOf, kFeatures, kWeight, kLabels, kBias, kPairs, kStrategy, kNorm, kLam, kEps, kReduction,
                kPosWeight, kSeed, kGenerator, kBackend, kArguments };

// (loss, components), or None for a call that is not plain; nothing is done then.
PyObject* plain_loss(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(count == kArguments, "expected ", int{kArguments}, " arguments, got ", count);
  for (const Argument needed : {kFeatures, kWeight, kLabels}) {
    if (!is_plain(arguments[needed])) Py_RETURN_NONE;
  }
  if (!is_plain_or_none(arguments[kBias]) || !is_plain_or_none(arguments[kPairs]) ||
      arguments[kPosWeight] != Py_None || arguments[kGenerator] != Py_None ||
      !are_plain_settings(arguments + kStrategy) || !is_served_here(arguments[kBackend]) || is_observed()) {
    Py_RETURN_NONE;
  }
  const Tensor &features = THPVariable_Unpack(arguments[kFeatures]), &weight = THPVariable_Unpack(arguments[kWeight]),
               &labels = THPVariable_Unpack(arguments[kLabels]);
  const std::optional<Tensor> bias = optional_tensor(arguments[kBias]), pairs = optional_tensor(arguments[kPairs]);
  // Labels of another width may be packed ones; what kinds of pairs there are is told elsewhere.
  if (features.dim() != 2 || weight.dim() != 2 || labels.dim() != 2 || labels.size(1) != weight.size(0) ||
      (pairs.has_value() && pairs->scalar_type() != at::kLong)) {
    Py_RETURN_NONE;
  }
  std::optional<Tensor> seed;
  if (!pairs.has_value() && !read_seed(arguments[kSeed], seed)) Py_RETURN_NONE;

  static auto& settings = *new Settings;  // never destroyed: there may be no interpreter left by then
  if (!settings.stand_for(arguments + kStrategy)) settings.look_up(arguments[kSettingsOf], arguments + kStrategy);
  if (settings.reduction == static_cast<int64_t>(Reduction::kNone) || features.size(0) > kMostPlainSamples) {
    Py_RETURN_NONE;
  }
  const Settings used = settings;  // another thread may look up others
  std::tuple<Tensor, Tensor> results;
  {
    const pybind11::gil_scoped_release no_gil;
    results = differentiable_indeed_loss(features, weight, bias, labels, std::nullopt, false, pairs, std::move(seed),
                                         std::nullopt, used.lam, std::nullopt, used.strategy, used.norm, used.eps,
                                         used.reduction, used.blocks);
  }
  PyObject* pair = PyTuple_New(2);
  if (pair == nullptr) throw python_error();
  PyTuple_SET_ITEM(pair, 0, THPVariable_Wrap(std::move(std::get<0>(results))));
  PyTuple_SET_ITEM(pair, 1, THPVariable_Wrap(std::move(std::get<1>(results))));
  return pair;
  END_HANDLE_TH_ERRORS
}

PyMethodDef kMethods[] = {
    {"plain_loss", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(&plain_loss)), METH_FASTCALL,
     "(loss, components) of a call that holds nothing out of the ordinary; None for any other."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef kModule = {PyModuleDef_HEAD_INIT, "_autograd", nullptr, -1, kMethods, nullptr, nullptr, nullptr, nullptr};

}  // namespace
}  // namespace indeed

PyMODINIT_FUNC PyInit__autograd() { return PyModule_Create(&indeed::kModule); }
