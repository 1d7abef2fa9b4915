// op.cpp: what a description answers.

#include "run/op.h"

#include <torch_mesh/error.h>

namespace torch_mesh {

size_t Op::written_param(int alias) const {
  for (size_t i = 0; i < params.size(); ++i) {
    if (schema.params[i].is_written && schema.params[i].alias == alias) {
      return i;
    }
  }
  TORCH_MESH_ASSERT(false, schema.name, " returns no argument");
}

}  // namespace torch_mesh
