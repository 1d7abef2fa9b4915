// convolution.cpp: convolutions and their gradients.
//
//   n batch   i input channels   o output channels   s*, k*, u* spatial sizes
//   of input, kernel and output       with groups: (g c) input, (g m) output
//
// i is contracted, as k in a matrix product; the bias counts once. Spatial dims
// are whole: a device would need its neighbours' edges.

#include "rules/families.h"

namespace torch_mesh::rules {
namespace {

std::string forward() {
  const std::string tail =
      " convolves(s*, k*, u*) filled linear(0 2, 1 2) adds(2) when(";
  const std::string grouped = " size(g, groups)" + tail;
  return "n i s*, o i k*, o -> n o u*" + tail +
         "groups=1, transposed=false) | "
         "n i s*, i o k*, o -> n o u*" +
         tail +
         "groups=1, transposed=true) | "
         "n (g c) s*, (g m) c k*, (g m) -> n (g m) u*" +
         grouped +
         "transposed=false) | "
         "n (g c) s*, (g c) m k*, (g m) -> n (g m) u*" +
         grouped + "transposed=true)";
}

// The gradient of the bias sums the incoming one and knows no input channels.
// Autograd gives [0] for the sizes of a bias that is not there.
std::string backward(bool has_bias_sizes) {
  const std::string tail = " whole(s*, k*, u*) filled linear(0) when(";
  auto bias = [&](const std::string& letters) {
    return has_bias_sizes ? " size(" + letters + ", bias_sizes, 0)"
                          : std::string();
  };
  const std::string plain = bias("o") + tail;
  const std::string grouped = " size(g, groups)" + bias("g m") + tail;
  return "n o u*, n i s*, o i k* -> n i s*, o i k*, o ^i" + plain +
         "groups=1, transposed=false) | "
         "n o u*, n i s*, i o k* -> n i s*, i o k*, o ^i" +
         plain +
         "groups=1, transposed=true) | "
         "n (g m) u*, n (g c) s*, (g m) c k* -> "
         "n (g c) s*, (g m) c k*, (g m) ^c" +
         grouped +
         "transposed=false) | "
         "n (g m) u*, n (g c) s*, (g c) m k* -> "
         "n (g c) s*, (g c) m k*, (g m) ^c" +
         grouped + "transposed=true)";
}

}  // namespace

void add_convolution_rules(RuleTable& table) {
  table.add_all(
      {"aten::_convolution", "aten::convolution_overrideable"}, forward());
  table.add("aten::convolution", forward() + " keeps_format");
  table.add("aten::convolution_backward", backward(/*has_bias_sizes=*/true));
  table.add(
      "aten::convolution_backward_overrideable",
      backward(/*has_bias_sizes=*/false));
}

}  // namespace torch_mesh::rules
