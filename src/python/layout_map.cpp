// layout_map.cpp: binds the matching rule and the forms of a path.
//
// Texts cross as UTF-8 with surrogates passed through, so that any `str` does.

#include "python/layout_map.h"

#include <pybind11/stl.h>

#include "layout_map/matcher.h"
#include "layout_map/path.h"

namespace py = pybind11;

namespace torch_mesh {
namespace {

using Texts = std::vector<py::str>;

std::string utf8(const py::str& text) {
  const auto bytes = py::reinterpret_steal<py::bytes>(
      PyUnicode_AsEncodedString(text.ptr(), "utf-8", "surrogatepass"));
  if (!bytes) {
    throw py::error_already_set();
  }
  return bytes;
}

py::str str_of(std::string_view text) {
  const auto str = py::reinterpret_steal<py::str>(PyUnicode_DecodeUTF8(
      text.data(), static_cast<Py_ssize_t>(text.size()), "surrogatepass"));
  if (!str) {
    throw py::error_already_set();
  }
  return str;
}

Texts strs_of(const std::vector<std::string>& texts) {
  Texts strs;
  for (const std::string& text : texts) {
    strs.push_back(str_of(text));
  }
  return strs;
}

Matcher make_matcher(const Texts& texts, const py::function& foreign) {
  Matcher::Patterns patterns;
  for (const py::str& text : texts) {
    patterns.push_back(std::make_shared<const Pattern>(utf8(text)));
  }
  return Matcher(
      std::move(patterns),
      [foreign](const Pattern& pattern, std::string_view text) {
        return foreign(str_of(pattern.text()), str_of(text)).cast<bool>();
      });
}

const char* name_of(LayoutMap::Rule rule) {
  switch (rule) {
    case LayoutMap::Rule::kExact:
      return "exact";
    case LayoutMap::Rule::kWhole:
      return "keras";
    case LayoutMap::Rule::kEnd:
      return "end";
    case LayoutMap::Rule::kOtherForm:
      return "torch";
    case LayoutMap::Rule::kNone:
      break;
  }
  return "";
}

Matcher::Found find(const Matcher& matcher, const py::str& path) {
  if (PyUnicode_IS_ASCII(path.ptr())) {
    return matcher.find(
        {static_cast<const char*>(PyUnicode_DATA(path.ptr())),
         static_cast<size_t>(PyUnicode_GET_LENGTH(path.ptr()))});
  }
  return matcher.find(utf8(path));
}

// Whether one pattern is the path or matches the whole of it.
bool is_keras(const Matcher::Found& found) {
  return found.hits.size() == 1 && (found.rule == LayoutMap::Rule::kExact ||
                                    found.rule == LayoutMap::Rule::kWhole);
}

py::list list_of(const std::vector<Matcher::Hit>& hits) {
  py::list list;
  for (const Matcher::Hit& hit : hits) {
    list.append(py::make_tuple(hit.pattern, str_of(hit.text)));
  }
  return list;
}

// An index for the one pattern that is the path or matches the whole of it,
// None for nothing, else (rule, [(index, text)]).
py::object found_object(const Matcher::Found& found) {
  if (found.hits.empty()) {
    return py::none();
  }
  if (is_keras(found)) {
    return py::int_(found.hits[0].pattern);
  }
  return py::make_tuple(name_of(found.rule), list_of(found.hits));
}

// What the paths of one layout map have found, so that a look-up is one call.
struct Answers {
  py::object owner;  // keeps `matcher` alive
  const Matcher* matcher;
  py::list layouts;     // by index of the pattern
  py::dict by_path;     // all answers so far
  py::function beyond;  // (path, rule, hits): an answer that is not Keras's

  py::object get(const py::str& path) {
    if (PyObject* known = PyDict_GetItemWithError(by_path.ptr(), path.ptr())) {
      return py::reinterpret_borrow<py::object>(known);
    }
    if (PyErr_Occurred()) {
      throw py::error_already_set();
    }
    const Matcher::Found found = find(*matcher, path);
    py::object answer = py::none();
    if (is_keras(found)) {
      answer = layouts[static_cast<size_t>(found.hits[0].pattern)];
    } else if (!found.hits.empty()) {
      answer = beyond(path, name_of(found.rule), list_of(found.hits));
    }
    if (PyDict_SetItem(by_path.ptr(), path.ptr(), answer.ptr()) != 0) {
      throw py::error_already_set();
    }
    return answer;
  }
};

}  // namespace

void bind_layout_map(py::module_& m) {
  py::class_<Matcher>(m, "Matcher")
      .def(py::init(&make_matcher), py::arg("patterns"), py::arg("foreign"))
      .def(
          "find",
          [](const Matcher& matcher, const py::str& path) {
            return found_object(find(matcher, path));
          },
          py::arg("path"));
  py::class_<Answers>(m, "Answers")
      .def(
          py::init([](py::object matcher,
                      py::list layouts,
                      py::dict by_path,
                      py::function beyond) {
            const auto* native = matcher.cast<const Matcher*>();
            return Answers{std::move(matcher),
                           native,
                           std::move(layouts),
                           std::move(by_path),
                           std::move(beyond)};
          }),
          py::arg("matcher"),
          py::arg("layouts"),
          py::arg("by_path"),
          py::arg("beyond"))
      .def("get", &Answers::get, py::arg("path"));
  m.def(
      "pattern_problem",
      [](const py::str& text) { return Pattern(utf8(text)).problem(); },
      py::arg("pattern"));
  m.def(
      "ends_of",
      [](const py::str& path) { return strs_of(ends_of(utf8(path))); },
      py::arg("path"));
  m.def(
      "other_forms_of",
      [](const py::str& path) { return strs_of(other_forms_of(utf8(path))); },
      py::arg("path"));
  m.def(
      "nearest_paths",
      [](const py::str& pattern, const Texts& paths, size_t n) {
        std::vector<std::string> texts;
        for (const py::str& path : paths) {
          texts.push_back(utf8(path));
        }
        return strs_of(nearest_paths(utf8(pattern), texts, n));
      },
      py::arg("pattern"),
      py::arg("paths"),
      py::arg("n"));
}

}  // namespace torch_mesh
