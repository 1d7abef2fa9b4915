// planned_list.cpp: a key for each element, and one line for all.

#include "run/planned_list.h"

#include "plan/plan.h"
#include "run/call_tensors.h"
#include "trace/counters.h"
#include "trace/explain.h"

namespace torch_mesh {

void PlannedList::find_mesh() {
  for (const ListArg& list : lists_) {
    for (const at::Tensor& tensor : list.tensors) {
      if (is_global(tensor)) {
        mesh_ = common_mesh(op_.schema.name, mesh_, layout_of(tensor).mesh());
      }
    }
  }
}

// Elements of one kind share a plan, and mostly stand in a row.
void PlannedList::plan() {
  Key key;
  Key last;
  for (size_t e = 0; e < size(); ++e) {
    key.clear();
    for (const ListArg& list : lists_) {
      if (!list.tensors.empty()) {
        add_words(key, list.tensors[e]);
      }
    }
    if (e > 0 && key == last) {
      plans_.push_back(plans_.back());
    } else {
      plans_.push_back(plan_of(e, key));
      std::swap(key, last);
    }
  }
}

void PlannedList::add_words(Key& key, const at::Tensor& tensor) const {
  key.push_back(
      static_cast<uint64_t>(on_mesh(tensor).id()) << 32 |
      static_cast<uint64_t>(tensor.itemsize()) << 16 |
      static_cast<uint64_t>(tensor.dim()));
  for (const int64_t size : tensor.sizes()) {
    key.push_back(static_cast<uint64_t>(size));
  }
}

std::shared_ptr<const ElementPlan> PlannedList::plan_of(
    size_t e,
    const Key& key) const {
  const KeyWords words(key.data(), key.size());
  const uint64_t hash = hash_of(words);
  if (auto found = op_.element_cache.find(words, hash)) {
    return found;
  }
  count_plan();
  std::vector<TensorInfo> tensors;
  for (const ListArg& list : lists_) {
    TensorInfo info;
    if (!list.tensors.empty()) {
      const at::Tensor& tensor = list.tensors[e];
      info.layout = on_mesh(tensor);
      info.sizes = tensor.sizes().vec();
      info.itemsize = static_cast<int>(tensor.itemsize());
    } else {
      info.layout = Layout::replicated(mesh_);
    }
    tensors.push_back(std::move(info));
  }
  auto made = std::make_shared<const ElementPlan>(plan_element(tensors));
  op_.element_cache.insert(words, hash, made);
  return made;
}

void PlannedList::explain() const {
  if (!is_explaining()) {
    return;
  }
  std::string line = op_.schema.name;
  for (size_t e = 0; e < size();) {
    size_t end = e + 1;
    while (end < size() && plans_[end] == plans_[e]) {
      ++end;
    }
    line += e == 0 ? " " : ", ";
    line += std::to_string(end - e) + " x";
    for (const ListArg& list : lists_) {
      if (!list.tensors.empty()) {
        const at::Tensor& tensor = list.tensors[e];
        line += " " + text_of({&tensor, 0, is_global(tensor), false});
      }
    }
    line += " -> " + layout_of_element(e).str();
    e = end;
  }
  explain_line(line);
}

}  // namespace torch_mesh
