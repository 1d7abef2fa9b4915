// path.h: names of parameters as PyTorch and as Keras write them.

#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <torch_mesh/layout_map.h>

namespace torch_mesh {

// Whether a path is in PyTorch's form: dots, and no slash.
bool is_torch_path(std::string_view path);

// The ends of a path that begin at a segment, the longest first, without the
// whole: {"fc1.weight", "weight"} of "net.fc1.weight".
std::vector<std::string> ends_of(std::string_view path);

// Where the segments of a path begin, from 0 on.
std::vector<size_t> segment_starts(std::string_view path);

// The names under which the other framework knows a path: of "net.fc1.weight"
// "net/fc1/weight", "net/fc1/kernel", ...; of "net/fc1/kernel"
// "net.fc1.kernel" and "net.fc1.weight". Without the path itself. All have
// their segments at the same places.
std::vector<std::string> other_forms_of(std::string_view path);

// The entries of a Keras kernel ([in, out], [kh, kw, in, out]) in the order in
// which PyTorch stores the weight ([out, in], [out, in, kh, kw]).
DimAxes torch_axes(const DimAxes& kernel);

// The `n` paths that look most like a pattern, the nearest first: compared by
// the letters of both, with the whole path or an end of it.
std::vector<std::string> nearest_paths(
    std::string_view pattern,
    const std::vector<std::string>& paths,
    size_t n);

}  // namespace torch_mesh
