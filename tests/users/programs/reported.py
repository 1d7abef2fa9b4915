"""What programs of users did that once went wrong on the mesh."""

import io
import pickle
import subprocess
import sys
import threading

import torch
import torch.nn.functional as F
from torch import nn

import torch_mesh as tm

from ..registry import program

MLP = {"0": "colwise", "2": "rowwise"}


def mlp(width):
    return nn.Sequential(nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 10))


def trained(place, width, batch, lr=0.05):
    """Model, a batch, and a function that takes a step of its loss."""
    model = place.module(mlp(width), MLP)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    x, y = place.batch(torch.randn(batch, 64), torch.randint(10, (batch,)))

    def descend(loss):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return model, x, y, descend


@program()
def metrics_in_plain_tensors(place):
    """Plain tensors into which global values are written by every road."""
    width, batch = place.size((512, 256), (8, 6))
    model, x, y, descend = trained(place, width, batch)
    history, matrix = torch.zeros(5, 10), torch.ones(batch, 10)
    scores, number = torch.empty(batch, 10), 0

    def step():
        nonlocal number
        found = model(x)
        loss = descend(F.cross_entropy(found, y))
        found = found.detach()
        history.index_put_((torch.tensor([number]),), found.mean(0))
        matrix.mul_(found.softmax(-1))
        matrix[1:].add_(found[1:], alpha=0.1)
        torch.tanh(found, out=scores)
        number += 1
        return loss, history, matrix, scores

    return step, model


@program()
def first_backward(place):
    """The first thing that happens on the mesh is a backward."""
    rows, width = place.size((2048, 512), (6, 4))
    leaf = torch.randn(rows, width)

    def step():
        x = place.batch(leaf.clone()).requires_grad_()
        if place.mesh:
            y = tm.redistribute(x, ["R"] * len(place.mesh.shape))
        else:
            y = x.clone()
        y.backward(place.whole(leaf))
        return x.grad

    return step, {}


@program()
def crossing_meshes(place):
    """A graph over two meshes, which cross on the CPU."""
    width, batch = place.size((512, 256), (8, 6))
    model, x, y, descend = trained(place, width, batch)
    other = tm.Mesh({"stage": 4}) if place.mesh else None
    second = nn.Linear(10, 10)
    if other:
        with tm.use(other):
            second.to("mesh")

    def step():
        h = model(x).cpu()
        if other:
            h = tm.distribute(h, other, ("S0",))
        second.zero_grad()
        found = second(h).cpu()
        loss = F.cross_entropy(found, y.cpu())
        with tm.use(other):
            descend(loss)
        with torch.no_grad():
            for parameter in second.parameters():
                parameter.sub_(parameter.grad, alpha=0.05)
        return loss

    return step, nn.ModuleDict({"first": model, "second": second})


@program(modes=("data",))  # plain weights are not split
def plain_weights(place):
    """A plain module that meets global batches; a penalty on its weights."""
    width, batch = place.size((512, 256), (8, 6))
    model = mlp(width)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x, y = place.batch(torch.randn(batch, 64), torch.randint(10, (batch,)))

    def step():
        optimizer.zero_grad()
        penalty = sum(p.square().sum() for p in model.parameters())
        loss = F.cross_entropy(model(x), y).cpu()
        if not place.mesh:
            loss = loss + 1e-3 * penalty
            loss.backward()
        else:  # a weight is used on the mesh or off it in one graph
            loss.backward()
            (1e-3 * penalty).backward()
            loss = loss.detach() + 1e-3 * penalty.detach()
        optimizer.step()
        return loss

    return step, model


@program()
def plain_constants(place):
    """Plain tensors beside global ones: windows, levels, keys, coordinates."""
    width, batch = place.size((64, 16), (8, 4))
    model = place.module(nn.Linear(width, width), {"": "colwise"})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    sound = place.batch(torch.randn(batch, 16 * width))
    keys = torch.randn(batch, 4, 32, width)
    window, levels = torch.hann_window(width), torch.tensor([0.1, 0.5])
    steps = place.batch(torch.arange(float(4 * batch)))

    def step():
        optimizer.zero_grad()
        spectrum = torch.stft(
            sound, width, window=window, return_complex=True
        ).abs()
        q = model(spectrum.mT[..., :1].expand(-1, -1, width))
        y = F.scaled_dot_product_attention(
            q[:, None].expand(-1, 4, -1, -1), keys, keys
        )
        grid = torch.meshgrid(steps, torch.arange(2.0), indexing="ij")[0]
        loss = y.square().mean() + grid.mean() / 100
        loss.backward()
        optimizer.step()
        return loss, torch.quantile(y.detach().flatten()[:1000], levels)

    return step, model


@program()
def channels_last_views(place):
    """Rows of pixels that become pictures, are enlarged, and lose pixels."""
    batch, width = place.size((4, 64), (4, 8))
    model = nn.ModuleDict(
        {"in": nn.Linear(16, width), "conv": nn.Conv2d(width, 8, 3, padding=1)}
    )
    place.module(model, {"in": "colwise", "conv": "rowwise"})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x = place.batch(torch.randn(batch, 256, 16))

    def step():
        optimizer.zero_grad()
        h = model["in"](x).permute(0, 2, 1).reshape(batch, width, 16, 16)
        h = F.group_norm(h, 4)
        h = F.interpolate(h, scale_factor=2, mode="bilinear")
        h = F.dropout(h, 0.5)
        loss = F.dropout2d(model["conv"](h), 0.2).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return step, model


@program()
def transposed_norms(place):
    """Batch norm and shuffles of transposed pictures, dropout after each."""
    batch, size = place.size((16, 48), (4, 4))
    norm = place.module(nn.BatchNorm2d(16))
    conv = place.module(nn.Conv2d(16, 16, 3, padding=1), {"": "colwise"})
    model = nn.ModuleDict({"norm": norm, "conv": conv})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x = place.batch(torch.randn(batch, 16, size, size))
    chosen = torch.arange(0, size, 2)

    def step():
        optimizer.zero_grad()
        h = F.dropout(model["norm"](x.transpose(2, 3)), 0.2)
        h = F.dropout(
            F.channel_shuffle(model["conv"](h).transpose(2, 3), 4), 0.2
        )
        h = h.to(memory_format=torch.channels_last)
        h = F.dropout(F.channel_shuffle(h, 2), 0.2)
        h = F.dropout(h.permute(0, 2, 3, 1)[:, chosen], 0.2)
        loss = h.square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return step, model


@program()
def flex_attention(place):
    """FlexAttention in eager, with a score of one's own."""
    from torch.nn.attention.flex_attention import flex_attention as flex

    batch, length, width = place.size((8, 64, 128), (4, 16, 32))
    model = nn.ModuleDict(
        {name: nn.Linear(width, width) for name in ("q", "k", "v")}
    )
    place.module(model, {"[qkv]": "colwise"})
    x = place.batch(torch.randn(batch, length, width))

    def nearer(score, b, h, i, j):
        return score - 0.1 * (i - j).abs()

    @torch.no_grad()  # on CPUs it has no backward
    def step():
        q, k, v = (
            f(x).unflatten(-1, (4, -1)).transpose(1, 2) for f in model.values()
        )
        return flex(q, k, v, score_mod=nearer)

    return step, model


@program(modes=("data",))  # a file of TorchScript holds no layouts
def scripted_module(place):
    """A TorchScript module, loaded where the program runs."""
    width, batch = place.size((512, 256), (8, 6))
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(mlp(width)), file)
    file.seek(0)
    model = torch.jit.load(file, map_location=place.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x, y = place.batch(torch.randn(batch, 64), torch.randint(10, (batch,)))

    def step():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step, model


WORKER = """
import pickle, sys
import torch
device, x = pickle.load(sys.stdin.buffer)
pickle.dump((x * 2).cpu(), sys.stdout.buffer)
"""


@program()
def spawned_worker(place):
    """A process that gets a device and a tensor before it knows of the mesh."""
    width, batch = place.size((512, 256), (8, 6))
    model, x, y, descend = trained(place, width, batch)
    message = pickle.dumps((torch.device(place.device), x))
    answer = subprocess.run(
        [sys.executable, "-c", WORKER], input=message, capture_output=True
    )
    if answer.returncode:
        raise RuntimeError(answer.stderr.decode().strip().splitlines()[-1])
    doubled = place.batch(pickle.loads(answer.stdout))

    def step():
        return descend(F.cross_entropy(model(doubled), y))

    return step, model


@program()
def threads_with_meshes(place):
    """Two threads that train at once, each on a mesh of its own."""
    width, batch = place.size((512, 256), (8, 6))
    trainings = []
    for devices in (2, 4):
        mesh = tm.Mesh({"data": devices}) if place.mesh else None
        model = mlp(width)
        x, y = torch.randn(batch, 64), torch.randint(10, (batch,))
        trainings.append((mesh, model, x, y))
        if mesh:
            with tm.use(mesh):
                model.to("mesh")
    losses = [None, None]

    def train(number):
        mesh, model, x, y = trainings[number]
        if mesh:
            with tm.use(mesh):
                fresh = torch.ones(batch, 64, device="mesh")
                if tm.layout(fresh).mesh != mesh:
                    raise RuntimeError("the mesh of another thread")
                x = tm.distribute(x, mesh, ("S0",)) * fresh
                y = tm.distribute(y, mesh, ("S0",))
        model.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(parameter.grad, alpha=0.05)
        losses[number] = loss.detach().cpu()

    def step():
        losses[:] = [None, None]
        threads = [threading.Thread(target=train, args=(n,)) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return losses[0], losses[1]

    return step, nn.ModuleList(model for _, model, _, _ in trainings)


@program()
def batch_size_finder(place):
    """A batch that no memory holds is refused when it is made; then half."""
    width, batch = place.size((512, 256), (8, 6))
    model, x, y, descend = trained(place, width, batch)

    def step():
        rows, tries = 10**15, 0
        while rows > batch:
            try:
                torch.empty(rows, 64, device=place.device)
                raise RuntimeError("a petabyte was made")
            except (RuntimeError, MemoryError) as error:
                if "petabyte" in str(error):
                    raise
                tries += 1
                rows = batch
        return descend(F.cross_entropy(model(x), y)), tries

    return step, model


@program()
def device_indices(place):
    """The index 0 by every road; another index is refused by every road."""
    width, batch = place.size((512, 256), (8, 6))
    model, x, y, descend = trained(place, width, batch)
    first, other = f"{place.device}:0", "mesh:3"
    spare = nn.Linear(2, 2)

    def refused(f):
        if not place.mesh:
            return True
        try:
            f()
        except (RuntimeError, ValueError):
            return True
        return False

    def step():
        model.to(first)
        here = torch.ones(batch, 64, device=first) * x.to(first)
        roads = [
            refused(lambda: torch.ones(2, device=other)),
            refused(lambda: x.to(other)),
            refused(lambda: spare.to(other)),
            refused(lambda: torch.tensor([1.0], device=other)),
        ]
        loss = descend(F.cross_entropy(model(here), y))
        return loss, torch.tensor(roads)

    return step, model
