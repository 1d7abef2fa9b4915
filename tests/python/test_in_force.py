"""The mesh in force: for the process, and for a thread."""

import contextlib
import threading

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import torch_mesh as tm


def mesh_of_new():
    """The mesh that a new tensor takes, None for none."""
    mesh = tm.layout(torch.ones(2, device="mesh")).mesh
    return mesh if mesh.axis_names else None


def in_thread(function):
    """What `function` gives in a thread of its own."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def test_a_statement_sets_it_for_all_threads(mesh):
    tm.use(mesh)
    assert mesh_of_new() == mesh
    assert in_thread(mesh_of_new) == mesh


def test_a_block_sets_it_for_its_thread_alone(mesh, line):
    tm.use(line)
    with tm.use(mesh):
        assert mesh_of_new() == mesh
        assert in_thread(mesh_of_new) == line
    assert mesh_of_new() == line


def test_blocks_of_two_threads_do_not_meet(mesh, line):
    entered, left = threading.Barrier(2), threading.Barrier(2)
    seen = {}

    def work(name, own):
        with tm.use(own):
            entered.wait(10)
            seen[name] = mesh_of_new()
            left.wait(10)
        seen[name, "after"] = mesh_of_new()

    threads = [
        threading.Thread(target=work, args=args)
        for args in (("a", mesh), ("b", line))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {
        "a": mesh,
        "b": line,
        ("a", "after"): None,
        ("b", "after"): None,
    }
    assert tm.current_mesh() is None


def test_no_other_thread_sees_a_block_that_is_about_to_begin(mesh):
    done = threading.Event()
    seen = set()

    def watch():
        while not done.is_set():
            seen.add(tm.current_mesh())

    thread = threading.Thread(target=watch)
    thread.start()
    for _ in range(3000):
        with tm.use(mesh):
            pass
    done.set()
    thread.join()
    assert seen == {None}


def test_blocks_nest_and_end_with_an_error(mesh, line):
    with tm.use(mesh):
        with contextlib.suppress(KeyError), tm.use(line):
            assert tm.current_mesh() == line
            raise KeyError
        assert tm.current_mesh() == mesh
        with tm.use(None):
            assert tm.current_mesh() is None
        assert tm.current_mesh() == mesh
    assert tm.current_mesh() is None


def test_a_statement_within_a_block_holds_after_it(mesh, line):
    with tm.use(mesh):
        tm.use(line)
        assert tm.current_mesh() == line
    assert tm.current_mesh() == line


def test_a_stack_of_contexts_leaves_nothing_behind(mesh, line):
    with contextlib.ExitStack() as stack:
        stack.enter_context(tm.use(mesh))
        stack.enter_context(tm.use(line))
        assert tm.current_mesh() == line
        assert in_thread(tm.current_mesh) is None
    assert tm.current_mesh() is None


def test_settings_that_become_blocks_in_another_order_leave_nothing(mesh, line):
    first, second = tm.use(mesh), tm.use(line)
    with first:
        assert tm.current_mesh() == mesh
        with second:
            assert tm.current_mesh() == line
    assert tm.current_mesh() is None


@pytest.mark.parametrize("is_on_autograds_thread", [False, True])
def test_the_backward_pass_sees_the_block(mesh, line, is_on_autograds_thread):
    class Make(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            seen.append((tm.current_mesh(), threading.get_ident()))
            return grad

    def work():
        with tm.use(mesh):
            x = torch.ones(4, device="mesh", requires_grad=True)
            loss = Make.apply(x).sum()
            with torch.autograd.set_multithreading_enabled(
                is_on_autograds_thread
            ):
                loss.backward()
        return threading.get_ident()

    tm.use(line)
    seen = []
    own = in_thread(work)
    assert [m for m, _ in seen] == [mesh]
    assert (seen[0][1] != own) == is_on_autograds_thread


def test_recomputed_checkpoints_see_the_block(mesh, line):
    def layer(x):
        mask = torch.ones(4, 4, device="mesh").tril()
        seen.append(tm.layout(mask).mesh)
        return (x @ mask).relu()

    tm.use(line)
    seen = []
    with tm.use(mesh):
        x = torch.randn(3, 4).to("mesh").requires_grad_()
        checkpoint(layer, x, use_reentrant=False).sum().backward()
        checkpoint(layer, x, use_reentrant=True).sum().backward()
    assert seen == [mesh] * 4


def test_a_batch_needs_an_axis_of_the_mesh(mesh):
    with pytest.raises(ValueError, match="unknown-axis"):
        tm.use(mesh, batch="rows")
    with pytest.raises(ValueError, match="unknown-axis"):
        tm.use(None, batch="data")
    assert tm.current_mesh() is None
