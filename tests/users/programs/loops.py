"""Loops of others: Trainer, accelerate, Lightning; reinforcement learning."""

import logging
import tempfile

import accelerate
import torch
import torch.nn.functional as F
import transformers
from lightning import pytorch as lightning
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ..registry import program

MLP = {"0": "colwise", "2": "rowwise"}


def mlp(inputs, width, outputs):
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.GELU(),
        nn.Linear(width, width),
        nn.GELU(),
        nn.Linear(width, outputs),
    )


logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
transformers.logging.set_verbosity_error()


class Arguments(transformers.TrainingArguments):
    """The model stands where it should already."""

    where = "cpu"

    @property
    def place_model_on_device(self):
        return False

    @property
    def device(self):
        super().device  # noqa: B018, it sets up what else is asked for
        return torch.device(self.where)


class Placed(transformers.Trainer):
    """A Trainer whose batches go where the program runs."""

    place = None

    def _prepare_inputs(self, inputs):
        return {name: self.place.batch(t) for name, t in inputs.items()}


class Kept(transformers.TrainerCallback):
    """Keeps the loss of every log."""

    def __init__(self):
        self.losses = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in (logs or {}):
            self.losses.append(logs["loss"])


@program()
def hf_trainer(place):
    """Hugging Face's Trainer: an epoch of four batches, accumulated by two."""
    words, width, batch, length = place.size((256, 128, 16, 32), (32, 16, 4, 6))
    config = transformers.GPT2Config(
        vocab_size=words,
        n_positions=64,
        n_embd=width,
        n_layer=2,
        n_head=4,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = place.module(
        transformers.GPT2LMHeadModel(config),
        {"*.mlp.c_fc": "columns", "*.mlp.c_proj": "inner"},
    )
    tokens = torch.randint(3, words, (4 * batch, length))
    examples = [{"input_ids": t, "labels": t} for t in tokens]
    there = type("There", (Arguments,), {"where": place.device})
    arguments = there(
        output_dir=tempfile.gettempdir(),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=2,
        num_train_epochs=1,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=3,
        dataloader_pin_memory=False,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def step():
        kept = Kept()
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
        trainer = Placed(
            model=model,
            args=arguments,
            train_dataset=examples,
            optimizers=(optimizer, schedule),
            callbacks=[kept],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.place = place
        trainer.accelerator.device_placement = False
        found = trainer.train().training_loss
        # They are rounded to four digits in the log; the mean is not.
        return torch.tensor(found, dtype=torch.float32), len(kept.losses)

    return step, model


@program()
def accelerate_loop(place):
    """accelerate: prepare, accumulate, clip, gather for metrics."""
    width, batch = place.size((512, 128), (8, 6))
    # One state for the process, which another program may have set.
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = accelerate.Accelerator(
        cpu=True, device_placement=False, gradient_accumulation_steps=2
    )
    model = place.module(mlp(64, width, 10), MLP)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-3)
    data = TensorDataset(
        torch.randn(2 * batch, 64), torch.randint(10, (2 * batch,))
    )
    loader = DataLoader(data, batch, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    def step():
        total = 0.0
        for x, y in loader:
            with accelerator.accumulate(model):
                x, y = place.batch(x, y)
                loss = F.cross_entropy(model(x), y)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
            total = total + accelerator.gather_for_metrics(loss.detach())
        return total

    return step, model


class Stays(SingleDeviceStrategy):
    """A strategy for models that stand where they should already."""

    def model_to_device(self):
        pass


class Lit(lightning.LightningModule):
    """A LightningModule with its own transfer of batches."""

    def __init__(self, place, net):
        super().__init__()
        self.place, self.net, self.losses = place, net, []

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return self.place.batch(*batch)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        self.log("loss", loss)
        self.losses.append(loss.detach())
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)]


@program()
def lightning_loop(place):
    """Lightning's Trainer: an epoch of three batches, clipped, scheduled."""
    width, batch = place.size((512, 128), (8, 6))
    net = place.module(mlp(64, width, 10), MLP)
    data = TensorDataset(
        torch.randn(3 * batch, 64), torch.randint(10, (3 * batch,))
    )

    def step():
        model = Lit(place, net)
        trainer = lightning.Trainer(
            max_epochs=1,
            strategy=Stays(device="cpu", accelerator=CPUAccelerator()),
            gradient_clip_val=1.0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, DataLoader(data, batch, shuffle=True))
        return torch.stack(model.losses)

    return step, net


def cart_poles(states, actions):
    """A step of many poles on carts, as tensors."""
    x, dx, angle, turn = states.unbind(-1)
    force = 20.0 * actions - 10.0
    sin, cos = angle.sin(), angle.cos()
    push = (force + 0.05 * turn.square() * sin) / 1.1
    spin = (9.8 * sin - cos * push) / (0.5 * (4 / 3 - 0.1 * cos.square() / 1.1))
    pull = push - 0.05 * spin * cos / 1.1
    rates = torch.stack((dx, pull, turn, spin), -1)
    return states + 0.02 * rates


@program()
def reinforce(place):
    """REINFORCE over many poles at once: sampled actions, returns, baseline."""
    width, batch, length = place.size((256, 256, 8), (8, 6, 4))
    model = nn.Sequential(
        nn.Linear(4, width), nn.Dropout(0.2), nn.ReLU(), nn.Linear(width, 2)
    )
    place.module(model, {"0": "colwise", "3": "rowwise"})
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    start = place.batch(0.1 * torch.randn(batch, 4))

    def step():
        states, rewards, chances = start, [], []
        for _ in range(length):
            policy = torch.distributions.Categorical(logits=model(states))
            actions = policy.sample()
            chances.append(policy.log_prob(actions))
            states = cart_poles(states, actions.to(states.dtype))
            rewards.append((states[:, 2].abs() < 0.2).to(states.dtype))
        returns, total = [], 0.0
        for reward in reversed(rewards):
            total = reward + 0.99 * total
            returns.insert(0, total)
        returns = torch.stack(returns)
        returns = (returns - returns.mean()) / (returns.std() + 1e-3)
        loss = -(torch.stack(chances) * returns).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss, torch.stack(rewards).sum(0)

    return step, model


@program()
def actor_critic(place):
    """A2C: two heads, entropy, advantages by gather."""
    width, batch, length = place.size((256, 256, 8), (8, 6, 3))
    model = nn.ModuleDict(
        {
            "body": nn.Linear(4, width),
            "policy": nn.Linear(width, 2),
            "value": nn.Linear(width, 1),
        }
    )
    place.module(
        model, {"body": "colwise", "policy": "rowwise", "value": "rowwise"}
    )
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3, eps=1e-2)
    start = place.batch(0.1 * torch.randn(batch, 4))

    def step():
        states, losses = start, []
        for _ in range(length):
            h = torch.tanh(model["body"](states))
            log_p = model["policy"](h).log_softmax(-1)
            noise = torch.rand_like(log_p).clamp(1e-6, 1 - 1e-6)
            actions = (log_p - (-noise.log()).log()).argmax(-1)
            states = cart_poles(states, actions.to(states.dtype))
            reward = 1 - states[:, 2].abs()
            advantage = reward - model["value"](h).squeeze(-1)
            chance = log_p.gather(1, actions[:, None]).squeeze(1)
            entropy = -(log_p.exp() * log_p).sum(-1)
            policy = -(chance * advantage.detach()).mean()
            losses.append(
                policy + advantage.square().mean() - 0.01 * entropy.mean()
            )
        loss = torch.stack(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss, states

    return step, model


@program()
def deep_q(place):
    """DQN: a replay buffer written by index, a target net, Huber's loss."""
    width, batch, room = place.size((512, 256, 4096), (8, 6, 20))
    model = place.module(mlp(4, width, 2), MLP)
    target = place.module(mlp(4, width, 2))
    target.load_state_dict(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    memory = place.batch(torch.zeros(room, 9))
    states = place.batch(0.1 * torch.randn(batch, 4))
    at = 0

    def step():
        nonlocal states, at
        with torch.no_grad():
            explore = torch.rand_like(states[:, 0]) < 0.3
            actions = model(states).argmax(1)
            actions = torch.where(explore, 1 - actions, actions)
            moved = cart_poles(states, actions.to(states.dtype))
            rows = torch.arange(at, at + batch, device=states.device) % room
            columns = [states, actions[:, None].to(states.dtype), moved]
            memory[rows] = torch.cat(columns, 1)
            at, states = at + batch, moved
        chosen = torch.randint(min(at, room), (batch,), device=states.device)
        sample = memory[chosen]
        q = model(sample[:, :4]).gather(1, sample[:, 4:5].long())
        with torch.no_grad():
            best = target(sample[:, 5:]).amax(1, keepdim=True)
            wanted = 1 - sample[:, 7:8].abs() + 0.9 * best
        loss = F.smooth_l1_loss(q, wanted)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_value_(model.parameters(), 1.0)
        optimizer.step()
        for t, p in zip(target.parameters(), model.parameters(), strict=True):
            t.data.lerp_(p.data, 0.05)
        return loss, memory

    return step, model
