// plan_properties.cpp: plans of made-up ops, run device by device on numbers.
//
// The ops are einsums: for each output element the product of the inputs,
// summed over the letters that the output lacks. A rule of letters says all of
// such an op, so what the devices compute must be its value.

#include <array>
#include <functional>
#include <map>

#include <torch_mesh/error.h>

#include "fuzz/properties.h"
#include "plan/plan.h"
#include "plan/simulation.h"

namespace torch_mesh::fuzz {
namespace {

using simulated::Numbers;
using simulated::Simulation;
using simulated::Sizes;

struct MadeUpOp {
  enum class Kind {
    kProduct,  // einsum; linear in each input by itself
    kSquare,   // einsum of squares; linear in none
    kSum,      // of inputs of equal letters; linear in all together
    kAddmm,    // input 0 + einsum of the others
  };
  Kind kind = Kind::kProduct;
  std::vector<std::string> inputs;  // letters of each
  std::string output;
  std::map<char, int64_t> size_of;

  std::string rule() const;
  // The op on tensors whose letters have the sizes that `tensors` show.
  Numbers run(const std::vector<Numbers>& tensors) const;
};

std::string MadeUpOp::rule() const {
  auto spaced = [](const std::string& letters) {
    std::string text;
    for (char letter : letters) {
      text += std::string(text.empty() ? "" : " ") + letter;
    }
    return text.empty() ? "." : text;
  };
  std::string text;
  std::string each;
  std::string together;
  for (size_t i = 0; i < inputs.size(); ++i) {
    text += (i == 0 ? "" : ", ") + spaced(inputs[i]);
    each += (i == 0 ? "" : ", ") + std::to_string(i);
    together += (i == 0 ? "" : " ") + std::to_string(i);
  }
  text += " -> " + spaced(output);
  switch (kind) {
    case Kind::kProduct:
      return text + " linear(" + each + ")";
    case Kind::kSquare:
      return text;
    case Kind::kSum:
      return text + " linear(" + together + ")";
    case Kind::kAddmm:
      return text + " adds(0) linear(0 1, 0 2)";
  }
  return "";
}

Numbers MadeUpOp::run(const std::vector<Numbers>& tensors) const {
  std::map<char, int64_t> local;
  for (size_t i = 0; i < tensors.size(); ++i) {
    require(
        tensors[i].sizes.size() == inputs[i].size(), "a shard of other dims");
    for (size_t d = 0; d < inputs[i].size(); ++d) {
      const auto [entry, is_new] =
          local.try_emplace(inputs[i][d], tensors[i].sizes[d]);
      require(
          is_new || entry->second == tensors[i].sizes[d],
          "devices disagree on the size of ",
          std::string(1, inputs[i][d]));
    }
  }
  std::map<char, int64_t> at;  // the present index of each letter
  auto place_in = [&](const std::string& letters) {
    int64_t place = 0;
    for (char letter : letters) {
      place = place * local[letter] + at[letter];
    }
    return place;
  };
  Sizes sizes;
  for (char letter : output) {
    sizes.push_back(local.at(letter));
  }
  Numbers result = Numbers::zeros(sizes);
  std::string letters;
  for (const auto& [letter, size] : local) {
    letters += letter;
  }
  // Walks over all indices of `letters`.
  std::function<void(const std::string&, const std::function<void()>&)> walk =
      [&](const std::string& over, const std::function<void()>& visit) {
        if (over.empty()) {
          visit();
          return;
        }
        for (at[over[0]] = 0; at[over[0]] < local[over[0]]; ++at[over[0]]) {
          walk(over.substr(1), visit);
        }
      };
  const size_t first = kind == Kind::kAddmm ? 1 : 0;
  if (kind == Kind::kSum || kind == Kind::kAddmm) {
    walk(output, [&] {
      uint64_t& value = result.values[place_in(output)];
      for (size_t i = 0; i < (first == 1 ? 1 : inputs.size()); ++i) {
        value += tensors[i].values[place_in(inputs[i])];
      }
    });
  }
  if (kind != Kind::kSum) {
    walk(letters, [&] {
      uint64_t value = 1;
      for (size_t i = first; i < inputs.size(); ++i) {
        const uint64_t factor = tensors[i].values[place_in(inputs[i])];
        value *= kind == Kind::kSquare ? factor * factor : factor;
      }
      result.values[place_in(output)] += value;
    });
  }
  return result;
}

std::string letters_from(Bytes& bytes, int64_t most, bool may_repeat) {
  std::string letters;
  for (int64_t i = bytes.below(most + 1); i > 0; --i) {
    const char letter = static_cast<char>('k' + bytes.below(4));
    if (may_repeat || letters.find(letter) == std::string::npos) {
      letters += letter;
    }
  }
  return letters;
}

MadeUpOp op_from(Bytes& bytes) {
  MadeUpOp op;
  op.kind = static_cast<MadeUpOp::Kind>(bytes.below(4));
  for (char letter = 'k'; letter <= 'n'; ++letter) {
    op.size_of[letter] = bytes.below(8);
  }
  // Each third time a letter may stand twice in a term: a diagonal.
  const bool may_repeat = bytes.below(3) == 0;
  if (op.kind == MadeUpOp::Kind::kAddmm) {
    op.inputs = {"kl", "km", "ml"};
    op.output = "kl";
    return op;
  }
  if (op.kind == MadeUpOp::Kind::kSum) {
    op.output = letters_from(bytes, 3, /*may_repeat=*/false);
    op.inputs.assign(1 + bytes.below(3), op.output);
    return op;
  }
  std::string all;
  for (int64_t i = 1 + bytes.below(3); i > 0; --i) {
    op.inputs.push_back(letters_from(bytes, 3, may_repeat));
    all += op.inputs.back();
  }
  for (char letter : letters_from(bytes, 4, /*may_repeat=*/false)) {
    if (all.find(letter) != std::string::npos) {
      op.output += letter;
    }
  }
  return op;
}

}  // namespace

void check_plan(Bytes& bytes) {
  const MadeUpOp op = op_from(bytes);
  const Mesh mesh = bytes.mesh(/*max_axes=*/3, /*max_devices=*/12);
  std::mt19937_64 random = bytes.random();
  OpSchema schema;
  schema.name = "fuzz::op";
  schema.returns.resize(1);
  schema.returns[0].is_tensor = true;
  OpCall call;
  call.schema = &schema;
  std::vector<Numbers> wholes;
  std::string facts = op.rule() + " on " + mesh.str();
  for (const std::string& letters : op.inputs) {
    OpSchema::Param param;
    param.name = "t" + std::to_string(call.args.size());
    param.is_tensor = true;
    schema.params.push_back(param);
    TensorInfo tensor;
    for (char letter : letters) {
      tensor.sizes.push_back(op.size_of.at(letter));
    }
    tensor.strides = contiguous_strides(tensor.sizes);
    tensor.layout = bytes.layout(mesh, tensor.sizes);
    facts += " " + tensor.layout.str();
    Numbers whole = Numbers::zeros(tensor.sizes);
    for (uint64_t& value : whole.values) {
      value = random();
    }
    wholes.push_back(std::move(whole));
    Arg arg;
    arg.kind = ArgKind::kTensor;
    arg.tensors.push_back(std::move(tensor));
    call.args.push_back(std::move(arg));
  }
  const Plan plan = plan_op(call, Rule::parse(op.rule()).get(), {});
  require(plan.kind != Plan::Kind::kRewrite, "rewritten: ", facts);
  facts += " planned " + plan.str();
  std::vector<Simulation> inputs;
  for (size_t i = 0; i < wholes.size(); ++i) {
    const TensorInfo& tensor = call.args[i].tensors[0];
    const Redistribution& moves = plan.inputs[i].redistribution;
    require(moves.from == tensor.layout, "starts elsewhere: ", facts);
    check_layout(moves.to, tensor.sizes);
    inputs.emplace_back(wholes[i], tensor.layout, random);
    for (const Step& step : moves.steps) {
      inputs[i].run(step);
    }
  }
  const Numbers value = op.run(wholes);
  Layout layout = Layout::replicated(mesh);
  if (plan.kind == Plan::Kind::kLocal) {
    layout = plan.outputs.at(0).layout;
    require(plan.outputs[0].sizes == value.sizes, "other sizes: ", facts);
    check_layout(layout, value.sizes);
  }
  std::vector<Numbers> results;
  for (int device = 0; device < mesh.size(); ++device) {
    std::vector<Numbers> local;
    for (const Simulation& input : inputs) {
      local.push_back(input.shards()[device]);
    }
    try {
      results.push_back(op.run(local));
    } catch (const Broken& broken) {
      throw Broken(broken.what() + (": " + facts));
    }
  }
  require(
      Simulation(layout, std::move(results))
          .agrees_with(Simulation(value, layout, random)),
      "another value: ",
      facts);
}

}  // namespace torch_mesh::fuzz
