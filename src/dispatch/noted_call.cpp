// noted_call.cpp: a call as a number, or as words.

#include "dispatch/noted_call.h"

#include <string>
#include <string_view>

#include "comm/host_read.h"
#include "job/job.h"
#include "job/journal.h"

namespace torch_mesh {
namespace {

uint64_t mixed(uint64_t hash, uint64_t number) {
  return (hash ^ number) * 0x100000001b3u;
}

uint64_t bytes_of(const at::Tensor& plain) {
  const at::Tensor dense = plain.contiguous();
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : std::string_view(
           static_cast<const char*>(dense.const_data_ptr()), dense.nbytes())) {
    hash = mixed(hash, static_cast<unsigned char>(c));
  }
  return hash;
}

// "aten::add.Tensor f32[8, 4] (S0) f32[4] plain 1f..".
std::string words_of(const Op& op, const CallTensors& tensors) {
  std::string words = op.schema.name;
  for (const CallTensors::Entry& entry : tensors.entries) {
    words += " " + text_of(entry);
    if (!entry.is_global && !entry.is_written && entry.tensor->is_cpu() &&
        entry.tensor->layout() == at::kStrided) {
      words += " of value " + std::to_string(bytes_of(*entry.tensor));
    }
  }
  return words;
}

}  // namespace

void note_call(const Op& op, const CallTensors& tensors) {
  if (op.moves_no_data) {
    return;
  }
  const CallTensors::Entry* global = nullptr;
  uint64_t what = op.hash;
  for (const CallTensors::Entry& entry : tensors.entries) {
    for (const int64_t size : entry.tensor->sizes()) {
      what = mixed(what, static_cast<uint64_t>(size));
    }
    global = entry.is_global && !global ? &entry : global;
  }
  if (!global) {
    return;
  }
  const Mesh mesh = layout_in_call(*global).mesh();
  if (current_job()->checks_calls) {
    compare(mesh, words_of(op, tensors));
  } else {
    note(mesh, what);
  }
}

}  // namespace torch_mesh
