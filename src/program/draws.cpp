// draws.cpp: random numbers that do not depend on the layout (law 2).
//
// Bits are drawn for the whole tensor in plain torch's memory order, once, from
// torch's default CPU generator (or the generator that was passed), and cut: on
// CPU meshes they are bit for bit those of the plain program. Of what other
// processes hold they are passed by where that is known to be the same
// (own_draws.h).

#include <limits>

#include <ATen/OpMathType.h>
#include <ATen/ops/all.h>
#include <ATen/ops/any.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/bernoulli.h>
#include <ATen/ops/div.h>
#include <ATen/ops/dropout_compositeimplicitautograd_dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/eq.h>
#include <ATen/ops/ge.h>
#include <ATen/ops/le.h>
#include <ATen/ops/logical_and.h>
#include <ATen/ops/logical_not.h>
#include <ATen/ops/lt.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/topk.h>

#include <torch_mesh/tensor.h>

#include "program/programs.h"
#include "random/own_draws.h"
#include "run/noted_call.h"
#include "shard/local_ops.h"
#include "shard/span.h"
#include "tensor/global_tensor.h"
#include "tensor/lazy_bits.h"

namespace torch_mesh::programs {
namespace {

// Plain memory for numbers to be drawn: with the sizes and strides of `tensor`,
// which gives it the same bits at the same places.
at::Tensor empty_whole(const at::Tensor& tensor) {
  return at::empty_strided(
      tensor.sizes(),
      strides_in_order_of(as_span(tensor.sizes()), as_span(tensor.strides())),
      tensor.options().device(at::kCPU));
}

// The same with the very strides of `tensor`: where they leave gaps, kernels
// draw one number after the other.
at::Tensor empty_as(const at::Tensor& tensor) {
  return at::empty_strided(
      tensor.sizes(), tensor.strides(), tensor.options().device(at::kCPU));
}

// Whether one local tensor is all there is of it. Asks a window that would have
// to be gathered nothing.
bool has_one_replica(const at::Tensor& tensor) {
  if (meta_of(tensor).is_write_back) {
    return false;
  }
  read(tensor);
  return layout_of(tensor).is_replicated() &&
         layout_of(tensor).lanes().num == 1;
}

// Fresh plain numbers as a tensor in the layout of `like`.
at::Tensor give_layout(const at::Tensor& whole, const at::Tensor& like) {
  const Layout layout = layout_of(like).with_sums_reduced();
  return whole.is_contiguous() ? borrow(whole, layout)
                               : distribute(whole, layout);
}

bool is_cut(const at::Tensor& tensor) {
  return is_global(tensor) && layout_of(tensor).sharded_axes() != 0;
}

// What torch draws for dropout: 1 / p with probability p, else 0.
at::Tensor noise_like(const at::Tensor& input, double p) {
  if (input.scalar_type() != at::kFloat) {
    return give_layout(empty_whole(input).bernoulli_(p).div_(p), input);
  }
  const at::Tensor kept = at::ones({}, at::kFloat).div_(p);
  const Drawing drawing{Drawing::Kind::kBernoulli,
                        p,
                        *kept.const_data_ptr<float>(),
                        at::kFloat,
                        input.numel()};
  const Layout layout = layout_of(input).with_sums_reduced();
  if (input.is_contiguous() && draws_own(drawing, layout, input.sizes())) {
    return own_numbers(drawing, layout, input.sizes());
  }
  const at::Tensor whole = empty_whole(input);
  if (whole.is_contiguous() && can_draw_parts(drawing)) {
    draw_parts(drawing, {{0, whole}});
  } else {
    whole.bernoulli_(p).div_(p);
  }
  return give_layout(whole, input);
}

// Draws what is here of `self`; false, with nothing drawn, if that is no part
// that can be drawn by itself.
bool draw_own_in_place(const at::Tensor& self, const Drawing& drawing) {
  if (!self.is_contiguous() || meta_of(self).is_write_back ||
      LazyBits::of(self).any()) {
    return false;
  }
  read(self);
  const Layout layout = layout_of(self);
  if (!draws_own(drawing, layout, self.sizes())) {
    return false;
  }
  fill_own(drawing, layout, self.sizes(), begin_write(self));
  end_write(self);
  return true;
}

// Of the numbers that a call draws for all of `self`.
Drawing drawing_of(
    const CallArgs& args,
    Drawing::Kind kind,
    double first,
    double second) {
  const at::Tensor self = args.tensor("self");
  Drawing drawing{kind, first, second, self.scalar_type(), self.numel()};
  if (args.has("generator") && !args["generator"].isNone()) {
    drawing.generator = args["generator"].toGenerator();
  }
  return drawing;
}

bool draw_in_place_as(
    const CallArgs& args,
    Drawing::Kind kind,
    double first,
    double second) {
  const at::Tensor self = args.tensor("self");
  return is_cut(self) &&
                 draw_own_in_place(self, drawing_of(args, kind, first, second))
             ? args.give(self)
             : draw_in_place(args);
}

bool draw_like_as(
    const CallArgs& args,
    Drawing::Kind kind,
    double first,
    double second) {
  const at::Tensor self = args.tensor("self");
  const bool is_like_self = args["dtype"].isNone() &&
                            args["memory_format"].isNone() &&
                            args["device"].isNone() && self.is_contiguous();
  if (!is_cut(self) || !is_like_self) {
    return draw_like(args);
  }
  const Layout layout = layout_of(self).with_sums_reduced();
  const Drawing drawing = drawing_of(args, kind, first, second);
  return draws_own(drawing, layout, self.sizes())
             ? args.give(own_numbers(drawing, layout, self.sizes()))
             : draw_like(args);
}

}  // namespace

// As torch composes it on CPU: the input times noise of its dtype that is drawn
// for the whole of it. On other devices torch takes a fused kernel, whose mask
// of bools has to be converted at each use.
bool dropout(const CallArgs& args) {
  const at::Tensor input = args.tensor("input");
  const double p = args["p"].toDouble();
  const bool train = args["train"].toBool();
  const bool draws = train && p > 0 && p < 1;
  if (!draws || !is_global(input) || input.numel() == 0) {
    return args.give(at::compositeimplicitautograd::dropout(input, p, train));
  }
  note_draw(layout_of(input).mesh(), p);
  at::Tensor noise;
  {
    const LocalOps local;
    // This runs above the dispatcher's modes, which shall not see local ops.
    const c10::impl::ExcludeDispatchKeyGuard no_modes(c10::python_ks);
    noise = noise_like(input, 1 - p);
  }
  return args.give(input.mul(noise));
}

// As `dropout`. The mask that backward reads is boolean.
bool native_dropout(const CallArgs& args) {
  const at::Tensor input = args.tensor("input");
  const double p = args["p"].toDouble();
  const bool train = args["train"].isNone() || args["train"].toBool();
  if (!is_global(input)) {
    return false;
  }
  at::Tensor output;
  at::Tensor mask;
  if (!train) {
    output = input.clone();
    mask = at::ones_like(input, input.options().dtype(at::kBool));
  } else {
    const at::Tensor whole = empty_whole(input);
    whole.bernoulli_(1 - p);
    mask = at::empty_like(input, input.options().dtype(at::kBool));
    mask.copy_(whole);
    if (p == 1) {
      output = input.mul(whole);
    } else {
      output = input.mul(whole.div_(1 - p));
    }
  }
  return args.give(output, mask);
}

// normal_, uniform_, ...: fills a plain tensor.
bool draw_in_place(const CallArgs& args) {
  const at::Tensor self = args.tensor("self");
  if (!is_global(self)) {
    return false;
  }
  const bool direct = has_one_replica(self);
  const at::Tensor whole =
      direct ? begin_write(self).any().local() : empty_as(self);
  Stack local{whole};
  for (const c10::IValue& value : args.all().slice(1)) {
    local.push_back(
        value.isTensor() && is_global(value.toTensor())
            ? c10::IValue(full_value(value.toTensor()))
            : value);
  }
  args.op.handle.callBoxed(local);
  if (direct) {
    end_write(self);
  } else {
    overwrite_value(self, whole);
  }
  return args.give(self);
}

// randn_like, bernoulli(p), ...: what the first tensor holds is not read.
bool draw_like(const CallArgs& args) {
  const at::Tensor self = args.tensor("self");
  if (!is_global(self)) {
    return false;
  }
  Stack local = args.copy();
  local[0] = at::empty_strided(
      self.sizes(), self.strides(), self.options().device(at::kCPU));
  for (size_t i = 1; i < local.size(); ++i) {
    if (local[i].isTensor() && is_global(local[i].toTensor())) {
      local[i] = full_value(local[i].toTensor());
    } else if (args.op.params[i] == Op::ParamKind::kDevice) {
      local[i] = c10::Device(c10::kCPU);
    }
  }
  args.op.handle.callBoxed(local);
  return args.give(give_layout(local[0].toTensor(), self));
}

// Of the following a process draws what it holds, where it can.

bool bernoulli_in_place(const CallArgs& args) {
  return draw_in_place_as(
      args, Drawing::Kind::kBernoulli, args["p"].toDouble(), /*second=*/1);
}

bool normal_in_place(const CallArgs& args) {
  const double mean = args["mean"].toDouble();
  return draw_in_place_as(
      args, Drawing::Kind::kNormal, mean, args["std"].toDouble());
}

bool uniform_in_place(const CallArgs& args) {
  const double from = args["from"].toDouble();
  return draw_in_place_as(
      args, Drawing::Kind::kUniform, from, args["to"].toDouble());
}

bool normal_like(const CallArgs& args) {
  return draw_like_as(args, Drawing::Kind::kNormal, /*first=*/0, /*second=*/1);
}

bool uniform_like(const CallArgs& args) {
  return draw_like_as(args, Drawing::Kind::kUniform, /*first=*/0, /*second=*/1);
}

// 1 where a number that is drawn for the place is less than the probability.
bool bernoulli(const CallArgs& args) {
  const at::Tensor self = args.tensor("self");
  if (!is_cut(self) || !self.is_floating_point()) {
    return false;
  }
  const at::Tensor strays =
      at::logical_not(at::logical_and(at::ge(self, 0), at::le(self, 1)));
  if (at::any(strays).item<bool>()) {
    return false;  // torch says what is wrong
  }
  // Of halves too the number is one of float32: rounded, it may be another.
  const c10::ScalarType wide = at::toOpMathType(self.scalar_type());
  const at::Tensor whole =
      at::empty(self.sizes(), self.options().device(at::kCPU).dtype(wide));
  whole.uniform_(0, 1, args["generator"].toOptional<at::Generator>());
  return args.give(
      at::lt(give_layout(whole, self), self.to(wide)).to(self.scalar_type()));
}

// Without replacement torch divides by numbers that are drawn for each place,
// and takes the largest. With it, a row's numbers follow those of the rows
// before, one by one.
bool multinomial(const CallArgs& args) {
  const at::Tensor self = args.tensor("self");
  const int64_t num = args["num_samples"].toInt();
  const bool replaces = args["replacement"].toBool();
  if (!is_cut(self) || !self.is_floating_point() || self.dim() > 2 ||
      (replaces && num != 1) || num <= 0 || num > self.size(-1)) {
    return false;
  }
  const at::Tensor fits = at::logical_and(
      at::ge(self, 0), at::lt(self, std::numeric_limits<double>::infinity()));
  if (!at::all(fits).item<bool>() ||
      at::any(at::eq(at::sum(self, -1), 0)).item<bool>()) {
    return false;  // torch says what is wrong
  }
  const at::Tensor whole = empty_whole(self);
  whole.exponential_(1, args["generator"].toOptional<at::Generator>());
  const at::Tensor chances = at::div(self, give_layout(whole, self));
  return args.give(
      num == 1 ? at::argmax(chances, -1, /*keepdim=*/true)
               : std::get<1>(at::topk(chances, num)));
}

}  // namespace torch_mesh::programs
