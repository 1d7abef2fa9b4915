// foreach.cpp: ops on lists as ops on their elements.

#include <algorithm>
#include <array>

#include "rules/families.h"

namespace torch_mesh::rules {
namespace {

constexpr std::string_view kPrefix = "aten::_foreach_";

// Overloads of ops on lists, and those of the op on one element.
struct Overloads {
  std::string_view list;
  std::string_view element;
};
constexpr std::array<Overloads, 5> kBinary{{
    {".List", ".Tensor"},
    {".Tensor", ".Tensor"},
    {".Scalar", ".Scalar"},
    {".ScalarList", ".Scalar"},
    {".ScalarAndTensor", ".Scalar"},
}};

bool is_one_of(
    std::string_view name,
    std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::string binary(std::string_view name, std::string_view overload) {
  for (const Overloads& pair : kBinary) {
    if (pair.list == overload) {
      return std::string(name) + std::string(pair.element);
    }
  }
  return "";
}

// `name` is without the underscore of in-place ops; `mark` is that underscore.
std::string element_op(
    std::string_view name,
    std::string_view mark,
    std::string_view overload) {
  const std::string op = "aten::" + std::string(name) + std::string(mark);
  if (is_one_of(name, {"add", "sub", "mul", "div"})) {
    return binary(op, overload);
  }
  if (is_one_of(name, {"clamp_max", "clamp_min"})) {
    return overload == ".List" ? op + ".Tensor" : op;
  }
  // Element by element these are the clamps.
  if (name == "maximum" || name == "minimum") {
    const std::string clamp =
        name == "maximum" ? "aten::clamp_min" : "aten::clamp_max";
    return clamp + std::string(mark) + (overload == ".List" ? ".Tensor" : "");
  }
  if (name == "pow") {
    return overload == ".List"
               ? op + (mark.empty() ? ".Tensor_Tensor" : ".Tensor")
           : is_one_of(overload, {".Scalar", ".ScalarList"})
               ? op + (mark.empty() ? ".Tensor_Scalar" : ".Scalar")
               : op + ".Scalar";
  }
  if (name == "lerp") {
    return op + (overload == ".List" ? ".Tensor" : ".Scalar");
  }
  if (name == "norm") {
    return "aten::linalg_vector_norm";
  }
  // addcmul, addcdiv, and all of one tensor.
  return op;
}

}  // namespace

std::string foreach_element_op(const std::string& name) {
  if (!name.starts_with(kPrefix)) {
    return "";
  }
  std::string_view rest = std::string_view(name).substr(kPrefix.size());
  const size_t dot = std::min(rest.find('.'), rest.size());
  std::string_view overload = rest.substr(dot);
  rest = rest.substr(0, dot);
  if (overload.ends_with("out")) {
    return "";
  }
  const bool in_place = rest.ends_with('_');
  if (in_place) {
    rest.remove_suffix(1);
  }
  return element_op(rest, in_place ? "_" : "", overload);
}

bool is_foreach_name(const std::string& name) {
  return name.starts_with(kPrefix);
}

bool is_elementwise_group(const std::string& name) {
  const std::string base = name.substr(0, name.find('.'));
  if (!foreach_element_op(name).empty()) {
    return !is_one_of(
        base,
        {"aten::_foreach_max",
         "aten::_foreach_mm",
         "aten::_foreach_norm",
         "aten::_foreach_powsum"});
  }
  return is_one_of(
      base,
      {"aten::_fused_adagrad_",
       "aten::_fused_adam_",
       "aten::_fused_adamw_",
       "aten::_fused_sgd_",
       "aten::_amp_foreach_non_finite_check_and_unscale_"});
}

}  // namespace torch_mesh::rules
