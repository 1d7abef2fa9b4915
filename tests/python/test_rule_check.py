"""check_rule tells a rule that is true from one that only fits."""

import pytest
import torch

import torch_mesh as tm


@pytest.fixture(scope="module", autouse=True)
def library():
    made = torch.library.Library("rule_check", "DEF")
    made.define("product(Tensor a, Tensor b) -> Tensor")
    made.define("running(Tensor x) -> Tensor")
    made.define("scaled(Tensor x, int n) -> Tensor")
    made.impl("product", torch.matmul, "CPU")
    made.impl("running", lambda x: x.cumsum(0), "CPU")
    made.impl("scaled", lambda x, n: x * n, "CPU")
    yield made
    made._destroy()


def test_a_true_rule_holds_under_every_layout():
    tm.register_rule("rule_check::product", "b x, x y -> b y")
    found = tm.check_rule("rule_check::product")
    assert found, str(found)
    assert found.compared > 200
    assert found.replicated == 0


def test_a_rule_that_only_fits_is_called_wrong():
    tm.register_rule("rule_check::running", "b x -> b x")
    found = tm.check_rule("rule_check::running")
    assert not found
    assert any("(S0) on mesh data=2" in f.layouts for f in found.faults)
    assert not any("(S1) on" in f.layouts for f in found.faults)
    assert "differs by" in str(found)


def test_a_missing_sum_is_called_wrong():
    tm.register_rule("rule_check::product", "b x, x y -> b y linear(0)")
    assert tm.check_rule("rule_check::product")
    tm.register_rule("rule_check::product", "b x, x y -> b y linear(0 1)")


def test_an_example_call_stands_in_for_letters():
    tm.register_rule("rule_check::scaled", "b x -> b x")
    with pytest.raises(ValueError, match=r"\[rule-example\]"):
        tm.check_rule("rule_check::scaled")
    assert tm.check_rule("rule_check::scaled", torch.randn(3, 5), 4)


def test_gradients_are_compared_too():
    found = tm.check_rule("aten::mm", torch.randn(4, 3), torch.randn(3, 5))
    assert found, str(found)


def test_an_op_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"rule_check::nope.*\n.*\[op-name\]"):
        tm.check_rule("rule_check::nope")


def test_a_random_op_draws_alike_in_each_layout():
    assert tm.check_rule("aten::native_dropout", torch.randn(5, 3), 0.5, True)


def test_an_example_on_the_mesh_is_a_value():
    """Else the rule that is asked about would say what is right."""
    x = tm.distribute(torch.randn(4, 3), tm.Mesh({"data": 2}), ("S0",))
    with torch.library._scoped_library("rule_check_test", "DEF") as library:
        library.define("centred(Tensor a) -> Tensor")
        library.impl("centred", lambda a: a - a.mean(0), "CPU")
        tm.register_rule("rule_check_test::centred", "m n -> m n")
        found = tm.check_rule("rule_check_test::centred", x)
    wrong = {fault.layouts.split(" on ")[0] for fault in found.faults}
    assert "(S0)" in wrong
    assert not wrong & {"(R)", "(S1)"}


@pytest.mark.parametrize(
    "name, code",
    [
        ("aten::softmax", r"(?s)aten::softmax.int.*op-name"),
        ("aten::no_such_op", "op-name"),
        ("aten::add_.Tensor", "rule-example"),
        ("aten::embedding", "(?s)float32.*rule-example"),
    ],
)
def test_what_cannot_be_checked_is_said(name, code):
    with pytest.raises(ValueError, match=code):
        tm.check_rule(name)
