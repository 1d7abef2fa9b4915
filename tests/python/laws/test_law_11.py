"""Law 11: order."""

import threading

import pytest
import torch
from placing import (
    SMALL,
    assert_close,
    assert_equal,
    every_layout,
    mesh_of,
    place,
)

import torch_mesh as tm


def test_law_11_threads_get_right_results(mesh):
    value = torch.randn(12, 12)
    layouts = [("S0", "R"), ("R", "S1"), ("S0", "S1"), ("P+", "R")]
    errors = []

    def work(number):
        try:
            placements = layouts[number % len(layouts)]
            for _ in range(30):
                x = place(value, mesh, placements).requires_grad_()
                (x @ x).relu().sum().backward()
                plain = value.clone().requires_grad_()
                (plain @ plain).relu().sum().backward()
                assert_close(x.grad, plain.grad)
                x.data[1:].mul_(number)
                assert_equal(x.detach()[1:], value[1:] * number)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert not any(thread.is_alive() for thread in threads)


def test_law_11_threads_may_reduce_one_partial_together(separate_memories):
    mesh = tm.Mesh({"data": 3})
    value = torch.randn(64)

    def read(x, results):
        results.append(tm.full(x.exp()))

    for _ in range(10):
        x = place(value, mesh, ("P+",))
        results = []
        threads = [
            threading.Thread(target=read, args=(x, results)) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(results) == 4
        for result in results:
            assert_close(result, value.exp())


@pytest.fixture(scope="module")
def python_op():
    """An op of torch.library whose kernel is Python."""

    @torch.library.custom_op("mesh_laws::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    twice.register_fake(lambda x: torch.empty_like(x))
    twice.register_autograd(lambda ctx, grad: grad * 2)
    return twice


@every_layout(2, SMALL)
def test_law_11_an_op_with_a_python_kernel_runs(
    mesh_name, placements, python_op
):
    value = torch.randn(7, 5)
    x = place(value, mesh_of(mesh_name), placements).requires_grad_()
    y = python_op(x)
    assert_equal(y.detach(), value * 2)
    y.sum().backward()
    assert_equal(x.grad, torch.full((7, 5), 2.0))


def test_law_11_an_op_of_ones_own_shards_by_its_rule(mesh, python_op):
    tm.register_rule("mesh_laws::twice", "a b -> a b")
    x = tm.distribute(torch.randn(8, 4), mesh, ("S0", "S1"))
    with tm.counting() as counts:
        y = python_op(x)
    assert tm.layout(y).placements == ("S0", "S1")
    assert counts.collectives == {}
    assert counts.replicated_ops == {}
