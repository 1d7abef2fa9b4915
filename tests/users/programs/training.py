"""Ways to train: optimizers, averages, accumulation, precision, resuming."""

import io

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import swa_utils

from ..registry import program


def net(width, norm=False):
    layers = [nn.Linear(64, width)]
    layers += [nn.BatchNorm1d(width)] if norm else []
    layers += [nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def data(place, batch):
    return place.batch(torch.randn(batch, 64), torch.randint(10, (batch,)))


@program()
def lbfgs_regression(place):
    """LBFGS with a strong Wolfe search."""
    width, batch = place.size((512, 256), (16, 32))
    model = place.module(net(width), {"0": "colwise", "2": "rowwise"})
    optimizer = torch.optim.LBFGS(
        model.parameters(), lr=0.1, max_iter=2, line_search_fn="strong_wolfe"
    )
    x, y = data(place, batch)

    def step():
        def closure():
            optimizer.zero_grad()
            decay = sum(p.square().sum() for p in model.parameters())
            loss = F.cross_entropy(model(x), y) + 1e-2 * decay
            loss.backward()
            return loss

        return optimizer.step(closure)

    return step, model


@program()
def polynomial_regression(place):
    """PyTorch's first example: a polynomial by hand-written descent."""
    batch, degree = place.size((65536, 16), (8, 4))
    fc = place.module(nn.Linear(degree, 1))
    wanted = place.whole(torch.randn(degree, 1))

    def step():
        x = place.batch(torch.rand(batch, 1) * 2 - 1)
        powers = torch.cat([x**i for i in range(1, degree + 1)], 1)
        y = powers.mm(wanted) + 0.5
        fc.zero_grad()
        loss = F.smooth_l1_loss(fc(powers), y)
        loss.backward()
        for parameter in fc.parameters():
            parameter.data.add_(parameter.grad, alpha=-0.1)
        return loss

    return step, fc


@program()
def many_optimizers(place):
    """Each optimizer of torch.optim on a net of its own, foreach and fused."""
    width, batch = place.size((256, 128), (8, 6))
    kinds = [
        (torch.optim.Adam, {"foreach": True, "amsgrad": True}),
        (torch.optim.AdamW, {"fused": True}),
        (torch.optim.SGD, {"fused": True, "momentum": 0.9, "nesterov": True}),
        (torch.optim.Adagrad, {"foreach": True}),
        (torch.optim.Adamax, {"foreach": True}),
        (torch.optim.RAdam, {"foreach": True}),
        (torch.optim.NAdam, {}),
        (torch.optim.Rprop, {"foreach": True}),
        (torch.optim.RMSprop, {"centered": True, "momentum": 0.5}),
        (torch.optim.ASGD, {"foreach": True}),
        (torch.optim.Adafactor, {}),
    ]
    models = nn.ModuleList(net(width) for _ in kinds)
    place.module(models, {"*.0": "colwise", "*.2": "rowwise"})
    optimizers = []
    for model, (kind, options) in zip(models, kinds, strict=True):
        divides = kind not in (
            torch.optim.SGD,
            torch.optim.Rprop,
            torch.optim.ASGD,
            torch.optim.Adafactor,
        )
        if divides:  # by the size of a gradient, which may be rounding alone
            options = {"eps": 1e-3, **options}
        optimizers.append(kind(model.parameters(), lr=1e-3, **options))
    x, y = data(place, batch)

    def step():
        losses = []
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss)
        return losses

    return step, models


@program()
def schedulers(place):
    """One cycle, cosine restarts, warm-up in sequence, plateau."""
    width, batch = place.size((512, 256), (8, 6))
    model = place.module(net(width), {"0": "colwise", "2": "rowwise"})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    lr = torch.optim.lr_scheduler
    sequence = lr.SequentialLR(
        optimizer,
        [
            lr.LinearLR(optimizer, 0.1, 1.0, 2),
            lr.CosineAnnealingWarmRestarts(optimizer, 2),
        ],
        milestones=[2],
    )
    plateau = lr.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5)
    x, y = data(place, batch)

    def step():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        sequence.step()
        plateau.step(loss.detach())
        return loss, optimizer.param_groups[0]["lr"]

    return step, model


@program()
def averaged_weights(place):
    """SWA and EMA with buffers, a counter of integers among them."""
    width, batch = place.size((512, 256), (8, 6))
    model = place.module(
        net(width, norm=True), {"0": "colwise", "3": "rowwise"}
    )
    swa = swa_utils.AveragedModel(model, use_buffers=True)
    ema = swa_utils.AveragedModel(
        model,
        multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9),
        use_buffers=True,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    schedule = swa_utils.SWALR(optimizer, swa_lr=0.01)
    x, y = data(place, batch)

    def step():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        schedule.step()
        swa.update_parameters(model)
        ema.update_parameters(model)
        swa_utils.update_bn([x], swa)
        with torch.no_grad():
            return loss, F.cross_entropy(swa(x), y)

    return step, nn.ModuleDict({"swa": swa, "ema": ema})


@program()
def flat_buffers(place):
    """All weights and all gradients are views of two flat buffers."""
    width, batch = place.size((512, 128), (8, 6))
    model = place.module(net(width))
    parameters = list(model.parameters())
    total = sum(p.numel() for p in parameters)
    rows = torch.zeros(-(-total // 4) * 4)
    flat, gradients = place.batch(rows, rows.clone())
    at = 0
    with torch.no_grad():
        for p in parameters:
            part = flat[at : at + p.numel()].view_as(p)
            part.copy_(p)
            p.data = part
            p.grad = gradients[at : at + p.numel()].view_as(p)
            at += p.numel()
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, eps=1e-3, foreach=True)
    parts = [data(place, batch) for _ in range(2)]

    def step():
        gradients.zero_()
        total = 0.0
        for x, y in parts:
            loss = F.cross_entropy(model(x), y) / len(parts)
            loss.backward()
            total = total + loss.detach()
        norm = nn.utils.clip_grad_norm_(parameters, 0.1, foreach=True)
        optimizer.step()
        return total, norm, flat.square().sum()

    return step, lambda: {"flat": flat, "gradients": gradients}


@program(float64=False, half=True)
def amp_bf16(place):
    """Autocast in bfloat16, with a gradient scaler as scripts have it."""
    width, batch = place.size((512, 256), (16, 8))
    model = place.module(
        net(width, norm=True), {"0": "colwise", "3": "rowwise"}
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    x, y = data(place, batch)

    def step():
        optimizer.zero_grad()
        with torch.autocast(place.device, dtype=torch.bfloat16):
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        nn.utils.clip_grad_value_(model.parameters(), 0.5)
        optimizer.step()
        return loss

    return step, model


@program()
def resumed(place):
    """Saved and loaded after every step: model, optimizer, schedule, seed."""
    width, batch = place.size((512, 128), (8, 6))
    layouts = {"0": "colwise", "2": "rowwise"}

    def fresh():
        model = place.module(net(width), layouts)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-3)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)
        return model, optimizer, schedule

    parts = fresh()
    x, y = data(place, batch)

    def step():
        nonlocal parts
        model, optimizer, schedule = parts
        optimizer.zero_grad()
        loss = F.cross_entropy(model(F.dropout(x, 0.1)), y)
        loss.backward()
        optimizer.step()
        schedule.step()
        file = io.BytesIO()
        states = [part.state_dict() for part in parts]
        torch.save((states, torch.get_rng_state()), file)
        file.seek(0)
        parts = fresh()
        states, seed = torch.load(file)
        for part, state in zip(parts, states, strict=True):
            part.load_state_dict(state)
        torch.set_rng_state(seed)
        return loss

    return step, lambda: parts[0].state_dict()


@program()
def knowledge_distillation(place):
    """A frozen teacher in eval, a student, a temperature."""
    width, batch = place.size((512, 256), (8, 6))
    teacher = place.module(net(2 * width, norm=True)).eval()
    student = place.module(net(width), {"0": "colwise", "2": "rowwise"})
    optimizer = torch.optim.RAdam(student.parameters(), lr=1e-3, eps=1e-3)
    x, y = data(place, batch)

    def step():
        optimizer.zero_grad()
        with torch.inference_mode():
            wanted = (teacher(x) / 2).softmax(-1)
        found = student(x)
        log_p = (found / 2).log_softmax(-1)
        soft = F.kl_div(log_p, wanted.clone(), reduction="batchmean")
        loss = F.cross_entropy(found, y) + 4 * soft
        loss.backward()
        optimizer.step()
        return loss

    return step, student


@program()
def contrastive(place):
    """SimCLR and a memory bank written by index, momentum encoder."""
    width, batch, bank = place.size((512, 256, 1024), (8, 6, 15))
    model = place.module(net(width), {"0": "colwise", "2": "rowwise"})
    slow = place.module(net(width))
    slow.load_state_dict(model.state_dict())
    slow.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x, _ = data(place, batch)
    queue = place.whole(F.normalize(torch.randn(bank, 10), dim=1))
    at = 0

    def step():
        nonlocal at
        optimizer.zero_grad()
        q = F.normalize(model(x + 0.1 * torch.randn_like(x)), dim=1)
        with torch.no_grad():
            k = F.normalize(slow(x), dim=1)
        good = torch.einsum("nc,nc->n", q, k)[:, None]
        scores = torch.cat((good, q @ queue.T), 1) / 0.2
        zeros = torch.zeros(batch, dtype=torch.long, device=x.device)
        loss = F.cross_entropy(scores, zeros)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for s, p in zip(slow.parameters(), model.parameters(), strict=True):
                s.mul_(0.9).add_(p, alpha=0.1)
            rows = (torch.arange(batch, device=x.device) + at) % bank
            queue[rows] = k
        at = (at + batch) % bank
        return loss, queue

    return step, model
