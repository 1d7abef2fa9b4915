"""Models of transformers on a mesh: by the plans that they ship, by layouts.

Small configurations, random weights. Nothing is fetched.
"""

import copy
import os

import pytest
import torch

import torch_mesh as tm
from torch_mesh import _C

os.environ["HF_HUB_OFFLINE"] = "1"

transformers = pytest.importorskip("transformers")

VOCABULARY = 96
HIDDEN = 32
DECODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}


def llama(**more):
    config = transformers.LlamaConfig(**(DECODER | more))
    return transformers.LlamaForCausalLM(config)


def mixtral():
    config = transformers.MixtralConfig(**DECODER, num_local_experts=4)
    config._experts_implementation = "eager"
    return transformers.MixtralForCausalLM(config)


def gpt2():
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=HIDDEN,
            n_layer=2,
            n_head=4,
            n_positions=64,
            resid_pdrop=0,
            embd_pdrop=0,
            attn_pdrop=0,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    )


def t5():
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=VOCABULARY,
            d_model=HIDDEN,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            dropout_rate=0,
            decoder_start_token_id=0,
        )
    )


def bert():
    return transformers.BertForMaskedLM(
        transformers.BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=HIDDEN,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            hidden_dropout_prob=0,
            attention_probs_dropout_prob=0,
        )
    )


# What makes each, its layouts, and a weight with its placement.
MODELS = {
    "llama": (
        llama,
        None,
        ("model.layers.0.self_attn.q_proj.weight", "S0"),
    ),
    "mixtral": (
        mixtral,
        None,
        ("model.layers.0.mlp.experts.gate_up_proj", "S1/64"),
    ),
    "gpt2": (
        gpt2,
        {
            "*.c_attn": {"model": f"S1/{HIDDEN}"},
            "*.c_fc": "colwise",
            "*.c_proj": "rowwise",
        },
        ("transformer.h.0.attn.c_attn.weight", "S1/32"),
    ),
    "t5": (
        t5,
        {
            r".*\.[qkv]": "colwise",
            r".*\.o": "rowwise",
            "*.wi": "colwise",
            "*.wo": "rowwise",
        },
        ("encoder.block.0.layer.0.SelfAttention.o.weight", "S1"),
    ),
    "bert": (
        bert,
        {
            r".*\.(query|key|value)": "colwise",
            r".*attention\.output\.dense": "rowwise",
            r".*intermediate\.dense": "colwise",
            r".*layer\.\d+\.output\.dense": "rowwise",
        },
        ("bert.encoder.layer.1.output.dense.weight", "S1"),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_training_and_generation_are_plain_torchs(mesh, name):
    make, layouts, (weight, placement) = MODELS[name]
    plain = make()
    if name != "mixtral":  # whose experts are float32 on CPUs
        plain = plain.double()
    model = copy.deepcopy(plain)
    tm.parallelize(model, mesh, layouts)
    named = dict(model.named_parameters())
    assert tm.layout(named[weight]).placements == ("R", placement)
    ours, theirs = (
        torch.optim.AdamW(m.parameters(), lr=1e-3) for m in (model, plain)
    )
    close = {"rtol": 1e-5, "atol": 1e-5} if name == "mixtral" else {}
    for _ in range(5):
        ids = torch.randint(3, VOCABULARY, (4, 10))
        expected = plain(input_ids=ids, labels=ids).loss
        theirs.zero_grad()
        expected.backward()
        theirs.step()
        with tm.use(mesh, batch="data"):
            on_mesh = ids.to("mesh")
            loss = model(input_ids=on_mesh, labels=on_mesh).loss
            ours.zero_grad()
            loss.backward()
            ours.step()
        assert tm.layout(on_mesh).placements == ("S0", "R")
        torch.testing.assert_close(loss.cpu(), expected, **close)
    for (key, a), b in zip(
        model.named_parameters(), plain.parameters(), strict=True
    ):
        torch.testing.assert_close(
            a.detach().cpu(), b.detach(), msg=key, **close
        )
        state = ours.state[a]["exp_avg"]
        assert tm.layout(state) == tm.layout(a), key
    if name == "bert":
        return
    how = {"max_new_tokens": 5, "do_sample": False}
    how["attention_mask"] = torch.ones_like(ids)
    expected = plain.eval().generate(ids, **how)
    with tm.use(mesh, batch="data"):
        how["attention_mask"] = how["attention_mask"].to("mesh")
        result = model.eval().generate(ids.to("mesh"), **how)
    assert torch.equal(result.cpu(), expected)


@pytest.mark.parametrize("name", MODELS)
def test_a_device_holds_its_part_of_what_the_plan_cuts(line_of_4, name):
    make, layouts, _ = MODELS[name]
    with torch.device("meta"):
        model = make()
    tm.parallelize(model, line_of_4, layouts)
    table = tm.describe(model)
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    whole = cut = 0
    for row in table.rows:
        if not row.num_bytes:
            continue  # tied to another
        size = named[row.name].numel() * named[row.name].element_size()
        if row.layout != "(R)":
            cut += size
        else:
            whole += size
    assert cut > 0
    assert table.num_bytes <= whole + cut / 4 + 1e-9


def collectives(model, mesh):
    """Those on the axis `model` of a forward and of a backward pass."""
    ids = torch.randint(3, VOCABULARY, (4, 10))
    with tm.use(mesh, batch="data"):
        on_mesh = ids.to("mesh")
        with tm.counting() as forward:
            hidden = model.model(input_ids=on_mesh).last_hidden_state
        with tm.counting() as backward:
            hidden.square().sum().backward()
    return [
        {
            name: number
            for name, number in counts.collectives.items()
            if name.endswith("@model")
        }
        for counts in (forward, backward)
    ]


def test_a_llama_layer_makes_two_sums_forward_and_two_backward(mesh):
    one, three = (
        collectives(tm.parallelize(llama(num_hidden_layers=n), mesh), mesh)
        for n in (1, 3)
    )
    for few, many in zip(one, three, strict=True):
        assert set(few) | set(many) == {"all_reduce@model"}
        assert many["all_reduce@model"] - few["all_reduce@model"] == 2 * 2
    assert one[0]["all_reduce@model"] == 2


def test_resized_embeddings_keep_their_layouts(mesh):
    model = llama()
    plain = copy.deepcopy(model)
    layouts = {"embed_tokens": "rowwise", "lm_head": "colwise"}
    tm.parallelize(model, mesh, layouts)
    for m in (model, plain):
        m.resize_token_embeddings(VOCABULARY + 7, mean_resizing=False)
    embeddings = model.get_input_embeddings().weight
    assert embeddings.shape[0] == VOCABULARY + 7
    assert tm.layout(embeddings).placements == ("R", "S0")
    assert tm.layout(model.lm_head.weight).placements == ("R", "S0")
    assert torch.equal(
        embeddings.detach().cpu()[:VOCABULARY],
        plain.get_input_embeddings().weight.detach()[:VOCABULARY],
    )


@pytest.fixture
def mesh():
    """A mesh data=2 model=2 of virtual CPU devices."""
    return tm.Mesh({"data": 2, "model": 2})


@pytest.fixture
def line_of_4():
    """A mesh of four virtual CPU devices on one axis."""
    return tm.Mesh({"model": 4})


@pytest.fixture(autouse=True)
def clean_state():
    """Each test begins with no mesh in force and one seed."""
    tm.use(None)
    torch.manual_seed(1)
    yield
    tm.use(None)
    _C.separate_cpu_memories(False)
