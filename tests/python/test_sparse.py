"""Plain sparse tensors beside global ones; gradients that would be sparse."""

import os
import subprocess
import sys

import pytest
import torch
from placing import assert_close, assert_equal, mesh_of

import torch_mesh as tm

LAYOUTS = [
    *(("2", (p,)) for p in ("R", "S0", "S1")),
    ("3", ("S0",)),
    ("2x2", ("S0", "S1")),
]


def graph(kind):
    """A sparse matrix [5, 7] with an entry that stands twice."""
    places = torch.tensor([[0, 1, 1, 4, 4, 4], [3, 0, 6, 2, 2, 6]])
    numbers = torch.tensor([1.0, 2, -1, 0.5, 3, 1])
    coo = torch.sparse_coo_tensor(places, numbers, (5, 7))
    return coo if kind == "coo" else coo.coalesce().to_sparse_csr()


PRODUCTS = {
    "sparse.mm": lambda a, x: torch.sparse.mm(a, x),
    "@": lambda a, x: a @ x,
    "mm": lambda a, x: torch.mm(a, x),
    "vector": lambda a, x: a @ x[:, 1],
    "addmm": lambda a, x: torch.sparse.addmm(x[:5], a, x, beta=2, alpha=3),
    "dense first": lambda a, x: x[:5].t() @ a,
    "transposed": lambda a, x: a.t() @ x[:5],
}


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("mesh_name, placements", LAYOUTS)
@pytest.mark.parametrize("kind", ["coo", "csr"])
@pytest.mark.parametrize("name", PRODUCTS)
def test_a_sparse_matrix_multiplies_a_global_tensor(
    name, kind, mesh_name, placements
):
    value = torch.randn(7, 4)
    results = []
    for x in (
        value.clone(),
        tm.distribute(value, mesh_of(mesh_name), placements),
    ):
        x.requires_grad_()
        y = PRODUCTS[name](graph(kind), x)
        (y**2).sum().backward()
        results.append((y, x.grad))
    (expected, gradient), (actual, actual_gradient) = results
    assert tm.is_global(actual)
    assert_close(actual, expected.detach())
    assert_close(actual_gradient, gradient)


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_columns_of_a_cut_matrix_move_nothing():
    x = tm.distribute(torch.randn(7, 4), tm.Mesh({"data": 2}), ("S1",))
    with tm.counting() as counts:
        y = graph("csr") @ x
    assert counts.collectives == {}
    assert str(tm.layout(y)) == "(S1)"


def test_sizes_that_do_not_fit_are_plain_torchs_error():
    x = tm.distribute(torch.randn(6, 4), tm.Mesh({"data": 2}), ("S0",))
    with pytest.raises(RuntimeError) as expected:
        graph("coo") @ torch.randn(6, 4)
    with pytest.raises(RuntimeError) as raised:
        graph("coo") @ x
    assert str(expected.value) in str(raised.value)


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("kind", ["coo", "csr"])
def test_a_sparse_tensor_does_not_move_to_the_mesh_and_says_what_to_do(kind):
    with (
        tm.use(tm.Mesh({"data": 2})),
        pytest.raises(
            NotImplementedError, match="leave a sparse matrix a plain"
        ),
    ):
        graph(kind).to("mesh")


LAYERS = {
    "embedding": lambda sparse: torch.nn.Embedding(10, 4, sparse=sparse),
    "padded": lambda sparse: torch.nn.Embedding(
        10, 4, padding_idx=3, sparse=sparse
    ),
    "bag": lambda sparse: torch.nn.EmbeddingBag(
        10, 4, mode="sum", sparse=sparse
    ),
    "mean": lambda sparse: torch.nn.EmbeddingBag(
        10, 4, mode="mean", sparse=sparse
    ),
}


@pytest.mark.parametrize("cut", ["R", "S0"])
@pytest.mark.parametrize("name", LAYERS)
def test_the_gradient_of_a_sparse_embedding_is_dense(name, cut):
    mesh = tm.Mesh({"data": 2})
    numbers = torch.tensor([[1, 3], [3, 5], [9, 0], [1, 1]])
    torch.manual_seed(0)
    plain = LAYERS[name](sparse=True)
    torch.manual_seed(0)
    layer = LAYERS[name](sparse=True)
    with tm.use(mesh):
        layer.to("mesh")
    (plain(numbers) ** 2).sum().backward()
    (layer(tm.distribute(numbers, mesh, (cut,))) ** 2).sum().backward()
    assert layer.weight.grad.layout == torch.strided
    assert_close(layer.weight.grad, plain.weight.grad.to_dense())


PROGRAM = """
import torch, torch_mesh as tm
mesh = tm.Mesh({"data": 2})
weight = tm.distribute(torch.ones(4, 2), mesh).requires_grad_()
numbers = tm.distribute(torch.tensor([1, 2]), mesh)
for _ in range(3):
    rows = torch.nn.functional.embedding(numbers, weight, sparse=True)
    rows.sum().backward()
"""


def test_that_the_gradient_is_dense_is_said_once():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "TORCH_MESH_LOG": "info"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.count("on the mesh the gradient is dense") == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_quantized_module_takes_global_inputs():
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
    quantized = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear})
    x = torch.randn(6, 4)
    y = quantized(tm.distribute(x, tm.Mesh({"data": 2}), ("S0",)))
    assert_equal(y, quantized(x))
