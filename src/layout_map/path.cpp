// path.cpp: translates between PyTorch's names and Keras's paths.

#include "layout_map/path.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <limits>
#include <numeric>
#include <utility>

namespace torch_mesh {
namespace {

using Names = std::pair<std::string_view, std::string_view>;

// What Keras's layers call what PyTorch's modules call `weight`, `bias`, ...
constexpr std::array<Names, 7> kKerasAndTorch{{
    {"kernel", "weight"},
    {"embeddings", "weight"},
    {"gamma", "weight"},
    {"bias", "bias"},
    {"beta", "bias"},
    {"moving_mean", "running_mean"},
    {"moving_variance", "running_var"},
}};

std::string letters_of(std::string_view text) {
  std::string letters;
  std::ranges::copy_if(text, std::back_inserter(letters), [](char c) {
    return std::string_view("./\\*+?^$()[]{}|").find(c) ==
           std::string_view::npos;
  });
  return letters;
}

// Changes of one character that turn one text into the other.
int edit_distance(std::string_view a, std::string_view b) {
  std::vector<int> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 0; i < a.size(); ++i) {
    int diagonal = row[0]++;
    for (size_t j = 0; j < b.size(); ++j) {
      const int changed = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({changed, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

}  // namespace

bool is_torch_path(std::string_view path) {
  return path.find('.') != path.npos && path.find('/') == path.npos;
}

std::vector<size_t> segment_starts(std::string_view path) {
  const char separator = is_torch_path(path) ? '.' : '/';
  std::vector<size_t> starts{0};
  for (size_t at = path.find(separator); at != path.npos;
       at = path.find(separator, at + 1)) {
    starts.push_back(at + 1);
  }
  return starts;
}

std::vector<std::string> ends_of(std::string_view path) {
  std::vector<std::string> ends;
  for (const size_t start : segment_starts(path)) {
    if (start > 0) {
      ends.emplace_back(path.substr(start));
    }
  }
  return ends;
}

std::vector<std::string> other_forms_of(std::string_view path) {
  const bool from_torch = is_torch_path(path);
  std::string form(path);
  std::ranges::replace(form, from_torch ? '.' : '/', from_torch ? '/' : '.');
  // A Keras layer's name may have a dot in it: the last segment is told by the
  // separator of the path as given.
  const size_t cut = path.rfind(from_torch ? '.' : '/');
  const size_t head = cut == path.npos ? 0 : cut + 1;
  const std::string_view last = path.substr(head);

  std::vector<std::string> forms;
  if (form != path) {
    forms.push_back(form);
  }
  for (const auto& [keras_name, torch_name] : kKerasAndTorch) {
    if (keras_name != torch_name &&
        last == (from_torch ? torch_name : keras_name)) {
      forms.push_back(form);
      forms.back().replace(
          head, form.npos, from_torch ? keras_name : torch_name);
    }
  }
  return forms;
}

DimAxes torch_axes(const DimAxes& kernel) {
  if (kernel.size() < 2) {
    return kernel;
  }
  DimAxes axes{kernel[kernel.size() - 1], kernel[kernel.size() - 2]};
  axes.insert(axes.end(), kernel.begin(), kernel.end() - 2);
  return axes;
}

std::vector<std::string> nearest_paths(
    std::string_view pattern,
    const std::vector<std::string>& paths,
    size_t n) {
  const std::string wanted = letters_of(pattern);
  std::vector<std::pair<int, const std::string*>> ranked;
  for (const std::string& path : paths) {
    int least = std::numeric_limits<int>::max();
    for (const size_t start : segment_starts(path)) {
      const std::string_view end = std::string_view(path).substr(start);
      least = std::min(least, edit_distance(wanted, letters_of(end)));
    }
    ranked.emplace_back(least, &path);
  }
  std::ranges::stable_sort(
      ranked, {}, [](const auto& entry) { return entry.first; });
  ranked.resize(std::min(n, ranked.size()));
  std::vector<std::string> nearest;
  for (const auto& [distance, path] : ranked) {
    nearest.push_back(*path);
  }
  return nearest;
}

}  // namespace torch_mesh
