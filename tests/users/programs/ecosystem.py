"""Models of Hugging Face's transformers, small, with random weights."""

import torch
import transformers

from ..registry import program

transformers.logging.set_verbosity_error()

ATTENTION = {
    "*.q_proj": "colwise",
    "*.k_proj": "colwise",
    "*.v_proj": "colwise",
    "*.o_proj": "rowwise",
}
LLAMA = {
    **ATTENTION,
    "*.gate_proj": "colwise",
    "*.up_proj": "colwise",
    "*.down_proj": "rowwise",
}


def trained(place, model, layouts, inputs, lr=0.05, also=None):
    """Step and weights of a model that gives its own loss."""
    model.train()
    place.module(model, layouts)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)

    def step():
        optimizer.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return (loss, also()) if also else loss

    return step, model


def text(place, words, batch, length):
    """Tokens, their labels, and a mask that hides the end of one row."""
    tokens = torch.randint(3, words, (batch, length))
    mask = torch.ones_like(tokens)
    mask[1, length // 2 :] = 0
    labels = tokens.masked_fill(mask == 0, -100)
    tokens, mask, labels = place.batch(tokens, mask, labels)
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels}


def generated(model, prompt, **how):
    """Greedy tokens after `prompt`."""

    def also():
        model.eval()
        found = model.generate(
            prompt, max_new_tokens=3, do_sample=False, pad_token_id=0, **how
        )
        model.train()
        return found

    return also


def causal(place, model, layouts, words, batch, length):
    """A causal model: trained, and asked for three tokens after each step."""
    inputs = text(place, words, batch, length)
    prompt = place.batch(torch.randint(3, words, (4, 5)))
    return trained(place, model, layouts, inputs, also=generated(model, prompt))


@program()
def hf_llama(place):
    """LlamaForCausalLM: grouped queries, RoPE, generation with a cache."""
    words, width, layers, batch, length = place.size(
        (256, 128, 2, 16, 32), (32, 16, 1, 4, 6)
    )
    config = transformers.LlamaConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    model = transformers.LlamaForCausalLM(config)
    return causal(place, model, LLAMA, words, batch, length)


@program(float64=False)  # its grouped product takes no float64
def hf_mixtral(place):
    """MixtralForCausalLM: experts by index, tokens counted with histc."""
    words, width, layers, batch, length = place.size(
        (256, 128, 2, 16, 32), (32, 16, 1, 4, 6)
    )
    config = transformers.MixtralConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=64,
    )
    model = transformers.MixtralForCausalLM(config)
    inputs = text(place, words, batch, length)
    inputs["output_router_logits"] = True
    prompt = place.batch(torch.randint(3, words, (4, 5)))
    return trained(
        place, model, ATTENTION, inputs, also=generated(model, prompt)
    )


@program()
def hf_gpt2(place):
    """GPT2LMHeadModel: Conv1D, whose weights are transposed."""
    words, width, layers, batch, length = place.size(
        (256, 128, 2, 16, 32), (32, 16, 1, 4, 6)
    )
    config = transformers.GPT2Config(
        vocab_size=words,
        n_positions=64,
        n_embd=width,
        n_layer=layers,
        n_head=4,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = transformers.GPT2LMHeadModel(config)
    layouts = {"*.mlp.c_fc": "columns", "*.mlp.c_proj": "inner"}
    return causal(place, model, layouts, words, batch, length)


@program()
def hf_bert(place):
    """BertForSequenceClassification with dropout and padding."""
    words, width, layers, batch, length = place.size(
        (500, 128, 2, 16, 32), (32, 16, 1, 4, 6)
    )
    config = transformers.BertConfig(
        vocab_size=words,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=4 * width,
        max_position_embeddings=64,
        num_labels=3,
    )
    model = transformers.BertForSequenceClassification(config)
    inputs = text(place, words, batch, length)
    inputs["labels"] = place.batch(torch.randint(3, (batch,)))
    layouts = {
        "*.query": "colwise",
        "*.key": "colwise",
        "*.value": "colwise",
        "*.attention.output.dense": "rowwise",
        "*.intermediate.dense": "colwise",
        "*.[0-9].output.dense": "rowwise",
    }
    return trained(place, model, layouts, inputs)


@program()
def hf_bert_masked(place):
    """BertForMaskedLM, a sixth of the tokens masked at every step."""
    words, width, batch, length = place.size((500, 128, 16, 32), (32, 16, 4, 6))
    config = transformers.BertConfig(
        vocab_size=words,
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * width,
        max_position_embeddings=64,
    )
    model = place.module(
        transformers.BertForMaskedLM(config),
        {"*.intermediate.dense": "colwise", "*.[0-9].output.dense": "rowwise"},
    )
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    tokens = place.batch(torch.randint(5, words, (batch, length)))

    def step():
        optimizer.zero_grad()
        p = torch.full(tokens.shape, 0.16, device=tokens.device)
        chosen = torch.bernoulli(p).bool()
        chosen[:, 0] = True
        inputs, labels = tokens.clone(), tokens.clone()
        labels[~chosen] = -100
        inputs[chosen] = 4
        loss = model(input_ids=inputs, labels=labels).loss
        loss.backward()
        optimizer.step()
        return loss

    return step, model


@program()
def hf_t5(place):
    """T5ForConditionalGeneration: relative positions, gated feed-forward."""
    words, width, layers, batch, length = place.size(
        (256, 128, 2, 16, 24), (32, 16, 1, 4, 6)
    )
    config = transformers.T5Config(
        vocab_size=words,
        d_model=width,
        d_kv=width // 4,
        d_ff=2 * width,
        num_layers=layers,
        num_heads=4,
        decoder_start_token_id=0,
        feed_forward_proj="gated-gelu",
    )
    model = transformers.T5ForConditionalGeneration(config)
    inputs = text(place, words, batch, length)
    prompt = place.batch(torch.randint(3, words, (4, 5)))
    layouts = {
        "*.q": "colwise",
        "*.k": "colwise",
        "*.v": "colwise",
        "*.o": "rowwise",
        "*.wi_?": "colwise",
        "*.wo": "rowwise",
    }
    return trained(place, model, layouts, inputs, also=generated(model, prompt))


@program(float64=False)  # its scan is float32 whatever comes in
def hf_mamba2(place):
    """Mamba2ForCausalLM: a scan over chunks, many small ops."""
    words, width, layers, batch, length = place.size(
        (256, 128, 2, 8, 32), (32, 16, 1, 4, 6)
    )
    config = transformers.Mamba2Config(
        vocab_size=words,
        hidden_size=width,
        num_heads=8,
        head_dim=2 * width // 8,
        state_size=16,
        n_groups=2,
        num_hidden_layers=layers,
        chunk_size=8,
    )
    model = transformers.Mamba2ForCausalLM(config)
    inputs = text(place, words, batch, length)
    del inputs["attention_mask"]
    return trained(place, model, {"*.out_proj": "rowwise"}, inputs)


@program()
def hf_vit(place):
    """ViTForImageClassification."""
    width, layers, batch, size = place.size((128, 2, 16, 32), (16, 1, 4, 16))
    config = transformers.ViTConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=4 * width,
        image_size=size,
        patch_size=4,
        num_labels=10,
    )
    model = transformers.ViTForImageClassification(config)
    pictures, labels = place.batch(
        torch.randn(batch, 3, size, size), torch.randint(10, (batch,))
    )
    names = [name for name, _ in model.named_modules()]
    layouts = {}
    for pattern, word in (("fc1", "colwise"), ("fc2", "rowwise")):
        if any(name.endswith(pattern) for name in names):
            layouts[f"*.{pattern}"] = word
    layouts = layouts or {
        "*.intermediate.dense": "colwise",
        "*.[0-9].output.dense": "rowwise",
    }
    inputs = {"pixel_values": pictures, "labels": labels}
    return trained(place, model, layouts, inputs)


@program()
def hf_whisper(place):
    """WhisperForConditionalGeneration: speech to text."""
    words, width, batch, frames = place.size((256, 128, 8, 96), (32, 16, 4, 12))
    config = transformers.WhisperConfig(
        vocab_size=words,
        num_mel_bins=16,
        d_model=width,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=2 * width,
        decoder_ffn_dim=2 * width,
        max_source_positions=frames // 2,
        max_target_positions=32,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        dropout=0.1,
    )
    model = transformers.WhisperForConditionalGeneration(config)
    features, labels = place.batch(
        torch.randn(batch, 16, frames), torch.randint(3, words, (batch, 12))
    )
    inputs = {"input_features": features, "labels": labels}
    layouts = {"*.fc1": "colwise", "*.fc2": "rowwise"}
    return trained(place, model, layouts, inputs)


@program()
def hf_sampling(place):
    """`generate` of Llama with temperature, top-k and top-p; with beams."""
    words, width, batch = place.size((256, 256, 16), (32, 16, 4))
    config = transformers.LlamaConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
    )
    model = place.module(transformers.LlamaForCausalLM(config), LLAMA).eval()
    prompt = place.batch(torch.randint(3, words, (batch, 5)))
    how = {"max_new_tokens": 3, "pad_token_id": 0}

    def step():
        sampled = model.generate(
            prompt, do_sample=True, temperature=0.9, top_k=20, top_p=0.9, **how
        )
        beams = model.generate(prompt[:4], num_beams=3, do_sample=False, **how)
        return sampled, beams

    return step, model
