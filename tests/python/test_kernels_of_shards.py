"""What torch's kernels do with shards that plain programs seldom have."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from placing import assert_close, assert_equal
from torch import nn

import torch_mesh as tm


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("gradient", ["R", "P+", "S0", "S1"])
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad"])
def test_fused_optimizers_take_gradients_in_any_layout(name, gradient, size):
    mesh = tm.Mesh({"data": size})
    kwargs = {"momentum": 0.9} if name == "SGD" else {}
    start = torch.randn(4, 6)
    plain = nn.Parameter(start.clone())
    split = tm.distribute(start, mesh, ("S1",)).requires_grad_()
    optimizers = [
        getattr(torch.optim, name)([p], lr=0.1, fused=True, **kwargs)
        for p in (plain, split)
    ]
    for _ in range(3):
        value = torch.randn(4, 6)
        plain.grad = value
        split.grad = tm.distribute(value, mesh, (gradient,))
        for optimizer in optimizers:
            optimizer.step()
    assert_close(split.detach(), plain.detach())


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
@pytest.mark.parametrize(
    "loss", [F.multi_margin_loss, F.multilabel_margin_loss]
)
def test_margin_losses_where_a_device_has_no_rows(loss, reduction):
    mesh = tm.Mesh({"data": 4})
    x = torch.randn(5, 3)
    multi = loss is F.multi_margin_loss
    target = torch.tensor([0, 1, 2, 0, 1])
    if not multi:
        target = torch.stack([target, target - 1, target * 0 - 1], 1)
    for _ in range(10):  # what is not written is what was there before
        result = loss(
            tm.distribute(x, mesh, ("S0",)),
            tm.distribute(target, mesh, ("S0",)),
            reduction=reduction,
        )
        assert_close(result, loss(x, target, reduction=reduction))
        torch.full((64,), 1e30)


def test_products_where_a_device_has_nothing():
    mesh = tm.Mesh({"data": 8})
    result = torch.addmv(
        tm.distribute(torch.ones(1), mesh),
        tm.distribute(torch.ones(5, 10), mesh, ("S0",)),
        tm.distribute(torch.ones(10), mesh),
    )
    assert_equal(result, torch.full((5,), 11.0))
    batch = tm.distribute(torch.ones(5, 2, 2).long(), mesh, ("S0",))
    bias = tm.distribute(torch.ones(2, 2).long(), mesh)
    result = torch.addbmm(bias, batch, batch, beta=0.6, alpha=0.2)
    plain = torch.ones(5, 2, 2).long()
    expected = torch.addbmm(plain[0], plain, plain, beta=0.6, alpha=0.2)
    assert_equal(result, expected)


@pytest.mark.parametrize(
    "placements",
    [(("S0", "R"), ("R", "S2")), (("R", "R"), ("S0", "S0"))],
    ids=str,
)
def test_convolution_where_two_axes_leave_no_channels(placements):
    # 7 over 2 are 4 and 3; 4 over 3 are 2, 2 and none.
    mesh = tm.Mesh({"a": 2, "b": 3})
    x, w = torch.randn(1, 5, 6), torch.randn(7, 5, 2)
    result = F.conv1d(
        tm.distribute(x, mesh, placements[0]),
        tm.distribute(w, mesh, placements[1]),
    )
    assert_close(result, F.conv1d(x, w))


def test_convolution_without_input_channels():
    mesh = tm.Mesh({"data": 2})
    x, w = torch.randn(2, 0, 3), torch.randn(1, 0, 2)
    result = F.conv1d(tm.distribute(x, mesh, ("S0",)), tm.distribute(w, mesh))
    assert_equal(result, F.conv1d(x, w))


@pytest.mark.parametrize("num_images", [2, 3, 4])
def test_a_kernel_of_one_channel_where_a_device_has_one_image(num_images):
    mesh = tm.Mesh({"data": 4})
    # As Keras has them: images and kernels pixel by pixel.
    x = torch.randn(num_images, 12, 12, 3)
    w = torch.randn(3, 3, 3, 1)
    gradients = []
    for on_mesh in (False, True):
        images = tm.distribute(x, mesh, ("S0",)) if on_mesh else x.clone()
        kernel = tm.distribute(w, mesh) if on_mesh else w.clone()
        images.requires_grad_()
        kernel.requires_grad_()
        y = F.conv2d(images.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1))
        y.square().sum().backward()
        gradients.append((images.grad, kernel.grad))
    for expected, actual in zip(*gradients, strict=True):
        assert_close(actual, expected, rtol=1e-4, atol=1e-3)


def test_strides_where_each_device_has_one_channel():
    mesh = tm.Mesh({"data": 4})
    x = torch.randn(2, 4, 6, 6).contiguous(memory_format=torch.channels_last)
    w = torch.randn(4, 4, 3, 3)
    image = tm.distribute(x, mesh, ("R",))
    split = tm.distribute(x, mesh, ("S1",))
    kernel = tm.distribute(w, mesh, ("S0",))
    assert F.conv2d(image, kernel).stride() == F.conv2d(x, w).stride()
    assert (split // 2).stride() == (x // 2).stride()
    assert split.cpu().stride() == tm.full(split).stride() == x.stride()


@pytest.mark.parametrize(
    "write",
    [
        lambda x: x.cumsum_(1),
        lambda x: x.normal_(),
        lambda x: x.eq_(1),
        lambda x: x.index_add_(0, torch.tensor([0]), torch.ones(1, 7)),
        lambda x: x.scatter_(0, torch.zeros(1, 7).long(), 1.0),
    ],
)
def test_overlaps_that_no_shard_shows(write):
    base = torch.ones(7)
    x = tm.distribute(base, tm.Mesh({"data": 8}), ("S0",))
    for tensor in (base, x):
        with pytest.raises(RuntimeError, match="more than one element"):
            write(tensor.expand(2, 7))


def test_kaiser_windows():
    with tm.use(tm.Mesh({"data": 2})):
        for args in ((5,), (5, False), (6, True, 8.0)):
            result = torch.kaiser_window(*args, device="mesh")
            assert tm.is_global(result)
            assert_equal(result, torch.kaiser_window(*args))


LIKES = [
    torch.empty_like,
    torch.zeros_like,
    torch.ones_like,
    torch.rand_like,
    torch.randn_like,
    lambda x, **device: torch.full_like(x, 3, **device),
    lambda x, **device: torch.randint_like(x, 5, **device),
    lambda x, **device: x.new_empty((2,), **device),
    lambda x, **device: x.new_zeros((2,), **device),
    lambda x, **device: x.new_ones((2,), **device),
    lambda x, **device: x.new_full((2,), 3, **device),
    lambda x, **device: x.new_empty_strided((2, 2), (1, 2), **device),
]


@pytest.mark.parametrize("like", LIKES)
def test_likes_go_where_they_are_asked_for(like):
    plain = torch.ones(4, 3).t()
    x = tm.distribute(plain, tm.Mesh({"data": 2}), ("S0",))
    for device in ("cpu", "meta"):
        made, expected = like(x, device=device), like(plain, device=device)
        assert made.device.type == device
        assert made.dtype == expected.dtype
        assert (made.size(), made.stride()) == (
            expected.size(),
            expected.stride(),
        )
    assert like(x).device.type == "mesh"
    assert like(x, device="mesh").device.type == "mesh"


def test_tensors_that_have_no_shards_are_refused():
    mesh = tm.Mesh({"data": 2})
    sparse = torch.ones(2, 2).to_sparse()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates them
        packed = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    for make in (
        lambda t: tm.distribute(t, mesh, ("S0",)),
        lambda t: tm.borrow(t, mesh, ("S0",)),
        lambda t: tm.from_shards([t, t], mesh, ("S0",)),
    ):
        with pytest.raises(NotImplementedError, match=r"\[no(t)?-s"):
            make(sparse)
        with pytest.raises(NotImplementedError, match=r"\[no-quantized\]"):
            make(packed)


def test_a_tensor_that_grows_has_memory_on_each_device(separate_memories):
    x = tm.distribute(torch.zeros(4), tm.Mesh({"apart": 2}), ("S0",))
    x.resize_(6)
    x.zero_()
    x.add_(1)
    assert_equal(x, torch.ones(6))


def test_sizes_that_cannot_be_counted():
    with pytest.raises(RuntimeError, match="overflow"):
        torch.empty(2**61, device="mesh")
    with pytest.raises(ValueError, match="block-range"):
        tm._C.read_block(torch.ones(3, device="mesh"), 2**63 - 1, 1)
    with pytest.raises(RuntimeError, match=r"\[out-of-memory\]"):
        torch.empty(2**58, device="mesh")
    first = torch.empty(2**20, device="mesh")
    second = torch.empty(2**20, device="mesh")
    addresses = [
        t.untyped_storage().data_ptr() % 2**64 for t in (first, second)
    ]
    assert 2**63 <= addresses[0] < addresses[1]


def test_a_storage_is_not_resized_by_itself():
    storage = torch.ones(4, device="mesh").untyped_storage()
    with pytest.raises(RuntimeError, match="storage-resize"):
        storage.resize_(0)
