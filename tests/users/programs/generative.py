"""Nets that make pictures: autoencoders, adversaries, diffusion, flows."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from ..registry import program


class Vae(nn.Module):
    def __init__(self, width, latent):
        super().__init__()
        self.fc1 = nn.Linear(784, width)
        self.mean = nn.Linear(width, latent)
        self.log_var = nn.Linear(width, latent)
        self.fc3 = nn.Linear(latent, width)
        self.fc4 = nn.Linear(width, 784)

    def forward(self, x):
        h = F.relu(self.fc1(x))
        mean, log_var = self.mean(h), self.log_var(h)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_var)
        return torch.sigmoid(self.fc4(F.relu(self.fc3(z)))), mean, log_var


@program()
def vae(place):
    """The variational autoencoder: `randn_like` in the middle of the net."""
    width, batch = place.size((400, 256), (16, 8))
    model = place.module(
        Vae(width, 20),
        {
            "fc1": "colwise",
            "mean": "rowwise",
            "log_var": "rowwise",
            "fc3": "colwise",
            "fc4": "rowwise",
        },
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-5)
    x = place.batch(torch.rand(batch, 784))

    def step():
        optimizer.zero_grad()
        y, mean, log_var = model(x)
        bce = F.binary_cross_entropy(y, x, reduction="sum")
        kld = -0.5 * torch.sum(1 + log_var - mean.square() - log_var.exp())
        loss = bce + kld
        loss.backward()
        optimizer.step()
        return loss / batch

    return step, model


def generator(latent, width):
    return nn.Sequential(
        nn.ConvTranspose2d(latent, 4 * width, 4, 1, 0, bias=False),
        nn.BatchNorm2d(4 * width),
        nn.ReLU(True),
        nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(True),
        nn.ConvTranspose2d(2 * width, 3, 4, 2, 1, bias=False),
        nn.Tanh(),
    )


def discriminator(width):
    return nn.Sequential(
        nn.Conv2d(3, width, 4, 2, 1, bias=False),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(2 * width, 1, 4, 1, 0, bias=False),
        nn.Flatten(),
    )


@program()
def dcgan(place):
    """Two nets, two optimizers, one pass through both; activations in place."""
    width, batch, latent = place.size((32, 32, 64), (4, 6, 8))
    nets = nn.ModuleDict(
        {"g": generator(latent, width), "d": discriminator(width)}
    )
    for parameter in nets.parameters():
        if parameter.dim() == 4:
            nn.init.normal_(parameter, 0.0, 0.02)
    # Of a transposed convolution dim 0 is that of the inputs.
    place.module(nets, {"g.0": "columns", "g.3": "rows", "d.2": "colwise"})
    how = {"lr": 2e-4, "betas": (0.5, 0.999), "eps": 1e-3}
    of_d = torch.optim.Adam(nets["d"].parameters(), **how)
    of_g = torch.optim.Adam(nets["g"].parameters(), **how)
    real = place.batch(torch.rand(batch, 3, 16, 16) * 2 - 1)
    loss_of = nn.BCEWithLogitsLoss()

    def step():
        nets["d"].zero_grad()
        noise = place.batch(torch.randn(batch, latent, 1, 1))
        fake = nets["g"](noise)
        ones = torch.ones(batch, 1, device=place.device)
        on_real = loss_of(nets["d"](real), ones)
        on_real.backward()
        on_fake = loss_of(nets["d"](fake.detach()), torch.zeros_like(ones))
        on_fake.backward()
        of_d.step()
        nets["g"].zero_grad()
        fooled = loss_of(nets["d"](fake), ones)
        fooled.backward()
        of_g.step()
        return on_real, on_fake, fooled

    return step, nets


@program()
def wgan_gradient_penalty(place):
    """A gradient of a gradient: the critic is held to be smooth."""
    width, batch = place.size((512, 256), (16, 8))
    critic = nn.Sequential(
        nn.Linear(64, width),
        nn.LeakyReLU(0.2),
        nn.Linear(width, width),
        nn.LeakyReLU(0.2),
        nn.Linear(width, 1),
    )
    place.module(critic, {"0": "colwise", "2": "rowwise"})
    optimizer = torch.optim.RMSprop(critic.parameters(), lr=1e-4, eps=1e-3)
    real, fake = place.batch(torch.randn(batch, 64), torch.rand(batch, 64))

    def step():
        optimizer.zero_grad()
        share = place.batch(torch.rand(batch, 1))
        between = (share * real + (1 - share) * fake).requires_grad_()
        (slope,) = torch.autograd.grad(
            critic(between).sum(), between, create_graph=True
        )
        penalty = (slope.norm(2, dim=1) - 1).square().mean()
        loss = critic(fake).mean() - critic(real).mean() + 10 * penalty
        loss.backward()
        optimizer.step()
        return loss, penalty

    return step, critic


class AttentionBlock(nn.Module):
    """The attention block of diffusers: rows of pixels, then GroupNorm."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.GroupNorm(4, width)
        self.q, self.k, self.v, self.o = (
            nn.Linear(width, width) for _ in range(4)
        )

    def forward(self, x):
        b, c, h, w = x.shape
        rows = x.view(b, c, h * w).transpose(1, 2)
        y = self.norm(rows.transpose(1, 2)).transpose(1, 2)
        q, k, v = (
            f(y).view(b, -1, 4, c // 4).transpose(1, 2)
            for f in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(q, k, v)
        y = self.o(y.transpose(1, 2).reshape(b, -1, c))
        return x + y.transpose(1, 2).reshape(b, c, h, w)


class ResnetBlock(nn.Module):
    def __init__(self, inputs, outputs, time):
        super().__init__()
        self.norm1, self.norm2 = (
            nn.GroupNorm(4, inputs),
            nn.GroupNorm(4, outputs),
        )
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.time = nn.Linear(time, outputs)
        self.dropout = nn.Dropout(0.1)
        self.skip = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x, time):
        y = self.conv1(F.silu(self.norm1(x)))
        y = y + self.time(F.silu(time))[:, :, None, None]
        y = self.conv2(self.dropout(F.silu(self.norm2(y))))
        return self.skip(x) + y


class Unet(nn.Module):
    def __init__(self, width):
        super().__init__()
        time = 4 * width
        self.width = width
        self.time1, self.time2 = nn.Linear(width, time), nn.Linear(time, time)
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.down = ResnetBlock(width, width, time)
        self.shrink = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.middle = ResnetBlock(2 * width, 2 * width, time)
        self.attention = AttentionBlock(2 * width)
        self.grow = nn.Conv2d(2 * width, width, 3, padding=1)
        self.up = ResnetBlock(2 * width, width, time)
        self.norm = nn.GroupNorm(4, width)
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x, t):
        half = self.width // 2
        scale = torch.arange(half, device=x.device, dtype=x.dtype) / half
        angles = t[:, None].to(x.dtype) * torch.exp(-math.log(1e4) * scale)
        time = torch.cat((angles.sin(), angles.cos()), -1)
        time = self.time2(F.silu(self.time1(time)))
        x = self.first(x)
        kept = self.down(x, time)
        x = self.attention(self.middle(self.shrink(kept), time))
        x = self.grow(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        x = self.up(torch.cat((x, kept), 1), time)
        return self.last(F.silu(self.norm(x)))


def diffusion(place, batch, width, size):
    model = place.module(
        Unet(width),
        {
            "time1": "colwise",
            "time2": "rowwise",
            "*.conv1": "colwise",
            "attention.[qkv]": "colwise",
            "attention.o": "rowwise",
        },
    )
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, eps=1e-3)
    alphas = place.whole(torch.cumprod(1 - torch.linspace(1e-4, 0.02, 100), 0))
    x = place.batch(torch.randn(batch, 3, size, size))

    def step():
        optimizer.zero_grad()
        t = place.batch(torch.randint(100, (batch,)))
        noise = torch.randn_like(x)
        a = alphas[t].view(-1, 1, 1, 1)
        noisy = a.sqrt() * x + (1 - a).sqrt() * noise
        loss = F.mse_loss(model(noisy, t), noise)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(model)
        return loss

    return step, average


@program()
def diffusion_unet(place):
    """A UNet with attention as in diffusers, averaged weights."""
    return diffusion(place, *place.size((8, 32, 32), (8, 8, 8)))


@program()
def diffusion_one_row(place):
    """The same with one sample for each device: memory formats are hidden."""
    return diffusion(place, *place.size((4, 32, 32), (4, 8, 8)))


class VectorQuantizer(nn.Module):
    """A codebook that follows its members by moving averages."""

    def __init__(self, number, width):
        super().__init__()
        self.register_buffer("codes", torch.randn(number, width))
        self.register_buffer("sizes", torch.ones(number))
        self.register_buffer("sums", self.codes.clone())

    def forward(self, x):
        rows = x.movedim(1, -1).reshape(-1, self.codes.shape[1])
        index = torch.cdist(rows, self.codes).argmin(1)
        q = F.embedding(index, self.codes)
        with torch.no_grad():
            number = torch.bincount(index, minlength=self.codes.shape[0])
            sums = torch.zeros_like(self.sums).index_add_(0, index, rows)
            self.sizes.mul_(0.9).add_(number.to(x.dtype), alpha=0.1)
            self.sums.mul_(0.9).add_(sums, alpha=0.1)
            self.codes.copy_(self.sums / self.sizes.clamp_min(1e-2)[:, None])
        b, c, *space = x.shape
        q = q.view(b, *space, c).movedim(-1, 1)
        commitment = F.mse_loss(x, q.detach())
        return x + (q - x).detach(), commitment


@program()
def vq_vae(place):
    """A codebook by `cdist`, `bincount` and `index_add_`, straight through."""
    width, batch = place.size((64, 16), (8, 4))
    model = nn.ModuleDict(
        {
            "encoder": nn.Sequential(
                nn.Conv2d(3, width, 4, 2, 1),
                nn.ReLU(),
                nn.Conv2d(width, 16, 4, 2, 1),
            ),
            "codes": VectorQuantizer(32, 16),
            "decoder": nn.Sequential(
                nn.ConvTranspose2d(16, width, 4, 2, 1),
                nn.ReLU(),
                nn.ConvTranspose2d(width, 3, 4, 2, 1),
            ),
        }
    )
    place.module(model, {"encoder.0": "colwise", "encoder.2": "rowwise"})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x = place.batch(torch.randn(batch, 3, 32, 32))

    def step():
        optimizer.zero_grad()
        q, commitment = model["codes"](model["encoder"](x))
        loss = F.mse_loss(model["decoder"](q), x) + 0.25 * commitment
        loss.backward()
        optimizer.step()
        return loss

    return step, model


class Coupling(nn.Module):
    def __init__(self, size, width):
        super().__init__()
        self.fc1 = nn.Linear(size // 2, width)
        self.fc2 = nn.Linear(width, width)
        self.fc3 = nn.Linear(width, size)

    def forward(self, x):
        a, b = x.chunk(2, 1)
        y = F.relu(self.fc2(F.relu(self.fc1(a))))
        scale, shift = self.fc3(y).chunk(2, 1)
        scale = torch.tanh(scale)
        return torch.cat((b * scale.exp() + shift, a), 1), scale.sum(1)


@program()
def normalizing_flow(place):
    """RealNVP: chunks, determinants, a density of torch.distributions."""
    width, batch = place.size((256, 256), (16, 8))
    model = nn.ModuleList(Coupling(32, width) for _ in range(4))
    place.module(model, {"*.fc1": "colwise", "*.fc2": "rowwise"})
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    x = place.batch(torch.randn(batch, 32).cumsum(1) / 4)
    zeros = place.whole(torch.zeros(32))
    prior = torch.distributions.Normal(zeros, zeros + 1)

    def step():
        optimizer.zero_grad()
        z, total = x, 0.0
        for layer in model:
            z, determinant = layer(z)
            total = total + determinant
        loss = -(prior.log_prob(z).sum(1) + total).mean()
        loss.backward()
        optimizer.step()
        return loss

    return step, model


@program()
def masked_autoencoder(place):
    """Random patches by argsort and gather, as MAE takes them."""
    width, depth, batch = place.size((128, 2, 16), (16, 1, 4))
    kept = 16

    def encoder():
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        return nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)

    model = nn.ModuleDict(
        {
            "patches": nn.Linear(48, width),
            "encoder": encoder(),
            "decoder": encoder(),
            "last": nn.Linear(width, 48),
        }
    )
    model.register_parameter("hidden", nn.Parameter(torch.zeros(width)))
    place.module(model, {"*.linear1": "colwise", "*.linear2": "rowwise"})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    pictures = place.batch(torch.randn(batch, 3, 32, 32))

    def step():
        optimizer.zero_grad()
        patches = F.unfold(pictures, 4, stride=4).transpose(1, 2)
        order = torch.rand_like(patches[..., 0]).argsort(1)
        back = order.argsort(1)
        x = model["patches"](patches)
        rows = order[:, :kept, None].expand(-1, -1, width)
        seen = model["encoder"](x.gather(1, rows))
        hidden = model.hidden.expand(batch, patches.shape[1] - kept, -1)
        whole = torch.cat((seen, hidden), 1)
        whole = whole.gather(1, back[..., None].expand(-1, -1, width))
        y = model["last"](model["decoder"](whole))
        mask = (back >= kept).to(y.dtype)
        loss = ((y - patches).square().mean(-1) * mask).sum() / mask.sum()
        loss.backward()
        optimizer.step()
        return loss

    return step, model
