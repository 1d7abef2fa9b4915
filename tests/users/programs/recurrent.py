"""Recurrent nets: torch's LSTM, GRU and RNN, their cells, CTC, convolutions."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ..registry import program


class WordModel(nn.Module):
    """The word language model of PyTorch's examples."""

    def __init__(self, kind, words, width, hidden, layers, tied=False):
        super().__init__()
        self.drop = nn.Dropout(0.2)
        self.encoder = nn.Embedding(words, width)
        self.rnn = getattr(nn, kind)(width, hidden, layers, dropout=0.2)
        self.decoder = nn.Linear(hidden, words)
        if tied:
            self.decoder.weight = self.encoder.weight
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)

    def forward(self, x, hidden):
        y, hidden = self.rnn(self.drop(self.encoder(x)), hidden)
        return F.log_softmax(self.decoder(self.drop(y)), -1), hidden


def word_model(place, kind, words, width, layers, batch, length, tied=False):
    """Truncated backpropagation: the state goes on, detached."""
    model = WordModel(kind, words, width, width, layers, tied)
    layouts = {"encoder": "rows"}
    if not tied:
        layouts = {"encoder": "columns", "decoder": "colwise"}
    place.module(model, layouts)
    text = place.batch(torch.randint(words, (5 * length + 1, batch)), dim=1)
    state, at = None, 0

    def step():
        nonlocal state, at
        x = text[at : at + length]
        y = text[at + 1 : at + 1 + length]
        at += length
        model.zero_grad()
        if state is not None:
            state = (
                tuple(s.detach() for s in state)
                if isinstance(state, tuple)
                else state.detach()
            )
        scores, state = model(x, state)
        loss = F.nll_loss(scores.view(-1, words), y.reshape(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(p.grad, alpha=-5.0)
        return loss

    return step, model


@program()
def word_lstm(place):
    """LSTM 2 x 256, batch 64, 50 steps: weights of words are tied."""
    return word_model(
        place,
        "LSTM",
        *place.size((1000, 256, 2, 64, 50), (20, 8, 2, 4, 5)),
        True,
    )


@program()
def word_gru(place):
    """GRU 2 x 256, batch 64, 50 steps."""
    return word_model(
        place, "GRU", *place.size((500, 256, 2, 64, 50), (20, 8, 2, 4, 5))
    )


@program()
def word_rnn(place):
    """RNN with tanh, two layers."""
    return word_model(
        place, "RNN", *place.size((500, 256, 2, 32, 35), (20, 8, 2, 4, 5))
    )


@program()
def lstm_tiny(place):
    """LSTM 2 x 32, batch 8, 16 steps: all of it is the cost of calls."""
    return word_model(
        place, "LSTM", *place.size((50, 32, 2, 8, 16), (20, 8, 2, 4, 5))
    )


class Waves(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first = nn.LSTMCell(1, width)
        self.second = nn.LSTMCell(width, width)
        self.linear = nn.Linear(width, 1)

    def forward(self, x, future=0):
        outputs = []
        zeros = torch.zeros(
            x.shape[0], self.second.hidden_size, dtype=x.dtype, device=x.device
        )
        a, b = (zeros, zeros), (zeros, zeros)
        for part in x.split(1, dim=1):
            a = self.first(part, a)
            b = self.second(a[0], b)
            outputs.append(self.linear(b[0]))
        for _ in range(future):
            a = self.first(outputs[-1], a)
            b = self.second(a[0], b)
            outputs.append(self.linear(b[0]))
        return torch.cat(outputs, 1)


@program()
def time_sequence(place):
    """Sine waves by LSTM cells and LBFGS, then a look into the future."""
    batch, length, width = place.size((96, 20, 51), (6, 6, 6))
    model = place.module(Waves(width), {"linear": "rowwise"})
    shift = torch.randint(-80, 80, (batch, 1))
    data = torch.sin((torch.arange(length + 1.0) + shift) / 20)
    x, y = place.batch(data[:, :-1].contiguous(), data[:, 1:].contiguous())
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2)

    def step():
        def closure():
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), y)
            loss.backward()
            return loss

        loss = optimizer.step(closure)
        with torch.no_grad():
            return loss, model(x[:, :4], future=3)

    return step, model


class Sentences(nn.Module):
    """A bidirectional LSTM over sentences of their own lengths."""

    def __init__(self, words, width):
        super().__init__()
        self.embed = nn.Embedding(words, width, padding_idx=0)
        self.rnn = nn.LSTM(width, width, bidirectional=True, batch_first=True)
        self.out = nn.Sequential(
            nn.Linear(4 * width, width), nn.ReLU(), nn.Linear(width, 3)
        )

    def encode(self, x, lengths):
        packed = pack_padded_sequence(
            self.embed(x), lengths, batch_first=True, enforce_sorted=False
        )
        y, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        mask = torch.arange(y.shape[1], device=y.device) >= lengths[:, None].to(
            y.device
        )
        return y.masked_fill(mask[..., None], -1e4).amax(1)

    def forward(self, x, lengths):
        return self.out(self.encode(x, lengths).repeat(1, 2))


def sentences(place, words, batch, length):
    x = torch.randint(1, words, (batch, length))
    lengths = torch.randint(1, length + 1, (batch,))
    lengths[0] = length
    x[torch.arange(length) >= lengths[:, None]] = 0
    return place.batch(x), lengths


@program()
def packed_lstm(place):
    """Packed sequences of uneven lengths, in both directions."""
    words, width, batch, length = place.size((500, 128, 32, 24), (20, 8, 5, 6))
    model = place.module(
        Sentences(words, width),
        {"embed": "columns", "out.0": "colwise", "out.2": "rowwise"},
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, lengths = sentences(place, words, batch, length)
    y = place.batch(torch.randint(3, (batch,)))

    def step():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x, lengths), y)
        loss.backward()
        optimizer.step()
        return loss

    return step, model


class Snli(nn.Module):
    """Premise and hypothesis through one encoder."""

    def __init__(self, words, width):
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.project = nn.Linear(width, width)
        self.rnn = nn.LSTM(width, width, 1, dropout=0.0, bidirectional=True)
        self.fc1 = nn.Linear(8 * width, 4 * width)
        self.norm = nn.BatchNorm1d(4 * width)
        self.fc2 = nn.Linear(4 * width, 3)

    def encode(self, x):
        x = F.relu(self.project(self.embed(x)))
        return self.rnn(x)[1][0].transpose(0, 1).flatten(1)

    def forward(self, premise, hypothesis):
        a, b = self.encode(premise), self.encode(hypothesis)
        x = torch.cat((a, b, (a - b).abs(), a * b), 1)
        return self.fc2(F.dropout(F.relu(self.norm(self.fc1(x))), 0.2))


@program()
def snli(place):
    """Inference between two sentences; a frozen projection's embeddings."""
    words, width, batch, length = place.size((500, 100, 64, 16), (20, 8, 8, 5))
    model = place.module(
        Snli(words, width),
        {"project": "colwise", "fc1": "colwise", "fc2": "rowwise"},
    )
    model.embed.weight.requires_grad_(False)
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=0.05
    )
    a, b = place.batch(
        torch.randint(words, (length, batch)),
        torch.randint(words, (length, batch)),
        dim=1,
    )
    y = place.batch(torch.randint(3, (batch,)))

    def step():
        optimizer.zero_grad()
        scores = model(a, b)
        loss = F.cross_entropy(scores, y)
        loss.backward()
        optimizer.step()
        return loss, (scores.argmax(1) == y).sum()

    return step, model


class Translator(nn.Module):
    """GRU encoder, GRU decoder with additive attention."""

    def __init__(self, words, width):
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.encoder = nn.GRU(width, width, batch_first=True)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.score = nn.Linear(width, 1, bias=False)
        self.cell = nn.GRUCell(2 * width, width)
        self.out = nn.Linear(width, words)

    def next(self, token, hidden, memory):
        mixed = torch.tanh(self.query(hidden)[:, None] + self.key(memory))
        weights = self.score(mixed).softmax(1)
        context = (weights * memory).sum(1)
        hidden = self.cell(torch.cat((self.words(token), context), 1), hidden)
        return self.out(hidden), hidden

    def forward(self, source, target):
        memory, hidden = self.encoder(self.words(source))
        hidden, scores = hidden[0], []
        for t in range(target.shape[1] - 1):
            one, hidden = self.next(target[:, t], hidden, memory)
            scores.append(one)
        return torch.stack(scores, 1)

    @torch.no_grad()
    def beam(self, source, width, length):
        """The best of `width` hypotheses kept at each step."""
        batch = source.shape[0]
        memory, hidden = self.encoder(self.words(source))
        memory = memory.repeat_interleave(width, 0)
        hidden = hidden[0].repeat_interleave(width, 0)
        tokens = torch.ones(
            batch * width, 1, dtype=torch.long, device=source.device
        )
        total = torch.full((batch, width), -1e4, device=source.device)
        total[:, 0] = 0
        for _ in range(length):
            scores, hidden = self.next(tokens[:, -1], hidden, memory)
            scores = scores.log_softmax(-1).view(batch, width, -1)
            total, best = (total[..., None] + scores).flatten(1).topk(width)
            words = scores.shape[-1]
            rows = torch.arange(batch, device=source.device)[:, None] * width
            rows = (rows + best // words).flatten()
            tokens = torch.cat((tokens[rows], (best % words).view(-1, 1)), 1)
            hidden = hidden[rows]
        return tokens.view(batch, width, -1), total


@program()
def seq2seq_attention(place):
    """Teacher forcing, then a beam search."""
    words, width, batch, length = place.size((500, 128, 32, 12), (20, 8, 4, 5))
    model = place.module(
        Translator(words, width),
        {
            "query": "colwise",
            "key": "colwise",
            "score": "rowwise",
            "out": "colwise",
        },
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    source, target = place.batch(
        torch.randint(words, (batch, length)),
        torch.randint(words, (batch, length)),
    )

    def step():
        optimizer.zero_grad()
        scores = model(source, target)
        loss = F.cross_entropy(scores.flatten(0, 1), target[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        return loss, *model.beam(source[:4], 3, 3)

    return step, model


class Speech(nn.Module):
    """Convolutions over a spectrogram, a GRU, a score for each letter."""

    def __init__(self, bands, width, letters):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv1d(bands, width, 5, 2, 2),
            nn.BatchNorm1d(width),
            nn.Hardtanh(),
        )
        self.rnn = nn.GRU(
            width, width // 2, bidirectional=True, batch_first=True
        )
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, letters)

    def forward(self, x):
        y, _ = self.rnn(self.conv(x).transpose(1, 2))
        return self.out(self.norm(y)).log_softmax(-1).transpose(0, 1)


@program()
def ctc_speech(place):
    """Speech recognition: the CTC loss and its backward, a greedy reading."""
    bands, width, batch, length = place.size((64, 256, 16, 120), (8, 8, 5, 24))
    model = place.module(Speech(bands, width, 29), {"conv.0": "colwise"})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    targets = torch.randint(1, 29, (batch, length // 8))
    sizes = torch.randint(1, length // 8 + 1, (batch,))
    x, targets = place.batch(torch.randn(batch, bands, length), targets)
    frames = torch.full((batch,), length // 2)

    def step():
        optimizer.zero_grad()
        scores = model(x)
        loss = F.ctc_loss(scores, targets, frames, sizes, zero_infinity=True)
        loss.backward()
        optimizer.step()
        return loss, scores.argmax(-1)[:, :2]

    return step, model


class TemporalBlock(nn.Module):
    def __init__(self, inputs, outputs, dilation, old):
        super().__init__()
        norm = nn.utils.weight_norm if old else weight_norm
        self.pad = (2 * dilation, 0)
        self.conv1 = norm(nn.Conv1d(inputs, outputs, 3, dilation=dilation))
        self.conv2 = norm(nn.Conv1d(outputs, outputs, 3, dilation=dilation))
        self.skip = nn.Conv1d(inputs, outputs, 1)

    def forward(self, x):
        y = F.dropout(F.relu(self.conv1(F.pad(x, self.pad))), 0.1)
        y = F.dropout(F.relu(self.conv2(F.pad(y, self.pad))), 0.1)
        return F.relu(y + self.skip(x))


@program()
def temporal_convolutions(place):
    """A TCN: causal, dilated, its weights normed (both of torch's ways)."""
    width, batch, length = place.size((64, 16, 128), (8, 4, 12))
    model = nn.Sequential(
        TemporalBlock(4, width, 1, old=False),
        TemporalBlock(width, width, 2, old=True),
        TemporalBlock(width, width, 4, old=False),
        nn.Conv1d(width, 1, 1),
    )
    layouts = {"0.conv1.parametrizations.weight.original1": "S0"}
    layouts |= {"1.conv1.weight_v": "S0", "2.skip": "colwise", "3": "rowwise"}
    place.module(model, layouts)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    x, y = place.batch(
        torch.randn(batch, 4, length), torch.randn(batch, 1, length)
    )

    def step():
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step, model


@program(float64=False, half=True)
def lstm_autocast(place):
    """An LSTM under bf16 autocast, and with it what runs in float32."""
    words, width, batch, length = place.size((200, 256, 32, 24), (20, 8, 4, 5))
    model = place.module(
        WordModel("LSTM", words, width, width, 2), {"decoder": "colwise"}
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    x, y = place.batch(
        torch.randint(words, (length, batch)),
        torch.randint(words, (length, batch)),
        dim=1,
    )

    def step():
        optimizer.zero_grad()
        # oneDNN's LSTM in bfloat16 asks for a CPU that has such numbers.
        with (
            torch.backends.mkldnn.flags(enabled=False),
            torch.autocast(place.device, dtype=torch.bfloat16),
        ):
            state, _ = model.rnn(model.encoder(x))
            scores, _ = model(x, None)
            loss = F.nll_loss(scores.flatten(0, 1), y.flatten())
        loss.backward()
        optimizer.step()
        return loss, torch.tensor(state.dtype == torch.bfloat16)

    return step, model


@program()
def stock_forecast(place):
    """A stacked GRU with projections, quantile losses, standard scaling."""
    width, batch, length = place.size((128, 64, 30), (8, 6, 8))
    model = nn.ModuleDict(
        {
            "rnn": nn.LSTM(5, width, 2, batch_first=True, proj_size=width // 2),
            "out": nn.Linear(width // 2, 3),
        }
    )
    place.module(model, {"out": "rowwise"})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-4)
    raw, y = place.batch(
        torch.randn(batch, length, 5).cumsum(1), torch.randn(batch, 1)
    )
    levels = torch.tensor([0.1, 0.5, 0.9])

    def step():
        optimizer.zero_grad()
        center = raw.mean((0, 1))
        spread = raw.std((0, 1)) + 1e-3
        found = model["out"](model["rnn"]((raw - center) / spread)[0][:, -1])
        error = y - found
        q = levels.to(error)
        loss = torch.maximum(q * error, (q - 1) * error).mean()
        loss.backward()
        optimizer.step()
        return loss, torch.quantile(error.detach().flatten(), 0.5)

    return step, model
