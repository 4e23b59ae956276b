"""Every system with the narrowest nets, in a run of a few steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import toy
from safetensors.torch import save_file
from torch import Tensor

from m2o_fast.engine.config import load_config
from m2o_fast.engine.processes import joined_processes
from m2o_fast.engine.schema import Config
from m2o_fast.engine.trainer import Trainer
from m2o_fast.engine.training_state import training_tensors
from m2o_fast.translators import NAMES, system

#: what makes nets small beside their widths
SMALLER = {
    "starganv2": ["model.hidden_dim=8", "model.style_dim=4", "model.latent_dim=4"],
    "cyclegan": ["model.blocks=1", "model.pool=5"],
    "simgan": [
        *("model.blocks=1", "model.pool=5", "optim.refiner_steps=2"),
        *("optim.pretrain_refiner=1", "optim.pretrain_discriminator=1"),
    ],
    "munit": ["model.blocks=1", "model.style_dim=2", "model.mlp_width=4"],
    "unit": ["model.blocks=2"],
    "flow": ["model.blocks=1", "model.multipliers=[1,1]", "sampling.steps=1"],
    "bicyclegan": ["model.levels=3", "model.style_dim=2"],
    "stargan": ["model.blocks=1", "model.style_dim=2", "optim.generator_every=2"],
}
#: what systems need that are not here yet, or only some: batches within an iteration, flow's styles, UNIT's rates, ...
LATER = ["model.refine=2", "model.noise=true", "model.adapter=true", "model.batch_norm=false", "optim.halve_every=2"]
#: of a system with options, more of its kinds
MORE = {
    "toy": [["model.batch_norm=false"], ["model.average=true", "model.turns=true"], LATER],
    "starganv2": [
        ["model.domain_layers=block", "model.zero_style=false", "loss.diversity_to=all"],
        ["model.domain_layers=adapter"],
    ],
    "cyclegan": [["model.style=noise"]],
    "munit": [["loss.cycle=1", "optim.halve_every=2"]],
    "unit": [["model.form=paper"]],
    "bicyclegan": [["model.kind=clr", "model.shared_trunk=true"]],
}
#: whose further kinds have cheaper tests of their own, too
RARELY = ("starganv2", "munit", "unit", "bicyclegan")
FACTS = {name: system(name) for name in NAMES} | {"toy": toy.SYSTEM}
#: every system with its last variant and in every kind; all other combinations take long
CASES = [
    pytest.param(
        [f"system={name}", f"variant={variant}", *SMALLER.get(name, []), *words],
        id="-".join([name, variant, *words]),
        marks=[] if variant == list(facts.variants)[-1] and not (words and name in RARELY) else pytest.mark.slow,
    )
    for name, facts in FACTS.items()
    for variant in facts.variants
    for words in ([], *MORE.get(name, []))
]
STEPS, WIDTH = 4, 4
PACE = ["batch_size=4", f"steps={STEPS}", "checkpoint_every=2", "keep_checkpoints=0", "log_every=1", "sample_every=3"]


def small_config(words: list[str], *more: str) -> Config:
    """The configuration of a case with the narrowest nets."""
    given = [*words, *PACE, "data.name=digits", "device=cpu", "threads=1"]
    widths = load_config(assignments=given).settings.widths(32)
    return load_config(assignments=[*given, *(f"{key}={WIDTH}" for key in widths), *more])


def state(trainer: Trainer) -> dict[str, Tensor]:
    """Everything that training changes."""
    files = training_tensors(trainer._training())
    return {f"{file}/{name}": tensor.double() for file, tensors in files.items() for name, tensor in tensors.items()}


def iterations(out: Path, words: list[str], more: list[str]) -> int:
    """Some iterations in float64; the leading process leaves what training changed, and the losses."""
    with pytest.MonkeyPatch.context() as patch, joined_processes() as processes:
        toy.install(patch)
        # Adam makes a step of full length of a gradient that is 0 but for rounding, as of a bias before a norm.
        config = small_config(words, "batch_size=8", "optim.lr=1e-5", *more)
        trainer = Trainer(config, Path("nowhere"), processes=processes)
        for net in {trainer.translator, trainer.averaged}:
            net.double()
        for pool in trainer.stepper.pools.values():
            pool.to(torch.zeros((), dtype=torch.float64))
        for optimizer in trainer.stepper.optimizers.values():
            for kept in optimizer.state.values():
                kept.update({name: tensor.double() for name, tensor in kept.items()})
        losses = []
        for step in range(STEPS):
            parts = [part.to(dtype=torch.float64) for part in trainer.batch(step)]
            losses.append(trainer._read(trainer.stepper(parts, step)))
        if processes.leads:
            files = {name: tensor for name, tensor in state(trainer).items() if not name.startswith("optimizers")}
            packed = {name: tensor.contiguous() for name, tensor in files.items()}
            save_file(packed, out.with_suffix(".safetensors"))
            out.with_suffix(".json").write_text(json.dumps(losses))
    return 0
