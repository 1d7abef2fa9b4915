"""Recurrent layers whose batch alone is cut run whole in each memory."""

import contextlib
import copy
import itertools

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
from torch.utils.checkpoint import checkpoint

import torch_mesh as tm

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 0.05}


def layer(kind, **options):
    torch.manual_seed(0)
    if kind == "RNN relu":
        return nn.RNN(FEATURES, HIDDEN, nonlinearity="relu", **options)
    return getattr(nn, kind)(FEATURES, HIDDEN, **options)


def inputs_of(module, batch, dtype=torch.float32, steps=STEPS):
    """Returns x, and the states: h, or h and c."""
    draw = torch.Generator().manual_seed(1)
    first = module.batch_first
    sizes = (batch, steps) if first else (steps, batch)
    rows = module.num_layers * (1 + module.bidirectional)
    x = torch.randn(*sizes, FEATURES, generator=draw, dtype=dtype)
    widths = [module.proj_size or HIDDEN]
    if isinstance(module, nn.LSTM):
        widths.append(HIDDEN)
    return x, [
        torch.randn(rows, batch, width, generator=draw, dtype=dtype)
        for width in widths
    ]


def flat(results):
    y, states = results
    return [y, *(states if isinstance(states, tuple) else (states,))]


def train(module, x, states):
    """Returns results and all gradients of a loss of all of them."""
    x = x.detach().requires_grad_()
    states = [state.detach().requires_grad_() for state in states]
    module.zero_grad()
    results = flat(module(x, as_argument(states)))
    run_backward(results)
    leaves = [x, *states, *module.parameters()]
    return [r.detach() for r in results], [leaf.grad for leaf in leaves]


def variants(full):
    """Kinds, options and dtypes; a few of them where not `full`."""
    kinds = ["LSTM", "GRU", "RNN", "RNN relu"]
    both = [False, True]
    few = [(2, True, first, True) for first in both]
    every = itertools.product([1, 2], both, both, both)
    for kind, chosen in itertools.product(kinds, every if full else few):
        options = dict(
            zip(
                ["num_layers", "bidirectional", "batch_first", "bias"],
                chosen,
                strict=True,
            )
        )
        dtypes = [torch.float32]
        if full and chosen == (2, True, True, True):
            dtypes += [torch.float64, torch.bfloat16]
        for dtype in dtypes:
            yield kind, options, dtype
            if kind == "LSTM":
                yield kind, options | {"proj_size": 3}, dtype


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("axes", AXES, ids=str)
def test_results_and_gradients_are_those_of_plain_torch(axes, memories):
    mesh = tm.Mesh(axes)
    batch = 2 if axes == {"data": 3} else 7  # a device of {"data": 3} is empty
    for kind, options, dtype in variants(
        full=axes == {"data": 2} and memories == "one memory"
    ):
        plain = layer(kind, **options).to(dtype)
        x, states = inputs_of(plain, batch, dtype)
        want = train(plain, x, states)
        placed = cut(x, mesh, 0 if plain.batch_first else 1)
        places = [cut(states[0], mesh, 1)]
        places += [
            tm.distribute(s, mesh, ("R",) * len(axes)) for s in states[1:]
        ]
        got = train(on_mesh(plain, mesh), placed, places)
        for g, w in zip(got, want, strict=True):
            assert_equal(g, w, TOLERANCE[dtype])


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN", "RNN relu"])
def test_a_layer_is_one_op_forward_and_one_backward(kind, memories):
    mesh = tm.Mesh({"data": 4})
    module = on_mesh(layer(kind, num_layers=2, bidirectional=True), mesh)
    x, states = inputs_of(module, 8, steps=20)
    x = cut(x, mesh, 1).requires_grad_()
    states = [cut(state, mesh, 1) for state in states]
    with tm.counting() as counts:
        y, _ = module(x, as_argument(states))
    assert counts.ops <= 2  # and a check of sizes, at most
    assert not counts.collectives
    assert counts.replicated_ops == {}
    assert tm.layout(y).placements == ("S1",)
    gradient = torch.ones_like(y)
    tm.full(gradient)
    with tm.counting() as counts:
        y.backward(gradient)
    # One backward, and what autograd does with each gradient.
    assert counts.ops <= 2 + len(list(module.parameters()))
    assert not counts.collectives
    assert tm.layout(x.grad).placements == ("S1",)
    for p in module.parameters():
        assert tm.layout(p.grad).placements == ("P+",)


def test_nn_lstm_makes_its_own_states(memories):
    mesh = tm.Mesh({"data": 2})
    plain = layer("LSTM", batch_first=True)
    x, _ = inputs_of(plain, 4)
    with tm.use(mesh):
        y, (h, c) = on_mesh(plain, mesh)(cut(x, mesh, 0))
    want = flat(plain(x))
    assert_equal(
        [y.detach(), h.detach(), c.detach()], [w.detach() for w in want]
    )
    assert tm.layout(y).placements == ("S0",)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("sorts", [True, False])
def test_packed_sequences(kind, sorts, memories):
    mesh = tm.Mesh({"data": 2})
    plain = layer(kind, num_layers=2, bidirectional=True)
    module = on_mesh(plain, mesh)
    x, states = inputs_of(plain, 5, steps=4)
    lengths = torch.tensor([4, 4, 3, 2, 1] if sorts else [2, 4, 1, 4, 3])

    def run(module, x, states):
        x = x.detach().requires_grad_()
        module.zero_grad()
        packed = nn.utils.rnn.pack_padded_sequence(
            x, lengths, enforce_sorted=sorts
        )
        y, last = module(packed, as_argument(states))
        y, _ = nn.utils.rnn.pad_packed_sequence(y)
        results = flat((y, last))
        sum(r.sin().sum() for r in results).backward()
        grads = [x.grad, *(p.grad for p in module.parameters())]
        return [r.detach() for r in results], grads

    want = run(plain, x, states)
    got = run(module, cut(x, mesh, 1), [cut(s, mesh, 1) for s in states])
    for g, w in zip(got, want, strict=True):
        for a, b in zip(g, w, strict=True):
            torch.testing.assert_close(tm.full(a), b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("first", [True, False])
def test_dropout_between_layers_draws_the_bits_of_plain_torch(
    kind, first, memories
):
    mesh = tm.Mesh({"data": 2})
    plain = layer(
        kind, num_layers=3, dropout=0.4, batch_first=first, bidirectional=True
    )
    x, states = inputs_of(plain, 5)
    module = on_mesh(plain, mesh)
    places = [cut(state, mesh, 1) for state in states]
    torch.manual_seed(3)
    want = train(plain, x, states)
    torch.manual_seed(3)
    got = train(module, cut(x, mesh, 0 if first else 1), places)
    for g, w in zip(got, want, strict=True):
        assert_equal(g, w)
    with torch.no_grad():
        want = plain.eval()(x, as_argument(states))[0]
        got = module.eval()(
            cut(x, mesh, 0 if first else 1), as_argument(places)
        )[0]
    assert_equal([got], [want])


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("cut_weights", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_the_dtypes_of_the_cpu(kind, cut_weights, dtype):
    mesh = tm.Mesh({"data": 2})
    plain = layer(kind, num_layers=2)
    module = on_mesh(plain, mesh)
    if cut_weights:
        for name, p in list(module.named_parameters()):
            cut_p = cut(p.detach(), mesh, 0).requires_grad_()
            setattr(module, name, nn.Parameter(cut_p))
    x, states = inputs_of(plain, 4)
    try:
        with torch.autocast("cpu", dtype):
            want = flat(plain(x, as_argument(states)))
    except RuntimeError:
        pytest.skip(f"this CPU has no {kind} of {dtype}")
    with torch.autocast("mesh", dtype):
        got = flat(
            module(
                cut(x, mesh, 1), as_argument([cut(s, mesh, 1) for s in states])
            )
        )
    for g, w in zip(got, want, strict=True):
        assert g.dtype == w.dtype
        torch.testing.assert_close(
            tm.full(g).detach(), w.detach(), atol=0.03, rtol=0.03
        )
    try:
        want[0].float().sum().backward()
    except RuntimeError:
        return  # processors without AVX512 have no backward of an LSTM
    got[0].float().sum().backward()
    for g, w in zip(module.parameters(), plain.parameters(), strict=True):
        assert g.grad.dtype == w.grad.dtype
        torch.testing.assert_close(
            tm.full(g.grad), w.grad, atol=0.06, rtol=0.06
        )


def test_weights_that_are_cut_take_the_cells(memories):
    mesh = tm.Mesh({"data": 2, "model": 2})
    plain = layer("LSTM")
    x, states = inputs_of(plain, 4)
    want = train(plain, x, states)
    module = on_mesh(plain, mesh)
    for name, p in list(module.named_parameters()):
        placed = tm.distribute(p.detach(), mesh, ("R", "S0"))
        setattr(module, name, nn.Parameter(placed))
    got = train(module, cut(x, mesh, 1), [cut(s, mesh, 1) for s in states])
    for g, w in zip(got[0] + got[1], want[0] + want[1], strict=True):
        torch.testing.assert_close(tm.full(g), w, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("steps", [1, 40])
def test_weights_are_made_whole_once_if_gates_are_more(kind, steps, memories):
    mesh = tm.Mesh({"data": 2, "model": 2})
    plain = layer(kind)
    x, states = inputs_of(plain, 4, steps=steps)
    want = train(plain, x, states)
    module = on_mesh(plain, mesh)
    for name, p in list(module.named_parameters()):
        placed = tm.distribute(p.detach(), mesh, ("R", "S0"))
        setattr(module, name, nn.Parameter(placed))
    place = tm.distribute(x, mesh, ("S1", "S2"))
    places = [cut(s, mesh, 1) for s in states]
    with tm.counting() as counts:
        module(place, as_argument(places))
    assert (counts.ops <= 2) == (steps == 40)
    if steps == 40:
        # The input, two weights and two biases.
        assert counts.collectives == {"all_gather@model": 5}
    got = train(module, place, places)
    if steps == 40:
        assert tm.layout(got[1][0]).placements == ("S1", "S2")
        assert tm.layout(got[1][-1]).placements == ("P+", "S0")
    for g, w in zip(got[0] + got[1], want[0] + want[1], strict=True):
        torch.testing.assert_close(tm.full(g), w, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("placement", ["S0", "S2", "P+"])
def test_inputs_cut_elsewhere_are_right_too(placement, memories):
    mesh = tm.Mesh({"data": 2})
    plain = layer("GRU")
    x, states = inputs_of(plain, 4)
    want = train(plain, x, states)
    if placement == "P+":
        placed = tm.from_shards([x / 2, x / 2], mesh, ("P+",))
    else:
        placed = tm.distribute(x, mesh, (placement,))
    got = train(on_mesh(plain, mesh), placed, [cut(s, mesh, 1) for s in states])
    for g, w in zip(got[0] + got[1], want[0] + want[1], strict=True):
        torch.testing.assert_close(tm.full(g), w, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("plain_ones", ["states", "input", "weights"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_plain_tensors_beside_global_ones(kind, plain_ones):
    mesh = tm.Mesh({"data": 2})
    plain = layer(kind)
    x, states = inputs_of(plain, 4)
    want = train(plain, x, states)
    module = copy.deepcopy(plain)
    if plain_ones != "weights":
        module = on_mesh(plain, mesh)
    got = train(
        module,
        x if plain_ones == "input" else cut(x, mesh, 1),
        states
        if plain_ones == "states"
        else [cut(state, mesh, 1) for state in states],
    )
    for g, w in zip(got[0] + got[1], want[0] + want[1], strict=True):
        torch.testing.assert_close(tm.full(g), w, atol=1e-5, rtol=1e-5)
    leaves = {"states": got[1][1], "input": got[1][0], "weights": got[1][-1]}
    assert leaves[plain_ones].device.type == "cpu"


@contextlib.contextmanager
def nothing():
    yield


def identity_hooks():
    return torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t)


@pytest.mark.parametrize(
    "hooks", [nothing, identity_hooks, torch.autograd.graph.save_on_cpu]
)
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_hooks_on_what_is_saved(kind, hooks):
    mesh = tm.Mesh({"data": 2})
    plain = layer(kind, num_layers=2)
    x, states = inputs_of(plain, 4)
    want = train(plain, x, states)
    module = on_mesh(plain, mesh)
    with hooks():
        got = train(module, cut(x, mesh, 1), [cut(s, mesh, 1) for s in states])
    for g, w in zip(got, want, strict=True):
        assert_equal(g, w)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize(
    ("kind", "dtype"), [("LSTM", torch.float32), ("GRU", torch.bfloat16)]
)
def test_checkpointed_layers(reentrant, kind, dtype):
    mesh = tm.Mesh({"data": 2})
    plain = layer(kind, num_layers=2)
    x, states = inputs_of(plain, 4)

    def train_checkpointed(module, device, x, states):
        x = x.detach().requires_grad_()
        module.zero_grad()
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            y = checkpoint(
                lambda x: module(x, as_argument(states))[0],
                x,
                use_reentrant=reentrant,
            )
        y.float().sin().sum().backward()
        return [y.detach()], [x.grad, *(p.grad for p in module.parameters())]

    want = train_checkpointed(plain, "cpu", x, states)
    got = train_checkpointed(
        on_mesh(plain, mesh),
        "mesh",
        cut(x, mesh, 1),
        [cut(s, mesh, 1) for s in states],
    )
    for g, w in zip(got, want, strict=True):
        assert_equal(g, w, 1e-5 if dtype == torch.float32 else 0.05)


@pytest.mark.parametrize("kind", ["GRU", "RNN", "LSTM"])
def test_second_derivatives(kind, memories):
    mesh = tm.Mesh({"data": 2})
    # In float32 plain torch has none of an LSTM.
    plain = layer(kind, num_layers=2).double()
    x, states = inputs_of(plain, 4, torch.float64)
    module = on_mesh(plain, mesh)

    def second(module, x, states):
        x = x.detach().requires_grad_()
        calls = []
        x.register_hook(calls.append)
        y = module(x, as_argument(states))[0]
        (g,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
        assert len(calls) == 1
        leaves = [x, *module.parameters()]
        return torch.autograd.grad(g.square().sum(), leaves)

    want = second(plain, x, states)
    got = second(module, cut(x, mesh, 1), [cut(s, mesh, 1) for s in states])
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(tm.full(g), w, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_graphs_that_are_kept_run_again_and_others_do_not(kind):
    mesh = tm.Mesh({"data": 2})
    plain = layer(kind)
    module = on_mesh(plain, mesh)
    x, states = inputs_of(plain, 4)
    x = cut(x, mesh, 1)
    weight = module.weight_hh_l0
    y = module(x, as_argument([cut(s, mesh, 1) for s in states]))[0].sum()
    (once,) = torch.autograd.grad(y, weight, retain_graph=True)
    (again,) = torch.autograd.grad(y, weight)
    torch.testing.assert_close(tm.full(once), tm.full(again), atol=0, rtol=0)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(y, weight)


@pytest.mark.parametrize("what", ["input", "weight", "state"])
def test_a_write_to_what_is_saved_is_an_error_in_backward(what):
    mesh = tm.Mesh({"data": 2})
    module = on_mesh(layer("GRU"), mesh)
    x, states = inputs_of(module, 4)
    x, state = cut(x, mesh, 1), cut(states[0], mesh, 1)
    y = module(x, state)[0]
    with torch.no_grad():
        {"input": x, "weight": module.weight_hh_l0, "state": state}[what].add_(
            1
        )
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("placement", ["R", "S1"])
def test_a_write_to_the_result_does_not_reach_the_gradient(placement, memories):
    mesh = tm.Mesh({"data": 2})
    plain = layer("GRU")
    module = on_mesh(plain, mesh)
    x, states = inputs_of(plain, 4)

    def gradients(module, x, h):
        module.zero_grad()
        y, last = module(x, h)
        y.mul_(3)
        last.add_(y[-1:])
        (y.sum() + last.sum()).backward()
        return [p.grad for p in module.parameters()]

    want = gradients(plain, x, states[0])
    place = tm.distribute(x, mesh, (placement,))
    got = gradients(module, place, cut(states[0], mesh, 1))
    assert_equal(got, want)


def test_gradients_share_no_memory(memories):
    mesh = tm.Mesh({"data": 2})
    plain = layer("LSTM")
    x, states = inputs_of(plain, 4)
    module = on_mesh(plain, mesh)
    want = train(plain, x, states)[1]
    got = train(module, cut(x, mesh, 1), [cut(s, mesh, 1) for s in states])[1]
    for g, w in zip(got, want, strict=True):
        g.mul_(2)
        w.mul_(2)
    assert_equal(got, want)


def test_frozen_weights_and_wanted_inputs():
    mesh = tm.Mesh({"data": 2})
    plain = layer("LSTM")
    plain.weight_ih_l0.requires_grad_(False)
    module = on_mesh(plain, mesh)
    x, states = inputs_of(plain, 4)
    want = plain(x, as_argument(states))[0].sum()
    want.backward()
    module(cut(x, mesh, 1), as_argument([cut(s, mesh, 1) for s in states]))[
        0
    ].sum().backward()
    assert module.weight_ih_l0.grad is None
    assert_equal([module.weight_hh_l0.grad], [plain.weight_hh_l0.grad])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode, memories):
    mesh = tm.Mesh({"data": 2})
    plain = layer("LSTM", num_layers=2)
    module = on_mesh(plain, mesh)
    x, states = inputs_of(plain, 4)
    place, places = cut(x, mesh, 1), [cut(s, mesh, 1) for s in states]
    with mode():
        want = flat(plain(x, as_argument(states)))
        got = flat(module(place, as_argument(places)))
        again = flat(
            module(got[0][..., :1].expand(-1, -1, 5), as_argument(places))
        )
    assert not got[0].requires_grad
    assert got[0].is_inference() == want[0].is_inference()
    assert_equal(got, want)
    assert again[0].shape == want[0].shape


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_function_transforms(kind):
    mesh = tm.Mesh({"data": 2})
    plain = layer(kind).double()
    module = on_mesh(plain, mesh)
    x, states = inputs_of(plain, 4, torch.float64)
    places = [cut(s, mesh, 1) for s in states]

    def loss(module, states):
        def f(params, x):
            y = torch.func.functional_call(
                module, params, (x, as_argument(states))
            )
            return y[0].sin().sum()

        return f

    want = torch.func.grad(loss(plain, states))(
        dict(plain.named_parameters()), x
    )
    got = torch.func.grad(loss(module, places))(
        dict(module.named_parameters()), cut(x, mesh, 1)
    )
    for name, gradient in want.items():
        torch.testing.assert_close(tm.full(got[name]), gradient)


def test_wrong_sizes_are_the_errors_of_plain_torch():
    mesh = tm.Mesh({"data": 2})
    plain = layer("GRU").double()
    module = on_mesh(plain, mesh)
    x, states = inputs_of(plain, 4, torch.float64)

    def error(module, x, h):
        with pytest.raises(RuntimeError) as caught:
            torch._VF.gru(
                x, h, module._flat_weights, True, 1, 0.0, True, False, False
            )
        return str(caught.value).splitlines()[0]

    for wrong in (states[0][:, :3], states[0][..., :2]):
        got = error(module, cut(x, mesh, 1), tm.distribute(wrong, mesh, ("R",)))
        assert got == error(plain, x, wrong)


def test_explain_names_the_layer():
    mesh = tm.Mesh({"data": 2})
    module = on_mesh(layer("GRU"), mesh)
    x, states = inputs_of(module, 4)
    text = str(
        tm.explain(
            lambda x, h: module(x, h), cut(x, mesh, 1), cut(states[0], mesh, 1)
        )
    )
    assert "aten::gru (S1) (S1) (R)" in text
    assert "whole in each memory" in text
