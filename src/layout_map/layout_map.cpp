// layout_map.cpp: what a matched pattern gives a parameter.

#include <torch_mesh/layout_map.h>

#include <mutex>
#include <set>
#include <utility>

#include <torch_mesh/error.h>

#include "layout_map/matcher.h"
#include "layout_map/path.h"
#include "layout_map/pattern.h"

namespace torch_mesh {

struct LayoutMap::Entry {
  std::shared_ptr<const Pattern> pattern;
  DimAxes axes;
};

// Shared by copies of a map; a map that changes makes another.
struct LayoutMap::Table {
  std::vector<Entry> entries;

  const Matcher& matcher() const {
    std::call_once(once, [this] {
      Matcher::Patterns patterns;
      for (const Entry& entry : entries) {
        patterns.push_back(entry.pattern);
      }
      built.emplace(std::move(patterns), &refuse_path);
    });
    return *built;
  }

  static bool refuse_path(const Pattern&, std::string_view text) {
    detail::raise(
        ErrorKind::kValue,
        "pattern-path",
        "LayoutMap: the path \"",
        text,
        "\" is not all of printable ASCII, so no pattern is matched with it.\n"
        "Hint: give the path itself as a key.");
  }

 private:
  mutable std::once_flag once;
  mutable std::optional<Matcher> built;
};

namespace {

void check_axes(const std::string& pattern, const DimAxes& axes) {
  std::set<std::string> seen;
  for (const auto& axis : axes) {
    TORCH_MESH_CHECK_VALUE(
        !axis || seen.insert(*axis).second,
        "axis-twice",
        "LayoutMap: the axis \"",
        *axis,
        "\" is to shard two dims of one tensor.\n  pattern  \"",
        pattern,
        "\"\nHint: name each axis once.");
  }
}

}  // namespace

LayoutMap::LayoutMap() : table_(std::make_shared<const Table>()) {}

void LayoutMap::add(std::string pattern, DimAxes axes) {
  for (const Entry& entry : table_->entries) {
    TORCH_MESH_CHECK_VALUE(
        entry.pattern->text() != pattern,
        "pattern-twice",
        "LayoutMap: the pattern \"",
        pattern,
        "\" is in the map already.\nHint: give each pattern once.");
  }
  check_axes(pattern, axes);
  auto compiled = std::make_shared<const Pattern>(std::move(pattern));
  TORCH_MESH_CHECK_VALUE(
      compiled->problem().empty(),
      "pattern-text",
      "LayoutMap: \"",
      compiled->text(),
      "\" is no pattern that can be matched here: ",
      compiled->problem(),
      ".\nHint: write a backslash before characters that stand for "
      "themselves; look-around and back-references have no place here.");
  auto table = std::make_shared<Table>();
  table->entries = table_->entries;
  table->entries.push_back({std::move(compiled), std::move(axes)});
  table_ = std::move(table);
}

LayoutMap::Match LayoutMap::find(std::string_view path) const {
  const Matcher::Found found = table_->matcher().find(path);
  if (found.hits.empty()) {
    return {};
  }
  const auto entry_of = [&](const Matcher::Hit& hit) -> const Entry& {
    return table_->entries[static_cast<size_t>(hit.pattern)];
  };
  const Entry& entry = entry_of(found.hits[0]);
  if (found.hits.size() == 1) {
    std::string text = found.hits[0].text;
    if (text.empty()) {
      text = path;
    }
    Match match{found.rule, entry.pattern->text(), text, entry.axes, ""};
    const bool as_kernel = text == "kernel" || text.ends_with("/kernel");
    if (found.rule == Rule::kOtherForm && is_torch_path(path) && as_kernel) {
      match.axes = torch_axes(match.axes);
    }
    return match;
  }
  TORCH_MESH_CHECK_VALUE(
      found.rule != Rule::kWhole,
      "ambiguous-pattern",
      "LayoutMap: two patterns match \"",
      path,
      "\".\n  \"",
      entry.pattern->text(),
      "\"\n  \"",
      entry_of(found.hits[1]).pattern->text(),
      "\"\nHint: make one of them narrower, or give the path as the key.");
  Match tie;
  tie.warning = "LayoutMap: two patterns match the same end of \"" +
                std::string(path) + "\"; it has no layout.\n";
  for (const Matcher::Hit& hit : found.hits) {
    tie.warning += "  \"" + entry_of(hit).pattern->text() + "\" matches \"" +
                   hit.text + "\"\n";
  }
  tie.warning +=
      "Hint: make one of them narrower, or give the full path as the key. "
      "[ambiguous-end]";
  return tie;
}

std::vector<std::string> LayoutMap::patterns() const {
  std::vector<std::string> texts;
  for (const Entry& entry : table_->entries) {
    texts.push_back(entry.pattern->text());
  }
  return texts;
}

const DimAxes& LayoutMap::axes_of(std::string_view pattern) const {
  for (const Entry& entry : table_->entries) {
    if (entry.pattern->text() == pattern) {
      return entry.axes;
    }
  }
  detail::raise(
      ErrorKind::kValue,
      "unknown-pattern",
      "LayoutMap: \"",
      pattern,
      "\" is not in the map.\nHint: patterns() lists what is.");
}

}  // namespace torch_mesh
