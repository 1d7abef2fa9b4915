// noted_call.cpp: a call as a number, or as words.

#include "run/noted_call.h"

#include <bit>
#include <mutex>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>

#include "comm/host_read.h"
#include "job/hash.h"
#include "job/job.h"
#include "job/journal.h"
#include "tensor/current_mesh.h"

namespace torch_mesh {
namespace {

uint64_t hash_of(const at::Tensor& plain) {
  const at::Tensor dense = plain.contiguous();
  return mixed(
      kEmptyHash,
      std::string_view(
          static_cast<const char*>(dense.const_data_ptr()), dense.nbytes()));
}

uint64_t number_of(const Layout& layout) {
  uint64_t hash = 0;
  for (const Placement& placement : layout.placements()) {
    hash = mixed(hash, static_cast<uint64_t>(placement.kind));
    hash = mixed(hash, static_cast<uint64_t>(placement.dim));
    hash = mixed(hash, static_cast<uint64_t>(placement.block));
  }
  return hash;
}

// What all processes know of a tensor: its dtype and sizes.
uint64_t with_facts_of(const at::Tensor& tensor, uint64_t hash) {
  hash = mixed(hash, static_cast<uint64_t>(tensor.scalar_type()));
  for (const int64_t size : tensor.sizes()) {
    hash = mixed(hash, static_cast<uint64_t>(size));
  }
  return hash;
}

// Of numbers and lists of them; 0 of anything else.
uint64_t number_of(const c10::IValue& arg) {
  if (arg.isInt()) {
    return static_cast<uint64_t>(arg.toInt());
  }
  if (arg.isBool()) {
    return arg.toBool() ? 1 : 2;
  }
  if (arg.isDouble()) {
    return std::bit_cast<uint64_t>(arg.toDouble());
  }
  if (arg.isIntList()) {
    uint64_t hash = 3;
    for (const int64_t number : arg.toIntVector()) {
      hash = mixed(hash, static_cast<uint64_t>(number));
    }
    return hash;
  }
  return 0;
}

// Where a generator of the CPU stands: its seed, and how many words of which
// thousand it has given. 0 of another one.
uint64_t number_of(const at::Generator& generator) {
  if (generator.device().type() != at::kCPU) {
    return 0;
  }
  auto& own = *at::check_generator<at::CPUGeneratorImpl>(generator);
  const std::lock_guard lock(own.mutex_);
  const at::mt19937_data_pod words = own.engine().data();
  uint64_t hash = mixed(words.seed_, static_cast<uint64_t>(words.left_));
  return mixed(hash, static_cast<uint64_t>(words.state_[0]));
}

uint64_t number_of_generator(c10::ArrayRef<c10::IValue> args) {
  for (const c10::IValue& arg : args) {
    if (arg.isGenerator()) {
      return number_of(arg.toGenerator());
    }
  }
  return number_of(at::globalContext().defaultGenerator(at::kCPU));
}

// The words of a number or a list of numbers; none of anything else.
std::string words_of(const c10::IValue& arg) {
  std::ostringstream words;
  if (arg.isInt() || arg.isBool() || arg.isDouble() || arg.isIntList()) {
    words << " " << arg;
  }
  return words.str();
}

// "aten::add.Tensor f32[8, 4] (S0) f32[4] plain of value 1.. 2".
std::string words_of(
    const Op& op,
    c10::ArrayRef<c10::IValue> args,
    const CallTensors& tensors) {
  std::string words = op.schema.name;
  for (const CallTensors::Entry& entry : tensors.entries) {
    words += " " + text_of(entry);
    if (!entry.is_global && !entry.is_written && entry.tensor->is_cpu() &&
        entry.tensor->layout() == at::kStrided) {
      words += " of value " + std::to_string(hash_of(*entry.tensor));
    }
  }
  for (const c10::IValue& arg : args) {
    words += words_of(arg);
  }
  if (op.is_random) {
    const at::Generator& generator =
        at::globalContext().defaultGenerator(at::kCPU);
    words += " generator " + std::to_string(hash_of(generator.get_state()));
  }
  return words;
}

}  // namespace

void note_distributed(const at::Tensor& plain, const Layout& layout) {
  const Mesh& mesh = layout.mesh();
  if (mesh.is_all_mine() || !current_job()) {
    return;
  }
  if (current_job()->checks_calls && plain.is_cpu() &&
      plain.layout() == at::kStrided) {
    std::ostringstream words;
    words << "distribute of " << plain.sizes() << " in " << layout.str()
          << " of value " << hash_of(plain);
    compare(mesh, words.str());
  }
  note(mesh, with_facts_of(plain, number_of(layout)));
}

void note_call(
    const Op& op,
    c10::ArrayRef<c10::IValue> args,
    const CallTensors& tensors) {
  if (op.moves_no_data) {
    return;
  }
  std::optional<Mesh> mesh;
  uint64_t what = op.hash;
  for (const CallTensors::Entry& entry : tensors.entries) {
    what = with_facts_of(*entry.tensor, what);
    if (entry.is_global) {
      const Layout layout = layout_in_call(entry);
      what = mixed(what, number_of(layout));
      what = mixed(what, static_cast<uint64_t>(entry.tensor->storage_offset()));
      mesh = mesh.value_or(layout.mesh());
    } else if (entry.tensor->dim() == 0 && entry.tensor->is_cpu()) {
      what = mixed(what, hash_of(*entry.tensor));  // a number, as in x * 2
    }
  }
  if (!mesh) {
    mesh = layout_in_force().mesh();  // what the op makes goes there
    if (mesh->is_all_mine()) {
      return;
    }
  }
  for (const c10::IValue& arg : args) {
    what = mixed(what, number_of(arg));
  }
  if (op.is_random) {
    what = mixed(what, number_of_generator(args));
  }
  if (current_job()->checks_calls) {
    compare(*mesh, words_of(op, args, tensors));
  }
  note(*mesh, what);
}

void note_draw(const Mesh& mesh, double chance) {
  if (mesh.is_all_mine() || !current_job()) {
    return;
  }
  note(mesh, mixed(std::bit_cast<uint64_t>(chance), number_of_generator({})));
}

}  // namespace torch_mesh
