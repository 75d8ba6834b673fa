"""Distils two guidances into the teacher's guidance input, as FLUX.1-dev has classifier-free guidance in its
own.

Text guidance (Ho and Salimans, 2022) draws towards the prompt and away from no prompt. Panel guidance draws
towards what the panels of a grid would be together and away from what each would be if it were drawn alone
from its own caption: their difference is what the panels know of each other, so that more of it makes them
show one character. As in the teacher's training, one panel may have less noise than the others, so that more
of it also follows a picture of the character more closely. Both are distilled by regression (Meng et al.,
2023, arXiv 2210.03142), so the model that ships predicts both in one stock forward.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dsd.mini.train.bank import PanelBank
from dsd.mini.train.examples import (
    LAYOUTS,
    LENGTHS,
    Examples,
    LatentBank,
    apart,
    at_once,
    batch_size,
    examples,
    text_length,
)
from dsd.mini.train.fast import fast
from dsd.mini.train.loop import Average, Training, write_checkpoint
from dsd.mini.train.metric import BROAD, broad_error, error_metric, mean_error
from dsd.mini.train.muon import Muon, split_parameters
from dsd.mini.train.teacher import (
    NUM_CHARACTERS,
    Teacher,
    give,
    is_inner,
    load_teacher,
    load_vae,
    noised,
    sample_with_average,
)

GUIDANCE = (1.0, 5.0)
USUAL = (3.5, 2.0)
"""The values that grids and a student's pictures are drawn with; a quarter of the examples has each."""
NONE = 1.0
"""No guidance: what a student is fine-tuned with. A quarter of the examples have it, or the model would
forget how it was trained."""
TEXT_SHARE, PANEL_SHARE = 0.7, 0.8
"""Text guidance is 1 + TEXT_SHARE (g - 1), panel guidance PANEL_SHARE (g - 1), where the input says g."""


def train(work: Path, minutes: float, rate: float = 8e-4, restart: bool = False) -> None:
    """Distil guidance into the trained teacher, or go on, into `work/guidance`.

    Where the teacher was trained on since, what it changed is added to what was distilled from it before.
    """
    vae = load_vae(work)
    bank = LatentBank(work / "latents", PanelBank(work / "panels", NUM_CHARACTERS), vae)
    model, frozen = load_teacher(work), load_teacher(work)
    source = torch.load(work / "teacher" / "checkpoint.pt", weights_only=True)["average"]
    for copy in (model, frozen):
        copy.load_state_dict(source)
    frozen.requires_grad_(False)
    model.requires_grad_(False)
    model.transformer.requires_grad_(True)
    average = Average(model, 0.99)
    matrices, others = split_parameters(model.transformer, is_inner)
    muon, adam = Muon(matrices, lr=rate), torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98))
    training = Training(work / "guidance", minutes, warmup_steps=20, restart=restart)
    follow(training.folder / "checkpoint.pt", source)
    losses: list[list[float]] = []
    weights = error_metric(vae, bank.some(40), torch.Generator().manual_seed(0))
    for step in training.run(model=model, average=average, muon=muon, adam=adam, source=frozen):
        batch = examples(bank, 10_000_000 + step, batch_size(step))
        generator = torch.Generator().manual_seed(10_000_000 + step)
        t, noise, _ = noised(batch, generator)
        x_t, asked = give(batch, t, noise, generator)
        low, high = GUIDANCE
        guidance = low + (high - low) * torch.rand(len(t), generator=generator)
        for i, value in enumerate((*USUAL, NONE)):
            guidance[i * len(t) // 4 : (i + 1) * len(t) // 4] = value
        for optimizer in (muon, adam):
            for group in optimizer.param_groups:
                group["lr"] = rate * training.rate()
            optimizer.zero_grad(set_to_none=True)
        with fast():
            wanted = guided(frozen, x_t, t, guidance, batch)
            v, _ = model(x_t, t, guidance, batch, batch.prompts, text_length(batch.layout, step))
        wrong = v.float() - wanted.float()
        broad = broad_error(wrong, asked, weights, LAYOUTS[batch.layout])
        (mean_error(wrong @ weights, asked) + BROAD * broad).backward()
        torch.nn.utils.clip_grad_norm_(model.transformer.parameters(), 1.0)
        muon.step()
        adam.step()
        average.update(model, step)
        losses.append([float(x.detach()) for x in (mean_error(wrong, asked), broad)])
        if step % 50 == 49:
            plain, colours = np.mean(losses[-50:], axis=0).tolist()
            training.log(loss=plain, broad=colours)
    sample_with_average(model, average, vae, training.folder / "samples.png", guidance=USUAL[0])


def follow(checkpoint: Path, source: Mapping[str, Tensor]) -> None:
    """Move a checkpoint that was distilled from an earlier state of the teacher to its present one, `source`.

    The difference that guidance makes is kept: both states lie on one path of training.

    Raises:
        ValueError: if the checkpoint does not hold the state that it was distilled from.
    """
    if not checkpoint.exists():
        return
    saved = torch.load(checkpoint, weights_only=True)
    if "source" not in saved:
        raise ValueError(
            f"{checkpoint} does not hold the teacher that it was distilled from, as older ones do. "
            "Move its folder away, and distil anew."
        )
    for weights in (saved["model"], saved["average"]):
        for name, value in source.items():
            if value.is_floating_point():
                weights[name] += value - saved["source"][name]
    write_checkpoint(checkpoint, {**saved, "source": dict(source)})


@torch.no_grad()
def guided(model: Teacher, x_t: Tensor, t: Tensor, guidance: Tensor, batch: Examples) -> Tensor:
    """The velocity of packed latents under both guidances, from two or three forwards."""
    one, length = torch.ones_like(t), LENGTHS[batch.layout]
    together, _ = model(x_t, t, one, batch, batch.prompts, length)
    free, _ = model(x_t, t, one, batch, [""] * len(t), length)
    strength = (guidance - 1)[:, None, None]
    velocity = together + TEXT_SHARE * strength * (together - free)
    layout = LAYOUTS[batch.layout]
    if layout != (1, 1):
        count = layout[0] * layout[1]
        panels, times = apart(x_t, layout), t.repeat_interleave(count)
        single = batch.single()
        alone, _ = model(panels, times, torch.ones_like(times), single, single.prompts, LENGTHS["1x1"])
        velocity = velocity + PANEL_SHARE * strength * (together - at_once(alone, layout))
    wanted: Tensor = velocity
    return wanted
