"""Places tensors on a mesh, computes with them and moves them.

A layout has a placement for each mesh axis: `R` replicates, `S0` shards dim 0,
`P+` is a sum over the devices that is still to be formed.

Run: python examples/05_tensors.py
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import torch

import torch_mesh as tm


def main():
    torch.manual_seed(0)
    mesh = tm.Mesh({"data": 2, "model": 2})
    x = tm.distribute(torch.randn(5, 8), mesh, ("S0", "R"))
    print(tm.visualize(x))  # 5 rows do not divide: 3 and 2

    w = tm.distribute(torch.randn(8, 6), mesh, ("R", "S1"))
    print("x @ w          ", tm.layout(x @ w))
    print("(x @ w).sum(0) ", tm.layout((x @ w).sum(0)))
    print("x[1:4].relu()  ", tm.layout(x[1:4].relu()))

    # A contraction over a sharded dim leaves a sum to be formed.
    a = tm.distribute(torch.ones(4, 8), mesh, ("R", "S1"))
    b = tm.distribute(torch.ones(8, 4), mesh, ("R", "S0"))
    y = a @ b
    print("a @ b          ", tm.layout(y))
    with tm.counting() as counts:
        y = tm.redistribute(y, ("R", "R"))
    print("redistributed  ", tm.layout(y), counts.collectives)
    print("value          ", tm.full(y)[0].tolist())

    # Gradients arrive where the value came from.
    leaf = torch.randn(5, 8, requires_grad=True)
    tm.distribute(leaf, mesh, ("S0", "S1")).square().sum().backward()
    print("gradient is 2x:", torch.equal(leaf.grad, 2 * leaf.detach()))

    # Shards in, shards out.
    parts = [torch.full((2, 2), float(i)) for i in range(4)]
    z = tm.from_shards(parts, mesh, ("S0", "S1"))
    print("from four shards:", list(z.shape), tm.layout(z))
    softmax = tm.map_shards(lambda t: t.softmax(1), x, out=("S0", "R"))
    print(
        "map_shards:", torch.allclose(tm.full(softmax), tm.full(x.softmax(1)))
    )

    # The same in Keras's words: axis names by tensor dim.
    keras_mesh = keras.distribution.DeviceMesh(
        (2, 2), ["data", "model"], mesh.devices
    )
    layout = keras.distribution.TensorLayout([None, "model"], keras_mesh)
    k = keras.distribution.distribute_tensor(torch.ones(5, 8), layout)
    print("Keras's (None, model) is", tm.layout(k))


if __name__ == "__main__":
    main()
