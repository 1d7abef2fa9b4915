// pending_sums.cpp: buckets of storages, and what becomes of them.

#include "tensor/pending_sums.h"

#include <algorithm>
#include <exception>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include <c10/util/Exception.h>

#include <torch_mesh/redistribute.h>

#include "comm/communicator.h"
#include "comm/run_steps.h"
#include "plan/sums.h"
#include "shard/local_ops.h"
#include "shard/replicate_value.h"
#include "shard/span.h"
#include "tensor/base_value.h"
#include "tensor/global_tensor.h"
#include "tensor/reduction.h"
#include "trace/counters.h"

namespace torch_mesh {
namespace {

std::string text_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const c10::Error& raised) {
    return raised.what_without_backtrace();
  } catch (const std::exception& raised) {
    return raised.what();
  } catch (...) {
    return "an error without a text";
  }
}

// Elements of the base on a lane, whoever holds it.
int64_t numel_of_lane(const MeshStorage& storage, size_t lane) {
  if (storage.shards()[lane].defined()) {
    return storage.shards()[lane].numel();
  }
  const int device = storage.layout().lanes().first_device[lane];
  int64_t numel = 1;
  for (const int64_t size :
       shard_sizes(storage.layout(), as_span(storage.base_sizes()), device)) {
    numel *= size;
  }
  return numel;
}

int64_t bytes_of_lane(const MeshStorage& storage, size_t lane) {
  return numel_of_lane(storage, lane) *
         static_cast<int64_t>(c10::elementSize(storage.dtype()));
}

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
      : mesh_(storage.layout().mesh()),
        cut_(storage.layout().sharded_axes()),
        axes_(axes),
        dtype_(storage.dtype()) {}
  ~Bucket() { end_claims(nullptr); }
  Bucket(const Bucket&) = delete;
  Bucket& operator=(const Bucket&) = delete;

  bool is_for(const MeshStorage& storage, AxisMask axes) const {
    return mesh_ == storage.layout().mesh() &&
           cut_ == storage.layout().sharded_axes() && axes_ == axes &&
           dtype_ == storage.dtype();
  }

  bool is_full_for(const MeshStorage& storage) const {
    return !numel_.empty() &&
           num_bytes_ + bytes_of_lane(storage, 0) > kBucketBytes;
  }

  // The caller holds the storage's lock. In one memory nothing has to move: the
  // sum is there.
  void take(const Wanted& wanted) {
    MeshStorage& storage = *wanted.storage;
    num_bytes_ += bytes_of_lane(storage, 0);
    numel_.resize(storage.shards().size());
    for (size_t lane = 0; lane < storage.shards().size(); ++lane) {
      numel_[lane] += numel_of_lane(storage, lane);
    }
    if (mesh_.one_memory()) {
      storage.form_sums(axes_);
      return;
    }
    if (!reduction_) {
      reduction_ = std::make_shared<Reduction>();
    }
    parts_.push_back(storage.shards());
    claims_.push_back(
        {wanted.tensor, &storage, storage.state().memory_generation()});
    storage.begin_reduction(reduction_);
  }

  // Reduces all that was taken, and is empty again. The communicator works
  // without a lock; if it fails, all these storages are broken.
  void reduce() {
    if (numel_.empty()) {
      return;
    }
    const std::vector<Step::Part> how = parts_of_sum(
        mesh_,
        axes_,
        cut_,
        numel_,
        static_cast<int64_t>(c10::elementSize(dtype_)));
    numel_.clear();
    num_bytes_ = 0;
    for (const Step::Part& part : how) {
      count_collective(
          part.kind, mesh_, part.axis, part.num_bytes, part.received);
    }
    if (claims_.empty()) {
      return;
    }
    const std::vector<Claim> claims = claims_;
    std::vector<Shards> sums;
    try {
      const LocalOps local;
      sums = communicator_of(mesh_).all_reduce(mesh_, how, cut_, parts_);
    } catch (...) {
      end_claims(
          std::make_shared<const std::string>(
              CurrentOp::name() +
              ": a pending sum was not formed.\n  because  " +
              text_of(std::current_exception())));
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
    // Else it was written as a whole meanwhile, and the sum is not wanted.
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
    parts_.clear();
  }

  const Mesh mesh_;
  const AxisMask cut_;  // axes that make lanes
  const AxisMask axes_;
  const c10::ScalarType dtype_;
  int64_t num_bytes_ = 0;  // of the first lane
  // [lanes]; empty while nothing is taken
  c10::SmallVector<int64_t, 8> numel_;
  std::shared_ptr<Reduction> reduction_;
  std::vector<Claim> claims_;
  std::vector<Shards> parts_;  // [claims]
};

// One call's way through the storages that it names.
class Reducer {
 public:
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
      reduction->done.wait();
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

}  // namespace

void reduce_pending(
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
  if (pending != 0 && with_reduced(now.layout, to) == to) {
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
