// pending_sums.cpp: buckets of storages, and what becomes of them.

#include "tensor/pending_sums.h"

#include <algorithm>
#include <exception>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <c10/util/Exception.h>

#include <torch_mesh/redistribute.h>

#include "comm/flat_sum.h"
#include "comm/run_steps.h"
#include "job/background.h"
#include "job/journal.h"
#include "shard/local_ops.h"
#include "shard/replicate_value.h"
#include "shard/span.h"
#include "tensor/base_value.h"
#include "tensor/global_tensor.h"
#include "tensor/reduction.h"
#include "trace/counters.h"

namespace torch_mesh {
namespace {

// A tensor whose storage's sums over `axes` are to be formed.
struct Wanted {
  const at::Tensor* tensor;
  MeshStorage* storage;
  AxisMask axes;
};

using WantedList = c10::SmallVector<Wanted, 4>;

// Sums over the same axes that travel together. While they do, their storages
// are claimed: nobody else reduces them.
class Bucket {
 public:
  // For sums like this one. The caller holds the storage's lock.
  Bucket(const MeshStorage& storage, AxisMask axes)
      : axes_(axes), flat_(storage.layout(), axes, storage.dtype()) {}
  ~Bucket() { end_claims(nullptr); }
  Bucket(const Bucket&) = delete;
  Bucket& operator=(const Bucket&) = delete;

  bool is_for(const MeshStorage& storage, AxisMask axes) const {
    return flat_.is_for(storage.layout(), axes, storage.dtype());
  }

  bool is_full_for(const MeshStorage& storage) const {
    return flat_.is_full_for(storage.layout(), as_span(storage.base_sizes()));
  }

  // The caller holds the storage's lock. In one memory nothing has to move: the
  // sum is there.
  void take(const Wanted& wanted) {
    MeshStorage& storage = *wanted.storage;
    const bool is_there = storage.layout().mesh().one_memory();
    flat_.add(
        storage.layout(), as_span(storage.base_sizes()), storage.shards());
    if (is_there) {
      storage.form_sums(axes_);
      return;
    }
    if (!reduction_) {
      reduction_ = std::make_shared<Reduction>();
    }
    claims_.push_back(
        {wanted.tensor, &storage, storage.state().memory_generation()});
    storage.begin_reduction(reduction_);
  }

  bool is_empty() const { return flat_.is_empty(); }
  std::vector<Step::Part> count() const { return flat_.count(); }

  // Reduces all that was taken, and is empty again.
  void reduce() {
    if (!is_empty()) {
      reduce(count());
    }
  }

  // The same as count() has it. The communicator works without a lock; if it
  // fails, all these storages are broken.
  void reduce(std::span<const Step::Part> how) {
    const std::vector<Claim> claims = claims_;
    std::vector<Shards> sums;
    try {
      const LocalOps local;
      sums = flat_.form(how);
    } catch (...) {
      end_claims(
          std::make_shared<const std::string>(
              CurrentOp::name() +
              ": a pending sum was not formed.\n  because  " +
              text_of_this_error()));
      throw;
    }
    for (size_t i = 0; i < claims.size(); ++i) {
      commit(claims[i], sums[i]);
    }
    end_claims(nullptr);
    // The tensors that were named let go of their parts, too.
    for (const Claim& claim : claims) {
      if (!meta_of(*claim.tensor).is_write_back) {
        held_memory(*claim.tensor);
      }
    }
  }

 private:
  struct Claim {
    const at::Tensor* tensor;
    MeshStorage* storage;
    uint32_t generation;  // of its memory
  };

  // Leaves the parts in `sums`, to be freed without the lock: memory of NumPy
  // needs Python's for that.
  void commit(const Claim& claim, Shards& sums) const {
    MeshStorage& storage = *claim.storage;
    std::lock_guard lock(storage.mutex);
    // Else an error has broken it meanwhile, and the sum is not wanted.
    if (storage.state().memory_generation() == claim.generation) {
      storage.form_sums(axes_, sums);
    }
  }

  // Lets those go on who wait for these storages.
  void end_claims(const std::shared_ptr<const std::string>& error) {
    if (!reduction_) {
      return;
    }
    for (const Claim& claim : claims_) {
      MeshStorage& storage = *claim.storage;
      std::lock_guard lock(storage.mutex);
      storage.end_reduction();
      if (error) {
        storage.break_value(error);
      }
    }
    reduction_->done.count_down();
    reduction_ = nullptr;
    claims_.clear();
  }

  const AxisMask axes_;
  FlatSum flat_;
  std::shared_ptr<Reduction> reduction_;
  std::vector<Claim> claims_;  // none in one memory
};

// One call's way through the storages that it names.
class Reducer {
 public:
  // Puts all that nobody else reduces into buckets that are not full.
  // Nothing else is done with them.
  std::list<Bucket> fill(c10::ArrayRef<Wanted> all) {
    std::list<Bucket> buckets;
    for (const Wanted& wanted : all) {
      while (Bucket* full = take(wanted)) {
        auto place = std::ranges::find(
            open_, full, [](const Bucket& bucket) { return &bucket; });
        buckets.splice(buckets.end(), open_, place);
      }
    }
    buckets.splice(buckets.end(), open_);
    return buckets;
  }

  // Reduces what nobody else reduces. Then no claim is open any more.
  void reduce(c10::ArrayRef<Wanted> all) {
    for (const Wanted& wanted : all) {
      while (Bucket* full = take(wanted)) {
        full->reduce();
      }
    }
    for (Bucket& bucket : open_) {
      bucket.reduce();
    }
  }

  // Waits for the others; returns what they may have left to do. Who waits has
  // claimed nothing, so no two calls wait for each other.
  WantedList wait() {
    WantedList left;
    for (const auto& [wanted, reduction] : std::exchange(elsewhere_, {})) {
      check_no_lock_is_held("a pending sum");
      wait_for(*reduction);
      check_not_broken(*wanted.storage);
      left.push_back(wanted);
    }
    return left;
  }

 private:
  // Puts a sum into a bucket; returns the bucket instead if it is full.
  Bucket* take(const Wanted& wanted) {
    MeshStorage& storage = *wanted.storage;
    std::lock_guard lock(storage.mutex);
    if (storage.is_unwritten() || storage.broken()) {
      return nullptr;
    }
    const AxisMask axes = wanted.axes & storage.layout().partial_axes();
    if (axes == 0) {
      return nullptr;
    }
    if (storage.reduction()) {
      elsewhere_.emplace_back(wanted, storage.reduction());
      return nullptr;
    }
    auto bucket =
        std::find_if(open_.begin(), open_.end(), [&](const Bucket& candidate) {
          return candidate.is_for(storage, axes);
        });
    if (bucket == open_.end()) {
      bucket = open_.emplace(open_.end(), storage, axes);
    } else if (bucket->is_full_for(storage)) {
      return &*bucket;
    }
    bucket->take(wanted);
    return nullptr;
  }

  std::list<Bucket> open_;  // of each kind the one that fills up
  std::vector<std::pair<Wanted, std::shared_ptr<Reduction>>> elsewhere_;
};

// Each storage once.
WantedList wanted_of(
    c10::ArrayRef<const at::Tensor*> tensors,
    c10::ArrayRef<AxisMask> axes) {
  WantedList all;
  for (size_t i = 0; i < tensors.size(); ++i) {
    MeshStorage* storage = MeshStorage::of(*tensors[i]);
    auto found = std::find_if(all.begin(), all.end(), [&](const Wanted& other) {
      return other.storage == storage;
    });
    if (found != all.end()) {
      found->axes |= axes[i];
    } else if (axes[i] != 0) {
      all.push_back({tensors[i], storage, axes[i]});
    }
  }
  return all;
}

// Buckets, with what keeps the storages alive that they have claimed.
struct Begun {
  std::vector<at::Tensor> tensors;
  std::list<Bucket> buckets;  // freed first
  std::vector<std::vector<Step::Part>> how;
  uint64_t branch = 0;

  // Who wants one of the sums meets the error: it breaks the storages.
  void form() {
    const OnBranch on_branch(branch);
    const std::string name = "sums of gradients, during backward";
    const CurrentOp op(name);
    size_t i = 0;
    for (Bucket& bucket : buckets) {
      try {
        bucket.reduce(how[i++]);
      } catch (...) {
      }
    }
  }
};

}  // namespace

void begin_reductions(
    c10::ArrayRef<at::Tensor> tensors,
    c10::ArrayRef<AxisMask> axes) {
  struct OfMesh {
    Mesh mesh;
    std::shared_ptr<Begun> begun = std::make_shared<Begun>();
    std::vector<AxisMask> axes;
  };
  std::vector<OfMesh> meshes;  // in the order of the tensors
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Mesh mesh = layout_of(tensors[i]).mesh();
    if (mesh.is_all_mine() || mesh.is_null()) {
      continue;
    }
    auto found = std::ranges::find(meshes, mesh, &OfMesh::mesh);
    if (found == meshes.end()) {
      found = meshes.insert(meshes.end(), {mesh});
    }
    found->begun->tensors.push_back(tensors[i]);
    found->axes.push_back(axes[i]);
  }
  for (const auto& [mesh, begun, of_mesh] : meshes) {
    std::vector<const at::Tensor*> named;
    for (const at::Tensor& tensor : begun->tensors) {
      named.push_back(&tensor);
    }
    begun->buckets = Reducer().fill(wanted_of(named, of_mesh));
    if (begun->buckets.empty()) {
      continue;
    }
    for (const Bucket& bucket : begun->buckets) {
      begun->how.push_back(bucket.count());
    }
    begun->branch = begin_branch(mesh);
    begin_in_background([begun = begun] { begun->form(); });
  }
}

void reduce_pending(
    c10::ArrayRef<const at::Tensor*> tensors,
    c10::ArrayRef<AxisMask> axes) {
  WantedList all = wanted_of(tensors, axes);
  Reducer reducer;
  while (!all.empty()) {
    reducer.reduce(all);
    all = reducer.wait();
  }
}

void reduce_pending(c10::ArrayRef<const at::Tensor*> tensors) {
  c10::SmallVector<const at::Tensor*, 8> pending;
  c10::SmallVector<AxisMask, 8> axes;
  for (const at::Tensor* tensor : tensors) {
    if (is_global(*tensor) && layout_of(*tensor).has_partial()) {
      pending.push_back(tensor);
      axes.push_back(layout_of(*tensor).partial_axes());
    }
  }
  reduce_pending(pending, axes);
}

void reduce_pending(const at::Tensor& tensor, AxisMask axes) {
  const at::Tensor* one = &tensor;
  reduce_pending(c10::ArrayRef(one), c10::ArrayRef(axes));
}

Shards shards_in(const at::Tensor& tensor, const Layout& to) {
  auto plan_from = [&](const Layout& from) {
    return redistribution_of(from, to, tensor.sizes(), tensor.scalar_type());
  };
  Held now = held(tensor);
  if (now.layout == to) {
    return std::move(now.shards);
  }
  if (now.layout.mesh() != to.mesh()) {
    return run_redistribution(
        *plan_from(Layout::replicated(to.mesh())),
        replicate_value(full_value(tensor), to.mesh(), Copies::kElsewhere));
  }
  // Of what only waits for its sums no plan has to be made.
  const AxisMask pending = now.layout.partial_axes() & ~to.partial_axes();
  if (pending != 0 && now.layout.with_sums_reduced(pending) == to) {
    reduce_pending(tensor, pending);
    now = held(tensor);
    if (now.layout == to) {
      return std::move(now.shards);
    }
  }
  std::shared_ptr<const Redistribution> moves = plan_from(now.layout);
  AxisMask reduced = 0;
  for (const Step& step : moves->steps) {
    if (step.kind != Step::Kind::kAllReduce) {
      break;
    }
    reduced |= step.axes();
  }
  if (reduced != 0) {
    reduce_pending(tensor, reduced);
    now = held(tensor);
    moves = plan_from(now.layout);
  }
  return run_redistribution(*moves, now.shards);
}

}  // namespace torch_mesh
