"""Trains the small world's AutoencoderKL on single panels, pairs side by side and 2x2 grids."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from dsd.mini.train.bank import VIEWS, PanelBank
from dsd.mini.train.loop import Average, Training
from dsd.mini.train.muon import Muon, split_parameters

CONFIG = {
    "block_out_channels": (16, 32, 64, 96),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "latent_channels": 16,
    "norm_num_groups": 8,
    "mid_block_add_attention": False,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "sample_size": 64,
}
KL_WEIGHT = 1e-3

Pixels = Float[Tensor, "b 3 h w"]


def pictures(
    bank: PanelBank, rng: np.random.Generator, num_panels: int
) -> tuple[Pixels, Float[Tensor, "parts 3 part_h part_w"], tuple[int, int]]:
    """Canvases in [-1, 1] as the models will meet them (a panel alone, two side by side, 2x2), what of them
    is encoded at once, and the layout in which the latents of that make the canvas.

    Half of the canvases are encoded as a whole, some of these with black beside a panel. Of the others each
    panel is encoded by itself, as teacher and student draw them: group normalisation sees another picture
    then, and a decoder that never met such latents lost 4 dB on them.
    """
    panels, layout = _panels(bank, rng, num_panels)
    if rng.random() < 0.5:
        return compose(panels, layout), panels, layout
    if layout == (1, 2):
        panels[1 : len(panels) // 2 : 2] = -1.0
    canvas = compose(panels, layout)
    return canvas, canvas, (1, 1)


def _panels(bank: PanelBank, rng: np.random.Generator, num_panels: int) -> tuple[Pixels, tuple[int, int]]:
    characters = rng.integers(0, bank.num_characters, num_panels)
    panels = bank.panels(characters, rng.integers(0, VIEWS, num_panels))
    kind = rng.random()
    layout = (1, 1) if kind < 0.5 else (1, 2) if kind < 0.75 else (2, 2)
    return torch.from_numpy(panels).permute(0, 3, 1, 2).float() / 127.5 - 1, layout


def compose(panels: Float[Tensor, "n c h w"], layout: tuple[int, int]) -> Float[Tensor, "m c rh cw"]:
    """Every so many panels, or their latents, as one canvas, row by row."""
    canvas = panels.unflatten(0, (-1, *layout)).permute(0, 3, 1, 4, 2, 5)
    return canvas.flatten(4, 5).flatten(2, 3)


def _edges(x: Pixels) -> tuple[Tensor, Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def reconstruction_loss(ours: Pixels, truth: Pixels) -> Tensor:
    """L1, squared and edge error together."""
    edges = sum(
        (functional.l1_loss(a, b) for a, b in zip(_edges(ours), _edges(truth), strict=True)), torch.zeros(())
    )
    return functional.l1_loss(ours, truth) + 4 * functional.mse_loss(ours, truth) + edges


@torch.no_grad()
def validate(vae: AutoencoderKL, bank: PanelBank, picture: Path | None = None) -> float:
    """Mean PSNR in dB over 96 held-out panels; draws the first ones above their reconstructions."""
    truth = canvases_alone(bank, 12)
    ours = vae.decode(vae.encode(truth).latent_dist.mode()).sample.clamp(-1, 1)
    error = ((ours - truth) / 2).square().mean((1, 2, 3))
    if picture is not None:
        rows = torch.stack([truth, ours]).reshape(2, 12, VIEWS, 3, 64, 64)[:, :, :4]
        sheet = rows.permute(2, 0, 4, 1, 5, 3).reshape(8 * 64, 12 * 64, 3)
        Image.fromarray(((sheet + 1) * 127.5).round().byte().numpy()).save(picture)
    return float((-10 * torch.log10(error)).mean())


def train(work: Path, minutes: float, rate: float = 1.5e-3, restart: bool = False) -> None:
    """Train, or go on training, into `work/autoencoder`; ends by `finish`.

    Without a checkpoint it begins at the weights of `work/autoencoder/vae`, where `unpack` put them.
    """
    torch.manual_seed(0)
    begun = work / "autoencoder" / "vae"
    vae = AutoencoderKL.from_pretrained(begun) if begun.exists() else AutoencoderKL(**CONFIG)
    _fit(work, Training(work / "autoencoder", minutes, restart=restart), vae, vae, rate)
    finish(work)


def train_decoder(work: Path, minutes: float, rate: float = 7e-4, restart: bool = False) -> None:
    """Refine the decoder alone, into `work/decoder`: the latents stay what the teacher was trained on."""
    vae = AutoencoderKL.from_pretrained(work / "autoencoder" / "vae")
    vae.encoder.requires_grad_(False)
    _fit(work, Training(work / "decoder", minutes, restart=restart), vae, vae.decoder, rate)
    _save_average(work / "decoder", vae)


def _fit(
    work: Path,
    training: Training,
    vae: AutoencoderKL,
    trained: nn.Module,
    rate: float,
    panels: int = 16,
) -> None:
    bank, held_out = PanelBank(work / "panels", 6000), PanelBank(work / "panels", 500, held_out=True)
    average = Average(vae, 0.995)
    matrices, others = split_parameters(
        trained, lambda name: "conv_in" not in name and "conv_out" not in name
    )
    muon, adam = (
        Muon(matrices, lr=2 * rate),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=1e-3),
    )
    for step in training.run(vae=vae, average=average, muon=muon, adam=adam):
        pixels, parts, layout = pictures(bank, np.random.default_rng([1, step]), panels)
        for optimizer, peak in ((muon, 2 * rate), (adam, rate)):
            for group in optimizer.param_groups:
                group["lr"] = peak * training.rate()
            optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(parts).latent_dist
            mean, std = posterior.mean.float(), posterior.std.float()
            latents = mean + std * torch.randn_like(mean)
            ours = vae.decode(compose(latents, layout)).sample.float()
        reconstruction = reconstruction_loss(ours, pixels)
        kl = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).mean()
        (reconstruction + KL_WEIGHT * kl).backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        muon.step()
        adam.step()
        average.update(vae, step)
        if step % 250 == 249:
            psnr = validate(_averaged(average), held_out, training.folder / "samples.png")
            training.log(
                psnr_db=psnr,
                reconstruction=float(reconstruction.detach()),
                kl=float(kl.detach()),
                latent_std=float(mean.detach().std()),
                noise_std=float(std.detach().mean()),
            )
    training.log(psnr_db=validate(_averaged(average), held_out, training.folder / "samples.png"))


def _averaged(average: Average) -> AutoencoderKL:
    vae = AutoencoderKL(**CONFIG)
    vae.load_state_dict(average.shadow)
    return vae.eval()


def _save_average(folder: Path, vae: AutoencoderKL) -> None:
    vae.load_state_dict(torch.load(folder / "checkpoint.pt", weights_only=True)["average"])
    vae.save_pretrained(folder / "vae")


@torch.no_grad()
def finish(work: Path) -> None:
    """Save the averaged weights as a diffusers folder, `work/autoencoder/vae`, with the shift and scale of
    its latents.

    As in FLUX.1, one shift and one scale serve all channels: the latents of 400 panels get mean 0 and
    deviation 1.
    """
    vae = AutoencoderKL(**CONFIG)
    _save_average(work / "autoencoder", vae)
    pixels = canvases_alone(PanelBank(work / "panels", 500), 50)
    latents = torch.cat([vae.encode(part).latent_dist.mode() for part in pixels.split(50)])
    vae.register_to_config(shift_factor=float(latents.mean()), scaling_factor=1 / float(latents.std()))
    vae.save_pretrained(work / "autoencoder" / "vae")


def canvases_alone(bank: PanelBank, num_characters: int) -> Pixels:
    """All panels of the first characters, in [-1, 1]."""
    characters, views = np.repeat(np.arange(num_characters), VIEWS), np.tile(np.arange(VIEWS), num_characters)
    return torch.from_numpy(bank.panels(characters, views)).permute(0, 3, 1, 2).float() / 127.5 - 1
