// matcher.h: the rule by which a path finds its pattern; see layout_map.h.
//
// One for C++ and Python. Patterns that are not for the engine here, and paths
// beyond printable ASCII, are "foreign": someone else is asked about them.

#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <torch_mesh/layout_map.h>

#include "layout_map/literal_index.h"
#include "layout_map/pattern.h"

namespace torch_mesh {

// Immutable. Threads: as `foreign`.
class Matcher {
 public:
  using Patterns = std::vector<std::shared_ptr<const Pattern>>;
  // Whether a pattern matches all of a text. May throw.
  using Foreign = std::function<bool(const Pattern&, std::string_view text)>;

  Matcher(Patterns patterns, Foreign foreign);

  struct Hit {
    int pattern;       // index
    std::string text;  // that it matches; "" for the path itself
  };
  struct Found {
    LayoutMap::Rule rule = LayoutMap::Rule::kNone;
    std::vector<Hit> hits;  // of kWhole, kEnd and kOtherForm more if ambiguous
  };

  Found find(std::string_view path) const;

 private:
  bool matches(int pattern, std::string_view text, bool is_plain) const;
  void find_candidates(
      std::string_view text,
      bool is_plain,
      std::vector<int>& asked) const;
  std::vector<Hit> longest_end(
      std::string_view path,
      std::vector<int>& asked,
      const std::vector<std::string>& forms,
      bool with_whole) const;

  Patterns patterns_;
  Foreign foreign_;
  std::unordered_map<std::string_view, int> index_of_;  // into patterns_
  std::vector<bool> has_size_;  // whether a pattern has so many characters
  LiteralIndex literals_;
};

}  // namespace torch_mesh
