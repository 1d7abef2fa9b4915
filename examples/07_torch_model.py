"""A model and a training loop of plain PyTorch, unchanged, on a mesh.

`build`, `train` and the optimizer know nothing of meshes. What is added is
where the parameters and the batches stand.

Run: python examples/07_torch_model.py
"""

import torch
from torch import nn

import torch_mesh as tm

LAYOUTS = {  # for a mesh data, model; what is not named is replicated
    "linear1.weight": ("R", "S0"),
    "linear1.bias": ("R", "S0"),
    "linear2.weight": ("R", "S1"),
}


def build():
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(
        d_model=16, nhead=4, dim_feedforward=32, dropout=0.0, batch_first=True
    )


def train(model, batches):
    """Returns the losses; the targets are the inputs, reversed in time."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for x in batches:
        loss = nn.functional.mse_loss(model(x), x.flip(1))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


def on_mesh(model, mesh):
    """Moves the parameters; they stay the same Parameter objects."""
    for name, parameter in model.named_parameters():
        parameter.data = tm.distribute(parameter.data, mesh, LAYOUTS.get(name))
    return model


def main():
    torch.manual_seed(1)
    batches = [torch.randn(6, 5, 16) for _ in range(10)]
    plain = train(build(), batches)

    mesh = tm.Mesh({"data": 2, "model": 2})
    model = on_mesh(build(), mesh)
    sharded = [tm.distribute(x, mesh, ("S0", "R")) for x in batches]
    with tm.counting() as counts:
        losses = train(model, sharded)

    print("one device ", *(f"{loss:.5f}" for loss in plain[::3]))
    print("2 x 2      ", *(f"{loss:.5f}" for loss in losses[::3]))
    agree = torch.allclose(torch.tensor(plain), torch.tensor(losses), rtol=1e-4)
    print("the losses agree to 1e-4:", agree)
    for name in LAYOUTS:
        parameter = model.get_parameter(name)
        shape = list(tm.shards(parameter)[0].shape)
        print(name, tm.layout(parameter), "a device holds", shape)
    print("collectives:", *sorted(counts.collectives))
    print("ops without a rule:", counts.replicated_ops or "none")


if __name__ == "__main__":
    main()
