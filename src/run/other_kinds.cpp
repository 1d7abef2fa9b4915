// other_kinds.cpp: a clear error in place of a tensor that nothing can shard.

#include "run/other_kinds.h"

#include <torch_mesh/error.h>

namespace torch_mesh {

void refuse(const std::string& op, OtherKind kind) {
  switch (kind) {
    case OtherKind::kSparse:
      detail::raise(
          ErrorKind::kNotSupported,
          "no-sparse",
          op,
          ": the mesh holds no sparse tensors.\nHint: leave a sparse matrix a "
          "plain tensor, which may multiply one of the mesh (torch.mm); else "
          "use "
          "a dense tensor, or compute this with x.cpu().");
    case OtherKind::kNested:
      detail::raise(
          ErrorKind::kNotSupported,
          "no-nested",
          op,
          ": the mesh holds no nested tensors of strided layout.\nHint: use "
          "torch.nested with layout=torch.jagged, or a padded tensor.");
    case OtherKind::kQuantized:
      detail::raise(
          ErrorKind::kNotSupported,
          "no-quantized",
          op,
          ": the mesh holds no quantized tensors.\nHint: quantize x.cpu(), or "
          "use fake_quantize ops.");
  }
  TORCH_MESH_ASSERT(false, "a tensor of no kind");
}

void check_is_strided(const std::string& op, const at::Tensor& result) {
  if (result.is_quantized()) [[unlikely]] {
    refuse(op, OtherKind::kQuantized);
  }
  if (result.is_nested()) [[unlikely]] {
    refuse(op, OtherKind::kNested);
  }
  if (result.layout() != at::kStrided) [[unlikely]] {
    refuse(op, OtherKind::kSparse);
  }
}

}  // namespace torch_mesh
