// stand_ins.h: what torch says of tensors like these, without their values.
//
// Stand-ins have the metadata of a call's tensors and lie on the meta device or
// in plain memory, so that an op can be asked before, or after, it is run.

#pragma once

#include <optional>
#include <string>
#include <vector>

#include "run/op.h"

namespace torch_mesh {

// In all of these `args` holds one argument for each parameter of `op`.

// Where the results of a view op lie in the argument's storage.
std::vector<LoweredPlan::Window> windows_of(
    const Op& op,
    c10::ArrayRef<c10::IValue> args);

// The sizes of the results; nullopt where only a run can tell.
std::optional<std::vector<std::vector<int64_t>>> sizes_of_results(
    const Op& op,
    c10::ArrayRef<c10::IValue> args);

// Finds the strides of results whose shards do not show in which order their
// dims lie.
void find_hidden_strides(
    const Op& op,
    c10::ArrayRef<c10::IValue> args,
    LoweredPlan& prepared);

// self[indices] on the meta device, as torch's kernel lays it out; nothing if
// there are masks among the indices.
std::optional<at::Tensor> index_on_meta(
    const at::Tensor& self,
    const c10::List<std::optional<at::Tensor>>& indices);

// The memory format of batch norm's result, or of the input's gradient, as the
// CPU's kernels choose it. `gradient`: of the result; undefined in the forward
// pass.
at::MemoryFormat format_of_batch_norm(
    const at::Tensor& input,
    const at::Tensor& gradient);

// Lets torch say what is wrong with sizes and dtypes, before anything moves: an
// op that fails on meta tensors is run on plain ones, for plain torch's words.
void check_arguments(const Op& op, c10::ArrayRef<c10::IValue> args);

// Whether plain torch refuses tensors like these.
bool is_refused(const Op& op, c10::ArrayRef<c10::IValue> args);

// Whether the op fails with this text on tensors like these whatever they hold.
// Such an error comes before the op writes.
bool fails_on_all_values(
    const Op& op,
    c10::ArrayRef<c10::IValue> args,
    const std::string& error);

}  // namespace torch_mesh
