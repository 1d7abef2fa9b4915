// planner.cpp: decides on every mesh axis what an op shards.

#include "plan/plan.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <set>

#include <torch_mesh/error.h>

namespace torch_mesh {
namespace {

// Local size of every factor, and the axes that shard it, while axes are
// decided one after the other.
struct Sharding {
  std::vector<std::vector<int>> axes;  // [factor] in the order of the mesh
  std::vector<int64_t> parts;          // [factor] product of their sizes
};

// What one candidate asks of one axis.
struct Choice {
  enum class Kind { kFactor, kLinear, kNone };
  Kind kind = Kind::kNone;
  int factor = -1;
  const std::vector<int>* linear = nullptr;
  std::vector<Placement> inputs;
  std::vector<Placement> outputs;
  double num_bytes = 0;
};

class Planner {
 public:
  Planner(
      const OpCall& call,
      const Resolved& resolved,
      const std::vector<int>& written,
      const Mesh& mesh)
      : call_(call),
        resolved_(resolved),
        tensors_(call.tensors()),
        mesh_(mesh) {
    const size_t num_factors = resolved.factors.size();
    sharding_.axes.resize(num_factors);
    sharding_.parts.assign(num_factors, 1);
    written_.assign(tensors_.size(), false);
    for (int tensor : written) {
      written_[tensor] = true;
    }
    for (const TensorInfo* tensor : tensors_) {
      current_.push_back(
          tensor->layout.mesh() == mesh ? tensor->layout
                                        : Layout::replicated(mesh));
    }
    inputs_.resize(tensors_.size());
    outputs_.resize(resolved.outputs.size());
  }

  // False if a written tensor cannot keep its layout.
  bool decide() {
    for (int axis = 0; axis < mesh_.num_axes(); ++axis) {
      std::optional<Choice> best = best_choice(axis);
      if (!best) {
        return false;
      }
      for (size_t i = 0; i < inputs_.size(); ++i) {
        inputs_[i].push_back(best->inputs[i]);
      }
      for (size_t o = 0; o < outputs_.size(); ++o) {
        outputs_[o].push_back(best->outputs[o]);
      }
      if (best->kind == Choice::Kind::kFactor) {
        sharding_.axes[best->factor].push_back(axis);
        sharding_.parts[best->factor] *= mesh_.axis(axis).size;
        rewrites_ |=
            resolved_.factors[best->factor].kind == Factor::Kind::kRewrite;
      }
    }
    return true;
  }

  Plan plan() const {
    Plan plan;
    plan.mesh = mesh_;
    plan.kind = rewrites_ ? Plan::Kind::kRewrite : Plan::Kind::kLocal;
    for (size_t i = 0; i < inputs_.size(); ++i) {
      const Layout to(mesh_, inputs_[i]);
      plan.inputs.push_back(
          {plan_redistribution(
              current_[i], to, tensors_[i]->sizes, tensors_[i]->itemsize)});
      plan.executed_on |= to.sharded_axes();
    }
    for (size_t o = 0; o < outputs_.size(); ++o) {
      Plan::Output output{Layout(mesh_, outputs_[o]), {}};
      for (const std::vector<int>& dim : resolved_.outputs[o]) {
        output.sizes.push_back(product(dim));
      }
      plan.executed_on |= output.layout.sharded_axes();
      plan.outputs.push_back(std::move(output));
    }
    add_local_args(plan);
    plan.work = 1;
    for (size_t f = 0; f < resolved_.factors.size(); ++f) {
      // Saturates: whole dims of a cat are factors too.
      plan.work = std::min<int64_t>(plan.work, int64_t{1} << 30) *
                  std::min<int64_t>(
                      local_part(f, /*device=*/0).length, int64_t{1} << 30);
    }
    return plan;
  }

 private:
  std::optional<Choice> best_choice(int axis) const {
    std::optional<Choice> best;
    auto consider = [&](std::optional<Choice> choice) {
      if (choice && (!best || choice->num_bytes < best->num_bytes)) {
        best = std::move(choice);
      }
    };
    bool any_sharded = false;
    bool any_partial = false;
    for (const Layout& layout : current_) {
      any_sharded |= layout[axis].is_shard();
      any_partial |= layout[axis].is_partial();
    }
    if (any_sharded) {
      for (size_t i = 0; i < tensors_.size(); ++i) {
        for (const std::vector<int>& dim : resolved_.inputs[i]) {
          for (int factor : dim) {
            consider(shard_factor(axis, factor, /*block=*/0));
          }
        }
        const Placement& now = current_[i][axis];
        if (now.is_shard() && now.block > 0 &&
            resolved_.inputs[i][now.dim].size() == 1) {
          consider(
              shard_factor(axis, resolved_.inputs[i][now.dim][0], now.block));
        }
      }
    }
    if (any_partial && !call_.has_unbounded_number) {
      for (const std::vector<int>& set : resolved_.linear) {
        consider(pass_partial(axis, set));
      }
    }
    consider(replicate(axis));
    return best;
  }

  // The placement of a tensor whose dims have these factors, if `factor` is
  // sharded on `axis`; R if it has no such dim, nothing if it cannot be said.
  // `block`: the factor itself is a merged dim and is cut inside such blocks.
  std::optional<Placement> placement_of(
      const DimFactors& dims,
      int factor,
      int axis,
      int64_t block) const {
    // An axis cuts one dim only, so not both dims of a diagonal (m m -> m).
    const auto num_dims =
        std::count_if(dims.begin(), dims.end(), [factor](const auto& dim) {
          return std::find(dim.begin(), dim.end(), factor) != dim.end();
        });
    if (num_dims > 1) {
      return std::nullopt;
    }
    for (size_t d = 0; d < dims.size(); ++d) {
      const std::vector<int>& list = dims[d];
      auto found = std::find(list.begin(), list.end(), factor);
      if (found == list.end()) {
        continue;
      }
      const int64_t n = mesh_.axis(axis).size;
      const int64_t size = resolved_.factors[factor].size;
      const int64_t parts = sharding_.parts[factor];
      auto trivial = [&](int f) { return resolved_.factors[f].size == 1; };
      const bool leads = std::all_of(list.begin(), found, trivial);
      const bool ends = std::all_of(found + 1, list.end(), trivial);
      if (leads && ends && block == 0) {
        return Placement::shard(d);
      }
      if (block > 0) {
        const bool fits = leads && ends && size % parts == 0 &&
                          size / parts % block == 0 && block % n == 0;
        return fits ? std::optional(Placement::shard(d, block)) : std::nullopt;
      }
      if (size == 0 || size % (parts * n) != 0) {
        return std::nullopt;
      }
      if (leads) {
        return evenly_inside(list) ? std::optional(Placement::shard(d))
                                   : std::nullopt;
      }
      if (!evenly_inside(list)) {
        return std::nullopt;
      }
      int64_t block = size / parts;
      for (auto inner = found + 1; inner != list.end(); ++inner) {
        block *= resolved_.factors[*inner].size / sharding_.parts[*inner];
      }
      return Placement::shard(d, block);
    }
    return Placement::replicate();
  }

  // Of an empty tensor all devices hold nothing; of a sum over nothing, zeros.
  bool is_in_all_outputs(int factor) const {
    auto has_factor = [factor](const DimFactors& dims) {
      return std::any_of(dims.begin(), dims.end(), [factor](const auto& dim) {
        return std::find(dim.begin(), dim.end(), factor) != dim.end();
      });
    };
    return std::all_of(
        resolved_.outputs.begin(), resolved_.outputs.end(), has_factor);
  }

  // Whether some device would get nothing of the factor.
  bool leaves_empty(int axis, int factor) const {
    // Not only of the smallest part: 7 over 2 are 4 and 3, and over 3 the 4 are
    // 2, 2 and 0, the 3 are 1, 1 and 1.
    std::set<int64_t> lengths = {resolved_.factors[factor].size};
    auto cut = [&](int a) {
      const int64_t n = mesh_.axis(a).size;
      std::set<int64_t> parts;
      for (const int64_t length : lengths) {
        for (int64_t i = 0; i < n; ++i) {
          parts.insert(chunk(length, n, i).length);
        }
      }
      lengths = std::move(parts);
    };
    std::for_each(
        sharding_.axes[factor].begin(), sharding_.axes[factor].end(), cut);
    cut(axis);
    return *lengths.begin() == 0;
  }

  // Whether every factor of a merged dim is cut evenly by what is decided.
  bool evenly_inside(const std::vector<int>& list) const {
    return std::all_of(list.begin(), list.end(), [&](int f) {
      return resolved_.factors[f].size % sharding_.parts[f] == 0;
    });
  }

  std::optional<Choice> shard_factor(int axis, int factor, int64_t block)
      const {
    const Factor& chosen = resolved_.factors[factor];
    if (chosen.kind == Factor::Kind::kWhole ||
        (chosen.size == 0 && !is_in_all_outputs(factor)) ||
        (block > 0 && has_place(factor)) ||
        (resolved_.filled && leaves_empty(axis, factor))) {
      return std::nullopt;
    }
    // Size 1 is worth no cut, unless a tensor has it already.
    Choice choice;
    choice.kind = Choice::Kind::kFactor;
    choice.factor = factor;
    bool contracts = false;
    for (size_t o = 0; o < resolved_.outputs.size(); ++o) {
      auto placement = placement_of(resolved_.outputs[o], factor, axis, block);
      if (!placement) {
        return std::nullopt;
      }
      const std::vector<int>& contracted = resolved_.contracted[o];
      if (placement->is_replicate() &&
          std::find(contracted.begin(), contracted.end(), factor) !=
              contracted.end()) {
        placement = Placement::partial();
        contracts = true;
      }
      choice.outputs.push_back(*placement);
    }
    for (size_t i = 0; i < tensors_.size(); ++i) {
      auto placement = placement_of(resolved_.inputs[i], factor, axis, block);
      if (!placement) {
        return std::nullopt;
      }
      const auto& adds = resolved_.adds;
      if (contracts && placement->is_replicate() &&
          std::find(adds.begin(), adds.end(), static_cast<int>(i)) !=
              adds.end()) {
        placement = Placement::partial();
      }
      choice.inputs.push_back(*placement);
    }
    return priced(axis, std::move(choice));
  }

  std::optional<Choice> pass_partial(int axis, const std::vector<int>& set)
      const {
    Choice choice;
    choice.kind = Choice::Kind::kLinear;
    choice.linear = &set;
    choice.inputs.assign(tensors_.size(), Placement::replicate());
    bool any = false;
    for (int i : set) {
      const Placement& now = current_[i][axis];
      if (now.is_shard() || !tensors_[i]->is_summable) {
        return std::nullopt;
      }
      any |= now.is_partial();
      choice.inputs[i] = Placement::partial();
    }
    if (!any || grows(set) || meets_unbounded(set)) {
      return std::nullopt;
    }
    choice.outputs.assign(outputs_.size(), Placement::partial());
    return priced(axis, std::move(choice));
  }

  // Whether the parts would meet a number that makes infinities of them.
  bool meets_unbounded(const std::vector<int>& set) const {
    for (size_t i = 0; i < tensors_.size(); ++i) {
      if (tensors_[i]->is_unbounded &&
          std::ranges::find(set, static_cast<int>(i)) == set.end()) {
        return true;
      }
    }
    return false;
  }

  // Whether the sum would be carried into something larger, where it costs more
  // to form: the gradient of a mean, expanded.
  bool grows(const std::vector<int>& set) const {
    int64_t before = 0;
    for (int i : set) {
      int64_t size = 1;
      for (int64_t s : tensors_[i]->sizes) {
        size *= s;
      }
      before += size;
    }
    int64_t after = 0;
    for (const DimFactors& output : resolved_.outputs) {
      int64_t size = 1;
      for (const std::vector<int>& dim : output) {
        size *= product(dim);
      }
      after += size;
    }
    return after > before;
  }

  std::optional<Choice> replicate(int axis) const {
    Choice choice;
    choice.inputs.assign(tensors_.size(), Placement::replicate());
    choice.outputs.assign(outputs_.size(), Placement::replicate());
    return priced(axis, std::move(choice));
  }

  // Adds the price; nothing if a written tensor would change its layout.
  std::optional<Choice> priced(int axis, Choice choice) const {
    double num_bytes = 0;
    for (size_t i = 0; i < tensors_.size(); ++i) {
      const Placement& from = current_[i][axis];
      const Placement& to = choice.inputs[i];
      const bool is_free =
          tensors_[i]->is_blank &&
          (!to.is_partial() || choice.kind == Choice::Kind::kFactor);
      if (written_[i] && from != to && !is_free &&
          !(from.is_partial() && to.is_replicate())) {
        return std::nullopt;
      }
      num_bytes += price(*tensors_[i], i, axis, from, to);
      // What costs nothing still is best left alone (an axis of size 1).
      num_bytes += from != to && !from.is_replicate() ? 1e-3 : 0;
    }
    for (size_t o = 0; o < outputs_.size(); ++o) {
      if (!keeps_written(o, choice)) {
        return std::nullopt;
      }
    }
    if (num_bytes > 0) {
      // What moves nothing wins; else a sum left open is paid for as well.
      const double n = static_cast<double>(mesh_.axis(axis).size);
      for (size_t o = 0; o < outputs_.size(); ++o) {
        if (choice.outputs[o].is_partial()) {
          double size = 4;
          for (const std::vector<int>& dim : resolved_.outputs[o]) {
            for (int f : dim) {
              size *= static_cast<double>(resolved_.factors[f].size) /
                      static_cast<double>(sharding_.parts[f]);
            }
          }
          num_bytes += 2 * (n - 1) / n * size;
        }
      }
    }
    choice.num_bytes = num_bytes;
    return choice;
  }

  // A returned tensor that is a written argument has that argument's layout.
  bool keeps_written(size_t output, const Choice& choice) const {
    if (output >= call_.schema->returns.size() ||
        !call_.schema->returns[output].is_written) {
      return true;
    }
    size_t nth = 0;
    for (size_t o = 0; o < output; ++o) {
      nth += call_.schema->returns[o].is_written;
    }
    for (size_t i = 0; i < written_.size(); ++i) {
      if (written_[i] && nth-- == 0) {
        return choice.outputs[output] == choice.inputs[i];
      }
    }
    return true;
  }

  double price(
      const TensorInfo& tensor,
      size_t index,
      int axis,
      const Placement& from,
      const Placement& to) const {
    if (from == to || from.is_replicate() || tensor.is_blank) {
      return 0;
    }
    double total = tensor.itemsize;
    for (int64_t size : tensor.sizes) {
      total *= static_cast<double>(size);
    }
    for (int a = 0; a < mesh_.num_axes(); ++a) {
      if (a != axis && current_[index][a].is_shard()) {
        total /= static_cast<double>(mesh_.axis(a).size);
      }
    }
    const double n = static_cast<double>(mesh_.axis(axis).size);
    const double others = (n - 1) / n;
    if (from.is_partial()) {
      return (to.is_shard() ? 1 : 2) * others * total;
    }
    return to.is_shard() ? others * total / n : others * total;
  }

  Range local_part(size_t factor, int device) const {
    Range part{0, resolved_.factors[factor].size};
    for (int axis : sharding_.axes[factor]) {
      const Range piece = chunk(
          part.length, mesh_.axis(axis).size, mesh_.coordinate(device, axis));
      part = {part.begin + piece.begin, piece.length};
    }
    return part;
  }

  // Whether an argument depends on where a device's part of a factor begins.
  bool has_place(int factor) const {
    auto names = [factor](const std::vector<int>& factors) {
      return std::find(factors.begin(), factors.end(), factor) != factors.end();
    };
    return std::any_of(
        resolved_.local_sizes.begin(),
        resolved_.local_sizes.end(),
        [&](const LocalSizes& sizes) {
          return std::any_of(
              sizes.elements.begin(), sizes.elements.end(), [&](auto& element) {
                return names(element.up) || names(element.down);
              });
        });
  }

  int64_t product(const std::vector<int>& factors) const {
    int64_t size = 1;
    for (int f : factors) {
      size *= resolved_.factors[f].size;
    }
    return size;
  }

  void add_local_args(Plan& plan) const {
    const Lanes& lanes = mesh_.lanes(plan.executed_on);
    for (const LocalSizes& sizes : resolved_.local_sizes) {
      Plan::LocalArg local{sizes.arg, {}};
      bool differs = false;
      const Arg& arg = call_.args[sizes.arg];
      for (int lane = 0; lane < lanes.num; ++lane) {
        std::vector<int64_t> values;
        for (size_t e = 0; e < sizes.elements.size(); ++e) {
          int64_t given = arg.kind == ArgKind::kIntList && e < arg.ints.size()
                              ? arg.ints[e]
                              : arg.integer;
          const int device = lanes.first_device[lane];
          int64_t value = given;
          if (!sizes.elements[e].keep) {
            value = 1;
            for (int f : sizes.elements[e].factors) {
              value *= local_part(f, device).length;
            }
          }
          for (int f : sizes.elements[e].up) {
            value += local_part(f, device).begin;
          }
          for (int f : sizes.elements[e].down) {
            value -= local_part(f, device).begin;
          }
          differs |= value != given;
          values.push_back(value);
        }
        local.values.push_back(std::move(values));
      }
      if (differs) {
        plan.local_args.push_back(std::move(local));
      }
    }
  }

  const OpCall& call_;
  const Resolved& resolved_;
  std::vector<const TensorInfo*> tensors_;
  Mesh mesh_;
  Sharding sharding_;
  std::vector<Layout> current_;
  std::vector<bool> written_;
  std::vector<std::vector<Placement>> inputs_;   // [tensor][axis]
  std::vector<std::vector<Placement>> outputs_;  // [output][axis]
  bool rewrites_ = false;
};

Mesh mesh_of(const OpCall& call) {
  Mesh mesh;
  for (const TensorInfo* tensor : call.tensors()) {
    mesh = common_mesh(call.schema->name, mesh, tensor->layout.mesh());
  }
  return mesh;
}

Plan replicated_plan(const OpCall& call, const Mesh& mesh) {
  Plan plan;
  plan.kind = Plan::Kind::kReplicate;
  plan.mesh = mesh;
  const Layout replicated = Layout::replicated(mesh);
  for (const TensorInfo* tensor : call.tensors()) {
    const Layout& from =
        tensor->layout.mesh() == mesh ? tensor->layout : replicated;
    plan.inputs.push_back(
        {plan_redistribution(
            from, replicated, tensor->sizes, tensor->itemsize)});
  }
  return plan;
}

// A program reads its arguments as they stand. Replicas need none.
Plan program_plan(const OpCall& call, const Mesh& mesh) {
  Plan plan = replicated_plan(call, mesh);
  for (Plan::Input& input : plan.inputs) {
    Redistribution& moves = input.redistribution;
    if (!moves.from.is_replicated()) {
      plan.kind = Plan::Kind::kRewrite;
      moves = {moves.from, moves.from, {}};
    }
  }
  return plan;
}

}  // namespace

Plan plan_op(
    const OpCall& call,
    const Rule* rule,
    const std::vector<int>& written) {
  const Mesh mesh = mesh_of(call);
  Resolved resolved;
  if (!rule || !rule->resolve(call, resolved)) {
    return replicated_plan(call, mesh);
  }
  if (resolved.is_program) {
    return program_plan(call, mesh);
  }
  Planner planner(call, resolved, written, mesh);
  if (!planner.decide()) {
    return replicated_plan(call, mesh);
  }
  return planner.plan();
}

std::string Plan::str() const {
  std::string text;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].redistribution.steps.empty()) {
      text += std::to_string(i) + ": " + inputs[i].redistribution.str() + "; ";
    }
  }
  if (kind == Kind::kReplicate) {
    return text + "on replicas";
  }
  if (kind == Kind::kRewrite) {
    return text + "rewritten";
  }
  text += "->";
  for (const Output& output : outputs) {
    text += " " + output.layout.str();
  }
  return text;
}

}  // namespace torch_mesh
