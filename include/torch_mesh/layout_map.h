// layout_map.h: which mesh axis shards which dim, by the names of parameters.
//
//   torch_mesh::LayoutMap map;
//   map.add("fc1.weight", {"model", std::nullopt});
//   map.add(".*bias", {"model"});
//
// No torch, and no mesh: the same map serves several.

#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace torch_mesh {

// One entry for each dim of a tensor: the mesh axis that shards it, or nothing.
// Dims beyond the last entry are not sharded.
using DimAxes = std::vector<std::optional<std::string>>;

// An ordered list of patterns and what they give. A pattern is a regular
// expression as Python's `re` has them, but for what is not regular:
// look-around and back-references. A path is matched with patterns if all of it
// is printable ASCII. The rule by which a path finds a pattern, in this order:
//
//   1  the pattern that is the path;
//   2  the pattern that matches the whole path; two are an error;
//   3  the pattern that matches an end of the path which begins at a segment
//      ("fc1.weight" on "net.fc1.weight");
//   4  the same on the path in its other form: a PyTorch name with slashes and
//      Keras's names ("net/fc1/kernel"), a Keras path with dots and PyTorch's.
//
// In 3 and 4 the longest end wins; two patterns on it are a tie, and the path
// has no layout. The environment variable TORCH_MESH_MATCH=keras switches 3 and
// 4 off. A pattern without "output" in it finds no "<layer>/output" by 3 or 4.
//
// A value. Threads: const members may be called from any thread.
class LayoutMap {
 public:
  enum class Rule { kNone, kExact, kWhole, kEnd, kOtherForm };

  struct Match {
    Rule rule = Rule::kNone;  // kNone: nothing was found, or a tie
    std::string pattern;      // that found the path
    std::string matched;      // the text it matches: the path or an end of it
    // As the path's owner stores the tensor: a pattern that finds a PyTorch
    // weight as Keras's `kernel` has its entries permuted, [in, out] to
    // [out, in].
    DimAxes axes;
    std::string warning;  // text of a tie; "" for none
  };

  LayoutMap();

  // Throws [pattern-twice] if the map has the pattern, [pattern-text] if it is
  // not a regular expression, [axis-twice] if an axis occurs twice in `axes`.
  void add(std::string pattern, DimAxes axes);

  // Throws [ambiguous-pattern] if two patterns match the whole path, and
  // [pattern-path] if the path is neither a key nor printable ASCII.
  Match find(std::string_view path) const;

  // In the order in which they were added.
  std::vector<std::string> patterns() const;
  // Throws [unknown-pattern].
  const DimAxes& axes_of(std::string_view pattern) const;

 private:
  struct Entry;
  struct Table;

  std::shared_ptr<const Table> table_;
};

}  // namespace torch_mesh
