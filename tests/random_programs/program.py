"""One random program: made by a plain run, run again on the mesh."""

import dataclasses

import torch
from tests.random_programs.steps import Chooser, Step, World, is_large, wrapped

import torch_mesh as tm
from torch_mesh import _C

MESHES = (
    {"data": 2},
    {"data": 3},
    {"data": 4},
    {"data": 2, "model": 2},
    {"data": 8},
    {"data": 2, "model": 3},
)
LARGEST = 600  # elements of a tensor
MOST_TENSORS = 40


class Different(AssertionError):
    """The mesh gives something else than plain torch."""


@dataclasses.dataclass
class Program:
    """Steps, each with whether plain torch refuses it."""

    seed: int
    mesh: dict
    separate: bool
    gradients: bool
    inference: bool
    steps: list[tuple[Step, bool]]
    plain: World

    def __str__(self):
        memory = "separate memories" if self.separate else "one memory"
        mode = "gradients" if self.gradients else "no gradients"
        mode = "inference mode" if self.inference else mode
        lines = [f"seed {self.seed} on {self.mesh}, {memory}, {mode}"]
        for step, refused in self.steps:
            lines.append(f"  {step.text}{'  (refused)' if refused else ''}")
        return "\n".join(lines)


def make(seed):
    """The program of a seed, and how plain torch runs it."""
    chance = Chooser(seed, 1).random
    mesh = chance.choice(MESHES)
    gradients = chance.random() < 0.25
    inference = not gradients and chance.random() < 0.15
    program = Program(
        seed, mesh, chance.random() < 0.3, gradients, inference, [], World()
    )
    choose = Chooser(seed + 1, len(mesh), gradients)
    with mode_of(program):
        for _ in range(choose.random.randrange(2, 5)):
            add(program, choose.new())
        while not program.plain.pool:  # all were too large
            add(program, choose.new())
        if gradients:
            for t in program.plain.pool:
                t.requires_grad_()
            add(program, doubled(len(program.plain.pool)))
        for _ in range(choose.random.randrange(10, 41)):
            add(program, choose.step(program.plain))
            if len(program.plain.pool) > MOST_TENSORS:
                break
        if gradients:
            add(program, backward())
    return program


def mode_of(program):
    if program.inference:
        return torch.inference_mode()
    return torch.set_grad_enabled(program.gradients)


def add(program, step):
    """Runs a step plainly and keeps it, with what became of it."""
    world = program.plain
    try:
        results = step.run(world)
    except (RuntimeError, IndexError, ValueError):
        program.steps.append((step, True))
        return
    if any(t.numel() > LARGEST for t in results):
        return  # it has written nothing
    program.steps.append((step, False))
    world.pool += results
    for i, t in enumerate(world.pool):
        if t.dtype != torch.bool and is_large(t):
            again = wrapped(i)
            try:
                again.run(world)
            except RuntimeError:  # an expanded tensor: its source is wrapped
                continue
            program.steps.append((again, False))


def doubled(number):
    """Results in place of leaves, which no step may write."""
    return Step("times one", lambda w: [w.number(i) * 1 for i in range(number)])


def backward():
    def run(w):
        found = [t.sum() for t in w.pool if t.requires_grad and t.grad_fn]
        if found:
            torch.stack(found).sum().backward()
        return []

    return Step("backward", run)


def run_on_mesh(program, after_each=False):
    """Runs it on its mesh; raises `Different` where plain torch differs."""
    _C.separate_cpu_memories(program.separate)
    try:
        run_in(World(tm.Mesh(program.mesh)), program, after_each)
    finally:
        _C.separate_cpu_memories(False)


def run_in(world, program, after_each=False):
    """Runs the steps in a new world, and compares with the plain run."""
    with mode_of(program):
        _run(program, world, after_each)


def _run(program, world, after_each):
    for number, (step, refused) in enumerate(program.steps):
        try:
            results = step.run(world)
        except (RuntimeError, IndexError, ValueError) as error:
            if refused:
                continue
            raise Different(
                f"step {number}, {step.text}, raises"
                f" {type(error).__name__}: {str(error)[:300]}"
            ) from error
        if refused:
            raise Different(f"step {number}, {step.text}, does not raise")
        world.pool += results
        if step.text.startswith("new ") and program.gradients:
            for t in results:
                t.requires_grad_()
        if after_each:
            compare_prefix(program, world, number)
    compare(program.plain, world)


def compare(plain, world):
    if len(plain.pool) != len(world.pool):
        raise Different(f"{len(world.pool)} tensors, not {len(plain.pool)}")
    for i, (a, b) in enumerate(zip(world.pool, plain.pool, strict=True)):
        same(a, b, f"tensor {i}")
        if b.is_leaf and b.grad is not None:
            if a.grad is None:
                raise Different(f"the gradient of {i} is missing")
            same(a.grad, b.grad, f"the gradient of {i}")


def same(a, b, what):
    facts = [
        (t.dtype, tuple(t.shape), t.requires_grad, strides(t)) for t in (a, b)
    ]
    if facts[0] != facts[1]:
        raise Different(f"{what} is {facts[0]}, not {facts[1]}")
    value = tm.full(a.detach()) if tm.is_global(a) else a.detach()
    if not torch.equal(value, b.detach()):
        raise Different(f"{what} is\n{value}\n  {where(a)}, not\n{b.detach()}")


def where(t):
    return tm.layout(t) if tm.is_global(t) else "plain"


def strides(t):
    """Strides that can be told: those of dims with several elements."""
    if t.numel() == 0:
        return ()
    return tuple(s for s, n in zip(t.stride(), t.shape, strict=True) if n > 1)


def compare_prefix(program, world, number):
    """As `compare`, after each step: says which one is the first to differ."""
    again = World()
    with mode_of(program):
        for step, _ in program.steps[: number + 1]:
            try:
                results = step.run(again)
            except (RuntimeError, IndexError, ValueError):
                continue  # it may have written some
            if step.text.startswith("new ") and program.gradients:
                for t in results:
                    t.requires_grad_()
            again.pool += results
    try:
        compare(again, world)
    except Different as difference:
        text = program.steps[number][0].text
        raise Different(f"after step {number}, {text}: {difference}") from None


def check(seed):
    """Raises `Different`, with the program, if the mesh differs."""
    program = make(seed)
    try:
        run_on_mesh(program)
    except Different as last:
        text = str(last)
        try:
            run_on_mesh(make(seed), after_each=True)
        except Different as first:
            text = str(first)
        raise Different(f"{text}\n{program}") from None


def check_many(first, count):
    """The seeds that differ, each with the text of it."""
    torch.set_num_threads(1)
    found = []
    for seed in range(first, first + count):
        try:
            check(seed)
        except Exception as error:
            found.append((seed, f"{type(error).__name__}: {error}"))
    return found
