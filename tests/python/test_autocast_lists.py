"""Autocast on the mesh knows the ops that it knows on the CPU."""

import torch

import torch_mesh as tm


def names_at(key):
    """All aten ops with a kernel of their own at `key`."""
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return {
        name
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("aten::") and has_kernel(name, key)
    }


def test_the_list_is_that_of_the_cpu():
    mesh = tm.Mesh({"data": 2})
    tm.distribute(torch.ones(2), mesh, ("S0",))
    of_cpu = names_at("AutocastCPU")
    assert len(of_cpu) > 50
    assert names_at("AutocastPrivateUse1") == of_cpu
