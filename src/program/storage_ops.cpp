// storage_ops.cpp: which ops act on storages alone.

#include "program/storage_ops.h"

namespace torch_mesh {
namespace {

using enum Program::When;

constexpr Program kTable[] = {
    {"aten::_local_scalar_dense", kAlways, storage_ops::local_scalar_dense},
    {"aten::_to_copy", kAlways, storage_ops::to_copy},
    {"aten::alias", kAlways, storage_ops::alias},
    {"aten::as_strided", kAlways, storage_ops::as_strided},
    {"aten::copy_", kMayDecline, storage_ops::copy},
    {"aten::detach", kAlways, storage_ops::alias},
    {"aten::empty_like", kAlways, storage_ops::empty_like},
    {"aten::is_set_to", kAlways, storage_ops::is_set_to},
    {"aten::lift_fresh", kAlways, storage_ops::lift_fresh},
    {"aten::new_empty", kAlways, storage_ops::empty_like},
    {"aten::new_empty_strided", kAlways, storage_ops::empty_like},
    {"aten::resize_", kAlways, storage_ops::resize},
    {"aten::resize_as_", kAlways, storage_ops::resize_as},
    {"aten::select.int", kAlways, storage_ops::select},
    {"aten::set_.source_Storage", kAlways, storage_ops::set_source_storage},
    {"aten::set_.source_Storage_storage_offset",
     kAlways,
     storage_ops::set_source_storage},
    {"aten::set_.source_Tensor", kAlways, storage_ops::set_source_tensor},
    {"aten::slice.Tensor", kAlways, storage_ops::slice},
    {"aten::zero_", kAlways, storage_ops::zero},
};

}  // namespace

std::span<const Program> all_storage_ops() { return kTable; }

}  // namespace torch_mesh
