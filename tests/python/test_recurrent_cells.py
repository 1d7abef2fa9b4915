"""Cells in loops of Python: a step is one call in each memory."""

import copy

import pytest
import torch
from recurrence import (
    AXES,
    FEATURES,
    HIDDEN,
    STEPS,
    as_argument,
    assert_equal,
    cut,
    on_mesh,
    run_backward,
)
from torch import nn

import torch_mesh as tm

KINDS = ["LSTM", "GRU", "RNN", "RNN relu"]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 0.12}


def cell_of(kind, **options):
    torch.manual_seed(0)
    if kind == "RNN relu":
        return nn.RNNCell(FEATURES, HIDDEN, nonlinearity="relu", **options)
    return getattr(nn, kind + "Cell")(FEATURES, HIDDEN, **options)


def inputs_of(cell, batch, dtype=torch.float32):
    """Returns the inputs of all steps, and the state: h, or h and c."""
    draw = torch.Generator().manual_seed(1)

    def randn(*sizes):
        return torch.randn(*sizes, generator=draw, dtype=dtype)

    number = 2 if isinstance(cell, nn.LSTMCell) else 1
    return randn(STEPS, batch, FEATURES), [
        randn(batch, HIDDEN) for _ in range(number)
    ]


def listed(state):
    return list(state) if isinstance(state, tuple) else [state]


def train(cell, x, states):
    """Returns the results of all steps, and the gradients of all leaves."""
    x = x.detach().requires_grad_()
    leaves = [state.detach().requires_grad_() for state in states]
    cell.zero_grad()
    states, results = leaves, []
    for part in x:
        states = listed(cell(part, as_argument(states)))
        results += states
    run_backward(results)
    return [r.detach() for r in results], [
        leaf.grad for leaf in (x, *leaves, *cell.parameters())
    ]


@pytest.mark.parametrize("axes", AXES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_those_of_plain_torch(kind, axes, memories):
    mesh = tm.Mesh(axes)
    batch = 2 if axes == {"data": 3} else 7  # a device of {"data": 3} is empty
    for bias in (True, False):
        for dtype, tolerance in TOLERANCE.items():
            plain = cell_of(kind, bias=bias).to(dtype)
            x, states = inputs_of(plain, batch, dtype)
            want = train(plain, x, states)
            got = train(
                on_mesh(plain, mesh),
                cut(x, mesh, 1),
                [cut(state, mesh) for state in states],
            )
            for g, w in zip(got, want, strict=True):
                assert_equal(g, w, tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_one_op_forward_and_one_backward(kind, memories):
    mesh = tm.Mesh({"data": 4})
    cell = on_mesh(cell_of(kind), mesh)
    x, states = inputs_of(cell, 8)
    x = cut(x[0], mesh).requires_grad_()
    states = [cut(state, mesh) for state in states]
    with tm.counting() as counts:
        h = listed(cell(x, as_argument(states)))[0]
    assert counts.ops == 1
    assert not counts.collectives
    assert tm.layout(h).placements == ("S0",)
    gradient = torch.ones_like(h)
    tm.full(gradient)
    with tm.counting() as counts:
        h.backward(gradient)
    # One backward, and what autograd does with each gradient.
    assert counts.ops <= 2 + len(list(cell.parameters()))
    assert not counts.collectives
    assert tm.layout(x.grad).placements == ("S0",)
    for p in cell.parameters():
        assert tm.layout(p.grad).placements == ("P+",)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_states_that_lie_column_by_column(kind, rows, memories):
    mesh = tm.Mesh({"data": 2})
    plain = cell_of(kind)
    x, states = inputs_of(plain, rows)
    turned = [state.t().contiguous().t() for state in states]
    want = train(plain, x, turned)[0]
    places = [
        tm.distribute(state.t().contiguous(), mesh, ("S1",)).t()
        for state in states
    ]
    assert_equal(train(on_mesh(plain, mesh), cut(x, mesh, 1), places)[0], want)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_state_and_without_a_batch(kind, memories):
    mesh = tm.Mesh({"data": 2})
    plain = cell_of(kind)
    module = on_mesh(plain, mesh)
    x, states = inputs_of(plain, 4)
    with tm.use(mesh):
        got = listed(module(cut(x[0], mesh)))
    assert_equal(
        [g.detach() for g in got], [w.detach() for w in listed(plain(x[0]))]
    )
    one = [state[0] for state in states]
    got = listed(
        module(
            tm.distribute(x[0, 0], mesh, ("R",)),
            as_argument([tm.distribute(state, mesh, ("R",)) for state in one]),
        )
    )
    want = listed(plain(x[0, 0], as_argument(one)))
    assert_equal([g.detach() for g in got], [w.detach() for w in want])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_the_dtypes_of_the_cpu(kind, dtype):
    mesh = tm.Mesh({"data": 2})
    plain = cell_of(kind)
    module = on_mesh(plain, mesh)
    x, states = inputs_of(plain, 4)
    with torch.autocast("cpu", dtype):
        want = listed(plain(x[0], as_argument(states)))
    with torch.autocast("mesh", dtype):
        got = listed(
            module(cut(x[0], mesh), as_argument([cut(s, mesh) for s in states]))
        )
    assert_equal(
        [g.detach() for g in got], [w.detach() for w in want], tolerance=0.03
    )
    for results in (want, got):
        sum(r.float().sum() for r in results).backward()
    assert_equal(
        [p.grad for p in module.parameters()],
        [p.grad for p in plain.parameters()],
        tolerance=0.06,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives(kind, memories):
    mesh = tm.Mesh({"data": 2})
    plain = cell_of(kind).double()
    x, states = inputs_of(plain, 4, torch.float64)

    def second(cell, x, states):
        x = x.detach().requires_grad_()
        y = listed(cell(x[0], as_argument(states)))[0]
        (g,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
        return torch.autograd.grad(
            g.square().sum(), [x, *cell.parameters()], allow_unused=True
        )

    want = second(plain, x, states)
    got = second(
        on_mesh(plain, mesh), cut(x, mesh, 1), [cut(s, mesh) for s in states]
    )
    for g, w in zip(got, want, strict=True):
        assert (g is None) == (w is None) or not tm.full(g).any()
        if w is not None:
            torch.testing.assert_close(tm.full(g), w, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_function_transforms(kind):
    mesh = tm.Mesh({"data": 2})
    plain = cell_of(kind).double()
    x, states = inputs_of(plain, 4, torch.float64)

    def gradient(cell, x, states):
        def loss(params):
            y = torch.func.functional_call(
                cell, params, (x, as_argument(states))
            )
            return listed(y)[0].sin().sum()

        return torch.func.grad(loss)(dict(cell.named_parameters()))

    want = gradient(plain, x[0], states)
    got = gradient(
        on_mesh(plain, mesh), cut(x[0], mesh), [cut(s, mesh) for s in states]
    )
    for name, value in want.items():
        torch.testing.assert_close(tm.full(got[name]), value)


@pytest.mark.parametrize("plain_ones", ["states", "input", "weights"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_plain_tensors_beside_global_ones(kind, plain_ones):
    mesh = tm.Mesh({"data": 2})
    plain = cell_of(kind)
    x, states = inputs_of(plain, 4)
    want = train(plain, x, states)
    got = train(
        copy.deepcopy(plain)
        if plain_ones == "weights"
        else on_mesh(plain, mesh),
        x if plain_ones == "input" else cut(x, mesh, 1),
        states if plain_ones == "states" else [cut(s, mesh) for s in states],
    )
    for g, w in zip(got[0] + got[1], want[0] + want[1], strict=True):
        torch.testing.assert_close(tm.full(g), w, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_write_to_a_state_does_not_reach_the_gradient(kind, memories):
    mesh = tm.Mesh({"data": 2})
    plain = cell_of(kind)
    x, states = inputs_of(plain, 4)

    def gradients(cell, x, states):
        cell.zero_grad()
        states = listed(cell(x[0], as_argument(states)))
        states[0].mul_(3)
        states = listed(cell(x[1], as_argument(states)))
        states[0][:, 1] = 0
        sum(s.sum() for s in states).backward()
        return [p.grad for p in cell.parameters()]

    want = gradients(plain, x, states)
    places = [cut(s, mesh) for s in states]
    got = gradients(on_mesh(plain, mesh), cut(x, mesh, 1), places)
    assert_equal(got, want)


def test_wrong_sizes_are_the_errors_of_plain_torch():
    mesh = tm.Mesh({"data": 2})

    def error(function, *arguments):
        with pytest.raises((RuntimeError, ValueError)) as caught:
            function(*arguments)
        return str(caught.value).splitlines()[0]

    for kind, name in {
        "LSTM": "lstm_cell",
        "GRU": "gru_cell",
        "RNN": "rnn_tanh_cell",
        "RNN relu": "rnn_relu_cell",
    }.items():
        plain = cell_of(kind)
        x, states = inputs_of(plain, 4)
        function = getattr(torch._VF, name)
        weights = list(plain.parameters())
        places = [tm.distribute(w.detach(), mesh, ("R",)) for w in weights]
        h = states[0]
        for wrong, place in (
            (h[:3], tm.distribute(h[:3], mesh, ("R",))),
            (h[:, :3], cut(h[:, :3], mesh)),
        ):
            rest = states[1:]
            first = wrong if not rest else (wrong, *rest)
            second = (
                place if not rest else (place, *(cut(s, mesh) for s in rest))
            )
            want = error(function, x[0], first, *weights)
            assert error(function, cut(x[0], mesh), second, *places) == want
        if kind == "LSTM":
            want = error(function, x[0], (h,), *weights)
            got = error(function, cut(x[0], mesh), (cut(h, mesh),), *places)
            assert got == want


@pytest.mark.parametrize("kind", KINDS[:3])
@pytest.mark.parametrize("features", [4, 7])
def test_features_that_are_cut_are_made_whole_if_gates_are_more(
    kind, features, memories
):
    mesh = tm.Mesh({"data": 2, "model": 2})
    plain = cell_of(kind)
    x, states = inputs_of(plain, 4)
    x = x[..., :1].expand(-1, -1, features).contiguous()
    plain = type(plain)(features, HIDDEN)
    want = train(plain, x, states)
    module = on_mesh(plain, mesh)
    placed = tm.distribute(x, mesh, ("S1", "S2"))
    places = [cut(state, mesh) for state in states]
    got = train(module, placed, places)
    for g, w in zip(got[0] + got[1], want[0] + want[1], strict=True):
        torch.testing.assert_close(tm.full(g), w, atol=1e-5, rtol=1e-5)
    step = placed[0]
    with tm.counting() as counts:
        module(step, as_argument(places))
    gates = plain.weight_ih.shape[0]
    assert (counts.ops == 1) == (features <= gates)
    if counts.ops == 1:
        assert counts.collectives == {"all_gather@model": 1}
        x = step.detach().requires_grad_()
        listed(module(x, as_argument(places)))[0].sum().backward()
        assert tm.layout(x.grad) == tm.layout(x)


def test_explain_names_the_cell():
    mesh = tm.Mesh({"data": 2})
    cell = on_mesh(cell_of("GRU"), mesh)
    x, states = inputs_of(cell, 4)
    text = str(tm.explain(cell, cut(x[0], mesh), cut(states[0], mesh)))
    assert "aten::gru_cell (S0) (S0) (R)" in text
    assert "whole in each memory" in text
