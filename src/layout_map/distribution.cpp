// distribution.cpp: places the parameters of a module on a mesh.

#include <torch_mesh/distribution.h>

#include <algorithm>
#include <functional>
#include <set>
#include <utility>
#include <vector>

#include <c10/util/Exception.h>
#include <torch/nn/module.h>

#include <torch_mesh/error.h>
#include <torch_mesh/tensor.h>

#include "layout_map/path.h"

namespace torch_mesh {
namespace {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

// Parameters and buffers; a tensor that has several names under the first.
NamedTensors named_tensors(const torch::nn::Module& module) {
  NamedTensors tensors;
  std::set<const c10::TensorImpl*> seen;
  const auto add = [&](const std::string& name, const at::Tensor& tensor) {
    if (tensor.defined() && seen.insert(tensor.unsafeGetTensorImpl()).second) {
      tensors.emplace_back(name, tensor);
    }
  };
  for (const auto& item : module.named_parameters()) {
    add(item.key(), item.value());
  }
  for (const auto& item : module.named_buffers()) {
    add(item.key(), item.value());
  }
  return tensors;
}

Layout layout_from(const Mesh& mesh, const DimAxes& axes) {
  Layout layout = Layout::replicated(mesh);
  for (size_t dim = 0; dim < axes.size(); ++dim) {
    if (axes[dim]) {
      layout = layout.with(
          mesh.axis_index(*axes[dim]),
          Placement::shard(static_cast<int64_t>(dim)));
    }
  }
  return layout;
}

// "" if the layout's entries fit the tensor.
std::string rank_error(
    const std::string& name,
    const at::Tensor& tensor,
    const LayoutMap::Match& match) {
  if (match.axes.size() <= static_cast<size_t>(tensor.dim())) {
    return "";
  }
  return "LayoutMap: the layout of \"" + name + "\" has " +
         std::to_string(match.axes.size()) + " entries, the tensor " +
         std::to_string(tensor.dim()) + " dims.\n  pattern  \"" +
         match.pattern +
         "\"\nHint: make the pattern narrower, or give one entry per dim.";
}

void warn_unused(const std::string& pattern, const NamedTensors& tensors) {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors) {
    names.push_back(name);
  }
  const auto nearest = nearest_paths(pattern, names, 1);
  TORCH_WARN(
      "LayoutMap: the pattern \"",
      pattern,
      "\" matches no parameter or buffer.\n  nearest  ",
      nearest.empty() ? "none: the module has none" : nearest[0],
      "\nHint: module.named_parameters() lists all names. [unused-pattern]");
}

}  // namespace

Distribution::Distribution(const Mesh& mesh, std::string batch_axis)
    : mesh_(mesh), batch_axis_(std::move(batch_axis)) {
  // Before a first backward pass on plain tensors: autograd makes its threads
  // for the devices that are there by then.
  register_device();
  TORCH_MESH_CHECK_VALUE(
      mesh.num_axes() > 0,
      "layout-axes",
      "Distribution: the mesh has no axis to shard a batch along.\nHint: give "
      "it one, Mesh({{\"data\", 4}}).");
  if (batch_axis_.empty()) {
    batch_axis_ = mesh.axis(0).name;
  }
  mesh.axis_index(batch_axis_);
}

void Distribution::distribute_parameters(torch::nn::Module& module) const {
  const at::NoGradGuard no_grad;
  const auto place = [&](const std::string& name, const at::Tensor& tensor) {
    return distribute(tensor.detach(), layout_of_parameter(name, tensor));
  };
  for (auto& [name, tensor] : named_tensors(module)) {
    const at::Tensor gradient = tensor.grad();
    tensor.mutable_grad().reset();
    tensor.set_data(place(name, tensor));
    if (gradient.defined()) {
      tensor.mutable_grad() = place(name, gradient);
    }
  }
}

at::Tensor Distribution::shard_batch(const at::Tensor& batch) const {
  Layout layout = Layout::replicated(mesh_);
  if (batch.dim() > 0) {
    layout = layout.with(mesh_.axis_index(batch_axis_), Placement::shard(0));
  }
  return distribute(batch, layout);
}

Layout DataParallel::layout_of_parameter(const std::string&, const at::Tensor&)
    const {
  return Layout::replicated(mesh());
}

ModelParallel::ModelParallel(
    const Mesh& mesh,
    LayoutMap layout_map,
    std::string batch_axis)
    : Distribution(mesh, std::move(batch_axis)),
      layout_map_(std::move(layout_map)) {
  for (const std::string& pattern : layout_map_.patterns()) {
    layout_from(mesh, layout_map_.axes_of(pattern));
  }
}

Layout ModelParallel::layout_of_parameter(
    const std::string& name,
    const at::Tensor& tensor) const {
  const LayoutMap::Match match = layout_map_.find(name);
  if (!match.warning.empty()) {
    TORCH_WARN(match.warning);
  }
  const std::string error = rank_error(name, tensor, match);
  if (error.empty()) {
    return layout_from(mesh(), match.axes);
  }
  TORCH_MESH_CHECK_VALUE(
      match.rule != LayoutMap::Rule::kExact &&
          match.rule != LayoutMap::Rule::kWhole,
      "layout-rank",
      error);
  TORCH_WARN(error, " [layout-rank]\nIt is replicated.");
  return Layout::replicated(mesh());
}

void ModelParallel::distribute_parameters(torch::nn::Module& module) const {
  Distribution::distribute_parameters(module);
  const NamedTensors tensors = named_tensors(module);
  std::set<std::string> used;
  for (const auto& [name, tensor] : tensors) {
    used.insert(layout_map_.find(name).pattern);
  }
  for (const std::string& pattern : layout_map_.patterns()) {
    if (!used.count(pattern)) {
      warn_unused(pattern, tensors);
    }
  }
}

}  // namespace torch_mesh
