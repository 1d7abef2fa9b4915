"""Batches of which processes hold other numbers of rows: one program still."""

import pytest
from spawn import PLAIN, PLAIN_START, check


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_the_gradient_of_a_recurrent_input_lies_alike_everywhere(rows):
    """A part of one row does not show where rows lie; others would."""
    outputs = check(
        f"""
        torch.manual_seed(0)
        value = torch.randn({rows}, 7, 4)
        for kind in (nn.GRU, nn.LSTM, nn.RNN):
            plain = kind(4, 6, batch_first=True)
            expected = value.clone().requires_grad_()
            plain(expected)[0].square().sum().backward()
            model = kind(4, 6, batch_first=True)
            model.load_state_dict(plain.state_dict())
            with tm.use(mesh, batch="data"):
                model = model.to("mesh")
                x = value.to("mesh").requires_grad_()
                (found,) = torch.autograd.grad(model(x)[0].square().sum(), x)
                print(found.stride())
                model(x)[0].square().sum().backward()
                torch.testing.assert_close(x.grad.cpu(), expected.grad)
                torch.testing.assert_close(found.cpu(), expected.grad)
        """,
        preamble=PLAIN,
        start=PLAIN_START
        + """
from torch import nn

mesh = tm.Mesh({"data": 2})
""",
        environment=lambda i: {"TORCH_MESH_CPU_DEVICES": "1"},
    )
    assert outputs[0] == outputs[1] and outputs[0].count("(") == 3, outputs


def test_a_quotient_keeps_the_order_of_dims_where_one_has_a_column():
    outputs = check(
        """
        plain = torch.arange(1, 19, dtype=torch.int8).view(3, 6).t()
        for placement in ("S0", "S1"):
            x = tm.distribute(plain, mesh, (placement,))
            found = torch.floor_divide(x, x - 3 * (x > 9))
            print(found.stride())
            expected = torch.floor_divide(plain, plain - 3 * (plain > 9))
            torch.testing.assert_close(found.cpu(), expected)
        """,
        preamble=PLAIN,
        start=PLAIN_START + 'mesh = tm.Mesh({"data": 2})\n',
        environment=lambda i: {"TORCH_MESH_CPU_DEVICES": "1"},
    )
    assert outputs == ["(1, 6)\n(1, 6)\n"] * 2, outputs
