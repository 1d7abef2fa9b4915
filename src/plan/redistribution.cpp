// redistribution.cpp: the cheapest steps from one layout to another.
//
// A state of the search is one placement for each axis. On an axis only R, the
// placement it starts with and the one it shall have come into question, so
// there are at most 3^axes states, and most are never reached. Scattering a sum
// along one axis, only to gather it again when it is reduced along others, goes
// through none of them: all sums at once are one move (plan/sums.h).

#include <torch_mesh/redistribute.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>
#include <limits>
#include <optional>
#include <queue>
#include <utility>

#include <torch_mesh/error.h>

#include "core/groups.h"
#include "core/shapes.h"
#include "plan/received_bytes.h"
#include "plan/sums.h"

namespace torch_mesh {

// --- text --------------------------------------------------------------------

const char* name(Step::Kind kind) {
  switch (kind) {
    case Step::Kind::kSlice:
      return "slice";
    case Step::Kind::kAllGather:
      return "all_gather";
    case Step::Kind::kAllReduce:
      return "all_reduce";
    case Step::Kind::kReduceScatter:
      return "reduce_scatter";
    case Step::Kind::kAllToAll:
      return "all_to_all";
    case Step::Kind::kToPartial:
      return "to_partial";
  }
  TORCH_MESH_ASSERT(false, "a step of no kind.");
}

std::string format_bytes(int64_t num_bytes) {
  constexpr std::array kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  double size = static_cast<double>(num_bytes);
  size_t unit = 0;
  while (size >= 1024 && unit + 1 < kUnits.size()) {
    size /= 1024;
    ++unit;
  }
  std::array<char, 32> text;
  std::snprintf(text.data(), text.size(), "%.4g %s", size, kUnits[unit]);
  return text.data();
}

std::string text_of_collective(
    Step::Kind kind,
    const Mesh& mesh,
    int axis,
    int64_t num_bytes) {
  return std::string(name(kind)) + "@" + mesh.axis(axis).name + " " +
         format_bytes(num_bytes) +
         (num_bytes > 0 && mesh.is_between_processes(axis)
              ? " between processes"
              : "");
}

AxisMask Step::axes() const {
  AxisMask all = AxisMask{1} << axis;
  for (const Part& part : parts) {
    all |= AxisMask{1} << part.axis;
  }
  return all;
}

std::string Step::str() const {
  auto text_of = [&](const auto& part) {
    return text_of_collective(
        part.kind, after.mesh(), part.axis, part.num_bytes);
  };
  if (parts.empty()) {
    return text_of(*this);
  }
  std::string text;
  for (const Part& part : parts) {
    text += (text.empty() ? "" : ", ") + text_of(part);
  }
  return text;
}

int64_t Redistribution::num_bytes() const {
  int64_t sum = 0;
  for (const Step& step : steps) {
    sum += step.num_bytes;
  }
  return sum;
}

std::string Redistribution::str() const {
  std::string text;
  for (const Step& step : steps) {
    text += (text.empty() ? "" : ", ") + step.str();
  }
  return text;
}

// --- the search --------------------------------------------------------------

namespace {

using Placements = std::vector<Placement>;

class Search {
 public:
  Search(
      const Layout& from,
      const Layout& to,
      std::span<const int64_t> sizes,
      int64_t itemsize)
      : from_(from),
        to_(to),
        mesh_(from.mesh()),
        sizes_(sizes),
        itemsize_(itemsize) {
    for (int a = 0; a < mesh_.num_axes(); ++a) {
      Placements& choices = choices_.emplace_back();
      choices.push_back(to[a]);
      auto add = [&](const Placement& placement) {
        if (std::ranges::find(choices, placement) == choices.end()) {
          choices.push_back(placement);
        }
      };
      add(from[a]);
      if (to[a].is_shard() || from[a].is_shard()) {
        add(Placement::replicate());
      }
      num_states_ *= choices.size();
    }
  }

  // Dijkstra's algorithm. Where bytes and steps tie, states are taken in the
  // order of their numbers, so the outcome is a function of the arguments.
  std::vector<Step> run() {
    struct Best {
      Cost cost = {std::numeric_limits<int64_t>::max(), 0};
      size_t before = 0;
      bool is_done = false;
    };
    std::vector<Best> best(num_states_);
    using Entry = std::pair<Cost, size_t>;
    std::priority_queue<Entry, std::vector<Entry>, std::greater<>> queue;
    const size_t start = number_of(from_.placements());
    const size_t goal = number_of(to_.placements());
    best[start].cost = {0, 0};
    queue.push({best[start].cost, start});
    while (!best[goal].is_done) {
      TORCH_MESH_ASSERT(
          !queue.empty(),
          "redistribute: no way from ",
          from_.str(),
          " to ",
          to_.str(),
          ".");
      const auto [cost, state] = queue.top();
      queue.pop();
      if (std::exchange(best[state].is_done, true)) {
        continue;
      }
      for (const Move& move : moves(placements_of(state))) {
        const Cost reached = {cost.first + move.num_bytes,
                              cost.second + move.num_steps};
        const size_t next = number_of(move.after);
        if (reached < best[next].cost) {
          best[next].cost = reached;
          best[next].before = state;
          queue.push({reached, next});
        }
      }
    }
    std::vector<Step> steps;
    for (size_t state = goal; state != start; state = best[state].before) {
      steps.push_back(step_between(best[state].before, state));
    }
    std::ranges::reverse(steps);
    return steps;
  }

 private:
  using Cost = std::pair<int64_t, int>;  // bytes, steps

  struct Move {
    Step::Kind kind;
    int axis;
    int64_t num_bytes;
    Placements after;
    AxisMask sums = 0;  // the axes of a sum along several
    int num_steps = 1;
  };

  // The place of each axis among its choices, as the digits of a number: the
  // less there is to do on the first axes, the smaller the number.
  size_t number_of(const Placements& placements) const {
    size_t number = 0;
    for (size_t a = 0; a < choices_.size(); ++a) {
      const auto found = std::ranges::find(choices_[a], placements[a]);
      number = number * choices_[a].size() + (found - choices_[a].begin());
    }
    return number;
  }

  Placements placements_of(size_t number) const {
    Placements placements(choices_.size());
    for (size_t a = choices_.size(); a-- > 0;) {
      placements[a] = choices_[a][number % choices_[a].size()];
      number /= choices_[a].size();
    }
    return placements;
  }

  std::vector<Move> moves(const Placements& now) const {
    std::vector<Move> result;
    for (int a = 0; a < mesh_.num_axes(); ++a) {
      for (const Placement& to : choices_[a]) {
        if (auto kind = kind_of(now, a, to)) {
          Placements after = now;
          after[a] = to;
          if (fits(after, now[a]) && fits(after, to)) {
            result.push_back({*kind, a, bytes(*kind, now, a, to), after});
          }
        }
      }
    }
    if (has_many_sums_) {
      add_sums_at_once(now, /*those_to_be_cut=*/false, result);
      add_sums_at_once(now, /*those_to_be_cut=*/true, result);
    }
    return result;
  }

  std::vector<Step::Part> parts_of(const Placements& now, AxisMask sums) const {
    return parts_of_sum(mesh_, sums, numel_without(now, -1, -1), itemsize_);
  }

  // The move of all sums that shall not stay open: what is formed later is
  // never cheaper. Those that shall be cut may come too, or be scattered.
  void add_sums_at_once(
      const Placements& now,
      bool those_to_be_cut,
      std::vector<Move>& moves) const {
    Placements after = now;
    AxisMask axes = 0;
    bool is_any_to_be_cut = false;
    for (int a = 0; a < mesh_.num_axes(); ++a) {
      if (now[a].is_partial() && !to_[a].is_partial() &&
          (to_[a].is_replicate() || those_to_be_cut)) {
        is_any_to_be_cut |= to_[a].is_shard();
        after[a] = Placement::replicate();
        axes |= AxisMask{1} << a;
      }
    }
    if (std::popcount(axes) < 2 || is_any_to_be_cut != those_to_be_cut) {
      return;
    }
    Move move = {.kind = Step::Kind::kAllReduce,
                 .axis = std::countr_zero(axes),
                 .num_bytes = 0,
                 .after = std::move(after),
                 .sums = axes,
                 .num_steps = 0};
    for (const Step::Part& part : parts_of(now, axes)) {
      move.num_bytes += part.num_bytes;
      ++move.num_steps;
    }
    moves.push_back(std::move(move));
  }

  Step step_between(size_t before, size_t after) const {
    const Placements then = placements_of(before);
    for (Move& move : moves(then)) {
      if (number_of(move.after) == after) {
        return Step{.kind = move.kind,
                    .axis = move.axis,
                    .from = then[move.axis],
                    .to = move.after[move.axis],
                    .num_bytes = move.num_bytes,
                    .after = Layout(mesh_, move.after),
                    .parts = move.sums == 0 ? std::vector<Step::Part>()
                                            : parts_of(then, move.sums)};
      }
    }
    TORCH_MESH_ASSERT(false, "redistribute: a step got lost.");
  }

  // The step that brings one axis to another placement; nothing if one step
  // cannot.
  std::optional<Step::Kind> kind_of(
      const Placements& now,
      int axis,
      const Placement& to) const {
    const Placement& from = now[axis];
    if (from == to || !is_innermost(now, axis, from) ||
        !is_innermost(now, axis, to)) {
      return std::nullopt;
    }
    if (from.is_partial()) {
      return to.is_shard() ? Step::Kind::kReduceScatter
                           : Step::Kind::kAllReduce;
    }
    if (to.is_replicate()) {
      return Step::Kind::kAllGather;
    }
    if (from.is_replicate() && to.is_shard()) {
      return Step::Kind::kSlice;
    }
    if (from.is_replicate() && only_partials_are_left(now)) {
      return Step::Kind::kToPartial;
    }
    if (from.is_shard() && to.is_shard() && from.dim != to.dim) {
      return Step::Kind::kAllToAll;
    }
    return std::nullopt;
  }

  // Whether no later axis cuts what `placement` cuts on this one.
  bool is_innermost(const Placements& now, int axis, const Placement& placement)
      const {
    for (int a = axis + 1; a < mesh_.num_axes(); ++a) {
      if (placement.is_shard() && now[a].is_shard(placement.dim) &&
          mesh_.axis(a).size > 1) {
        return false;
      }
    }
    return true;
  }

  // Parts of a sum are made last, when the shards are smallest.
  bool only_partials_are_left(const Placements& now) const {
    for (int a = 0; a < mesh_.num_axes(); ++a) {
      if (now[a] != to_[a] && !to_[a].is_partial()) {
        return false;
      }
    }
    return true;
  }

  // Whether the blocks on the dim of `placement` fit it.
  bool fits(const Placements& now, const Placement& placement) const {
    return !placement.is_shard() ||
           !shard_lengths(mesh_, now, sizes_, placement.dim).empty();
  }

  // --- bytes received by the device that receives most ---

  int64_t bytes(
      Step::Kind kind,
      const Placements& now,
      int axis,
      const Placement& to) const {
    const int64_t n = mesh_.axis(axis).size;
    switch (kind) {
      case Step::Kind::kSlice:
      case Step::Kind::kToPartial:
        return 0;
      case Step::Kind::kAllGather:
        return itemsize_ * numel_without(now, now[axis].dim, -1) *
               most_gathered(now, axis, nullptr);
      case Step::Kind::kAllReduce:
        return itemsize_ * received_in_ring(numel_without(now, -1, -1), n);
      case Step::Kind::kReduceScatter:
        return itemsize_ * (n - 1) * numel_without(now, to.dim, -1) *
               cut_length(longest(now, to.dim), to, n, 0);
      case Step::Kind::kAllToAll:
        return itemsize_ * numel_without(now, now[axis].dim, to.dim) *
               most_gathered(now, axis, &to);
    }
    TORCH_MESH_ASSERT(false, "a step of no kind.");
  }

  int64_t longest(const Placements& now, int64_t dim) const {
    return shard_lengths(mesh_, now, sizes_, dim).back();
  }

  // Elements of the largest shard, with two dims left out.
  int64_t numel_without(const Placements& now, int64_t d, int64_t e) const {
    int64_t product = 1;
    for (int64_t dim = 0; dim < static_cast<int64_t>(sizes_.size()); ++dim) {
      if (dim != d && dim != e) {
        product *= longest(now, dim);
      }
    }
    return product;
  }

  // What a device gets of the dim that is put together along `axis`: all but
  // its own piece; times its piece of the dim that is cut instead, if any.
  int64_t most_gathered(const Placements& now, int axis, const Placement* cut)
      const {
    const int64_t n = mesh_.axis(axis).size;
    const std::span<const Placement> earlier(now.data(), axis);
    const std::vector<int64_t> wholes =
        shard_lengths(mesh_, earlier, sizes_, now[axis].dim);
    const std::vector<int64_t> others =
        cut == nullptr ? std::vector<int64_t>{1}
                       : shard_lengths(mesh_, earlier, sizes_, cut->dim);
    int64_t most = 0;
    for (int64_t whole : wholes) {
      for (int64_t i = 0; i < n; ++i) {
        const int64_t missing = whole - cut_length(whole, now[axis], n, i);
        // Not monotone in `other`: 8 and 9 over 4 leave the last 2 and 0.
        for (int64_t other : others) {
          const int64_t piece =
              cut == nullptr ? 1 : cut_length(other, *cut, n, i);
          most = std::max(most, missing * piece);
        }
      }
    }
    return most;
  }

  const Layout& from_;
  const Layout& to_;
  const Mesh& mesh_;
  const std::span<const int64_t> sizes_;
  const int64_t itemsize_;
  std::vector<Placements> choices_;  // [axis], the wanted one first
  size_t num_states_ = 1;
  // Whether more than one sum shall not stay open.
  const bool has_many_sums_ =
      std::popcount(from_.partial_axes() & ~to_.partial_axes()) > 1;
};

// Cuts of a whole: they move nothing, and in the order of the axes they nest.
std::vector<Step> slices(const Layout& from, const Layout& to) {
  std::vector<Step> steps;
  std::vector<Placement> now(
      from.placements().begin(), from.placements().end());
  for (int axis = 0; axis < to.mesh().num_axes(); ++axis) {
    if (to[axis] != now[axis]) {
      now[axis] = to[axis];
      steps.push_back(
          {Step::Kind::kSlice,
           axis,
           from[axis],
           to[axis],
           /*num_bytes=*/0,
           Layout(to.mesh(), now)});
    }
  }
  return steps;
}

}  // namespace

Redistribution plan_redistribution(
    const Layout& from,
    const Layout& to,
    std::span<const int64_t> sizes,
    int64_t itemsize) {
  Redistribution result = {from, to, {}};
  if (from == to) {
    return result;
  }
  TORCH_MESH_CHECK_VALUE(
      from.mesh() == to.mesh(),
      "redistribute-mesh",
      "redistribute: the layouts are on two meshes.\n  from    ",
      from.str(),
      " on ",
      from.mesh().str(),
      "\n  to      ",
      to.str(),
      " on ",
      to.mesh().str(),
      "\nHint: bring the tensor to one device, and distribute it over the "
      "other mesh.");
  check_layout(from, sizes);
  check_layout(to, sizes);
  result.sizes.assign(sizes.begin(), sizes.end());
  result.steps = from.is_replicated() && !to.has_partial()
                     ? slices(from, to)
                     : Search(from, to, sizes, itemsize).run();
  const Layout* before = &from;
  for (Step& step : result.steps) {
    if (!step.parts.empty()) {
      step.parts = parts_of_sum(
          from.mesh(),
          step.axes(),
          before->sharded_axes(),
          numel_of_lanes(*before, sizes),
          itemsize);
    } else if (step.communicates()) {
      step.received = received_bytes(step, *before, sizes, itemsize);
    }
    before = &step.after;
  }
  return result;
}

}  // namespace torch_mesh
