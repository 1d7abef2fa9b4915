"""Classification and other tasks on pictures."""

import torch
import torch.nn.functional as F
from torch import nn

from ..registry import program


class Mnist(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3)
        self.conv2 = nn.Conv2d(width, 2 * width, 3)
        self.dropout1 = nn.Dropout(0.25)
        self.dropout2 = nn.Dropout(0.5)
        self.fc1 = nn.Linear(2 * width * 144, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x):
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = torch.flatten(self.dropout1(F.max_pool2d(x, 2)), 1)
        return F.log_softmax(
            self.fc2(self.dropout2(F.relu(self.fc1(x)))), dim=1
        )


@program()
def mnist(place):
    """A convolutional net, dropout, Adadelta with a schedule."""
    width, batch = place.size((32, 64), (4, 8))
    model = place.module(Mnist(width), {"fc1": "colwise", "fc2": "rowwise"})
    optimizer = torch.optim.Adadelta(model.parameters(), lr=0.1, eps=1e-3)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.7)
    x, y = place.batch(
        torch.randn(batch, 1, 28, 28), torch.randint(10, (batch,))
    )

    def step():
        optimizer.zero_grad()
        loss = F.nll_loss(model(x), y)
        loss.backward()
        optimizer.step()
        schedule.step()
        return loss

    return step, model


class Residual(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.skip = (
            nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                nn.BatchNorm2d(outputs),
            )
            if stride != 1 or inputs != outputs
            else nn.Identity()
        )

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.skip(x))


@program()
def resnet(place):
    """Batch norm over a batch that is split; then eval with running values."""
    width, batch = place.size((32, 16), (4, 6))
    model = nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        Residual(width, width, 1),
        Residual(width, 2 * width, 2),
        Residual(2 * width, 4 * width, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, 10),
    )
    place.module(model, {"*.conv1": "colwise", "8": "colwise"})
    optimizer = torch.optim.SGD(
        model.parameters(), lr=5e-3, momentum=0.9, weight_decay=5e-4
    )
    x, y = place.batch(
        torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))
    )

    def step():
        model.train()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y, label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            tested = F.cross_entropy(model(x[: batch // 2]), y[: batch // 2])
        return loss, tested

    return step, model


@program()
def super_resolution(place):
    """Sub-pixel convolutions (pixel shuffle), mean squared error."""
    width, batch, size = place.size((64, 8, 32), (8, 4, 8))
    factor = 3
    model = nn.Sequential(
        nn.Conv2d(1, width, 5, padding=2),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width // 2, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width // 2, factor**2, 3, padding=1),
        nn.PixelShuffle(factor),
    )
    for layer in model:
        if isinstance(layer, nn.Conv2d):
            nn.init.orthogonal_(layer.weight)
    place.module(model, {"0": "colwise", "2": "rowwise", "4": "colwise"})
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-5)
    target = torch.rand(batch, 1, factor * size, factor * size)
    small = F.interpolate(target, scale_factor=1 / factor, mode="bicubic")
    x, y = place.batch(small, target)

    def step():
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        return loss, -10 * torch.log10(loss)

    return step, model


class Siamese(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, width, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
        )
        self.head = nn.Sequential(
            nn.Linear(32 * width, 256), nn.ReLU(), nn.Linear(256, 1)
        )

    def forward(self, a, b):
        return self.head(torch.cat((self.body(a), self.body(b)), 1)).squeeze(1)


@program()
def siamese(place):
    """One net applied to two pictures: gradients of a weight that is shared."""
    width, batch = place.size((32, 64), (4, 8))
    model = place.module(
        Siamese(width), {"head.0": "colwise", "head.2": "rowwise"}
    )
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.01)
    a, b, same = place.batch(
        torch.randn(batch, 1, 28, 28),
        torch.randn(batch, 1, 28, 28),
        torch.randint(2, (batch,)).to(place.dtype),
    )

    def step():
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(model(a, b), same)
        loss.backward()
        optimizer.step()
        return loss, (model(a, b) > 0).eq(same).sum()

    return step, model


def gram(y):
    b, c, h, w = y.shape
    rows = y.view(b, c, h * w)
    return rows.bmm(rows.transpose(1, 2)) / (c * h * w)


class Style(nn.Module):
    def __init__(self, width):
        super().__init__()

        def conv(inputs, outputs, kernel, stride=1):
            return nn.Sequential(
                nn.ReflectionPad2d(kernel // 2),
                nn.Conv2d(inputs, outputs, kernel, stride),
                nn.InstanceNorm2d(outputs, affine=True),
                nn.ReLU(),
            )

        self.down = nn.Sequential(
            conv(3, width, 9), conv(width, 2 * width, 3, 2)
        )
        self.middle = conv(2 * width, 2 * width, 3)
        self.up = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest"),
            conv(2 * width, width, 3),
        )
        self.last = nn.Conv2d(width, 3, 9, padding=4)

    def forward(self, x):
        x = self.down(x)
        return self.last(self.up(x + self.middle(x)))


@program()
def neural_style(place):
    """Instance norm, reflected edges, Gram matrices, total variation."""
    width, batch, size = place.size((16, 4, 48), (4, 4, 12))
    model = place.module(Style(width), {"*.1.1": "colwise"})
    features = place.module(nn.Conv2d(3, 2 * width, 3)).requires_grad_(False)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3, eps=1e-3)
    style = torch.rand(1, 3, size, size)
    x = place.batch(torch.rand(batch, 3, size, size))
    wanted = gram(features(place.whole(style)))

    def step():
        optimizer.zero_grad()
        y = model(x)
        found = features(y)
        content = F.mse_loss(found, features(x))
        of_style = F.mse_loss(gram(found), wanted.expand(batch, -1, -1))
        variation = (y[:, :, 1:] - y[:, :, :-1]).abs().mean() + (
            y[..., 1:] - y[..., :-1]
        ).abs().mean()
        loss = content + 10 * of_style + 1e-2 * variation
        loss.backward()
        optimizer.step()
        return loss

    return step, model


class Segmenter(nn.Module):
    def __init__(self, width):
        super().__init__()

        def pair(inputs, outputs):
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, padding=1),
                nn.BatchNorm2d(outputs),
                nn.LeakyReLU(0.1),
                nn.Conv2d(outputs, outputs, 3, padding=1),
                nn.BatchNorm2d(outputs),
                nn.LeakyReLU(0.1),
            )

        self.down1, self.down2 = pair(3, width), pair(width, 2 * width)
        self.bottom = pair(2 * width, 4 * width)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2)
        self.join2 = pair(4 * width, 2 * width)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.join1 = pair(2 * width, width)
        self.last = nn.Conv2d(width, 5, 1)

    def forward(self, x):
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        x = self.up2(self.bottom(F.max_pool2d(second, 2)))
        x = self.up1(self.join2(torch.cat((second, x), 1)))
        return self.last(self.join1(torch.cat((first, x), 1)))


@program()
def segmentation(place):
    """A U-Net with skips, a class for each pixel, some of them ignored."""
    width, batch, size = place.size((16, 8, 32), (4, 4, 8))
    model = place.module(
        Segmenter(width), {"down*.0": "colwise", "bottom.0": "colwise"}
    )
    optimizer = torch.optim.NAdam(model.parameters(), lr=1e-3, eps=1e-3)
    labels = torch.randint(-1, 5, (batch, size, size))
    x, y = place.batch(torch.randn(batch, 3, size, size), labels)

    def step():
        optimizer.zero_grad()
        logits = model(x)
        loss = F.cross_entropy(logits, y, ignore_index=-1)
        chosen = F.one_hot(y.clamp_min(0), 5).permute(0, 3, 1, 2)
        p = logits.softmax(1)
        dice = 1 - 2 * (p * chosen).sum() / (p.sum() + chosen.sum())
        (loss + dice).backward()
        optimizer.step()
        return loss, dice

    return step, model


@program()
def spatial_transformer(place):
    """affine_grid and grid_sample: a net that turns its own input."""
    width, batch = place.size((32, 64), (4, 8))
    size = 28
    locate = nn.Sequential(
        nn.Conv2d(1, width, 7),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(width * 121, 32),
        nn.ReLU(),
        nn.Linear(32, 6),
    )
    with torch.no_grad():
        locate[6].weight.mul_(0.01)
        locate[6].bias.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0]))
    classify = nn.Sequential(
        nn.Conv2d(1, width, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(6)
    )
    classify.extend([nn.Flatten(), nn.Linear(width * 36, 10)])
    model = nn.ModuleDict({"locate": locate, "classify": classify})
    place.module(model, {"locate.4": "colwise", "locate.6": "rowwise"})
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    x, y = place.batch(
        torch.randn(batch, 1, size, size), torch.randint(10, (batch,))
    )

    def step():
        optimizer.zero_grad()
        theta = model["locate"](x).view(-1, 2, 3)
        grid = F.affine_grid(theta, x.shape, align_corners=False)
        turned = F.grid_sample(x, grid, align_corners=False)
        loss = F.cross_entropy(model["classify"](turned), y)
        loss.backward()
        optimizer.step()
        return loss

    return step, model
