// exchange.cpp: pieces as runs of bytes, in one message to each process.

#include "comm/exchange.h"

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>

#include "comm/workspace.h"
#include "core/groups.h"
#include "job/job.h"
#include "job/journal.h"
#include "job/runs.h"
#include "shard/local_ops.h"
#include "shard/strides.h"
#include "trace/counters.h"

namespace torch_mesh {
namespace {

// The dims of a piece from the outermost to the innermost in memory, four bits
// each. A piece of more dims travels in row-major order.
constexpr int64_t kMaxOrdered = 16;

uint64_t row_major(int64_t num_dims) {
  uint64_t order = 0;
  for (int64_t i = 0; i < std::min(num_dims, kMaxOrdered); ++i) {
    order |= static_cast<uint64_t>(i) << 4 * i;
  }
  return order;
}

uint64_t order_of(const at::Tensor& piece) {
  std::array<int64_t, kMaxOrdered> dims;
  std::iota(dims.begin(), dims.end(), 0);
  std::stable_sort(
      dims.begin(), dims.begin() + piece.dim(), [&](int64_t a, int64_t b) {
        return piece.stride(a) > piece.stride(b);
      });
  uint64_t order = 0;
  for (int64_t i = 0; i < piece.dim(); ++i) {
    order |= static_cast<uint64_t>(dims[i]) << 4 * i;
  }
  return order;
}

// Dense strides of that order. What another process says is no order unless it
// names each dim once: then it counts as row-major.
std::vector<int64_t> strides_of(
    const std::vector<int64_t>& sizes,
    uint64_t order) {
  const auto num_dims = static_cast<int64_t>(sizes.size());
  std::vector<int64_t> dims(num_dims);
  std::iota(dims.begin(), dims.end(), 0);
  if (num_dims <= kMaxOrdered) {
    std::vector<int64_t> said;
    for (int64_t i = 0; i < num_dims; ++i) {
      said.push_back(static_cast<int64_t>(order >> 4 * i & 15));
    }
    if (std::is_permutation(said.begin(), said.end(), dims.begin())) {
      dims = std::move(said);
    }
  }
  std::vector<int64_t> strides(num_dims);
  int64_t stride = 1;
  for (int64_t i = num_dims - 1; i >= 0; --i) {
    strides[dims[i]] = stride;
    stride *= std::max<int64_t>(sizes[dims[i]], 1);
  }
  return strides;
}

int64_t product(const std::vector<int64_t>& sizes) {
  return std::accumulate(
      sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<>());
}

// In memory that the host reads.
std::span<const std::byte> bytes_to_send(const at::Tensor& run) {
  return {static_cast<const std::byte*>(run.const_data_ptr()), run.nbytes()};
}
std::span<std::byte> bytes_to_fill(const at::Tensor& run) {
  return {static_cast<std::byte*>(run.mutable_data_ptr()), run.nbytes()};
}

std::optional<Addend::Kind> kind_of(c10::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return Addend::Kind::kFloat32;
    case at::kDouble:
      return Addend::Kind::kFloat64;
    case at::kInt:
      return Addend::Kind::kInt32;
    case at::kLong:
      return Addend::Kind::kInt64;
    default:
      return std::nullopt;
  }
}

// What follows an exchange of words has to be worth it. Sums of three floats
// depend on their order: small ones shall not.
size_t least_bytes_added_up(int num_processes) {
  return num_processes == 2 ? size_t{64} << 10 : size_t{1} << 20;
}

std::span<std::byte> bytes_of(std::vector<uint64_t>& values) {
  return std::as_writable_bytes(std::span(values));
}

}  // namespace

Exchange::Exchange(const Mesh& mesh) : mesh_(mesh) {}

void Exchange::read_here(int to, int from, const at::Tensor& piece) {
  if (mesh_.memory(from) == mesh_.memory(to)) {
    pieces_.push_back(piece);
    return;
  }
  count_moved(mesh_, to, static_cast<int64_t>(piece.nbytes()));
  pieces_.push_back(piece.to(torch_device(mesh_.devices()[to])));
}

void Exchange::send(int to, int from, const at::Tensor& lazy) {
  if (lazy.numel() == 0) {
    return;
  }
  const at::Tensor piece = lazy.resolve_conj().resolve_neg();
  const bool is_ordered = piece.dim() <= kMaxOrdered;
  const uint64_t order = is_ordered ? order_of(piece) : row_major(piece.dim());
  const at::Tensor dense =
      with_strides(piece, strides_of(piece.sizes().vec(), order));
  at::Tensor run =
      dense.as_strided({dense.numel()}, {1}, dense.storage_offset());
  if (!run.is_cpu()) {
    run = run.cpu();
  }
  outgoing_.push_back(
      {from, mesh_.devices()[to].process, run, piece.sizes().vec(), order});
}

void Exchange::receive(
    int to,
    int from,
    std::vector<int64_t> sizes,
    const at::TensorOptions& options) {
  const int64_t numel = product(sizes);
  if (numel == 0) {
    pieces_.push_back(at::empty(sizes, options));
    return;
  }
  places_.push_back(pieces_.size());
  pieces_.emplace_back();
  at::Tensor run = workspace(numel, c10::typeMetaToScalarType(options.dtype()));
  incoming_.push_back(
      {to, mesh_.devices()[from].process, std::move(run), std::move(sizes)});
}

bool Exchange::adds_up(const Mesh& mesh, int axis, const at::Tensor& run) {
  const Job* job = current_job();
  const int num = job ? job->num_processes : 1;
  if (num < 2 || mesh.size() != num || mesh.axis(axis).size != num ||
      !run.is_cpu() || !kind_of(run.scalar_type()) ||
      run.nbytes() < least_bytes_added_up(num)) {
    return false;
  }
  std::vector<bool> is_there(num);
  const Transport* transport = nullptr;
  for (const Device& device : mesh.devices()) {
    is_there[device.process] = true;
    if (device.process == job->process) {
      continue;
    }
    const Transport& other = transport_to(device.process);
    if (!other.adds_up() || (transport && transport != &other)) {
      return false;
    }
    transport = &other;
  }
  return std::ranges::count(is_there, true) == num;
}

// What a transport moves is what a ring moves.
void Exchange::add_up(int axis, const at::Tensor& run) {
  added_ = run;
  const std::vector<int64_t> numels(mesh_.size(), run.numel());
  const std::vector<int64_t> received =
      received_in_rings(mesh_, axis, /*cut=*/0, numels);
  for (int device = 0; device < mesh_.size(); ++device) {
    if (mesh_.is_mine(device)) {
      count_moved(mesh_, device, received[device] * run.itemsize());
    }
  }
}

// Each process tells each other one how many numbers it has.
void Exchange::name_addend(Runs& runs) {
  num_added_ = static_cast<uint64_t>(added_.numel());
  nums_of_others_.resize(mesh_.size());
  for (int i = 0; i < mesh_.size(); ++i) {
    if (mesh_.is_mine(i)) {
      continue;
    }
    const int process = mesh_.devices()[i].process;
    runs.send(process, std::as_bytes(std::span(&num_added_, 1)));
    runs.receive(
        process, std::as_writable_bytes(std::span(&nums_of_others_[i], 1)));
  }
  runs.add_up(
      {*kind_of(added_.scalar_type()),
       bytes_to_fill(added_),
       std::make_shared<at::Tensor>(added_)});
}

void Exchange::travel(std::string_view what) {
  // Of each process that something goes to or comes from: orders come first,
  // where a piece has any.
  auto orders_of = [](const std::vector<Travelling>& travelling) {
    std::map<int, std::vector<uint64_t>> orders;
    for (const Travelling& piece : travelling) {
      if (piece.sizes.size() > 1) {
        orders[piece.process].push_back(piece.order);
      }
    }
    return orders;
  };
  std::map<int, std::vector<uint64_t>> orders_out = orders_of(outgoing_);
  std::map<int, std::vector<uint64_t>> orders_in = orders_of(incoming_);
  Runs runs;
  for (auto& [process, orders] : orders_out) {
    runs.send(process, bytes_of(orders));
  }
  for (auto& [process, orders] : orders_in) {
    runs.receive(process, bytes_of(orders));
  }
  for (const Travelling& piece : outgoing_) {
    runs.send(piece.process, bytes_to_send(piece.run));
  }
  for (const Travelling& piece : incoming_) {
    runs.receive(piece.process, bytes_to_fill(piece.run));
  }

  if (added_.defined()) {
    name_addend(runs);
  }

  runs.run(note_step(mesh_, what));

  std::map<int, size_t> num_seen;
  for (size_t i = 0; i < incoming_.size(); ++i) {
    Travelling& piece = incoming_[i];
    uint64_t order = 0;
    if (piece.sizes.size() > 1) {
      order = orders_in[piece.process][num_seen[piece.process]++];
    }
    count_moved(mesh_, piece.device, static_cast<int64_t>(piece.run.nbytes()));
    const c10::Device place = torch_device(mesh_.devices()[piece.device]);
    pieces_[places_[i]] = piece.run.to(place).as_strided(
        piece.sizes, strides_of(piece.sizes, order));
  }
}

at::Tensor Exchange::take() {
  at::Tensor piece = std::move(pieces_.front());
  pieces_.pop_front();
  return piece;
}

}  // namespace torch_mesh
