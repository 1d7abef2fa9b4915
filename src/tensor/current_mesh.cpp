// current_mesh.cpp: what is in force: the mesh of new tensors, and how batches
// that are moved to it are cut.

#include "tensor/current_mesh.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <mutex>
#include <utility>

#include <ATen/ThreadLocalPythonObjects.h>

namespace torch_mesh {
namespace {

using Locals = at::impl::ThreadLocalPythonObjects;

// Under this name the override lies where torch's own thread-local objects do:
// autograd takes them along to each thread that works on a backward pass.
constexpr const char* kKey = "torch_mesh.use";
constexpr size_t kMovesShown = 16;

std::atomic<Layout> of_the_process{Layout()};
// Overrides that exist in any thread; 0 spares all others the look-up.
std::atomic<int> num_overrides{0};
std::atomic<bool (*)(const at::Tensor&)> has_been_asked_for{nullptr};
thread_local int num_pauses = 0;

// None is one too: not every torch can take an object back.
struct Override final : c10::SafePyObject {
  explicit Override(const std::optional<Layout>& layout)
      : SafePyObject(nullptr, nullptr), layout(layout) {
    num_overrides += layout.has_value();
  }
  Override(const Override&) = delete;
  ~Override() { num_overrides -= layout.has_value(); }

  const std::optional<Layout> layout;
};

struct Moves {
  std::mutex mutex;
  std::deque<BatchMove> last;
};

Moves& moves() {
  static Moves* moves = new Moves;
  return *moves;
}

}  // namespace

Layout layout_in_force() {
  if (num_overrides.load(std::memory_order_relaxed) > 0) [[unlikely]] {
    if (const auto mine = override_of_thread()) {
      return *mine;
    }
  }
  return of_the_process.load(std::memory_order_acquire);
}

Layout layout_of_process() {
  return of_the_process.load(std::memory_order_acquire);
}

void set_layout_of_process(const Layout& layout) {
  of_the_process.store(layout, std::memory_order_release);
}

std::optional<Layout> override_of_thread() {
  if (!Locals::contains(kKey)) {
    return std::nullopt;
  }
  return static_cast<const Override&>(*Locals::get(kKey)).layout;
}

void set_override_of_thread(const std::optional<Layout>& layout) {
  if (layout || Locals::contains(kKey)) {
    Locals::set(kKey, std::make_shared<Override>(layout));
  }
}

Mesh current_mesh() { return layout_in_force().mesh(); }

void set_current_mesh(const Mesh& mesh) {
  set_layout_of_process(Layout::replicated(mesh));
}

void pause_batches() { ++num_pauses; }
void resume_batches() { --num_pauses; }

void set_batch_judge(bool (*judge)(const at::Tensor&)) {
  has_been_asked_for = judge;
}

bool is_batch(const at::Tensor& tensor) {
  const auto judge = has_been_asked_for.load(std::memory_order_relaxed);
  return num_pauses == 0 && judge && tensor.layout() == at::kStrided &&
         tensor.dim() > 0 && tensor.size(0) >= 2 && !tensor.requires_grad() &&
         !tensor.is_conj() && !tensor.is_neg() && judge(tensor);
}

void note_move(const at::Tensor& moved, const Layout& layout) {
  Moves& all = moves();
  std::lock_guard lock(all.mutex);
  const auto like = std::ranges::find_if(all.last, [&](const BatchMove& move) {
    return c10::IntArrayRef(move.sizes) == moved.sizes() &&
           move.dtype == moved.scalar_type() && move.layout == layout;
  });
  if (like != all.last.end()) {
    ++like->times;
    return;
  }
  all.last.push_back({moved.sizes().vec(), moved.scalar_type(), layout, 1});
  if (all.last.size() > kMovesShown) {
    all.last.pop_front();
  }
}

std::vector<BatchMove> last_moves() {
  Moves& all = moves();
  std::lock_guard lock(all.mutex);
  return {all.last.begin(), all.last.end()};
}

}  // namespace torch_mesh
