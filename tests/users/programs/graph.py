"""Nets on graphs: constant sparse matrices, messages by index, attention."""

import torch
import torch.nn.functional as F
from torch import nn

from ..registry import program


def random_graph(nodes, edges):
    """Sources and targets of edges, a loop at each node among them."""
    loops = torch.arange(nodes)
    return (
        torch.cat((torch.randint(nodes, (edges,)), loops)),
        torch.cat((torch.randint(nodes, (edges,)), loops)),
    )


def of_nodes(place, model, layouts, scores, nodes, width, lr=0.05):
    """A classifier of nodes; `scores` takes the features of all of them."""
    place.module(model, layouts)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    x, y = place.batch(torch.randn(nodes, width), torch.randint(5, (nodes,)))
    known = place.whole(torch.arange(0, nodes, 3))

    def step():
        optimizer.zero_grad()
        found = scores(x)
        loss = F.cross_entropy(found[known], y[known])
        loss.backward()
        optimizer.step()
        return loss, (found.argmax(1) == y).sum()

    return step, model


@program()
def gcn_sparse(place):
    """GCN of PyTorch's examples: a constant sparse adjacency."""
    nodes, edges, width = place.size((2000, 12000, 256), (9, 20, 8))
    source, target = random_graph(nodes, edges)
    degree = torch.zeros(nodes).index_add_(0, target, torch.ones(len(target)))
    values = (degree[source] * degree[target]).rsqrt()
    index = torch.stack((target, source))
    a = torch.sparse_coo_tensor(
        index, values, (nodes, nodes), check_invariants=True
    ).coalesce()
    model = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, 5)])

    def scores(x):
        h = F.relu(torch.sparse.mm(a, model[0](x)))
        return torch.sparse.mm(a, model[1](F.dropout(h, 0.5)))

    layouts = {"0": "colwise", "1": "rowwise"}
    return of_nodes(place, model, layouts, scores, nodes, width)


class DenseGat(nn.Module):
    """Graph attention over a dense mask, as in PyTorch's examples."""

    def __init__(self, inputs, outputs, heads):
        super().__init__()
        self.heads = heads
        self.linear = nn.Linear(inputs, heads * outputs, bias=False)
        self.left = nn.Parameter(0.1 * torch.randn(heads, outputs, 1))
        self.right = nn.Parameter(0.1 * torch.randn(heads, outputs, 1))

    def forward(self, x, mask):
        h = self.linear(x).view(len(x), self.heads, -1).transpose(0, 1)
        e = F.leaky_relu(h @ self.left + (h @ self.right).mT, 0.2)
        weights = e.masked_fill(~mask, -1e4).softmax(-1)
        weights = F.dropout(weights, 0.3, self.training)
        return (weights @ h).transpose(0, 1).flatten(1)


@program()
def gat_dense(place):
    """Graph attention by a mask over all pairs."""
    nodes, edges, width = place.size((400, 3000, 64), (9, 20, 8))
    source, target = random_graph(nodes, edges)
    mask = torch.zeros(nodes, nodes, dtype=torch.bool)
    mask[target, source] = True
    mask = place.batch(mask)
    model = nn.ModuleList(
        [DenseGat(width, width // 4, 4), DenseGat(width, 5, 1)]
    )

    def scores(x):
        return model[1](F.elu(model[0](x, mask)), mask)

    layouts = {"0.linear": "colwise"}
    return of_nodes(place, model, layouts, scores, nodes, width)


class Messages(nn.Module):
    """Message passing as PyG does it: gather, compute, `index_add_`."""

    def __init__(self, width):
        super().__init__()
        self.message = nn.Linear(2 * width, width)
        self.update = nn.Linear(2 * width, width)

    def forward(self, x, source, target):
        pairs = torch.cat((x[source], x[target]), -1)
        messages = F.silu(self.message(pairs))
        sums = torch.zeros_like(x).index_add_(0, target, messages)
        return x + F.silu(self.update(torch.cat((x, sums), -1)))


@program()
def message_passing(place):
    """Messages along edges, then a sum for each graph of the batch."""
    nodes, edges, width = place.size((1500, 6000, 64), (9, 20, 8))
    source, target = random_graph(nodes, edges)
    graphs = place.size(32, 3)
    of_graph = torch.arange(nodes) * graphs // nodes
    source, target, of_graph = place.batch(source, target, of_graph)
    model = nn.ModuleDict(
        {
            "first": Messages(width),
            "second": Messages(width),
            "out": nn.Linear(width, 1),
        }
    )
    place.module(model, {"*.update": "colwise"})
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    x = place.batch(torch.randn(nodes, width))
    y = place.whole(torch.randn(graphs))

    def step():
        optimizer.zero_grad()
        h = model["first"](x, source, target)
        h = model["out"](model["second"](h, source, target)).squeeze(-1)
        index = of_graph
        energy = torch.zeros(graphs, dtype=h.dtype, device=h.device)
        energy = energy.scatter_add_(0, index, h)
        loss = F.mse_loss(energy, y)
        loss.backward()
        optimizer.step()
        return loss, energy

    return step, model


@program()
def graph_attention_edges(place):
    """GAT over a list of edges: a softmax by `scatter_reduce` and sums."""
    nodes, edges, width = place.size((1500, 6000, 128), (9, 20, 8))
    source, target = place.batch(*random_graph(nodes, edges))
    model = nn.ModuleDict(
        {
            "linear": nn.Linear(width, width, bias=False),
            "left": nn.Linear(width, 1),
            "right": nn.Linear(width, 1, bias=False),
            "out": nn.Linear(width, 5),
        }
    )

    def scores(x):
        h = model["linear"](x)
        e = (model["left"](h)[target] + model["right"](h)[source]).squeeze(-1)
        e = F.leaky_relu(e, 0.2)
        zeros = torch.zeros(nodes, dtype=h.dtype, device=h.device)
        top = zeros.scatter_reduce(
            0, target, e.detach(), "amax", include_self=False
        )
        weights = (e - top[target]).exp()
        total = zeros.scatter_add(0, target, weights)
        weights = weights / total[target]
        mixed = torch.zeros_like(h).index_add(
            0, target, h[source] * weights[:, None]
        )
        return model["out"](F.elu(mixed))

    layouts = {"linear": "colwise", "out": "rowwise"}
    return of_nodes(place, model, layouts, scores, nodes, width)


@program()
def graph_sage(place):
    """Sampled neighbours, means by `bincount` and `scatter_add_`."""
    nodes, edges, width = place.size((2000, 8000, 128), (9, 20, 8))
    source, target = place.batch(*random_graph(nodes, edges))
    model = nn.ModuleDict(
        {
            "own": nn.Linear(width, width),
            "others": nn.Linear(width, width, bias=False),
            "out": nn.Linear(width, 5),
        }
    )

    def scores(x):
        degree = torch.bincount(target, minlength=nodes).clamp_min(1)
        rows = target[:, None].expand(-1, width)
        sums = torch.zeros_like(x).scatter_add_(0, rows, x[source])
        mean = sums / degree[:, None].to(x.dtype)
        h = F.relu(model["own"](x) + model["others"](mean))
        return model["out"](F.normalize(h, dim=-1))

    layouts = {"own": "colwise", "others": "colwise", "out": "rowwise"}
    return of_nodes(place, model, layouts, scores, nodes, width)


@program()
def recommender(place):
    """Two towers of embeddings; a softmax over the others of the batch."""
    users, items, width, batch = place.size(
        (5000, 2000, 256, 512), (12, 10, 8, 6)
    )
    model = nn.ModuleDict(
        {
            "buyers": nn.Embedding(users, width),
            "goods": nn.Embedding(items, width),
            "fc1": nn.Linear(width, 2 * width),
            "fc2": nn.Linear(2 * width, width),
        }
    )
    place.module(
        model,
        {"buyers": "rows", "goods": "rows", "fc1": "colwise", "fc2": "rowwise"},
    )
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.05, eps=1e-2)
    u, i = place.batch(
        torch.randint(users, (batch,)), torch.randint(items, (batch,))
    )
    answers = place.whole(torch.arange(batch))

    def step():
        optimizer.zero_grad()
        a = model["fc2"](F.gelu(model["fc1"](model["buyers"](u))))
        b = model["goods"](i)
        scores = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / 0.1
        loss = F.cross_entropy(scores, answers)
        loss.backward()
        optimizer.step()
        return loss, torch.topk(scores, 3).values

    return step, model
