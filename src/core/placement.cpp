// placement.cpp: the text form of placements.

#include <torch_mesh/placement.h>

#include <charconv>

#include <torch_mesh/error.h>

namespace torch_mesh {
namespace {

// Takes a number without a sign off the front of `text`.
template <typename Int>
bool take_number(std::string_view& text, Int& number) {
  if (text.empty() || text[0] < '0' || text[0] > '9') {
    return false;
  }
  auto [stop, error] =
      std::from_chars(text.data(), text.data() + text.size(), number);
  text.remove_prefix(stop - text.data());
  return error == std::errc();
}

// What follows the S.
bool parse_shard(std::string_view text, Placement& placement) {
  placement.kind = Placement::Kind::kShard;
  if (!take_number(text, placement.dim)) {
    return false;
  }
  if (text.empty()) {
    return true;
  }
  if (text[0] != '/') {
    return false;
  }
  text.remove_prefix(1);
  return take_number(text, placement.block) && text.empty() &&
         placement.block > 0;
}

}  // namespace

Placement Placement::parse(std::string_view text) {
  if (text == "R") {
    return replicate();
  }
  if (text == "P+" || text == "P") {
    return partial();
  }
  Placement placement;
  TORCH_MESH_CHECK_VALUE(
      !text.empty() && text[0] == 'S' && parse_shard(text.substr(1), placement),
      "placement-text",
      "Placement: \"",
      text,
      "\" is no placement.\n"
      "Hint: write R (replicate), S<dim> (shard, as in S0) or P+ (partial "
      "sum).");
  return placement;
}

std::string Placement::str() const {
  switch (kind) {
    case Kind::kReplicate:
      return "R";
    case Kind::kPartial:
      return "P+";
    case Kind::kShard:
      break;
  }
  std::string text = "S" + std::to_string(dim);
  return block == 0 ? text : text + "/" + std::to_string(block);
}

}  // namespace torch_mesh
