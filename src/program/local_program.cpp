// local_program.cpp: parts in, one local graph, global tensors out; and back.

#include "program/local_program.h"

#include <algorithm>
#include <utility>

#include <ATen/SavedTensorHooks.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/graph_task.h>

#include <torch_mesh/error.h>

#include "dispatch/autograd_thread.h"
#include "program/batch_cut.h"
#include "shard/local_ops.h"
#include "tensor/global_tensor.h"
#include "trace/counters.h"
#include "trace/explain.h"

namespace torch_mesh {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Tensors = LocalProgram::Tensors;

// What autocast does on a kind of device.
struct Autocast {
  bool is_enabled;
  c10::ScalarType dtype;

  static Autocast of(c10::DeviceType kind) {
    return {at::autocast::is_autocast_enabled(kind),
            at::autocast::get_autocast_dtype(kind)};
  }
  void apply(c10::DeviceType kind) const {
    at::autocast::set_autocast_enabled(kind, is_enabled);
    at::autocast::set_autocast_dtype(kind, dtype);
  }
};

Autocast autocast_of_mesh() { return Autocast::of(c10::kPrivateUse1); }

// While one lives, tensors of this kind of device are cast so. Local tensors
// live for one call: their casts are not worth keeping.
class AutocastAs {
 public:
  AutocastAs(c10::DeviceType kind, const Autocast& now)
      : kind_(kind), before_(Autocast::of(kind)) {
    now.apply(kind_);
    at::autocast::set_autocast_cache_enabled(false);
  }
  ~AutocastAs() {
    before_.apply(kind_);
    at::autocast::set_autocast_cache_enabled(was_cached_);
  }
  AutocastAs(const AutocastAs&) = delete;
  AutocastAs& operator=(const AutocastAs&) = delete;

 private:
  const c10::DeviceType kind_;
  const Autocast before_;
  const bool was_cached_ = at::autocast::is_autocast_cache_enabled();
};

// What each part computed, with its graph.
struct LocalGraph : torch::CustomClassHolder {
  std::vector<Tensors> leaves;   // [parts][inputs]
  std::vector<Tensors> results;  // [parts][results]
};

// Runs the parts. Where `needs_grad` says so, inputs are leaves of a graph.
c10::intrusive_ptr<LocalGraph> run_parts(
    const LocalProgram& program,
    const Cut& cut,
    const Tensors& inputs,
    const Autocast& autocast,
    const std::vector<bool>& needs_grad) {
  auto graph = c10::make_intrusive<LocalGraph>();
  {
    const LocalOps local;
    graph->leaves = locals_of(cut, inputs, program.batch_dims);
  }
  const bool records =
      std::find(needs_grad.begin(), needs_grad.end(), true) != needs_grad.end();
  const at::AutoGradMode grad_mode(records || at::GradMode::is_enabled());
  const AutocastAs as_on_mesh(cut.kind(), autocast);
  for (Tensors& leaves : graph->leaves) {
    for (size_t i = 0; i < leaves.size(); ++i) {
      if (records && leaves[i].is_inference()) {
        leaves[i] = leaves[i].clone();
      }
      leaves[i] = leaves[i].detach();
      if (needs_grad[i]) {
        leaves[i].requires_grad_();
      }
    }
    graph->results.push_back(program.local(leaves));
    TORCH_MESH_ASSERT(
        graph->results.back().size() == program.results.size(),
        program.name,
        " gave ",
        graph->results.back().size(),
        " results");
  }
  return graph;
}

Tensors pack_results(
    const LocalProgram& program,
    const Cut& cut,
    std::vector<Tensors> locals) {
  const LocalOps local;
  Tensors results;
  for (size_t r = 0; r < program.results.size(); ++r) {
    const LocalProgram::Result& result = program.results[r];
    Tensors parts;
    for (Tensors& of_part : locals) {
      parts.push_back(of_part[r].detach());
      of_part[r] = Tensor();
    }
    results.push_back(pack_parts(
        cut,
        std::move(parts),
        result.batch_dim,
        cut.layout(result.batch_dim),
        result.order));
  }
  return results;
}

Tensors run_without_graph(
    const LocalProgram& program,
    const Cut& cut,
    const Tensors& inputs) {
  return pack_results(
      program,
      cut,
      std::move(run_parts(
                    program,
                    cut,
                    inputs,
                    autocast_of_mesh(),
                    std::vector<bool>(inputs.size()))
                    ->results));
}

bool any_defined(const variable_list& tensors) {
  return std::any_of(tensors.begin(), tensors.end(), [](const Tensor& t) {
    return t.defined();
  });
}

// Gradients that are themselves differentiable: of the program as it is
// composed of ops on global tensors.
variable_list composed_gradients(
    const LocalProgram& program,
    const variable_list& inputs,
    const Autocast& autocast,
    const std::vector<bool>& wanted,
    const variable_list& gradients) {
  const at::AutoGradMode grad_mode(true);
  const AutocastAs as_in_forward(c10::kPrivateUse1, autocast);
  // Hooks of the inputs are not those of these.
  Tensors aliases;
  variable_list sources;
  for (size_t i = 0; i < inputs.size(); ++i) {
    aliases.push_back(inputs[i].view_as(inputs[i]));
    if (wanted[i]) {
      sources.push_back(aliases.back());
    }
  }
  const Tensors results = program.composed(aliases);
  variable_list roots;
  variable_list given;
  for (size_t r = 0; r < results.size(); ++r) {
    if (gradients[r].defined() && results[r].requires_grad()) {
      roots.push_back(results[r]);
      given.push_back(gradients[r]);
    }
  }
  variable_list found = torch::autograd::grad(
      roots,
      sources,
      given,
      /*retain_graph=*/true,
      /*create_graph=*/true,
      /*allow_unused=*/true);
  variable_list all(inputs.size());
  size_t next = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (wanted[i]) {
      all[i] = found[next++];
    }
  }
  return all;
}

// [inputs][parts], undefined where there is none.
std::vector<Tensors> local_gradients(
    const LocalProgram& program,
    const Cut& cut,
    const LocalGraph& graph,
    const variable_list& gradients,
    const std::vector<bool>& wanted,
    bool keeps_graph) {
  std::vector<int64_t> batch_dims;
  for (const LocalProgram::Result& result : program.results) {
    batch_dims.push_back(result.batch_dim);
  }
  std::vector<Tensors> locals;
  {
    const LocalOps local;
    locals = locals_of(cut, gradients, batch_dims);
  }
  variable_list roots;
  variable_list given;
  variable_list sources;
  for (size_t p = 0; p < cut.parts.size(); ++p) {
    for (size_t r = 0; r < gradients.size(); ++r) {
      const Tensor& result = graph.results[p][r];
      if (gradients[r].defined() && result.requires_grad()) {
        roots.push_back(result);
        given.push_back(locals[p][r].to(result.scalar_type()));
      }
    }
    for (size_t i = 0; i < wanted.size(); ++i) {
      if (wanted[i]) {
        sources.push_back(graph.leaves[p][i]);
      }
    }
  }
  const AutocastAs as_on_mesh(cut.kind(), autocast_of_mesh());
  variable_list found = torch::autograd::grad(
      roots,
      sources,
      given,
      keeps_graph,
      /*create_graph=*/false,
      /*allow_unused=*/true);
  std::vector<Tensors> of_inputs(wanted.size());
  size_t next = 0;
  for (size_t p = 0; p < cut.parts.size(); ++p) {
    for (size_t i = 0; i < wanted.size(); ++i) {
      of_inputs[i].push_back(wanted[i] ? std::move(found[next++]) : Tensor());
    }
  }
  return of_inputs;
}

// A gradient of a part of nothing may be missing where others have one.
void fill_missing(Tensors& parts, const LocalGraph& graph, size_t input) {
  for (size_t p = 0; p < parts.size(); ++p) {
    if (!parts[p].defined()) {
      parts[p] = graph.leaves[p][input].detach().new_zeros(
          graph.leaves[p][input].sizes());
    }
  }
}

// A gradient cut as its input is, along the axes where all have all of it.
Tensor sliced(const Tensor& whole, const Layout& layout, const Layout& input) {
  Layout to = layout;
  for (int axis = 0; axis < layout.mesh().num_axes(); ++axis) {
    if (input[axis].is_shard() && layout[axis].is_replicate()) {
      to = to.with(axis, input[axis]);
    }
  }
  return to == layout ? whole : redistribute(whole, to);
}

// What a node keeps between forward and backward.
struct Kept : torch::CustomClassHolder {
  Kept(
      std::shared_ptr<const LocalProgram> program,
      Cut cut,
      const Autocast& autocast)
      : program(std::move(program)), cut(std::move(cut)), autocast(autocast) {}

  std::shared_ptr<const LocalProgram> program;
  Cut cut;
  Autocast autocast;
  std::vector<bool> needs_grad;
  std::vector<Layout> layouts;  // of the inputs
  // None where hooks pack what is saved: then the backward runs the program
  // again, on what they unpack.
  c10::intrusive_ptr<LocalGraph> graph;
};

struct RunOnMemories : torch::autograd::Function<RunOnMemories> {
  static variable_list forward(
      AutogradContext* context,
      at::TensorList inputs,
      const std::shared_ptr<const LocalProgram>& program,
      const Cut& cut) {
    auto kept = c10::make_intrusive<Kept>(program, cut, autocast_of_mesh());
    for (const Tensor& input : inputs) {
      kept->needs_grad.push_back(input.requires_grad());
      kept->layouts.push_back(layout_of(input));
    }
    context->save_for_backward(inputs.vec());
    context->set_materialize_grads(false);
    context->saved_data["kept"] = c10::IValue::make_capsule(kept);
    if (at::SavedTensorDefaultHooks::get_hooks()) {
      const at::AutoGradMode as_outside(true);
      return run_without_graph(*program, cut, inputs.vec());
    }
    kept->graph = run_parts(
        *program, cut, inputs.vec(), kept->autocast, kept->needs_grad);
    return pack_results(*program, cut, kept->graph->results);
  }

  static variable_list backward(
      AutogradContext* context,
      variable_list gradients) {
    const auto kept = c10::static_intrusive_pointer_cast<Kept>(
        context->saved_data["kept"].toCapsule());
    const variable_list inputs = context->get_saved_variables();
    const LocalProgram& program = *kept->program;
    variable_list found(inputs.size() + 2);
    std::vector<bool> wanted = kept->needs_grad;
    for (size_t i = 0; i < wanted.size(); ++i) {
      wanted[i] = wanted[i] && context->needs_input_grad(i);
    }
    if (!any_defined(gradients) ||
        std::find(wanted.begin(), wanted.end(), true) == wanted.end()) {
      return found;
    }
    if (at::GradMode::is_enabled()) {
      variable_list composed = composed_gradients(
          program, inputs, kept->autocast, wanted, gradients);
      std::move(composed.begin(), composed.end(), found.begin());
      return found;
    }
    try {
      first_gradients(*kept, inputs, wanted, gradients, found);
    } catch (const CoreError& error) {
      rethrow_for_torch(error);
    }
    return found;
  }

 private:
  static void first_gradients(
      Kept& kept,
      const variable_list& inputs,
      const std::vector<bool>& wanted,
      const variable_list& gradients,
      variable_list& found) {
    const LocalProgram& program = *kept.program;
    const CurrentOp current(program.name);
    count_op();
    const bool keeps_graph =
        kept.graph && torch::autograd::get_current_graph_task_keep_graph();
    const auto graph =
        kept.graph
            ? kept.graph
            : run_parts(
                  program, kept.cut, inputs, kept.autocast, kept.needs_grad);
    std::vector<Tensors> locals = local_gradients(
        program, kept.cut, *graph, gradients, wanted, keeps_graph);
    if (!keeps_graph) {
      kept.graph.reset();
    }
    const LocalOps local;
    for (size_t i = 0; i < inputs.size(); ++i) {
      Tensors& parts = locals[i];
      if (!any_defined(parts)) {
        continue;
      }
      fill_missing(parts, *graph, i);
      const int64_t batch_dim = program.batch_dims[i];
      const Layout layout = batch_dim == LocalProgram::kNoBatch
                                ? kept.cut.sums()
                                : kept.cut.layout(batch_dim);
      found[i] = pack_parts(kept.cut, std::move(parts), batch_dim, layout, {});
      if (batch_dim != LocalProgram::kGathered) {
        found[i] = sliced(found[i], layout, kept.layouts[i]);
      }
    }
  }
};

bool is_plain(const Tensor& tensor) {
  const c10::DispatchKeySet keys = tensor.key_set();
  return tensor.defined() &&
         (keys.has(c10::DispatchKey::CPU) ||
          keys.has(c10::DispatchKey::CUDA)) &&
         !keys.has_any(
             c10::DispatchKeySet(
                 {c10::DispatchKey::Conjugate,
                  c10::DispatchKey::Negative,
                  c10::DispatchKey::ZeroTensor,
                  c10::DispatchKey::Functionalize,
                  c10::DispatchKey::Python}));
}

// "aten::gru (S1) (S1) (R) (R)"
std::string text_of(const LocalProgram& program, const Tensors& inputs) {
  std::string text = program.name;
  for (const Tensor& input : inputs) {
    text += " " + layout_of(input).str();
  }
  return text;
}

// Whether each op, or each derivative, is somebody's business.
bool is_watched(const Tensors& inputs) {
  using c10::DispatchKey;
  return c10::impl::TorchDispatchModeTLS::any_modes_set() ||
         c10::impl::tls_is_dispatch_key_included(
             DispatchKey::FuncTorchDynamicLayerFrontMode) ||
         c10::impl::tls_is_dispatch_key_included(
             DispatchKey::FuncTorchDynamicLayerBackMode) ||
         std::any_of(inputs.begin(), inputs.end(), [](const Tensor& tensor) {
           return tensor.key_set().has(DispatchKey::Python) ||
                  tensor._fw_grad(/*level=*/0).defined();
         });
}

}  // namespace

bool bring_to_mesh(Tensors& inputs) {
  const Tensor* global = nullptr;
  for (const Tensor& input : inputs) {
    if (is_global(input)) {
      if (!global || layout_of(*global).mesh().num_axes() == 0) {
        global = &input;
      }
    } else if (!is_plain(input)) {
      return false;
    }
  }
  if (!global) {
    return false;
  }
  const Layout replicated = Layout::replicated(layout_of(*global).mesh());
  for (Tensor& input : inputs) {
    if (!is_global(input)) {
      input = distribute(input, replicated);
    } else if (layout_of(input).mesh() != replicated.mesh() &&
               layout_of(input).mesh().num_axes() == 0) {
      input = redistribute(input, replicated);
    }
  }
  return true;
}

std::optional<Tensors> run_on_memories(
    std::shared_ptr<const LocalProgram> program,
    const Tensors& inputs,
    bool differentiable) {
  if (!std::all_of(inputs.begin(), inputs.end(), &is_global) ||
      is_watched(inputs)) {
    return std::nullopt;
  }
  const std::optional<Cut> cut = cut_of(*program, inputs);
  if (!cut) {
    return std::nullopt;
  }
  const bool records = differentiable && at::GradMode::is_enabled();
  if (records) {
    prepare_autograd();
  }
  const CurrentOp current(program->name);
  count_op();
  if (is_explaining()) {
    explain_line(text_of(*program, inputs) + "  whole in each memory");
  }
  try {
    if (records && std::any_of(inputs.begin(), inputs.end(), [](const auto& t) {
          return t.requires_grad();
        })) {
      return RunOnMemories::apply(at::TensorList(inputs), program, *cut);
    }
    return run_without_graph(*program, *cut, inputs);
  } catch (const CoreError& error) {
    rethrow_for_torch(error);
  } catch (c10::Error& error) {
    error.add_context(
        "in " + text_of(*program, inputs) + " on the mesh " + cut->mesh.str());
    throw;
  }
}

}  // namespace torch_mesh
