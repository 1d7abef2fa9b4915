// autograd_thread.cpp: where autograd runs the mesh's backward.

#include "dispatch/autograd_thread.h"

#include <atomic>
#include <mutex>
#include <thread>

#include <c10/core/AutogradState.h>
#include <torch/csrc/autograd/engine.h>

namespace torch_mesh {
namespace {

using torch::autograd::Engine;
using torch::autograd::ReadyQueue;

// Reaches the queues, which are protected.
struct Queues : Engine {
  static std::vector<std::shared_ptr<ReadyQueue>>& of(Engine& engine) {
    return engine.*(&Queues::device_ready_queues_);
  }
};

std::atomic<bool> is_prepared{false};

// The queue that autograd did not make.
void ensure_queue() {
  static std::once_flag once;
  std::call_once(once, [] {
    Engine& engine = Engine::get_default_engine();
    engine.initialize_device_threads_pool();
    auto& queues = Queues::of(engine);
    if (queues.empty()) {
      // Device index 0; machines with GPUs have a queue of that number.
      queues.push_back(std::make_shared<ReadyQueue>());
      std::thread(
          &Engine::thread_init,
          &engine,
          /*device=*/0,
          queues[0],
          /*should_increment=*/true)
          .detach();
    }
    is_prepared = true;
  });
}

}  // namespace

bool autograd_is_prepared() { return is_prepared; }

void prepare_autograd() {
  thread_local bool prepared = false;
  if (!prepared) {
    prepared = true;
    ensure_queue();
    c10::AutogradState::get_tls_state().set_multithreading_enabled(false);
  }
}

}  // namespace torch_mesh
