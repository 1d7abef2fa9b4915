// redistribution_properties.cpp: plans of redistributions, carried out.

#include <torch_mesh/redistribute.h>

#include <algorithm>
#include <random>

#include <torch_mesh/error.h>

#include "fuzz/properties.h"
#include "plan/simulation.h"

namespace torch_mesh::fuzz {
namespace {

using simulated::Numbers;
using simulated::Simulation;
using simulated::Sizes;

std::string text_of(const Redistribution& plan, const Sizes& sizes) {
  std::string text = plan.from.mesh().str() + " [";
  for (int64_t size : sizes) {
    text += " " + std::to_string(size);
  }
  return text + " ] " + plan.from.str() + " -> " + plan.to.str() + ": " +
         plan.str();
}

void check_steps(const Redistribution& plan, const Sizes& sizes) {
  const std::string facts = text_of(plan, sizes);
  Layout layout = plan.from;
  int64_t num_bytes = 0;
  for (const Step& step : plan.steps) {
    require(step.from != step.to, "a step that does nothing: ", facts);
    for (int axis = 0; step.axes() >> axis; ++axis) {
      if (step.axes() >> axis & 1) {
        require(step.from == layout[axis], "from: ", facts);
        layout = layout.with(axis, step.to);
      }
    }
    int64_t of_parts = 0;
    for (const Step::Part& part : step.parts) {
      require(part.num_bytes >= 0, "negative bytes: ", facts);
      of_parts += part.num_bytes;
    }
    require(
        step.parts.empty() || of_parts == step.num_bytes,
        "bytes of parts do not add up: ",
        facts);
    require(step.after == layout, "after: ", facts);
    require(step.num_bytes >= 0, "negative bytes: ", facts);
    require(
        step.communicates() || step.num_bytes == 0, "bytes for free: ", facts);
    check_layout(layout, sizes);
    num_bytes += step.num_bytes;
  }
  require(layout == plan.to, "ends elsewhere: ", facts);
  require(num_bytes == plan.num_bytes(), "bytes do not add up: ", facts);
  require((plan.from == plan.to) == plan.steps.empty(), "idle steps: ", facts);
}

// Runs the plan on numbers.
void check_values(
    const Redistribution& plan,
    const Sizes& sizes,
    int64_t itemsize,
    std::mt19937_64 random) {
  const std::string facts = text_of(plan, sizes);
  Numbers whole = Numbers::zeros(sizes);
  for (uint64_t& value : whole.values) {
    value = random();
  }
  Simulation simulation(whole, plan.from, random);
  for (const Step& step : plan.steps) {
    const int64_t received = simulation.run(step);
    if (step.kind == Step::Kind::kAllGather ||
        step.kind == Step::Kind::kAllToAll) {
      require(step.num_bytes == received * itemsize, step.str(), " of ", facts);
    }
  }
  require(
      simulation.agrees_with(Simulation(whole, plan.to, random)),
      "other values: ",
      facts);
}

// Sizes that no simulation holds: up to a pebibyte.
void check_large(Bytes& bytes) {
  const Mesh mesh = bytes.mesh(/*max_axes=*/4, /*max_devices=*/1024);
  Sizes sizes(1 + bytes.below(4));
  const int64_t most = int64_t{1} << (50 / sizes.size());
  for (int64_t& size : sizes) {
    size = bytes.below(std::min(most, int64_t{1} << 32));
  }
  const Redistribution plan = plan_redistribution(
      bytes.layout(mesh, sizes),
      bytes.layout(mesh, sizes),
      sizes,
      /*itemsize=*/1);
  check_steps(plan, sizes);
}

}  // namespace

void check_redistribution(Bytes& bytes) {
  if (bytes.below(4) == 0) {
    check_large(bytes);
    return;
  }
  const Mesh mesh = bytes.mesh(/*max_axes=*/5, /*max_devices=*/24);
  Sizes sizes = bytes.sizes(/*max_dims=*/3);
  const Layout from = bytes.layout(mesh, sizes);
  const Layout to = bytes.layout(mesh, sizes);
  const int64_t itemsize = int64_t{1} << bytes.below(5);
  const Redistribution plan = plan_redistribution(from, to, sizes, itemsize);
  check_steps(plan, sizes);
  require(
      plan == plan_redistribution(from, to, sizes, itemsize),
      "another plan at the second time: ",
      text_of(plan, sizes));
  const Layout middle = Layout::replicated(mesh);
  require(
      plan.num_bytes() <=
          plan_redistribution(from, middle, sizes, itemsize).num_bytes(),
      "dearer than by way of a replica: ",
      text_of(plan, sizes));
  check_values(plan, sizes, itemsize, bytes.random());
}

}  // namespace torch_mesh::fuzz
