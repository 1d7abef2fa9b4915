// counting.cpp: counts of a stretch of time.

#include "trace/counters.h"

namespace torch_mesh {
namespace {

using Numbers = std::map<std::string, int64_t>;

Numbers difference(const Numbers& after, const Numbers& before) {
  Numbers result;
  for (const auto& [key, number] : after) {
    const auto old = before.find(key);
    const int64_t change = number - (old == before.end() ? 0 : old->second);
    if (change != 0) {
      result[key] = change;
    }
  }
  return result;
}

}  // namespace

Counting::Counting() : before_(counts()), first_event_(keep_events()) {}

Counting::~Counting() { release_events(); }

Counts Counting::so_far() const {
  const Counts now = counts();
  Counts result;
  result.collectives = difference(now.collectives, before_.collectives);
  result.num_bytes = difference(now.num_bytes, before_.num_bytes);
  result.num_bytes_between_processes = difference(
      now.num_bytes_between_processes, before_.num_bytes_between_processes);
  result.calls = difference(now.calls, before_.calls);
  result.received = difference(now.received, before_.received);
  result.moved = difference(now.moved, before_.moved);
  result.replicated_ops =
      difference(now.replicated_ops, before_.replicated_ops);
  result.ops = now.ops - before_.ops;
  result.plans_made = now.plans_made - before_.plans_made;
  result.events = events_since(first_event_);
  return result;
}

}  // namespace torch_mesh
