"""Trains the identity encoder: a small ResNet whose embedding is the same for one character in any context.

Contrastive learning with two views a character (Chen et al., 2020, arXiv 2002.05709). A batch holds families
that differ in one thing only, so that telling them apart takes more than colours, and pictures that went
through the autoencoder, since all that a model draws comes out of it.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.classification import binary_auroc
from transformers import ResNetConfig, ResNetModel, ViTImageProcessor

from dsd.mini.train.loop import Average, Training
from dsd.mini.train.relatives import MEMBERS, VIEWS, FamilyBank
from dsd.mini.train.teacher import load_vae

CONFIG = {
    "embedding_size": 24,
    "hidden_sizes": [32, 48, 96, 160],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "downsample_in_first_stage": False,
}
FAMILIES = 16
"""In a batch."""
TEMPERATURE = 0.1


def _pixels(
    bank: FamilyBank, families: np.ndarray, members: np.ndarray, views: np.ndarray
) -> Float[Tensor, "n 3 64 64"]:
    pictures = torch.from_numpy(bank.pictures(families, members, views))
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1


def augment(pixels: Float[Tensor, "n 3 64 64"], generator: torch.Generator) -> Float[Tensor, "n 3 64 64"]:
    """What drawing by a model does to a picture: some blur, some noise, a flip."""
    kernel = torch.tensor([1.0, 2.0, 1.0])
    kernel = (kernel[:, None] * kernel / 16).expand(3, 1, 3, 3)
    amount = torch.rand(len(pixels), 1, 1, 1, generator=generator) * 1.4
    blurred = functional.conv2d(functional.pad(pixels, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
    pixels = torch.lerp(pixels, blurred, amount)
    noise = torch.randn(pixels.shape, generator=generator)
    pixels = pixels + noise * 0.08 * torch.rand(len(pixels), 1, 1, 1, generator=generator)
    flip = torch.rand(len(pixels), 1, 1, 1, generator=generator) < 0.5
    return torch.where(flip, pixels.flip(-1), pixels).clamp(-1, 1)


def contrast(embeddings: Float[Tensor, "two n d"]) -> Tensor:
    """Normalised temperature-scaled cross entropy: each view must find the other view of its character."""
    n = embeddings.shape[1]
    flat = functional.normalize(embeddings.flatten(0, 1), dim=-1)
    likeness = flat @ flat.T / TEMPERATURE
    likeness.fill_diagonal_(-torch.inf)
    return functional.cross_entropy(likeness, torch.arange(2 * n).roll(n))


@torch.no_grad()
def validate(model: ResNetModel, bank: FamilyBank) -> tuple[float, float]:
    """AUROC of held-out pairs of one character, as rendered and as autoencoded, against pairs of two: all,
    and those that differ in one thing.
    """
    count = bank.num_families
    families, members = np.repeat(np.arange(count), MEMBERS), np.tile(np.arange(MEMBERS), count)
    embeddings = [
        functional.normalize(
            model(_pixels(bank, families, members, np.full(len(families), view))).pooler_output.flatten(1),
            dim=-1,
        )
        for view in (0, VIEWS - 1)
    ]
    likeness = embeddings[0] @ embeddings[1].T
    same = torch.eye(len(families), dtype=torch.int)
    related = torch.from_numpy(families[:, None] == families[None])
    return float(binary_auroc(likeness.ravel(), same.ravel())), float(
        binary_auroc(likeness[related], same[related])
    )


def train(work: Path, minutes: float, num_families: int = 1200, rate: float = 2e-3) -> None:
    """Train, or go on training, into `work/identity`."""
    vae = load_vae(work)
    bank = FamilyBank(work / "families", num_families, vae)
    held_out = FamilyBank(work / "families", 200, vae, held_out=True)
    torch.manual_seed(0)
    model = ResNetModel(ResNetConfig(**CONFIG)).to(memory_format=torch.channels_last)
    average = Average(model, 0.99)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    training = Training(work / "identity", minutes, warmup_steps=50)
    losses: list[float] = []
    for step in training.run(model=model, average=average, optimizer=optimizer):
        rng, generator = np.random.default_rng([3, step]), torch.Generator().manual_seed(step)
        families = np.repeat(rng.choice(bank.num_families, FAMILIES, replace=False), MEMBERS)
        members = np.tile(np.arange(MEMBERS), FAMILIES)
        raw = 2 * rng.permuted(np.tile(np.arange(2), (len(families), 1)), axis=1)  # another context each
        pixels = torch.cat(
            [_pixels(bank, families, members, raw[:, i] + rng.integers(2, size=len(raw))) for i in (0, 1)]
        )
        for group in optimizer.param_groups:
            group["lr"] = rate * training.rate()
        pixels = augment(pixels, generator).contiguous(memory_format=torch.channels_last)
        embeddings = model(pixels).pooler_output.flatten(1)
        loss = contrast(embeddings.unflatten(0, (2, -1)))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        average.update(model, step)
        losses.append(float(loss.detach()))
        if step % 100 == 99:
            _report(training, model, average, held_out, losses)
    _report(training, model, average, held_out, losses)


def _averaged(average: Average) -> ResNetModel:
    model = ResNetModel(ResNetConfig(**CONFIG))
    model.load_state_dict(average.shadow)
    return model.eval()


def _report(
    training: Training, model: ResNetModel, average: Average, bank: FamilyBank, losses: list[float]
) -> None:
    auroc, auroc_related = validate(_averaged(average), bank)
    training.log(loss=float(np.mean(losses[-100:])), auroc=auroc, auroc_related=auroc_related)


def export(work: Path, folder: Path) -> None:
    """Write the averaged weights as a float16 transformers model with its image processor."""
    model = ResNetModel(ResNetConfig(**CONFIG))
    model.load_state_dict(torch.load(work / "identity" / "checkpoint.pt", weights_only=True)["average"])
    model.half().save_pretrained(folder)
    mean = [0.5, 0.5, 0.5]
    ViTImageProcessor(size={"height": 64, "width": 64}, image_mean=mean, image_std=mean).save_pretrained(
        folder
    )
