"""`parallelize`: a module on a mesh, by the names of its parameters."""

import copy
import pickle
import types
import warnings

import pytest
import torch

import torch_mesh as tm
from torch_mesh import _C, plan_words


def placements(x):
    return tm.layout(x).placements


class Block(torch.nn.Module):
    """A feed-forward block with a head that is tied to its table."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(10, 6)
        self.norm = torch.nn.LayerNorm(6)
        self.up = torch.nn.Linear(6, 8)
        self.down = torch.nn.Linear(8, 6)
        self.head = torch.nn.Linear(6, 10, bias=False)
        self.head.weight = self.table.weight
        self.register_buffer("scale", torch.tensor([1.0, 2.0]))

    def forward(self, ids):
        x = self.table(ids)
        x = x + self.down(torch.nn.functional.gelu(self.up(self.norm(x))))
        return self.head(x) * self.scale.sum()


PLAN = {"table": "rowwise", "up": "colwise", "down": "rowwise"}


def train(model, optimizer, steps=3):
    torch.manual_seed(2)
    losses = []
    for _ in range(steps):
        ids = torch.randint(0, 10, (4, 5))
        out = model(ids).flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(out, ids.roll(1).flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    "axes", [{"model": 2}, {"model": 3}, {"data": 2, "model": 2}, {"tp": 4}]
)
@pytest.mark.parametrize("separate", [False, True])
def test_training_is_plain_torchs(axes, separate):
    _C.separate_cpu_memories(separate)
    mesh = tm.Mesh(axes)
    plain = Block().double()
    model = copy.deepcopy(plain)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    assert tm.parallelize(model, mesh, PLAN) is model
    with tm.use(mesh, batch="data" if "data" in axes else None):
        losses = train(model, optimizer)
    assert losses == pytest.approx(
        train(plain, torch.optim.AdamW(plain.parameters(), lr=0.05)), rel=1e-10
    )
    for ours, theirs in zip(
        model.parameters(), plain.parameters(), strict=True
    ):
        torch.testing.assert_close(ours.detach().cpu(), theirs.detach())
    assert tm.layout(model.up.weight).placements[-1] == "S0"
    state = optimizer.state[model.up.weight]["exp_avg"]
    assert tm.layout(state) == tm.layout(model.up.weight)


def test_parameters_stay_and_ties_hold(mesh):
    model = Block()
    before = dict(model.named_parameters())
    values = {n: p.detach().clone() for n, p in before.items()}
    model.up.weight.grad = torch.ones(8, 6)
    scale = model.scale
    tm.parallelize(model, mesh, PLAN)
    after = dict(model.named_parameters())
    assert all(after[name] is before[name] for name in before)
    assert model.head.weight is model.table.weight
    assert model.scale is scale and placements(scale) == ("R", "R")
    for name, value in values.items():
        assert torch.equal(after[name].detach().cpu(), value)
        assert after[name].requires_grad
    assert placements(model.up.weight.grad) == ("R", "S0")


def test_biases_follow_and_all_else_is_replicated(mesh):
    model = tm.parallelize(
        Block(), mesh, {"up.weight": ("S1", "S0"), "down.weight": ("R", "S1")}
    )
    assert placements(model.up.bias) == ("R", "S0")
    for x in (model.down.bias, model.norm.weight, model.table.weight):
        assert placements(x) == ("R", "R")
    model = tm.parallelize(
        Block(), mesh, {"up": ("R", "S0"), "up.bias": None, "down": "rowwise"}
    )
    assert placements(model.up.bias) == ("R", "R")


@pytest.mark.parametrize(
    "make, weight, bias",
    [
        (lambda: torch.nn.Conv2d(4, 6, 3), "S0", "S0"),
        (lambda: torch.nn.ConvTranspose2d(4, 6, 3), "S1", "S0"),
        (lambda: torch.nn.ConvTranspose2d(4, 6, 3, groups=2), "R", "S0"),
        (lambda: torch.nn.Embedding(4, 6), "S1", None),
        (lambda: torch.nn.LayerNorm(4), "S0", "S0"),
    ],
)
def test_words_know_where_a_weight_has_its_outputs(mesh, make, weight, bias):
    module = torch.nn.Sequential(make())
    tm.parallelize(module, mesh, {"0": "colwise"})
    assert placements(module[0].weight) == ("R", weight)
    if bias:
        assert placements(module[0].bias) == ("R", bias)


class Conv1D(torch.nn.Module):
    """As transformers has it: a linear layer whose weight is [in, out]."""

    def __init__(self):
        super().__init__()
        self.nf = 6
        self.weight = torch.nn.Parameter(torch.ones(4, 6))
        self.bias = torch.nn.Parameter(torch.ones(6))


WORDS = {
    "colwise": ("S0", "S0"),
    "colwise_gather_output": ("S0", "S0"),
    "colwise_rep": ("S0", "S0"),
    "rowwise": ("S1", "R"),
    "rowwise_rep": ("S1", "R"),
    "rowwise_split_input": ("S1", "R"),
    "embedding_rowwise": ("S1", "R"),
    "packed_colwise": ("S0/4", "S0/4"),
    "packed_rowwise": ("S1/2", "R"),
    "grouped_gemm": ("S0", "S0"),
    "sequence_parallel": ("R", "R"),
    "ep_router": ("R", "R"),
    "megamoe_router": ("R", "R"),
    "moe_tp_experts": ("R", "R"),
    "megamoe_experts": ("R", "R"),
    "moe_identity_expert": ("R", "R"),
    "replicated_with_grad_allreduce": ("R", "R"),
    "mla_kv_a_proj": ("R", "R"),
    "all_reduce": ("R", "R"),
    "replicate": ("R", "R"),
    "local_colwise": ("S0", "S0"),
    "local_rowwise": ("S1", "R"),
    "gather": ("R", "R"),
}


@pytest.mark.parametrize("word", WORDS)
def test_each_word_has_its_layout_and_plain_torchs_values(mesh, word):
    weight, bias = WORDS[word]
    plain = torch.nn.Sequential(torch.nn.Linear(4, 8))
    model = tm.parallelize(copy.deepcopy(plain), mesh, {"0": word})
    assert placements(model[0].weight) == ("R", weight)
    assert placements(model[0].bias) == ("R", bias)
    x = torch.randn(3, 5, 4)
    a, b = model(tm.distribute(x, mesh)), plain(x)
    torch.testing.assert_close(a.detach().cpu(), b.detach())
    (a.chunk(2, -1)[0].tanh() * a.chunk(2, -1)[1]).sum().backward()
    (b.chunk(2, -1)[0].tanh() * b.chunk(2, -1)[1]).sum().backward()
    torch.testing.assert_close(model[0].weight.grad.cpu(), plain[0].weight.grad)


def test_the_words_that_are_tested_are_all():
    assert set(WORDS) == set(plan_words.WORDS)


def test_words_know_transposed_weights(mesh):
    model = torch.nn.ModuleList([Conv1D(), Conv1D()])
    tm.parallelize(model, mesh, {"0": "colwise", "1": "rowwise"})
    assert placements(model[0].weight) == ("R", "S1")
    assert placements(model[0].bias) == ("R", "S0")
    assert placements(model[1].weight) == ("R", "S0")
    assert placements(model[1].bias) == ("R", "R")


def test_packed_weights_that_do_not_divide_are_cut_all_the_same(mesh):
    model = torch.nn.Sequential(torch.nn.Linear(4, 6))
    tm.parallelize(model, mesh, {"0": "packed_colwise"})
    assert placements(model[0].weight) == ("R", "S0")


def test_a_sequence_is_cut_before_the_module_that_says_so(mesh):
    seen = []

    class Look(torch.nn.Module):
        def forward(self, x):
            seen.append(placements(x))
            return x

    model = torch.nn.Sequential(torch.nn.LayerNorm(4), Look())
    tm.parallelize(model, mesh, {"0": "sequence_parallel"})
    tm.parallelize(model, mesh, {"0": "sequence_parallel"})
    model = copy.deepcopy(model)
    model(tm.distribute(torch.ones(2, 6, 4), mesh, ("S0", "R")))
    assert seen == [("S0", "S1")]
    assert len(model[0]._forward_pre_hooks) == 1


@pytest.mark.parametrize(
    "pattern",
    [
        "up.weight",
        "up",
        "u*.weight",
        "*up*",
        "*.0.up",
        r"layers\.\d+\.up\.weight",
        "layers.*.up.weight",
        "layers.*.up",
        "up/kernel",
        "layers/0/up/kernel",
    ],
)
def test_patterns_are_names_globs_or_expressions_of_either_kind(mesh, pattern):
    model = torch.nn.Module()
    model.layers = torch.nn.ModuleList([Block()])
    keras = "/" in pattern
    value = ("R", "S1") if keras else ("R", "S0")
    if pattern == "*up*":
        value = "colwise"
    tm.parallelize(model, mesh, {pattern: value})
    assert placements(model.layers[0].up.weight) == ("R", "S0")
    assert placements(model.layers[0].up.bias) == ("R", "S0")
    assert placements(model.layers[0].down.weight) == ("R", "R")


def test_errors_name_what_is_wrong_and_change_nothing(mesh, line):
    model = Block()

    def fails(layouts, *texts, **more):
        with pytest.raises(ValueError) as error:
            tm.parallelize(model, mesh, layouts, **more)
        for text in texts:
            assert text in str(error.value)
        assert not any(map(tm.is_global, model.parameters()))

    fails({"up": "colwize"}, "unknown-word", '"colwize"', "rowwise", '"up"')
    fails({"up.bias": ("R", "S1")}, "layout-dim", "up.bias", "[8]")
    fails({"up": tm.Layout(line, ("S0",))}, "mixed-meshes", '"up"')
    fails({"up.*": "colwise", ".*weight": None}, "ambiguous-pattern", '"up.*"')
    fails({"up": "colwise"}, "unknown-axis", "rows", axis="rows")
    fails({"up": {"rows": "S0"}}, "unknown-axis", "rows")
    fails({"layers.(": "colwise"}, "pattern-text", '"layers.("')
    for layouts in ([("up", "colwise")], {0: "colwise"}):
        with pytest.raises(TypeError, match="argument-type"):
            tm.parallelize(model, mesh, layouts)
    with pytest.raises(TypeError, match=r'(?s)"up.weight".*"up".*3'):
        tm.parallelize(model, mesh, {"up": 3})
    lazy = torch.nn.Sequential(torch.nn.LazyLinear(8))
    with pytest.raises(ValueError, match="lazy-parameter"):
        tm.parallelize(lazy, mesh, {})
    with pytest.raises(TypeError, match="argument-type"):
        tm.parallelize(torch.ones(2), mesh, {})
    with pytest.raises(TypeError, match="argument-type"):
        tm.parallelize(model, "cpu", {})


def test_a_parametrized_weight_goes_where_the_weight_would(mesh):
    P = torch.nn.utils.parametrizations
    for make in (P.weight_norm, P.spectral_norm, P.orthogonal):
        for key in ("up", "up.weight", "*.weight"):
            torch.manual_seed(3)
            model = Block()
            make(model.up)
            ids = torch.randint(0, 10, (4, 5))
            expected = model(ids)
            words = "colwise" if key == "up" else ("R", "S0")
            tm.parallelize(model, mesh, {key: words})
            for p in model.up.parametrizations.weight.parameters():
                assert placements(p) == ("R", "S0"), (make, key)
            assert placements(model.up.bias) == ("R", "S0")
            found = model(tm.distribute(ids, mesh, ("S0", "R")))
            torch.testing.assert_close(tm.full(found), expected)


def test_a_name_is_no_expression(mesh):
    """Its dot is a dot, though an expression would read it as any character."""
    model = torch.nn.Module()
    model.a = torch.nn.Module()
    model.a.b, model.axb = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    tm.parallelize(model, mesh, {"a.b": "colwise"})
    assert placements(model.a.b.weight) == ("R", "S0")
    assert placements(model.axb.weight) == ("R", "R")


def test_a_scripted_module_is_cut_without_hooks(mesh):
    model = torch.nn.Sequential(torch.nn.Linear(8, 4))
    x = torch.randn(6, 8)
    expected = model(x)
    model = torch.jit.script(model)
    tm.parallelize(model, mesh, {"0": "colwise"})
    assert placements(model[0].weight) == ("R", "S0")
    found = model(tm.distribute(x, mesh, ("S0", "R")))
    torch.testing.assert_close(tm.full(found), expected)


def test_a_pattern_that_matches_nothing_warns_with_the_nearest_names(mesh):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tm.parallelize(Block(), mesh, {"dwon": "rowwise", "up": "colwise"})
    (warning,) = caught
    assert '"dwon"' in str(warning.message)
    assert "nearest  down" in str(warning.message)
    assert "[unused-pattern]" in str(warning.message)
    assert warning.filename == __file__


def test_the_axis_of_words_can_be_chosen(mesh):
    model = tm.parallelize(Block(), mesh, {"up": "colwise"}, axis="data")
    assert placements(model.up.weight) == ("S0", "R")


def test_a_model_on_the_meta_device_is_loaded_in_its_layout(mesh):
    plain = Block()
    with torch.device("meta"):
        model = Block()
    table = model.table.weight
    with tm.memory() as memory:
        tm.parallelize(model, mesh, PLAN)
    assert sum(memory.peak.values()) == 0
    assert model.table.weight is table is model.head.weight
    model.load_state_dict(plain.state_dict())
    assert placements(model.up.weight) == ("R", "S0")
    assert placements(model.up.bias) == ("R", "S0")
    ids = torch.randint(0, 10, (2, 3))
    torch.testing.assert_close(model(ids).cpu(), plain(ids))
    with torch.device("meta"):
        model = Block()
    tm.parallelize(model, mesh, PLAN).to_empty(device="mesh")
    for module in (model.table, model.up, model.down, model.norm):
        module.reset_parameters()
    assert placements(model.up.weight) == ("R", "S0")


def test_no_device_holds_the_whole_of_what_is_cut(mesh, separate_memories):
    model = torch.nn.Sequential(torch.nn.Linear(64, 128, bias=False))
    with tm.memory() as memory:
        tm.parallelize(model, mesh, {"0": "colwise"})
    whole = 64 * 128 * 4
    assert set(memory.peak.values()) == {whole // 2}


def test_a_model_on_the_mesh_moves(mesh, line):
    model = Block()
    plain = copy.deepcopy(model)
    with tm.use(line):
        model.to("mesh")
    tm.parallelize(model, mesh, PLAN)
    tm.parallelize(model, mesh, {"up": "rowwise"})
    assert placements(model.up.weight) == ("R", "S1")
    assert placements(model.table.weight) == ("R", "R")
    ids = torch.randint(0, 10, (2, 3))
    torch.testing.assert_close(model(ids).cpu(), plain(ids))


class Shipped(torch.nn.Module):
    """Ships a plan as Hugging Face's base models do: in its configuration."""

    base_model_prefix = "model"

    def __init__(self):
        super().__init__()
        self.config = types.SimpleNamespace(
            base_model_tp_plan={
                "layers.*.up": "colwise",
                "layers.*.down": "rowwise",
            }
        )
        self.model = torch.nn.Module()
        self.model.layers = torch.nn.ModuleList([Block(), Block()])


def test_a_shipped_plan_is_read(mesh):
    model = tm.parallelize(Shipped(), mesh)
    for block in model.model.layers:
        assert placements(block.up.weight) == ("R", "S0")
        assert placements(block.down.weight) == ("R", "S1")
    model = Shipped()
    model._tp_plan = {"model.layers.*.up": "rowwise"}
    tm.parallelize(model, mesh)
    assert placements(model.model.layers[1].up.weight) == ("R", "S1")
    assert placements(tm.parallelize(Block(), mesh).up.weight) == ("R", "R")


def test_describe_is_a_table_of_the_module(mesh):
    model = tm.parallelize(Block(), mesh, PLAN)
    table = tm.describe(model)
    rows = {row.name: row for row in table.rows}
    assert rows["up.weight"] == (
        "up.weight",
        "up: colwise",
        "float32",
        "(R, S0)",
        (8, 6),
        (4, 6),
        96,
    )
    assert rows["head.weight"].pattern == "= table.weight"
    assert rows["head.weight"].num_bytes == 0
    assert rows["scale"].layout == "(R, R)"
    cut = 4 * (60 // 2 + 48 // 2 + 8 // 2 + 48 // 2)
    assert table.num_bytes == cut + 4 * (6 + 6 + 6 + 2)
    assert table.num_bytes_whole == 4 * (60 + 48 + 8 + 48 + 6 + 12 + 2)
    text = str(table)
    assert text.startswith("Block on data=2 model=2\n")
    assert "up.weight     up: colwise     float32  (R, S0)" in text
    assert "total 408 B per device, of 736 B" in text
    plain = tm.describe(Block())
    assert plain.mesh == "" and plain.rows[0].layout == "cpu"
    assert "Block on no mesh" in repr(plain)
    with pytest.raises(TypeError, match="argument-type"):
        tm.describe(torch.ones(2))


def test_a_model_with_layouts_can_be_copied_and_saved(mesh):
    model = tm.parallelize(Block(), mesh, PLAN)
    twin = copy.deepcopy(model)
    assert placements(twin.up.weight) == ("R", "S0")
    assert tm.describe(twin).rows == tm.describe(model).rows
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again.up.weight.cpu(), model.up.weight.cpu())
