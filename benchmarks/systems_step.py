"""One training iteration of each system but StarGAN v2, as published: plain twins, and ours with the same weights.

    python benchmarks/systems_step.py fast cyclegan   # peak memory of its iterations, in bytes

64 pixels, 4 images of either domain, default widths, float32. The plain twins are those of tests/translators.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from train_step import Iteration, _resident

from m2o_fast.batch import Batch
from m2o_fast.engine.step import Stepper
from m2o_fast.m2o import Domain
from m2o_fast.translators import create, from_official, system

FOLDER = Path(__file__).resolve().parent
for _name in ("pix2pix", "cyclegan", "simgan", "munit", "unit", "bicyclegan", "stargan", "flow"):
    sys.path.insert(0, str(FOLDER.parent / "tests" / "translators" / _name))
import plain_bicyclegan  # noqa: E402  (lie beside the tests)
import plain_cyclegan  # noqa: E402
import plain_flow  # noqa: E402
import plain_munit  # noqa: E402
import plain_pix2pix  # noqa: E402
import plain_simgan  # noqa: E402
import plain_stargan  # noqa: E402
import plain_unit  # noqa: E402
import plain_unit_trainer  # noqa: E402

SIDE, IMAGES = 64, 4
SYSTEMS = ("pix2pix", "cyclegan", "simgan", "munit", "unit", "bicyclegan", "stargan", "flow")
IMPLEMENTATIONS = ("plain", "compile", "fast")
#: Of SimGAN: every second image goes into the history.
_HALVES = torch.full((IMAGES, 3), 0.5)


def _initialised(net: nn.Module) -> nn.Module:
    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, std=0.02)
    return net


def _images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand((IMAGES, 3, SIDE, SIDE), generator=generator) * 2 - 1 for _ in range(2))
    return a, b


def _pix2pix_nets() -> list[plain_pix2pix.Direction]:
    torch.manual_seed(0)
    nets = [(plain_pix2pix.Generator(3, 3, levels=6), plain_pix2pix.Discriminator(6)) for _ in range(2)]
    return [plain_pix2pix.Direction(_initialised(g), _initialised(d)) for g, d in nets]


def _cyclegan_nets() -> plain_cyclegan.Nets:
    torch.manual_seed(0)
    generators = [_initialised(plain_cyclegan.Generator(3, 3, blocks=6)) for _ in range(2)]
    return plain_cyclegan.Nets(*generators, *(_initialised(plain_cyclegan.Discriminator(3)) for _ in range(2)))


def _munit_nets() -> plain_munit.Nets:
    torch.manual_seed(0)
    generators = [_by_fan_in(plain_munit.Generator(3)) for _ in range(2)]
    return plain_munit.Nets(*generators, *(_initialised(plain_munit.Discriminator(3)) for _ in range(2)))


def _by_fan_in(net: nn.Module) -> nn.Module:
    return net.apply(lambda layer: isinstance(layer, (nn.Conv2d, nn.Linear)) and nn.init.kaiming_normal_(layer.weight))


def _unit_nets() -> plain_unit.Nets:
    torch.manual_seed(0)
    domains = [_by_fan_in(plain_unit.Domain(3)) for _ in range(2)]
    return plain_unit.Nets(*domains, *(_initialised(plain_unit.MultiScale(3)) for _ in range(2)), share=1)


def _noise() -> list[Tensor]:
    """Of latents, for the discriminators' step, the generators' and its cycle: by sample, those of B first."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn((2 * IMAGES, 256, SIDE // 4, SIDE // 4), generator=generator) for _ in range(3)]


def _styles() -> list[Tensor]:
    """For the discriminators' step and the generators', of both targets."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn((IMAGES, 8), generator=generator) for _ in range(4)]


def _simgan_nets() -> tuple[plain_simgan.Refiner, nn.Sequential]:
    torch.manual_seed(0)
    nets = plain_simgan.Refiner(3, 3), plain_simgan.gaze_discriminator(3)
    for parameter in (parameter for net in nets for parameter in net.parameters() if parameter.dim() == 4):
        nn.init.xavier_uniform_(parameter)
    return nets


def _plain_simgan(compiled: bool) -> Iteration:
    """Two steps of the refiner and one of the discriminator, all on the same images."""
    refiner, judge = _simgan_nets()
    way = plain_simgan.Direction(refiner, judge, plain_simgan.History(400))
    optimizer = partial(torch.optim.SGD, lr=1e-3)
    trainer = plain_simgan.Trainer([way], plain_simgan.Settings(optimizer))
    _compile([refiner, judge], compiled)
    a, b = _images()
    shares = [plain_simgan.Share(a, b, _HALVES)]

    def run() -> Tensor:
        refined = [trainer.refine(shares, 0) for _ in range(2)]
        trainer.judge(shares)
        return torch.tensor([step["adversarial"] for step in refined]).mean()

    return run


def _fast_simgan() -> Iteration:
    pace = {"pretrain_refiner": 0, "pretrain_discriminator": 0, "refiner_steps": 2}
    settings = system("simgan").settings.model_validate({"optim": pace})
    domains = [Domain("a"), Domain("b")]
    translator = create({"system": "simgan", **settings.description(domains, system("simgan").variants["plain"], SIDE)})
    for ours, plain in zip((translator.refiners, translator.discriminators), _simgan_nets(), strict=True):
        for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
            mine.data.copy_(theirs)
    a, b = _images()
    noise = {"pool": _HALVES}
    batch = Batch((a, b[:0]), torch.arange(IMAGES), (0, IMAGES), (a[:0], b), (), noise=noise)
    stepper, count = Stepper(translator, translator, settings.optim), iter(range(10**9))
    return lambda: stepper([batch] * 3, next(count)).losses["refiners/adversarial"]


def _flow_net() -> plain_flow.UNet:
    torch.manual_seed(0)
    return plain_flow.UNet([3, 3], [0, 1], 64, (1, 1, 2, 2), 2, (False, False, True, True))


def _flow_numbers() -> tuple[Tensor, Tensor]:
    """Times and noise of both targets, those of A first."""
    generator = torch.Generator().manual_seed(1)
    shape = 2 * IMAGES, 3, SIDE, SIDE
    return torch.rand(2 * IMAGES, generator=generator), torch.randn(shape, generator=generator)


def _plain_flow(compiled: bool) -> Iteration:
    net, (a, b) = _flow_net(), _images()
    _compile([layer for layer in net.modules() if isinstance(layer, plain_flow.Residual)], compiled)
    trainer = plain_flow.Trainer(net, [0, 1], lr=2e-4, decay=0.01, ema=0.9999)
    known = torch.ones(IMAGES, dtype=torch.bool)
    numbers = zip(*(part.split(IMAGES) for part in _flow_numbers()), strict=True)
    ways = [(1, 0, b, a), (0, 1, a, b)]
    pairs = [plain_flow.Pairs(*way, known, *drawn) for way, drawn in zip(ways, numbers, strict=True)]
    return lambda: torch.tensor(trainer.iteration(pairs)["velocity"])


def _fast_flow() -> Iteration:
    settings = system("flow").settings()
    domains = [Domain("a"), Domain("b")]
    translator = create({"system": "flow", **settings.description(domains, system("flow").variants["plain"], SIDE)})
    for mine, theirs in zip(translator.parameters(), _flow_net().parameters(), strict=True):
        mine.data.copy_(theirs.data.view_as(mine))
    (a, b), (times, base) = _images(), _flow_numbers()
    swapped = torch.arange(2 * IMAGES).roll(IMAGES)
    pairs: dict[str, Any] = {"paired": (a, b), "has_pair": torch.ones(2 * IMAGES, dtype=torch.bool)}
    noise = {"time": times, "base": base}
    batch = Batch((a, b), swapped, (IMAGES, IMAGES), (), (), noise=noise, **pairs)
    stepper, count = Stepper(translator, deepcopy(translator), settings.optim), iter(range(10**9))
    return lambda: stepper([batch], next(count)).losses["velocity/velocity"]


def _bicyclegan_nets() -> plain_bicyclegan.Direction:
    """Of one direction, in the sizes that images of 64 pixels have by default."""
    torch.manual_seed(0)
    judges = [plain_bicyclegan.Discriminator(3, layers=2) for _ in range(2)]
    nets = plain_bicyclegan.Generator(3, 3, levels=6), *judges, plain_bicyclegan.Encoder(3, blocks=3)
    return plain_bicyclegan.Direction(*map(_initialised, nets))


def _bicyclegan_numbers() -> tuple[Tensor, Tensor, Tensor]:
    """Other real images, and random numbers of styles that are read off images and of drawn ones."""
    generator = torch.Generator().manual_seed(1)
    others = torch.rand((IMAGES, 3, SIDE, SIDE), generator=generator) * 2 - 1
    spread, drawn = (torch.randn((IMAGES, 8), generator=generator) for _ in range(2))
    return others, spread, drawn


def _plain_bicyclegan(compiled: bool) -> Iteration:
    way = _bicyclegan_nets()
    trainer = plain_bicyclegan.Trainer([way])
    _compile([way.G, way.D, way.D2, way.E], compiled)
    (a, b), (others, spread, drawn) = _images(), _bicyclegan_numbers()
    kept = [torch.ones(IMAGES, *_dropped())]
    share = plain_bicyclegan.Share(a, b, others, spread, drawn, kept, kept)
    return lambda: trainer.iteration([share])["adversarial"]


def _fast_bicyclegan() -> Iteration:
    way = _bicyclegan_nets()
    weights = {key: getattr(way, key).state_dict() for key in ("G", "E", "D", "D2")}
    translator = from_official("bicyclegan", weights, image_size=SIDE).requires_grad_(True).train()
    (a, b), (others, spread, drawn) = _images(), _bicyclegan_numbers()
    noise = {"encoded": spread, "drawn": drawn}
    noise |= {f"dropout4_{key}": torch.ones(IMAGES, *_dropped()) for key in noise}
    known = torch.ones(IMAGES, dtype=torch.bool)
    none = a[:0]
    batch = Batch((a, b[:0]), torch.arange(IMAGES), (0, IMAGES), (none, others), (), (none, b), known, noise)
    stepper, count = Stepper(translator, translator, system("bicyclegan").settings().optim), iter(range(10**9))
    return lambda: stepper([batch], next(count)).losses["generators/adversarial"]


def _stargan_nets() -> tuple[plain_stargan.Generator, plain_stargan.Discriminator]:
    torch.manual_seed(0)
    return plain_stargan.Generator(3, 2), plain_stargan.Discriminator(3, 2, SIDE, layers=5)


def _between() -> Tensor:
    return torch.rand((2 * IMAGES, 1), generator=torch.Generator().manual_seed(1))


def _plain_stargan(compiled: bool) -> Iteration:
    """Five steps of the discriminator and one of the generator, all on the same images."""
    trainer = plain_stargan.Trainer(*_stargan_nets(), plain_stargan.Settings())
    _compile([trainer.G, trainer.D], compiled)
    x, wanted = torch.cat(_images()[::-1]), torch.arange(2).repeat_interleave(IMAGES)  # in the order of the targets

    def run() -> Tensor:
        steps = [trainer.iteration((x, 1 - wanted, wanted, _between())) for _ in range(5)]
        return torch.tensor(steps[-1]["generator/adversarial"])

    return run


def _fast_stargan() -> Iteration:
    weights = {name: net.state_dict() for name, net in zip("GD", _stargan_nets(), strict=True)}
    translator = from_official("stargan", weights).requires_grad_(True).train()
    noise = {"between": _between()}
    batch = Batch(_images(), _swapped(), (IMAGES, IMAGES), (), (), noise=noise)
    stepper, count = Stepper(translator, translator, system("stargan").settings().optim), iter(range(10**9))

    def run() -> Tensor:
        return [stepper([batch], next(count)).losses for _ in range(5)][-1]["generator/adversarial"]

    return run


def _swapped() -> Tensor:
    return torch.cat([torch.arange(IMAGES, 2 * IMAGES), torch.arange(IMAGES)])


_OTHERS: dict[str, tuple[Callable[[bool], Iteration], Callable[[], Iteration]]] = {
    "simgan": (_plain_simgan, _fast_simgan),
    "bicyclegan": (_plain_bicyclegan, _fast_bicyclegan),
    "stargan": (_plain_stargan, _fast_stargan),
    "flow": (_plain_flow, _fast_flow),
}


def plain_iteration(name: str, *, compiled: bool = False) -> Iteration:
    """An iteration of the twin; returns the loss of its generators on the discriminators' scores."""
    if name in _OTHERS:
        return _OTHERS[name][0](compiled)
    a, b = _images()
    if name == "cyclegan":
        nets = _cyclegan_nets()
        trainer = plain_cyclegan.Trainer(nets)
        draws = plain_cyclegan.Draws(torch.zeros(IMAGES, 2), torch.zeros(IMAGES, 2))
        _compile([nets.G_A, nets.G_B, nets.D_A, nets.D_B], compiled)
        return lambda: trainer.iteration(a, b, draws)["adversarial"]
    if name == "munit":
        parts = _munit_nets()
        learner = plain_munit.Trainer(parts, plain_munit.Settings())
        coders = [part for net in (parts.gen_a, parts.gen_b) for part in (net.enc_content, net.enc_style, net.dec)]
        _compile([*coders, parts.dis_a, parts.dis_b], compiled)
        return lambda: learner.iteration(a, b, plain_munit.Styles(*_styles()))["adversarial"]
    if name == "unit":
        learned = plain_unit_trainer.Trainer(_unit_nets(), plain_unit_trainer.Settings())
        blocks = (plain_unit.Layer, plain_unit.Residual)
        coders = [part for net in learned.nets.domains for part in net.modules() if isinstance(part, blocks)]
        _compile([*coders, *learned.nets.judges], compiled)
        drawn = plain_unit_trainer.Draws(*(noise.split(IMAGES)[::-1] for noise in _noise()))
        return lambda: learned.iteration(a, b, drawn)["adversarial"]
    there, back = _pix2pix_nets()
    _compile([there.G, there.D, back.G, back.D], compiled)
    kept = [torch.ones(IMAGES, *_dropped())]
    return lambda: there.iteration(a, b, kept)["adversarial"] + back.iteration(b, a, kept)["adversarial"]


def _dropped() -> tuple[int, int, int]:
    return (512, SIDE >> 4, SIDE >> 4)


def _compile(nets: list[nn.Module], compiled: bool) -> None:
    for net in nets:
        if compiled:
            net.compile(dynamic=False)


def fast_iteration(name: str) -> Iteration:
    """Ours, by the engine's stepper, with the same weights and images."""
    if name in _OTHERS:
        return _OTHERS[name][1]()
    a, b = _images()
    if name == "cyclegan":
        nets = _cyclegan_nets()
        weights = {key: getattr(nets, key).state_dict() for key in ("G_A", "G_B", "D_A", "D_B")}
        noise = {"pool": torch.zeros(2 * IMAGES, 2)}
    elif name == "munit":
        weights = {key: net.state_dict() for key, net in vars(_munit_nets()).items()}
        judged_a, judged_b, made_a, made_b = _styles()
        noise = {"latent": torch.cat([judged_a, judged_b]), "latent2": torch.cat([made_a, made_b])}
    elif name == "unit":
        both = _unit_nets()
        weights = {f"gen_{key}": net.state_dict() for key, net in zip("ab", both.domains, strict=True)}
        weights |= {f"dis_{key}": net.state_dict() for key, net in zip("ab", both.judges, strict=True)}
        noise = dict(zip(("latent_discriminators", "latent", "latent_cycle"), _noise(), strict=True))
    else:
        (there, back), noise = _pix2pix_nets(), {"dropout4": torch.ones(2 * IMAGES, *_dropped())}
        weights = {"G": there.G.state_dict(), "D": there.D.state_dict()}
        weights |= {"G_BA": back.G.state_dict(), "D_BA": back.D.state_dict()}
    translator = from_official(name, weights, image_size=SIDE).requires_grad_(True).train()
    known = torch.ones(2 * IMAGES, dtype=torch.bool)
    pairs: dict[str, Any] = {"paired": (a, b), "has_pair": known} if translator.paired_directions() else {}
    batch = Batch((a, b), _swapped(), (IMAGES, IMAGES), (), (), noise=noise, **pairs)
    stepper = Stepper(translator, translator, system(name).settings().optim)
    count = iter(range(10**9))
    return lambda: next(v for key, v in stepper([batch], next(count)).losses.items() if key.endswith("/adversarial"))


def iteration(implementation: str, name: str) -> Iteration:
    """``"plain"``, ``"compile"`` (the twin by torch.compile) or ``"fast"`` of a system."""
    made: dict[str, Callable[[], Iteration]] = {
        "plain": lambda: plain_iteration(name),
        "compile": lambda: plain_iteration(name, compiled=True),
        "fast": lambda: fast_iteration(name),
    }
    return made[implementation]()


def peak_bytes(implementation: str, name: str) -> int:
    """The most memory that two iterations took beyond nets and images: in a process of its own."""
    allocator = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}
    path = os.pathsep.join(filter(None, [str(FOLDER.parent), str(FOLDER), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, str(FOLDER / "systems_step.py"), implementation, name],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | allocator | {"PYTHONPATH": path},
    )
    return int(done.stdout)


def _measure_peak(implementation: str, name: str) -> int:
    run = iteration(implementation, name)
    before = _resident("VmRSS")
    run(), run()
    return _resident("VmHWM") - before


if __name__ == "__main__":
    print(_measure_peak(*sys.argv[1:]))
