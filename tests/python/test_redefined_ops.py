"""Operators of libraries that go and come again, as a notebook's cells do."""

import torch
from placing import assert_equal
from programs import run_program

import torch_mesh as tm


def define(schema, kernel, name="again"):
    library = torch.library.Library(name, "DEF")
    library.define(schema)
    library.impl("f", kernel, "CPU")
    return library


def test_an_operator_that_is_defined_anew_has_its_new_schema():
    x = tm.distribute(torch.arange(6.0), tm.Mesh({"data": 2}), ("S0",))
    library = define("f(Tensor a) -> Tensor", lambda a: a * 2)
    assert_equal(torch.ops.again.f(x), torch.arange(6.0) * 2)
    library._destroy()
    library = define("f(Tensor a, Tensor b) -> Tensor", lambda a, b: a + b)
    assert_equal(torch.ops.again.f(x, x), torch.arange(6.0) * 2)
    library._destroy()
    library = define("f(Tensor a, int n) -> Tensor", lambda a, n: a * n)
    for _ in range(2):
        assert_equal(torch.ops.again.f(x, 5), torch.arange(6.0) * 5)
    library._destroy()


def test_a_functional_op_that_goes_is_not_called_by_its_out_variant():
    program = """
import torch, torch_mesh as tm
x = tm.distribute(torch.ones(4), tm.Mesh({"data": 2}), ("S0",))
for factor in (2, 3):
    library = torch.library.Library("again", "DEF")
    library.define("f(Tensor a) -> Tensor")
    library.define("f.out(Tensor a, *, Tensor(a!) out) -> Tensor(a!)")
    library.impl("f", lambda a: a * factor, "CPU")
    library.impl("f.out", lambda a, *, out: out.copy_(a * factor), "CPU")
    out = torch.zeros_like(x)
    torch.ops.again.f.out(x, out=out)
    assert out.tolist() == [factor] * 4, out
    library._destroy()
"""
    run_program(program)


def test_a_rule_counts_from_the_next_call_on():
    library = define("f(Tensor a) -> Tensor", lambda a: a * 2, "ruled")
    x = tm.distribute(torch.ones(4), tm.Mesh({"data": 2}), ("S0",))
    assert str(tm.layout(torch.ops.ruled.f(x))) == "(R)"
    tm._C.register_rule("ruled::f", "x -> x")
    assert str(tm.layout(torch.ops.ruled.f(x))) == "(S0)"
    library._destroy()
