// plain_gradients.cpp: hooks around the edge on which the gradient travels.
//
// Autograd adds up gradients of one device only: it asserts where one of the
// mesh follows a plain one. So the node of the op on the mesh brings it home,
// behind its backward. That node is not known before a result is used; where
// none is, the node that takes the gradient brings it home.

#include "dispatch/plain_gradients.h"

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/version.h>

#include <torch_mesh/tensor.h>

#include "dispatch/edge_hooks.h"

namespace torch_mesh {
namespace {

using torch::autograd::AutogradMeta;
using torch::autograd::DifferentiableViewMeta;
using torch::autograd::Edge;
using torch::autograd::FunctionPostHook;
using torch::autograd::FunctionPreHook;
using torch::autograd::InputMetadata;
using torch::autograd::Node;
using torch::autograd::variable_list;

// `layout`: where a gradient of a global tensor shall stand.
struct Home {
  c10::Device device;
  Layout layout;

  void bring(at::Tensor& gradient) const {
    if (gradient.defined() && gradient.device() != device) {
      gradient = device.is_privateuseone() ? distribute(gradient, layout)
                                           : gradient.to(device);
    }
  }
};

struct BringHome final : FunctionPreHook {
  BringHome(uint32_t input, Home home) : input(input), home(std::move(home)) {}

  variable_list operator()(const variable_list& gradients) override {
    variable_list result = gradients;
    home.bring(result[input]);
    return result;
  }

  const uint32_t input;
  const Home home;
};

std::mutex& mutex() {
  static auto* mutex = new std::mutex;  // nodes may be in graphs of two threads
  return *mutex;
}

// Behind the node of an op among global and plain tensors.
struct SendHome final : FunctionPostHook {
  explicit SendHome(std::vector<std::optional<Home>> homes)
      : homes(std::move(homes)) {}

  variable_list operator()(const variable_list& gradients, const variable_list&)
      override {
    variable_list result = gradients;
    for (size_t i = 0; i < result.size() && i < homes.size(); ++i) {
      if (homes[i]) {
        homes[i]->bring(result[i]);
      }
    }
    return result;
  }

  const std::vector<std::optional<Home>> homes;
};

void send_home(Node& node) {
  const std::lock_guard lock(mutex());
  for (const auto& hook : node.post_hooks()) {
    if (dynamic_cast<const SendHome*>(hook.get())) {
      return;
    }
  }
  std::vector<std::optional<Home>> homes;
  for (const Edge& edge : node.next_edges()) {
    const BringHome* hook =
        edge.is_valid() ? hook_at<BringHome>(edge) : nullptr;
    homes.push_back(hook ? std::optional(hook->home) : std::nullopt);
  }
  node.add_post_hook(std::make_unique<SendHome>(std::move(homes)));
}

// Autograd gives a result its node when the kernel has returned, and asks
// whether it requires grad wherever it is used.
struct WatchedResult final : AutogradMeta {
  bool requires_grad() const override {
    if (grad_fn_ && done.exchange(grad_fn_.get()) != grad_fn_.get()) {
      send_home(*grad_fn_);
    }
    return AutogradMeta::requires_grad();
  }

  mutable std::atomic<const Node*> done{nullptr};
};

#if defined(__x86_64__) && defined(__GLIBCXX__)
static_assert(
    sizeof(AutogradMeta) == (TORCH_VERSION_MINOR < 13 ? 200 : 184),
    "AutogradMeta of torch " TORCH_VERSION
    " has other members: watched() has to move them");
#endif

// What autograd keeps of a tensor that is no view, moved.
std::unique_ptr<WatchedResult> watched(AutogradMeta& meta) {
  auto result = std::make_unique<WatchedResult>();
  result->name_ = std::move(meta.name_);
  result->grad_ = std::move(meta.grad_);
  result->grad_fn_ = std::move(meta.grad_fn_);
  result->grad_accumulator_ = std::move(meta.grad_accumulator_);
  result->fw_grad_ = std::move(meta.fw_grad_);
  result->hooks_ = std::move(meta.hooks_);
  result->cpp_hooks_list_ = std::move(meta.cpp_hooks_list_);
  result->post_acc_grad_hooks_ = std::move(meta.post_acc_grad_hooks_);
  result->requires_grad_ = meta.requires_grad_;
  result->retains_grad_ = meta.retains_grad_;
  result->output_nr_ = meta.output_nr_;
  result->grad_dtype_ = meta.grad_dtype_;
  result->allow_grad_dtype_mismatch_ = meta.allow_grad_dtype_mismatch_;
  return result;
}

void watch(const at::Tensor& result) {
  c10::TensorImpl* impl = result.unsafeGetTensorImpl();
  auto* meta = static_cast<AutogradMeta*>(impl->autograd_meta());
  if (!meta) {
    impl->set_autograd_meta(std::make_unique<WatchedResult>());
  } else if (meta->is_view_) {
    // A write in place gives the base a node.
    auto* view = static_cast<DifferentiableViewMeta*>(meta);
    if (view->has_bw_view()) {
      watch(view->get_backward_view().base_);
    }
  } else if (!dynamic_cast<WatchedResult*>(meta)) {
    impl->set_autograd_meta(watched(*meta));
  }
}

// autograd compares devices before hooks run, except those of subclasses; and
// what arrives from a device needs a stream of that device to arrive on.
void accept_all_devices(InputMetadata& metadata) {
  const c10::SymIntArrayRef sizes = metadata.shape_as_dim_vector();
  const InputMetadata accepting(
      metadata.options().device(mesh_device()),
      torch::autograd::SymIntSmallVec(sizes.begin(), sizes.end()),
      /*is_tensor_subclass=*/true,
      metadata.is_nested_tensor(),
      metadata.grad_dtype());
  // It has a const member, and so no assignment.
  std::destroy_at(&metadata);
  std::construct_at(&metadata, accepting);
}

void bring_gradient_home(const at::Tensor& tensor) {
  const Edge edge = torch::autograd::impl::gradient_edge(tensor);
  Node& node = *edge.function;
  const uint32_t input = edge.input_nr;
  if (!node.input_metadata(input).is_tensor_subclass()) {
    accept_all_devices(node.mutable_input_metadata(input));
  }
  // A leaf keeps its hooks itself: its node may be another one in each step.
  // Hooks of the user come behind ours, and see a plain gradient.
  if (!hook_at<BringHome>(edge)) {
    auto& hooks = node.tensor_pre_hooks();
    const Layout layout = is_global(tensor)
                              ? Layout::replicated(layout_of(tensor).mesh())
                              : Layout();
    hooks.insert(
        hooks.begin(),
        std::make_unique<BringHome>(input, Home{tensor.device(), layout}));
  }
}

void bring_home(const CallTensors& tensors, bool of_global) {
  const std::lock_guard lock(mutex());
  for (const CallTensors::Entry& entry : tensors.entries) {
    if (entry.is_global == of_global && entry.tensor->requires_grad()) {
      bring_gradient_home(*entry.tensor);
    }
  }
}

}  // namespace

void bring_gradients_home(const CallTensors& tensors) {
  bring_home(tensors, /*of_global=*/false);
}

void bring_gradients_to_mesh(const CallTensors& tensors) {
  bring_home(tensors, /*of_global=*/true);
}

void watch_results(c10::ArrayRef<c10::IValue> results) {
  for (const c10::IValue& result : results) {
    if (result.isTensor() && result.toTensor().defined()) {
      watch(result.toTensor());
    } else if (result.isTensorList()) {
      for (const at::Tensor& tensor : result.toTensorVector()) {
        watch(tensor);
      }
    }
  }
}

}  // namespace torch_mesh
