"""Nets of the kind that timm has: many small ops, attention, big kernels."""

import torch
import torch.nn.functional as F
from torch import nn

from ..registry import program


def classifier(place, model, layouts, batch, size, lr=2e-3, channels=3):
    """Step and weights of a classifier that SGD trains."""
    place.module(model, layouts)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    x, y = place.batch(
        torch.randn(batch, channels, size, size), torch.randint(10, (batch,))
    )

    def step():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step, model


def conv_bn(inputs, outputs, kernel, stride=1, groups=1, act=None):
    layers = [
        nn.Conv2d(
            inputs,
            outputs,
            kernel,
            stride,
            kernel // 2,
            groups=groups,
            bias=False,
        ),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([act()] if act else []))


class Shuffle(nn.Module):
    """A unit of ShuffleNet v2: half of the channels pass by."""

    def __init__(self, channels):
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            conv_bn(half, half, 1, act=nn.ReLU),
            conv_bn(half, half, 3, groups=half),
            conv_bn(half, half, 1, act=nn.ReLU),
        )

    def forward(self, x):
        a, b = x.chunk(2, dim=1)
        return F.channel_shuffle(torch.cat((a, self.branch(b)), 1), 2)


class ShuffleDown(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        half = outputs // 2
        self.left = nn.Sequential(
            conv_bn(inputs, inputs, 3, 2, groups=inputs),
            conv_bn(inputs, half, 1, act=nn.ReLU),
        )
        self.right = nn.Sequential(
            conv_bn(inputs, half, 1, act=nn.ReLU),
            conv_bn(half, half, 3, 2, groups=half),
            conv_bn(half, half, 1, act=nn.ReLU),
        )

    def forward(self, x):
        return F.channel_shuffle(torch.cat((self.left(x), self.right(x)), 1), 2)


@program()
def shufflenet(place):
    """ShuffleNet v2, at its own widths: many small convolutions and norms."""
    batch, size, repeats = place.size((16, 64, (4, 8, 4)), (8, 64, (1, 1, 1)))
    widths = place.size((24, 48, 96, 192, 1024), (8, 8, 16, 16, 32))
    layers = [conv_bn(3, widths[0], 3, 2, act=nn.ReLU), nn.MaxPool2d(3, 2, 1)]
    for stage, repeat in enumerate(repeats):
        layers.append(ShuffleDown(widths[stage], widths[stage + 1]))
        layers += [Shuffle(widths[stage + 1]) for _ in range(repeat - 1)]
    layers += [conv_bn(widths[3], widths[4], 1, act=nn.ReLU)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[4], 10)]
    model = nn.Sequential(*layers)
    last = len(layers) - 1
    layouts = {f"{last - 3}.0": "colwise", f"{last}": "rowwise"}
    return classifier(place, model, layouts, batch, size)


class SqueezeExcite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 4, 1)
        self.fc2 = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x):
        scale = F.adaptive_avg_pool2d(x, 1)
        return x * F.hardsigmoid(self.fc2(F.relu(self.fc1(scale))))


class Inverted(nn.Module):
    """An inverted residual of MobileNet v3."""

    def __init__(self, inputs, hidden, outputs, kernel, stride, se, act):
        super().__init__()
        self.skip = stride == 1 and inputs == outputs
        self.expand = conv_bn(inputs, hidden, 1, act=act)
        self.depth = conv_bn(hidden, hidden, kernel, stride, hidden, act=act)
        self.se = SqueezeExcite(hidden) if se else nn.Identity()
        self.project = conv_bn(hidden, outputs, 1)

    def forward(self, x):
        y = self.project(self.se(self.depth(self.expand(x))))
        return x + y if self.skip else y


@program()
def mobilenet_v3(place):
    """MobileNet v3 small: depthwise convolutions, squeeze and excite."""
    relu, swish = nn.ReLU, nn.Hardswish
    table = [
        (16, 16, 16, 3, 2, True, relu),
        (16, 72, 24, 3, 2, False, relu),
        (24, 88, 24, 3, 1, False, relu),
        (24, 96, 40, 5, 2, True, swish),
        (40, 240, 40, 5, 1, True, swish),
        (40, 240, 40, 5, 1, True, swish),
        (40, 120, 48, 5, 1, True, swish),
        (48, 144, 48, 5, 1, True, swish),
        (48, 288, 96, 5, 2, True, swish),
        (96, 576, 96, 5, 1, True, swish),
        (96, 576, 96, 5, 1, True, swish),
    ]
    batch, size = place.size((16, 96), (4, 32))
    if place.small:
        table = [table[0], table[1], table[3]]
    layers = [conv_bn(3, 16, 3, 2, act=swish)]
    layers += [Inverted(*row) for row in table]
    width = table[-1][2]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 256)]
    layers += [nn.Hardswish(), nn.Dropout(0.2), nn.Linear(256, 10)]
    model = nn.Sequential(*layers)
    last = len(layers) - 1
    layouts = {"*.se.fc1": "colwise", "*.se.fc2": "rowwise"}
    layouts |= {f"{last - 3}": "colwise", f"{last}": "rowwise"}
    return classifier(place, model, layouts, batch, size)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over channels, as ConvNeXt has it."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNextBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.depth = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(0.1 * torch.ones(width))

    def forward(self, x):
        y = self.norm(self.depth(x).permute(0, 2, 3, 1))
        y = self.gamma * self.fc2(F.gelu(self.fc1(y)))
        return x + y.permute(0, 3, 1, 2)


@program()
def convnext(place):
    """7 x 7 depthwise kernels, layer norm over channels, layer scale."""
    width, batch, size, depth = place.size((40, 16, 64, 2), (8, 4, 16, 1))
    layers = [nn.Conv2d(3, width, 4, 4), ChannelNorm(width)]
    for _ in range(2):
        layers += [ConvNextBlock(width) for _ in range(depth)]
        layers += [ChannelNorm(width), nn.Conv2d(width, 2 * width, 2, 2)]
        width *= 2
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(width)]
    model = nn.Sequential(*layers, nn.Linear(width, 10))
    layouts = {"*.fc1": "colwise", "*.fc2": "rowwise"}
    return classifier(place, model, layouts, batch, size)


class Attention(nn.Module):
    """Self-attention by torch's own kernel, RoPE where `angles` are given."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width)
        self.o = nn.Linear(width, width)

    def forward(self, x, angles=None):
        q, k, v = (
            f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for f in (self.q, self.k, self.v)
        )
        if angles is not None:
            q, k = rotated(q, *angles), rotated(k, *angles)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.o(y.transpose(1, 2).flatten(2))


def rotated(x, sin, cos):
    turned = torch.stack((-x[..., 1::2], x[..., ::2]), -1).reshape(x.shape)
    return x * cos + turned * sin


class VitBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Vit(nn.Module):
    def __init__(self, width, heads, depth, size, patch, block):
        super().__init__()
        number = (size // patch) ** 2
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.first = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, number + 1, width))
        self.blocks = nn.ModuleList(block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def tokens(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        first = self.first.expand(x.shape[0], -1, -1)
        return torch.cat((first, x), 1) + self.positions

    def forward(self, x):
        x = self.tokens(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


ATTENTION = {
    "*.q": "colwise",
    "*.k": "colwise",
    "*.v": "colwise",
    "*.o": "rowwise",
    "*.fc1": "colwise",
    "*.fc2": "rowwise",
}


@program()
def vision_transformer(place):
    """Patches, a class token, torch's attention kernel."""
    width, heads, depth, batch = place.size((128, 4, 4, 16), (16, 2, 1, 4))
    model = Vit(width, heads, depth, place.size(32, 8), 4, VitBlock)
    return classifier(place, model, ATTENTION, batch, place.size(32, 8))


class EvaBlock(nn.Module):
    """A block of EVA-02: rotary positions, SwiGLU with a norm inside."""

    def __init__(self, width, heads):
        super().__init__()
        hidden = width * 8 // 3 // 8 * 8
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.gate = nn.Linear(width, hidden)
        self.fc1 = nn.Linear(width, hidden)
        self.inner = nn.LayerNorm(hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x, angles):
        x = x + self.attention(self.norm1(x), angles)
        y = self.norm2(x)
        y = F.silu(self.gate(y)) * self.fc1(y)
        return x + self.fc2(self.inner(y))


class Eva(Vit):
    def __init__(self, width, heads, depth, size, patch):
        super().__init__(width, heads, depth, size, patch, EvaBlock)
        number = (size // patch) ** 2 + 1
        frequencies = 100 ** -torch.linspace(0, 1, width // heads // 2)
        angles = torch.outer(torch.arange(float(number)), frequencies)
        angles = angles.repeat_interleave(2, -1)
        self.register_buffer("sin", angles.sin())
        self.register_buffer("cos", angles.cos())

    def forward(self, x):
        x = self.tokens(x)
        for block in self.blocks:
            x = block(x, (self.sin, self.cos))
        return self.head(self.norm(x[:, 1:].mean(1)))


@program()
def eva02(place):
    """EVA-02: rotary positions and SwiGLU."""
    width, heads, depth, batch = place.size((192, 3, 4, 16), (16, 2, 1, 4))
    model = Eva(width, heads, depth, place.size(32, 8), 4)
    layouts = {**ATTENTION, "*.gate": "colwise"}
    if place.small is False:  # three heads do not divide: whole ones are cut
        layouts = {k: layouts[k] for k in ("*.gate", "*.fc1", "*.fc2")}
    return classifier(place, model, layouts, batch, place.size(32, 8))


class Mixer(nn.Module):
    def __init__(self, number, width):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(
            nn.Linear(number, 2 * number),
            nn.GELU(),
            nn.Linear(2 * number, number),
        )
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x):
        x = x + self.tokens(self.norm1(x).mT).mT
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


@program()
def mlp_mixer(place):
    """Dense layers over tokens and over channels in turn."""
    width, depth, batch = place.size((128, 4, 16), (16, 1, 4))
    model = nn.Sequential(
        nn.Conv2d(3, width, 4, 4),
        nn.Flatten(2),
        Transpose(),
        *(Mixer(64, width) for _ in range(depth)),
        nn.LayerNorm(width),
        nn.Flatten(),
        nn.Linear(64 * width, 10),
    )
    layouts = {"*.fc1": "colwise", "*.fc2": "rowwise"}
    return classifier(place, model, layouts, batch, 32, lr=0.005)


class Transpose(nn.Module):
    def forward(self, x):
        return x.mT


class DenseBlock(nn.Module):
    """A layer of DenseNet, recomputed in backward as its paper does."""

    def __init__(self, inputs, growth):
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(64)
        self.conv1 = nn.Conv2d(inputs, 64, 1, bias=False)
        self.conv2 = nn.Conv2d(64, growth, 3, padding=1, bias=False)

    def forward(self, x):
        y = self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))
        return torch.cat((x, y), 1)


@program()
def densenet(place):
    """Concatenations that grow, batch norm before each convolution."""
    growth, depth, batch = place.size((16, 4, 16), (4, 2, 6))
    layers, width = [nn.Conv2d(3, 32, 3, 2, 1)], 32
    for _ in range(2):
        for _ in range(depth):
            layers.append(DenseBlock(width, growth))
            width += growth
        layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.AvgPool2d(2)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)]
    model = nn.Sequential(*layers)
    layouts = {"*.conv1": "colwise", "*.conv2": "rowwise"}
    return classifier(place, model, layouts, batch, place.size(32, 16))


class MultiHead(nn.Module):
    """Detection: anchors, classes and boxes from maps of two sizes."""

    def __init__(self, width):
        super().__init__()
        self.body = conv_bn(3, width, 3, 2, act=nn.SiLU)
        self.deeper = conv_bn(width, 2 * width, 3, 2, act=nn.SiLU)
        self.lateral = nn.Conv2d(2 * width, width, 1)
        self.classes = nn.Conv2d(width, 3 * 4, 3, padding=1)
        self.boxes = nn.Conv2d(width, 3 * 4, 3, padding=1)

    def forward(self, x):
        fine = self.body(x)
        coarse = self.lateral(self.deeper(fine))
        fine = fine + F.interpolate(coarse, scale_factor=2, mode="nearest")
        classes, boxes = [], []
        for level in (fine, coarse):
            for head, out in ((self.classes, classes), (self.boxes, boxes)):
                y = head(level).permute(0, 2, 3, 1).flatten(1, 2)
                out.append(y.unflatten(-1, (3, 4)).flatten(1, 2))
        return torch.cat(classes, 1), torch.cat(boxes, 1)


@program()
def detection(place):
    """A feature pyramid, focal loss, smooth L1 on the anchors that match."""
    width, batch, size = place.size((32, 8, 64), (8, 4, 16))
    model = place.module(
        MultiHead(width), {"deeper.0": "colwise", "lateral": "rowwise"}
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    number = 3 * ((size // 2) ** 2 + (size // 4) ** 2)
    x, labels, boxes = place.batch(
        torch.randn(batch, 3, size, size),
        torch.randint(0, 4, (batch, number)) * torch.randint(0, 2, (batch, 1)),
        torch.randn(batch, number, 4),
    )

    def step():
        optimizer.zero_grad()
        classes, offsets = model(x)
        target = F.one_hot(labels, 4).to(classes.dtype)
        p = classes.sigmoid()
        distance = p * (1 - target) + (1 - p) * target
        each = F.binary_cross_entropy_with_logits(
            classes, target, reduction="none"
        )
        matches = (labels > 0)[..., None]
        of_boxes = F.smooth_l1_loss(
            torch.where(matches, offsets, 0.0),
            torch.where(matches, boxes, 0.0),
            reduction="sum",
        )
        loss = (each * distance.square()).mean() + of_boxes / matches.sum()
        loss.backward()
        optimizer.step()
        return loss

    return step, model
