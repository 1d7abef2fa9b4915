// pooling.cpp: windows over spatial dims: pooling, resampling, padding.
//
//   b* batch and channels   s* input sizes   o* output sizes
//   n batch   c channels
//
// Spatial dims are whole; all else passes. Averages, resampling and all
// gradients are linear.

#include "rules/families.h"

namespace torch_mesh::rules {
namespace {

void add_pools(RuleTable& table, const std::string& n) {
  const std::string dims = " dims(s*, " + n + ") dims(o*, " + n + ")";
  const std::string back = dims + " whole(s*, o*) filled linear(0)";
  const std::string pool = "_pool" + n + "d";
  table.add(
      "aten::max" + pool + "_with_indices",
      "b* s* -> b* o*, b* o*" + dims +
          " window(s*, o*, kernel_size, stride, padding, dilation, "
          "ceil_mode) filled");
  table.add(
      "aten::max" + pool + "_with_indices_backward",
      "b* o*, b* s*, b* o* -> b* s*" + back);
  table.add(
      "aten::avg" + pool,
      "b* s* -> b* o*" + dims +
          " window(s*, o*, kernel_size, stride, padding, 1, ceil_mode) "
          "filled linear(0)");
  table.add("aten::avg" + pool + "_backward", "b* o*, b* s* -> b* s*" + back);
  table.add(
      "aten::_adaptive_avg" + pool,
      "b* s* -> b* o*" + dims +
          " size(o*, output_size) whole(s*) filled linear(0)");
  table.add(
      "aten::_adaptive_avg" + pool + "_backward",
      "b* o*, b* s* -> b* s*" + back);
  table.add(
      "aten::adaptive_max" + pool,
      "b* s* -> b* o*, b* o*" + dims +
          " size(o*, output_size) whole(s*) filled");
  table.add(
      "aten::adaptive_max" + pool + "_backward",
      "b* o*, b* s*, b* o* -> b* s*" + back);
}

void add_resampling(
    RuleTable& table,
    const std::string& name,
    const std::string& n) {
  const std::string dims = " dims(s*, " + n + ") dims(o*, " + n + ")";
  table.add(
      "aten::" + name,
      "b* s* -> b* o*" + dims +
          " size(o*, output_size) whole(s*) filled linear(0)");
  table.add(
      "aten::" + name + "_backward",
      "b* o* -> b* s*" + dims +
          " size(b* s*, input_size) whole(o*) filled linear(0)");
}

void add_padding(RuleTable& table, const std::string& n) {
  const std::string dims = " dims(s*, " + n + ") dims(o*, " + n + ")";
  for (const std::string kind : {"reflection", "replication"}) {
    const std::string name = "aten::" + kind + "_pad" + n + "d";
    table.add(name, "x* -> x* pads(padding) filled linear(0)");
    table.add(
        name + "_backward",
        "b* o*, b* s* -> b* s*" + dims + " whole(s*, o*) filled linear(0)");
  }
}

}  // namespace

void add_pooling_rules(RuleTable& table) {
  for (const std::string n : {"2", "3"}) {
    add_pools(table, n);
  }
  for (const std::string n : {"1", "2", "3"}) {
    add_padding(table, n);
    add_resampling(table, "upsample_nearest" + n + "d", n);
    add_resampling(table, "_upsample_nearest_exact" + n + "d", n);
  }
  add_resampling(table, "upsample_linear1d", "1");
  add_resampling(table, "upsample_bilinear2d", "2");
  add_resampling(table, "upsample_bicubic2d", "2");
  add_resampling(table, "upsample_trilinear3d", "3");
  add_resampling(table, "_upsample_bilinear2d_aa", "2");
  add_resampling(table, "_upsample_bicubic2d_aa", "2");
  for (const std::string n : {"2", "3"}) {
    const std::string dims = " dims(s*, " + n + ") dims(o*, " + n + ")";
    const std::string fractional = "aten::fractional_max_pool" + n + "d";
    const std::string tail =
        dims + " size(o*, output_size) whole(c, s*) filled";
    table.add(
        fractional,
        "n c s*, n c " + n + " -> n c o*, n c o*" + tail + " | c s*, 1 c " + n +
            " -> c o*, c o*" + tail);
    table.add(
        fractional + "_backward",
        "b* o*, b* s*, b* o* -> b* s*" + dims +
            " whole(s*, o*) filled linear(0)");
    table.add(
        "aten::max_unpool" + n + "d",
        "b* s*, b* s* -> b* o*" + dims +
            " size(o*, output_size) whole(s*) filled linear(0)" +
            (n == "2" ? " keeps_format" : ""));
  }
  // Patches as columns, and back: n and c pass, or c in blocks of the kernel.
  table.add(
      "aten::im2col",
      "n c s* -> n d l dims(s*, 2) whole(c, s*) filled linear(0)");
  table.add("aten::col2im", "n d l -> n c s* whole(d, l) filled linear(0)");
  table.add_all(
      {"aten::pixel_shuffle", "aten::pixel_unshuffle"},
      "b* c h w -> b* d i j whole(c, h, w) filled linear(0)");
  table.add(
      "aten::channel_shuffle",
      "n c s* -> n c s* whole(c) filled linear(0) keeps_format");
  table.add("aten::constant_pad_nd", "x* -> x* pads(pad)");
  for (const std::string n : {"2", "3"}) {
    const std::string tail =
        " dims(s*, " + n + ") dims(o*, " + n + ") whole(s*) filled linear(0)";
    const std::string name = "aten::grid_sampler_" + n + "d";
    table.add(name, "n c s*, n o* " + n + " -> n c o*" + tail);
    table.add(
        name + "_backward",
        "n c o*, n c s*, n o* " + n + " -> n c s*, n o* " + n + tail);
  }
}

}  // namespace torch_mesh::rules
