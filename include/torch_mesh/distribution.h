// distribution.h: how a torch::nn::Module and its batches stand on a mesh.
//
//   torch_mesh::Mesh mesh({{"data", 4}});
//   const torch_mesh::DataParallel parallel(mesh);
//   parallel.distribute_parameters(*model);   // once
//   auto loss = model->forward(parallel.shard_batch(x)).square().mean();
//   loss.backward();                          // gradients follow by themselves

#pragma once

#include <string>

#include <ATen/core/TensorBody.h>

#include <torch_mesh/layout.h>
#include <torch_mesh/layout_map.h>

namespace torch::nn {
class Module;
}

namespace torch_mesh {

// Values; cheap to copy. Threads: const members may be called from any thread.
class Distribution {
 public:
  virtual ~Distribution() = default;

  const Mesh& mesh() const { return mesh_; }
  const std::string& batch_axis() const { return batch_axis_; }

  // The layout of a parameter or buffer.
  //
  // name   as Module::named_parameters() gives it, "fc1.weight"
  virtual Layout layout_of_parameter(
      const std::string& name,
      const at::Tensor& tensor) const = 0;

  // Puts every parameter and buffer, and gradients that are there, on the mesh.
  // Tensors keep their identity: an optimizer made before works on. What stands
  // on the mesh already is redistributed. A tensor with two names is placed by
  // the first.
  virtual void distribute_parameters(torch::nn::Module& module) const;

  // Dim 0 sharded along the batch axis; a tensor without dims on every device.
  // Differentiable; copies.
  at::Tensor shard_batch(const at::Tensor& batch) const;

 protected:
  // Registers the mesh device.
  //
  // batch_axis   "" stands for the first. Throws [unknown-axis], and
  //              [layout-axes] for a mesh without axes.
  Distribution(const Mesh& mesh, std::string batch_axis);

 private:
  Mesh mesh_;
  std::string batch_axis_;
};

// Every device holds every parameter, and its part of each batch.
class DataParallel final : public Distribution {
 public:
  explicit DataParallel(const Mesh& mesh, std::string batch_axis = "")
      : Distribution(mesh, std::move(batch_axis)) {}

  Layout layout_of_parameter(const std::string& name, const at::Tensor& tensor)
      const override;
};

// Parameters stand as the map says; those it does not find, on every device.
class ModelParallel final : public Distribution {
 public:
  // Throws [unknown-axis] if the map names an axis that the mesh lacks.
  ModelParallel(
      const Mesh& mesh,
      LayoutMap layout_map,
      std::string batch_axis = "");

  const LayoutMap& layout_map() const { return layout_map_; }

  // Throws [ambiguous-pattern], and [layout-rank] if a pattern that matches the
  // whole name has more entries than the tensor dims; with one that matches an
  // end of it the tensor is replicated, with a warning. Warns of a tie.
  Layout layout_of_parameter(const std::string& name, const at::Tensor& tensor)
      const override;

  // Warns of patterns that no name of the module finds.
  void distribute_parameters(torch::nn::Module& module) const override;

 private:
  LayoutMap layout_map_;
};

}  // namespace torch_mesh
