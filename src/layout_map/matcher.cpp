// matcher.cpp: finds candidates by their literals, then asks each.

#include "layout_map/matcher.h"

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <utility>

#include "layout_map/char_set.h"
#include "layout_map/path.h"

namespace torch_mesh {
namespace {

using Rule = LayoutMap::Rule;

bool keras_rule_alone() {
  const char* rule = std::getenv("TORCH_MESH_MATCH");
  return rule && std::string_view(rule) == "keras";
}

std::vector<std::vector<std::string>> literals_of(
    const Matcher::Patterns& patterns) {
  std::vector<std::vector<std::string>> literals;
  for (const auto& pattern : patterns) {
    literals.push_back(pattern->literals());
  }
  return literals;
}

}  // namespace

Matcher::Matcher(Patterns patterns, Foreign foreign)
    : patterns_(std::move(patterns)),
      foreign_(std::move(foreign)),
      literals_(literals_of(patterns_)) {
  for (size_t i = 0; i < patterns_.size(); ++i) {
    const std::string& text = patterns_[i]->text();
    index_of_.emplace(text, static_cast<int>(i));
    has_size_.resize(std::max(has_size_.size(), text.size() + 1));
    has_size_[text.size()] = true;
  }
}

bool Matcher::matches(int pattern, std::string_view text, bool is_plain) const {
  const Pattern& asked = *patterns_[static_cast<size_t>(pattern)];
  return is_plain && asked.problem().empty() ? asked.matches_all_of(text)
                                             : foreign_(asked, text);
}

void Matcher::find_candidates(
    std::string_view text,
    bool is_plain,
    std::vector<int>& asked) const {
  if (is_plain) {
    literals_.candidates(text, asked);
  } else {
    asked.resize(patterns_.size());
    std::iota(asked.begin(), asked.end(), 0);
  }
}

Matcher::Found Matcher::find(std::string_view path) const {
  // Most paths are as long as no pattern: that is quicker than a hash.
  if (path.size() < has_size_.size() && has_size_[path.size()]) {
    if (const auto it = index_of_.find(path); it != index_of_.end()) {
      return {Rule::kExact, {{it->second, ""}}};
    }
  }
  Found found{Rule::kWhole, {}};
  const bool plain = is_plain(path);
  std::vector<int> asked;
  find_candidates(path, plain, asked);
  for (const int pattern : asked) {
    if (matches(pattern, path, plain)) {
      found.hits.push_back({pattern, ""});
    }
  }
  if (!found.hits.empty()) {
    return found;
  }
  if (keras_rule_alone()) {
    return {};
  }
  if (!asked.empty()) {
    found.rule = Rule::kEnd;
    found.hits =
        longest_end(path, asked, {std::string(path)}, /*with_whole=*/false);
  }
  if (found.hits.empty()) {
    const std::vector<std::string> forms = other_forms_of(path);
    std::string all_forms;
    for (const std::string& form : forms) {
      all_forms += form;
      all_forms += '\n';
    }
    find_candidates(all_forms, plain, asked);
    if (!forms.empty() && !asked.empty()) {
      found.rule = Rule::kOtherForm;
      found.hits = longest_end(path, asked, forms, /*with_whole=*/true);
    }
  }
  return found.hits.empty() ? Found{} : found;
}

// The patterns among `asked` that match the longest of the ends of `forms`,
// which have their segments at the same places.
std::vector<Matcher::Hit> Matcher::longest_end(
    std::string_view path,
    std::vector<int>& asked,
    const std::vector<std::string>& forms,
    bool with_whole) const {
  if (path.ends_with("/output")) {
    // `dense.*` is meant for weights: found at an end, it splits no
    // activations.
    std::erase_if(asked, [&](int pattern) {
      const std::string& text = patterns_[static_cast<size_t>(pattern)]->text();
      return text.find("output") == text.npos;
    });
  }
  const bool plain = is_plain(path);
  std::vector<Hit> hits;
  for (const size_t start : segment_starts(forms.front())) {
    if (start == 0 && !with_whole) {
      continue;
    }
    for (const int pattern : asked) {
      for (const std::string& form : forms) {
        const std::string_view text = std::string_view(form).substr(start);
        if (matches(pattern, text, plain)) {
          hits.push_back({pattern, std::string(text)});
          break;
        }
      }
    }
    if (!hits.empty()) {
      break;
    }
  }
  return hits;
}

}  // namespace torch_mesh
