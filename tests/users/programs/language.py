"""Language models of one's own: transformers, mixtures, bags, generation."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from ..registry import program


def sgd_step(model, loss_of, lr=0.1):
    """A step of gradient descent on `loss_of()`."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)

    def step():
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        optimizer.step()
        return loss

    return step


class WordTransformer(nn.Module):
    def __init__(self, words, width, layers, longest=64):
        super().__init__()
        self.embed = nn.Embedding(words, width)
        position = torch.arange(longest).unsqueeze(1)
        rate = torch.exp(
            torch.arange(0, width, 2) * (-math.log(10000.0) / width)
        )
        table = torch.zeros(longest, 1, width)
        table[:, 0, 0::2] = torch.sin(position * rate)
        table[:, 0, 1::2] = torch.cos(position * rate)
        self.register_buffer("table", table)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.2)
        self.encoder = nn.TransformerEncoder(layer, layers)
        self.decoder = nn.Linear(width, words)

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(
            len(x), device=x.device, dtype=self.table.dtype
        )
        y = self.embed(x) * math.sqrt(self.embed.embedding_dim)
        y = F.dropout(y + self.table[: len(x)], 0.2, self.training)
        return self.decoder(self.encoder(y, mask=mask, is_causal=True))


LAYERS = {"*.linear1": "colwise", "*.linear2": "rowwise"}


@program()
def word_transformer(place):
    """The word language model with nn.TransformerEncoder and a causal mask."""
    words, width, batch, length = place.size((1000, 128, 16, 32), (20, 8, 4, 6))
    model = place.module(
        WordTransformer(words, width, place.size(2, 1)),
        {**LAYERS, "decoder": "colwise"},
    )
    x, y = place.batch(
        torch.randint(words, (length, batch)),
        torch.randint(words, (length, batch)),
        dim=1,
    )
    return (
        sgd_step(
            model,
            lambda: F.cross_entropy(model(x).flatten(0, 1), y.flatten()),
            lr=0.05,
        ),
        model,
    )


class Block(nn.Module):
    """A block of nanoGPT, its attention from one product."""

    def __init__(self, width, heads, dropout):
        super().__init__()
        self.heads = heads
        self.ln_1 = nn.LayerNorm(width)
        self.ln_2 = nn.LayerNorm(width)
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_out = nn.Linear(4 * width, width)
        self.dropout = dropout

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = (
            y.view(b, t, self.heads, c // self.heads).transpose(1, 2)
            for y in self.c_attn(self.ln_1(x)).split(c, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y = self.c_proj(y.transpose(1, 2).contiguous().view(b, t, c))
        x = x + F.dropout(y, self.dropout, self.training)
        y = self.c_out(F.gelu(self.c_fc(self.ln_2(x))))
        return x + F.dropout(y, self.dropout, self.training)


class Gpt(nn.Module):
    def __init__(self, words, width, heads, layers, longest, dropout=0.1):
        super().__init__()
        self.longest = longest
        self.wte = nn.Embedding(words, width)
        self.wpe = nn.Embedding(longest, width)
        self.blocks = nn.ModuleList(
            Block(width, heads, dropout) for _ in range(layers)
        )
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, words, bias=False)
        self.wte.weight = self.lm_head.weight
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, 0.0, 0.02)

    def forward(self, x, targets=None):
        positions = torch.arange(x.shape[1], device=x.device)
        y = self.wte(x) + self.wpe(positions)
        for block in self.blocks:
            y = block(y)
        y = self.ln_f(y)
        if targets is None:
            return self.lm_head(y[:, [-1]])
        scores = self.lm_head(y)
        return F.cross_entropy(
            scores.view(-1, scores.size(-1)), targets.view(-1), ignore_index=-1
        )

    @torch.no_grad()
    def generate(self, x, number, temperature=1.0, top_k=None):
        for _ in range(number):
            scores = self(x[:, -self.longest :])[:, -1, :] / temperature
            if top_k:
                kept, _ = torch.topk(scores, top_k)
                scores[scores < kept[:, [-1]]] = -float("inf")
            token = torch.multinomial(F.softmax(scores, dim=-1), 1)
            x = torch.cat((x, token), dim=1)
        return x


GPT = {"*.c_fc": "colwise", "*.c_out": "rowwise"}


@program()
def nanogpt(place):
    """Fused AdamW in two groups, gradients of several parts, clipped."""
    words, width, layers, batch, length = place.size(
        (256, 128, 3, 16, 48), (20, 16, 1, 4, 8)
    )
    model = place.module(
        Gpt(words, width, 4, layers, length),
        {**GPT, "wte": "rows"},
    )
    groups = [
        {
            "params": [p for p in model.parameters() if p.dim() >= 2],
            "weight_decay": 0.1,
        },
        {
            "params": [p for p in model.parameters() if p.dim() < 2],
            "weight_decay": 0.0,
        },
    ]
    optimizer = torch.optim.AdamW(
        groups, lr=6e-4, betas=(0.9, 0.95), eps=1e-4, fused=True
    )
    data = torch.randint(words, (2, batch, length + 1))
    parts = [
        place.batch(d[:, :-1].contiguous(), d[:, 1:].contiguous()) for d in data
    ]
    number = 0

    def step():
        nonlocal number
        number += 1
        for group in optimizer.param_groups:
            group["lr"] = 6e-4 * min(1.0, number / 3)
        total = 0.0
        for x, y in parts:
            loss = model(x, y) / len(parts)
            loss.backward()
            total = total + loss.detach()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total

    return step, model


@program()
def top_k_sampling(place):
    """nanoGPT's `generate`: a mask by index, multinomial, for each token."""
    words, width, layers, batch = place.size((512, 256, 2, 16), (20, 16, 1, 4))
    model = place.module(Gpt(words, width, 4, layers, 16), GPT).eval()
    x = place.batch(torch.randint(words, (batch, 4)))

    def step():
        return model.generate(x, 4, temperature=0.8, top_k=5)

    return step, model


@program()
def nucleus_sampling(place):
    """Top-p: sort, cumulative sums, scatter of a mask, repetition penalty."""
    words, width, layers, batch = place.size((512, 256, 2, 16), (20, 16, 1, 4))
    model = place.module(Gpt(words, width, 4, layers, 16), GPT).eval()
    prompt = place.batch(torch.randint(words, (batch, 4)))

    @torch.no_grad()
    def step():
        x = prompt
        for _ in range(4):
            scores = model(x)[:, -1]
            seen = scores.gather(1, x)
            scores = scores.scatter(
                1, x, torch.where(seen < 0, seen * 1.2, seen / 1.2)
            )
            ordered, index = scores.sort(descending=True)
            p = ordered.softmax(-1)
            cut = p.cumsum(-1) - p > 0.9
            cut = torch.zeros_like(cut).scatter_(1, index, cut)
            p = scores.masked_fill(cut, -float("inf")).softmax(-1)
            x = torch.cat((x, torch.multinomial(p, 1)), 1)
        return x

    return step, model


class Experts(nn.Module):
    """A sparse mixture: each expert takes the tokens that chose it."""

    def __init__(self, width, number, top):
        super().__init__()
        self.number, self.top = number, top
        self.gate = nn.Linear(width, number, bias=False)
        self.up = nn.ModuleList(
            nn.Linear(width, 2 * width) for _ in range(number)
        )
        self.down = nn.ModuleList(
            nn.Linear(2 * width, width) for _ in range(number)
        )

    def forward(self, x):
        rows = x.flatten(0, -2)
        p = self.gate(rows).softmax(-1)
        weights, chosen = p.topk(self.top)
        weights = weights / weights.sum(-1, keepdim=True)
        y = torch.zeros_like(rows)
        for expert in range(self.number):
            row, rank = torch.where(chosen == expert)
            one = self.down[expert](F.silu(self.up[expert](rows[row])))
            y.index_add_(0, row, one * weights[row, rank, None])
        share = torch.bincount(chosen.flatten(), minlength=self.number)
        # As transformers counts: only the CPU's kernel asks for floats.
        counted = chosen.float() if x.device.type == "cpu" else chosen.int()
        load = torch.histc(
            counted, bins=self.number, min=0, max=self.number - 1
        ).int()
        balance = (share.to(p.dtype) / share.sum() * p.mean(0)).sum()
        return y.view_as(x), self.number * balance, load


@program()
def mixture_of_experts(place):
    """Routing by top-k, `where`, `index_add_`, `bincount` and `histc`."""
    width, number, batch, length = place.size((128, 8, 16, 32), (8, 4, 4, 6))
    model = nn.ModuleDict(
        {
            "embed": nn.Embedding(100, width),
            "experts": Experts(width, number, 2),
            "out": nn.Linear(width, 100),
        }
    )
    place.module(
        model, {"experts.up.*": "colwise", "experts.down.*": "rowwise"}
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = place.batch(
        torch.randint(100, (batch, length)), torch.randint(100, (batch, length))
    )

    def step():
        optimizer.zero_grad()
        h = model["embed"](x)
        mixed, balance, load = model["experts"](h)
        scores = model["out"](h + mixed)
        loss = F.cross_entropy(scores.flatten(0, 1), y.flatten())
        (loss + 0.01 * balance).backward()
        optimizer.step()
        return loss, balance, load

    return step, model


@program()
def encoder_eval(place):
    """nn.TransformerEncoder with a padding mask: trained, then in eval."""
    width, batch, length = place.size((128, 16, 24), (8, 4, 5))
    layer = nn.TransformerEncoderLayer(
        width, 4, 4 * width, 0.1, batch_first=True
    )
    model = place.module(nn.TransformerEncoder(layer, 2), LAYERS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    lengths = torch.randint(1, length + 1, (batch,))
    lengths[0] = length
    padded = torch.arange(length) >= lengths[:, None]
    x, mask = place.batch(torch.randn(batch, length, width), padded)
    kept = ~mask[..., None]

    def step():
        model.train()
        optimizer.zero_grad()
        y = model(x, src_key_padding_mask=mask)
        loss = (y * kept).square().mean()
        loss.backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            y = model(x, src_key_padding_mask=mask)
        return loss, y * kept

    return step, model


@program()
def jagged_attention(place):
    """Attention over sentences of their own lengths, as a jagged tensor."""
    width, lengths = place.size((256, [24, 9, 31, 16] * 4), (32, [3, 2, 5, 4]))
    total = sum(lengths)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    model = nn.ModuleDict(
        {name: nn.Linear(width, width) for name in ("q", "k", "v", "out")}
    )
    place.module(model, {"out": "rowwise"})
    x = place.batch(torch.randn(total, width))  # rows of all sentences
    offsets = place.whole(offsets)

    def loss_of():
        parts = [
            torch.nested.nested_tensor_from_jagged(model[name](x), offsets)
            .unflatten(-1, [4, width // 4])
            .transpose(1, 2)
            for name in ("q", "k", "v")
        ]
        y = F.scaled_dot_product_attention(*parts)
        y = y.transpose(1, 2).flatten(-2).values()
        return model["out"](y).square().mean()

    return sgd_step(model, loss_of), model


@program()
def text_bags(place):
    """AG News: EmbeddingBag over texts of their own lengths."""
    words, width, batch = place.size((20000, 128, 512), (30, 8, 6))
    model = nn.ModuleDict(
        {
            "bag": nn.EmbeddingBag(words, width),
            "fc1": nn.Linear(width, 4 * width),
            "fc2": nn.Linear(4 * width, 4),
        }
    )
    place.module(
        model, {"fc1": "colwise", "fc2": "rowwise", "bag.weight": "S1"}
    )
    lengths = torch.randint(1, 40, (batch,))
    offsets = F.pad(lengths.cumsum(0)[:-1], (1, 0))
    text = place.whole(torch.randint(words, (int(lengths.sum()),)))
    offsets = place.whole(offsets)
    y = place.batch(torch.randint(4, (batch,)))

    def loss_of():
        h = F.relu(model["fc1"](model["bag"](text, offsets)))
        return F.cross_entropy(model["fc2"](h), y)

    return sgd_step(model, loss_of, lr=1.0), model


@program()
def word2vec(place):
    """Skip-gram with negative samples; `sparse=True` embeddings."""
    words, width, batch = place.size((5000, 128, 2048), (30, 8, 8))
    model = nn.ModuleDict(
        {
            "inner": nn.Embedding(words, width, sparse=True),
            "outer": nn.Embedding(words, width, sparse=True),
        }
    )
    place.module(model, {"inner.weight": "S1", "outer.weight": "S1"})
    center, near, far = place.batch(
        torch.randint(words, (batch,)),
        torch.randint(words, (batch,)),
        torch.randint(words, (batch, 5)),
    )

    def loss_of():
        c = model["inner"](center)
        good = F.logsigmoid((c * model["outer"](near)).sum(1))
        bad = F.logsigmoid(-(model["outer"](far) @ c[..., None]).squeeze(-1))
        return -(good + bad.sum(1)).mean()

    return sgd_step(model, loss_of, lr=1.0), model


@program()
def seq2seq_transformer(place):
    """nn.Transformer for translation, padding masks on both sides."""
    words, width, batch, length = place.size((500, 128, 16, 16), (20, 8, 4, 5))
    model = nn.ModuleDict(
        {
            "source": nn.Embedding(words, width),
            "target": nn.Embedding(words, width),
            "body": nn.Transformer(
                width, 4, 1, 2, 2 * width, 0.1, batch_first=True
            ),
            "out": nn.Linear(width, words),
        }
    )
    place.module(model, {**LAYERS, "out": "colwise"})
    a = torch.randint(1, words, (batch, length))
    b = torch.randint(1, words, (batch, length + 1))
    a[1, length // 2 :] = 0
    b[2, length // 2 :] = 0
    a, b, y = place.batch(a, b[:, :-1].contiguous(), b[:, 1:].contiguous())
    causal = nn.Transformer.generate_square_subsequent_mask(
        length, device=place.device
    )

    def loss_of():
        scores = model["body"](
            model["source"](a),
            model["target"](b),
            tgt_mask=causal < 0,
            src_key_padding_mask=a == 0,
            tgt_key_padding_mask=b == 0,
            memory_key_padding_mask=a == 0,
        )
        scores = model["out"](scores)
        return F.cross_entropy(
            scores.flatten(0, 1), y.flatten(), ignore_index=0
        )

    return sgd_step(model, loss_of), model


class Lora(nn.Module):
    """A frozen layer and a low-rank change of it."""

    def __init__(self, base, rank):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Linear(base.in_features, rank, bias=False)
        self.b = nn.Linear(rank, base.out_features, bias=False)
        nn.init.normal_(self.b.weight, 0.0, 0.01)

    def forward(self, x):
        return self.base(x) + 2.0 * self.b(self.a(F.dropout(x, 0.05)))


@program()
def lora(place):
    """A frozen model whose layers get low-rank changes, as PEFT does it."""
    words, width, layers, batch, length = place.size(
        (256, 128, 3, 16, 32), (20, 16, 1, 4, 8)
    )
    model = Gpt(words, width, 4, layers, length, dropout=0.0)
    model.requires_grad_(False)
    for block in model.blocks:
        block.c_attn = Lora(block.c_attn, 8)
        block.c_fc = Lora(block.c_fc, 8)
    place.module(
        model,
        {
            "*.c_fc.base": "colwise",
            "*.c_fc.b": "colwise",
            "*.c_out": "rowwise",
        },
    )
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, eps=1e-4)
    x, y = place.batch(
        torch.randint(words, (batch, length)),
        torch.randint(words, (batch, length)),
    )

    def step():
        optimizer.zero_grad()
        loss = model(x, y)
        loss.backward()
        optimizer.step()
        return loss

    return step, model
