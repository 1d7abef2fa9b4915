// stand_ins.cpp: what torch says of tensors like these, without their values.

#include "run/stand_ins.h"

#include <algorithm>
#include <set>
#include <string>

#include <ATen/OpMathType.h>
#include <ATen/WrapDimUtils.h>
#include <ATen/ops/cat_meta_dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/index_meta_dispatch.h>

#include "rules/families.h"
#include "run/arguments.h"
#include "run/packing.h"
#include "shard/span.h"

namespace torch_mesh {
namespace {

// The arguments with uninitialised tensors of the same metadata in place of
// tensors. `as_wide`: float32 in place of halves.
Stack with_stand_ins(
    const Op& op,
    c10::ArrayRef<c10::IValue> args,
    c10::DeviceType device,
    bool as_wide = false) {
  auto stand_in = [&](const at::Tensor& tensor, size_t, size_t) {
    const c10::ScalarType dtype = tensor.scalar_type();
    const bool has_wider =
        as_wide && (c10::isFloatingType(dtype) || c10::isComplexType(dtype));
    const at::Tensor made = at::empty_strided(
        tensor.sizes(),
        tensor.strides(),
        tensor.options().device(device).dtype(
            has_wider ? at::toOpMathType(dtype) : dtype));
    // A Python number counts less than a tensor when dtypes are chosen.
    if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) {
      made.unsafeGetTensorImpl()->set_wrapped_number(true);
    }
    return made;
  };
  Stack stack;
  push_arguments(op, args, device, stack, stand_in);
  for (size_t i = 0; i < args.size(); ++i) {
    if (op.params[i] == Op::ParamKind::kDevice && args[i].isDevice()) {
      stack[i] = c10::Device(device);  // also in place of another device
    }
  }
  return stack;
}

void fill(Stack& stack, int value) {
  for (const c10::IValue& argument : stack) {
    if (argument.isTensor() && argument.toTensor().defined()) {
      argument.toTensor().fill_(value);
    } else if (argument.isList()) {
      for (const c10::IValue& element : argument.toListRef()) {
        if (element.isTensor() && element.toTensor().defined()) {
          element.toTensor().fill_(value);
        }
      }
    }
  }
}

// The results on the meta device; nothing if torch cannot say.
std::optional<std::vector<at::Tensor>> results_on_meta(
    const Op& op,
    c10::ArrayRef<c10::IValue> args) {
  if (!op.handle.hasComputedKernelForDispatchKey(c10::DispatchKey::Meta)) {
    return std::nullopt;
  }
  // Meta kernels in Python compute pointwise ops of halves on copies in
  // float32, and a copy of an expanded tensor is not expanded.
  Stack stack =
      with_stand_ins(op, args, at::kMeta, /*as_wide=*/op.schema.is_pointwise);
  // Meta kernels in Python take no wrapped numbers; sizes and strides do not
  // depend on that.
  for (const c10::IValue& value : stack) {
    if (value.isTensor() && value.toTensor().defined() &&
        value.toTensor().dim() == 0) {
      value.toTensor().unsafeGetTensorImpl()->set_wrapped_number(false);
    }
  }
  try {
    op.handle.callBoxed(stack);
  } catch (const std::exception&) {
    return std::nullopt;
  }
  std::vector<at::Tensor> results;
  for (const c10::IValue& value : stack) {
    if (value.isTensor()) {
      results.push_back(value.toTensor());
    } else if (value.isTensorList()) {
      for (const at::Tensor& result : value.toTensorVector()) {
        results.push_back(result);
      }
    }
  }
  return results;
}

// Those of which Python's meta kernels say otherwise than torch's in C++.
bool is_laid_out_by_kernel(const Op& op) {
  return op.schema.name == "aten::index.Tensor" ||
         op.schema.name == "aten::cat" || op.schema.name == "aten::stack" ||
         op.schema.name == "aten::roll";
}

// A dim of which the first device has one element says nothing. The order in
// which pointwise ops lay out what repeats or overlaps depends on sizes too,
// and some kernels look at the strides of dims of size 1, which shards do not
// keep.
bool hides_strides(
    const Op& op,
    c10::ArrayRef<c10::IValue> args,
    const Plan::Output& output,
    const LoweredPlan::Output& prepared) {
  const std::vector<int64_t>& first = prepared.local_sizes[0];
  return ((output.layout.sharded_axes() != 0 || is_laid_out_by_kernel(op)) &&
          std::find(first.begin(), first.end(), 1) != first.end()) ||
         (op.schema.is_pointwise &&
          std::any_of(args.begin(), args.end(), [](const c10::IValue& arg) {
            return arg.isTensor() && arg.toTensor().defined() &&
                   !arg.toTensor().is_non_overlapping_and_dense();
          }));
}

// Ops that keep channels_last, which torch's meta kernels forget.
bool keeps_format(const Op& op) {
  return rules::op_says(op.schema.name, "keeps_format") &&
         !op.schema.params[0].is_written;
}

// Whether torch's iterator lays out the results on all devices: of structured
// ops, and of those on one tensor.
bool is_iterated(const Op& op) {
  if (!op.schema.is_pointwise || keeps_format(op)) {
    return false;
  }
  const auto is_tensor = [](Op::ParamKind kind) {
    return kind == Op::ParamKind::kTensor;
  };
  return op.handle.hasKernelForDispatchKey(
             c10::DispatchKey::CompositeExplicitAutogradNonFunctional) ||
         std::count_if(op.params.begin(), op.params.end(), is_tensor) == 1;
}

at::Tensor on_meta(const at::Tensor& tensor) {
  return at::empty_strided(
      tensor.sizes(), tensor.strides(), tensor.options().device(at::kMeta));
}

// As torch has it: a stack is a cat along the dim that it takes the place of,
// seen with one dim more.
at::Tensor stacked(std::vector<at::Tensor>& parts, int64_t dim) {
  const int64_t num_dims = parts[0].dim();
  dim = c10::maybe_wrap_dim(dim, num_dims + 1);
  if (dim < num_dims) {
    std::vector<int64_t> sizes = parts[0].sizes().vec();
    sizes.insert(sizes.begin() + dim, static_cast<int64_t>(parts.size()));
    return at::Tensor(at::meta::cat(parts, dim)).view(sizes);
  }
  for (at::Tensor& part : parts) {
    part = part.unsqueeze(dim);
  }
  return at::meta::cat(parts, dim);
}

// Of ops that Python's meta kernels lay out as no kernel does: by torch's own
// in C++, which its kernels ask too. Nothing for other ops.
std::optional<at::Tensor> laid_out_by_kernel(
    const Op& op,
    c10::ArrayRef<c10::IValue> args) {
  if (!is_laid_out_by_kernel(op)) {
    return std::nullopt;
  }
  if (op.schema.name == "aten::index.Tensor") {
    const auto indices = args[1].to<c10::List<std::optional<at::Tensor>>>();
    return index_on_meta(args[0].toTensor(), indices);
  }
  if (op.schema.name == "aten::cat" || op.schema.name == "aten::stack") {
    std::vector<at::Tensor> parts;
    for (const at::Tensor& part : args[0].toTensorVector()) {
      parts.push_back(on_meta(part));
    }
    return op.schema.name == "aten::cat" ? at::meta::cat(parts, args[1].toInt())
                                         : stacked(parts, args[1].toInt());
  }
  at::Tensor rolled = on_meta(args[0].toTensor());
  const std::vector<int64_t> shifts = args[1].toIntVector();
  const std::vector<int64_t> dims = args[2].toIntVector();
  if (dims.empty() || rolled.numel() == 0) {
    return at::empty(rolled.sizes(), rolled.options());
  }
  for (size_t i = 0; i < dims.size(); ++i) {
    const int64_t dim = c10::maybe_wrap_dim(dims[i], rolled.dim());
    const int64_t size = rolled.size(dim);
    const int64_t begin = (size - shifts[i] % size) % size;
    rolled = at::meta::cat(
        std::vector<at::Tensor>{rolled.narrow(dim, begin, size - begin),
                                rolled.narrow(dim, 0, begin)},
        dim);
  }
  return rolled;
}

// Whether all tensors have these sizes and lie in the usual order. A comparison
// takes its number for a tensor of no dims.
bool are_contiguous(
    const Op& op,
    c10::ArrayRef<c10::IValue> args,
    const std::vector<int64_t>& sizes) {
  static const auto* with_number = new std::set<std::string>{
      "aten::eq.Scalar",
      "aten::ge.Scalar",
      "aten::gt.Scalar",
      "aten::le.Scalar",
      "aten::lt.Scalar",
      "aten::ne.Scalar",
  };
  return !with_number->count(op.schema.name) &&
         std::all_of(args.begin(), args.end(), [&](const c10::IValue& arg) {
           return !arg.isTensor() || !arg.toTensor().defined() ||
                  (arg.toTensor().sizes() == c10::IntArrayRef(sizes) &&
                   arg.toTensor().is_contiguous());
         });
}

// The position of batch norm's input; -1 for other ops.
int input_of_batch_norm(const Op& op) {
  const std::string& name = op.base_name;
  return name == "aten::native_batch_norm" ||
                 name.rfind("aten::_native_batch_norm_legit", 0) == 0
             ? 0
         : name == "aten::native_batch_norm_backward" ? 1
                                                      : -1;
}

bool is_in_a_format(const at::Tensor& t) {
  return !t.defined() || t.is_contiguous() ||
         t.is_contiguous(at::MemoryFormat::ChannelsLast) ||
         t.is_contiguous(at::MemoryFormat::ChannelsLast3d);
}

// As `results_on_meta`; of ops that torch's meta kernels lay out as no kernel
// does, the first result alone.
std::optional<std::vector<at::Tensor>> laid_out_results(
    const Op& op,
    c10::ArrayRef<c10::IValue> args,
    const std::vector<int64_t>& sizes) {
  if (const auto laid_out = laid_out_by_kernel(op, args)) {
    return std::vector<at::Tensor>{*laid_out};
  }
  const int input = input_of_batch_norm(op);
  // Of other orders of dims, which some of these ops keep, meta kernels know.
  const bool has_format =
      keeps_format(op) && is_in_a_format(args[0].toTensor());
  if (input < 0 && !has_format) {
    auto results = results_on_meta(op, args);
    if (results && is_iterated(op) && op.memory_format_param < 0 &&
        are_contiguous(op, args, sizes)) {
      // torch's iterator does not look at their strides, Python's kernels do:
      // in dims of size 1.
      for (at::Tensor& result : *results) {
        if (result.is_contiguous()) {
          result = at::empty(result.sizes(), result.options());
        }
      }
    }
    return results;
  }
  const at::Tensor self = args[std::max(input, 0)].toTensor();
  const at::MemoryFormat format =
      input < 0    ? self.suggest_memory_format()
      : input == 0 ? format_of_batch_norm(self, {})
                   : format_of_batch_norm(self, args[0].toTensor());
  return std::vector<at::Tensor>{
      at::empty(sizes, self.options().device(at::kMeta).memory_format(format))};
}

}  // namespace

at::MemoryFormat format_of_batch_norm(
    const at::Tensor& input,
    const at::Tensor& gradient) {
  if (!is_in_a_format(input) || !is_in_a_format(gradient)) {
    return input.suggest_memory_format();
  }
  for (const at::MemoryFormat format :
       {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
    if (input.is_contiguous(format)) {
      return format;
    }
  }
  return at::MemoryFormat::ChannelsLast3d;
}

std::optional<at::Tensor> index_on_meta(
    const at::Tensor& self,
    const c10::List<std::optional<at::Tensor>>& indices) {
  c10::List<std::optional<at::Tensor>> metas;
  for (size_t i = 0; i < indices.size(); ++i) {
    const std::optional<at::Tensor> index = indices.get(i);
    if (!index || !index->defined()) {
      metas.push_back(std::nullopt);
      continue;
    }
    if (index->scalar_type() == at::kBool ||
        index->scalar_type() == at::kByte) {
      return std::nullopt;
    }
    metas.push_back(on_meta(*index));
  }
  return at::meta::index(on_meta(self), metas);
}

std::vector<LoweredPlan::Window> windows_of(
    const Op& op,
    c10::ArrayRef<c10::IValue> args) {
  Stack stack = with_stand_ins(op, args, at::kMeta);
  op.handle.callBoxed(stack);
  std::vector<LoweredPlan::Window> windows;
  auto add = [&](const at::Tensor& view) {
    windows.push_back(
        {{view.sizes().begin(), view.sizes().end()},
         {view.strides().begin(), view.strides().end()},
         view.storage_offset()});
  };
  for (const c10::IValue& value : stack) {
    if (value.isTensor()) {
      add(value.toTensor());
    } else if (value.isTensorList()) {
      for (const at::Tensor& view : value.toTensorVector()) {
        add(view);
      }
    }
  }
  return windows;
}

std::optional<std::vector<std::vector<int64_t>>> sizes_of_results(
    const Op& op,
    c10::ArrayRef<c10::IValue> args) {
  const auto results = results_on_meta(op, args);
  if (!results) {
    return std::nullopt;
  }
  std::vector<std::vector<int64_t>> sizes;
  for (const at::Tensor& result : *results) {
    sizes.push_back(
        result.defined() ? result.sizes().vec() : std::vector<int64_t>());
  }
  return sizes;
}

void find_hidden_strides(
    const Op& op,
    c10::ArrayRef<c10::IValue> args,
    LoweredPlan& prepared) {
  std::optional<std::vector<at::Tensor>> results;
  for (size_t o = 0; o < prepared.outputs.size(); ++o) {
    const Plan::Output& output = prepared.plan.outputs[o];
    // No process sees how the shards of others lie.
    const bool is_elsewhere =
        !shows_order(output, prepared.outputs[o].local_sizes);
    if (!is_elsewhere &&
        !hides_strides(op, args, output, prepared.outputs[o])) {
      continue;
    }
    if (!results) {
      results = laid_out_results(op, args, prepared.plan.outputs[0].sizes);
    }
    if (!results || results->size() <= o) {
      return;
    }
    const at::Tensor& result = (*results)[o];
    if (result.defined() && result.is_non_overlapping_and_dense() &&
        result.sizes() == c10::IntArrayRef(output.sizes)) {
      const c10::IntArrayRef strides = result.strides();
      LoweredPlan::Output& known = prepared.outputs[o];
      known.strides.assign(strides.begin(), strides.end());
      for (const int lane : known.lane_of_shard) {
        known.shard_strides.push_back(
            strides_in_order_of(known.local_sizes[lane], as_span(strides)));
      }
      known.is_certain = is_elsewhere || input_of_batch_norm(op) >= 0 ||
                         is_iterated(op) || is_laid_out_by_kernel(op);
    }
  }
}

void check_arguments(const Op& op, c10::ArrayRef<c10::IValue> args) {
  if (!op.handle.hasComputedKernelForDispatchKey(c10::DispatchKey::Meta)) {
    return;
  }
  try {
    Stack meta = with_stand_ins(op, args, at::kMeta);
    op.handle.callBoxed(meta);
  } catch (const std::exception&) {
    Stack plain = with_stand_ins(op, args, at::kCPU);
    fill(plain, 0);
    op.handle.callBoxed(plain);
  }
}

bool is_refused(const Op& op, c10::ArrayRef<c10::IValue> args) {
  try {
    Stack plain = with_stand_ins(op, args, at::kCPU);
    fill(plain, 0);
    op.handle.callBoxed(plain);
  } catch (const std::exception&) {
    return true;
  }
  return false;
}

bool fails_on_all_values(
    const Op& op,
    c10::ArrayRef<c10::IValue> args,
    const std::string& error) {
  // Random numbers would be used up, and Python code run once more.
  if (op.is_random || op.is_python) {
    return false;
  }
  for (int value : {0, 1}) {
    try {
      Stack plain = with_stand_ins(op, args, at::kCPU);
      fill(plain, value);
      op.handle.callBoxed(plain);
      return false;
    } catch (const c10::Error& other) {
      if (other.msg() != error) {
        return false;
      }
    } catch (const std::exception&) {
      return false;
    }
  }
  return true;
}

}  // namespace torch_mesh
