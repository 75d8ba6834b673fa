"""Trains the small world's teacher: a FLUX transformer and its two text encoders, together, by flow matching.

Panels are encoded once; a training picture is one panel, two side by side or four in a grid, of one character
in contexts that differ, put together from latents. The `guidance` part then distils classifier-free guidance
into the guidance input, as FLUX.1-dev has it (Meng et al., 2023, arXiv 2210.03142).
"""

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPTokenizer, T5Tokenizer

from dsd.mini.train import text
from dsd.mini.train.bank import CHUNK, VIEWS, PanelBank, character, contexts
from dsd.mini.train.loop import Average, Training
from dsd.mini.train.muon import Muon, split_parameters
from dsd.mini.world import describe, describe_scene, grid_text

CONFIG = {
    "in_channels": 64,
    "num_layers": 2,
    "num_single_layers": 4,
    "attention_head_dim": 32,
    "num_attention_heads": 6,
    "joint_attention_dim": text.WIDTH,
    "pooled_projection_dim": text.WIDTH,
    "guidance_embeds": True,
    "axes_dims_rope": (4, 14, 14),
}
LAYOUTS = {"2x2": (2, 2), "1x2": (1, 2), "1x1": (1, 1)}
SHARES = {"2x2": 0.6, "1x2": 0.2, "1x1": 0.2}
BATCH = {"2x2": 32, "1x2": 48, "1x1": 64}
TEXT_DROPOUT = 0.1
LONG_EVERY, LONG_BATCH = 25, 6
"""Every so often prompts are padded to 512 tokens, as `FluxPipeline` does by default, so that padding means
nothing."""
GUIDANCE = (1.0, 5.0)

SAMPLE_PROMPTS = 12


class LatentBank:
    """Latents (characters, 8, 16, 8, 8) of a `PanelBank`, scaled to unit variance; encoded once, kept on
    disk.
    """

    def __init__(self, folder: Path, bank: PanelBank, vae: AutoencoderKL) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.num_characters = bank.num_characters
        chunks = []
        for start in range(0, bank.num_characters, CHUNK):
            path = folder / f"latents-{start // CHUNK:04d}.npy"
            if not path.exists():
                latents = [_encode(vae, bank, c) for c in range(start, start + CHUNK, 10)]
                part = path.with_suffix(".part.npy")
                np.save(part, np.concatenate(latents).astype(np.float16))
                part.rename(path)
            chunks.append(np.load(path))
        self.latents = np.concatenate(chunks)


@torch.no_grad()
def _encode(vae: AutoencoderKL, bank: PanelBank, first: int) -> np.ndarray:
    characters, views = np.repeat(np.arange(first, first + 10), VIEWS), np.tile(np.arange(VIEWS), 10)
    pixels = torch.from_numpy(bank.panels(characters, views)).permute(0, 3, 1, 2).float() / 127.5 - 1
    latents = vae.encode(pixels).latent_dist.mode()
    scaled = (latents - vae.config.shift_factor) * vae.config.scaling_factor
    return scaled.reshape(10, VIEWS, *latents.shape[1:]).numpy()


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Packed latents (n, tokens, 64) of one layout and the prompts that describe them."""

    x_0: Float[Tensor, "n tokens 64"]
    prompts: list[str]
    rows: int
    columns: int


def examples(bank: LatentBank, step: int, count: int | None = None, layout: str | None = None) -> Examples:
    """The training pictures of a step; the same ones for the same step on every machine."""
    rng = random.Random(f"examples:{step}")
    layout = layout or rng.choices(list(SHARES), list(SHARES.values()))[0]
    rows, columns = LAYOUTS[layout]
    prompts, canvases = [], []
    for _ in range(count or BATCH[layout]):
        index = rng.randrange(bank.num_characters)
        views = rng.sample(range(VIEWS), rows * columns)
        places = contexts(index)
        scenes = [describe_scene(places[view].scene, rng) for view in views]
        prompt = grid_text(describe(character(index), rng), scenes, layout, rng)
        prompts.append("" if rng.random() < TEXT_DROPOUT else text.punctuate(prompt, rng))
        canvases.append(bank.latents[index, views])
    panels = torch.from_numpy(np.stack(canvases)).float().unflatten(1, (rows, columns))
    canvas = panels.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    n, c, h, w = canvas.shape
    return Examples(
        x_0=FluxPipeline._pack_latents(canvas, n, c, h, w), prompts=prompts, rows=h // 2, columns=w // 2
    )


def text_length(batch: Examples, step: int) -> int:
    """How many T5 tokens a batch is padded to: 32 when a prompt of one panel fits, or 64; so the length means
    nothing.
    """
    return 32 if len(batch.prompts) == BATCH["1x1"] and step % 4 else text.T5_LENGTH


class Teacher(nn.Module):
    """The transformer and the text encoders as one trainable module."""

    def __init__(self, clip: CLIPTokenizer, t5: T5Tokenizer) -> None:
        super().__init__()
        self.clip, self.t5 = clip, t5
        self.transformer = FluxTransformer2DModel(**CONFIG)
        self.text_encoder, self.text_encoder_2 = text.make_encoders(clip, t5)

    def forward(
        self, x_t: Tensor, t: Tensor, guidance: Tensor, batch: Examples, prompts: list[str], length: int
    ) -> Tensor:
        """Velocity of packed latents, through the same calls as `FluxPipeline` makes."""
        clip_ids = self.clip(
            prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        ).input_ids
        t5_ids = self.t5(
            prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
        tokens = self.text_encoder_2(t5_ids)[0]
        return self.transformer(
            hidden_states=x_t,
            timestep=t,
            guidance=guidance,
            pooled_projections=self.text_encoder(clip_ids).pooler_output,
            encoder_hidden_states=tokens,
            txt_ids=torch.zeros(length, 3),
            img_ids=FluxPipeline._prepare_latent_image_ids(
                1, batch.rows, batch.columns, torch.device("cpu"), torch.float32
            ),
            return_dict=False,
        )[0]


def load_vae(work: Path) -> AutoencoderKL:
    """The finished autoencoder, with its refined decoder where there is one."""
    refined = work / "decoder" / "vae"
    return AutoencoderKL.from_pretrained(refined if refined.exists() else work / "autoencoder" / "vae").eval()


def assemble(model: Teacher, vae: AutoencoderKL) -> FluxPipeline:
    """The parts as a stock pipeline."""
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, shift=3.0
    )
    return FluxPipeline(
        scheduler=scheduler,
        vae=vae,
        text_encoder=model.text_encoder,
        tokenizer=model.clip,
        tokenizer_2=model.t5,
        text_encoder_2=model.text_encoder_2,
        transformer=model.transformer,
    )


def _noise(batch: Examples, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    t = torch.sigmoid(torch.randn(len(batch.prompts), generator=generator))
    noise = torch.randn(batch.x_0.shape, generator=generator)
    return t, noise, torch.lerp(batch.x_0, noise, t[:, None, None])


def _optimizers(model: Teacher, rate: float) -> tuple[Muon, torch.optim.AdamW]:
    matrices, others = split_parameters(
        model, lambda n: ("blocks." in n and "norm" not in n) or ".layers." in n or ".block." in n
    )
    return Muon(matrices, lr=2 * rate), torch.optim.AdamW(
        others, lr=rate, betas=(0.9, 0.98), weight_decay=1e-3
    )


def train(work: Path, minutes: float, num_characters: int = 6000, rate: float = 1.5e-3) -> None:
    """Train, or go on training, into `work/teacher`."""
    vae = load_vae(work)
    bank = LatentBank(work / "latents", PanelBank(work / "panels", num_characters), vae)
    if not (work / "tokenizers").exists():
        text.save_tokenizers(work / "tokenizers")
    torch.manual_seed(0)
    model = load_teacher(work)
    average = Average(model, 0.998)
    muon, adam = _optimizers(model, rate)
    training = Training(work / "teacher", minutes)
    losses: list[float] = []
    with ThreadPoolExecutor(1) as ahead:
        coming = None
        for step in training.run(model=model, average=average, muon=muon, adam=adam):
            long = step % LONG_EVERY == LONG_EVERY - 1
            batch = coming.result() if coming else examples(bank, step)
            coming = ahead.submit(
                examples, bank, step + 1, LONG_BATCH if (step + 1) % LONG_EVERY == LONG_EVERY - 1 else None
            )
            t, noise, x_t = _noise(batch, torch.Generator().manual_seed(step))
            for optimizer, peak in ((muon, 2 * rate), (adam, rate)):
                for group in optimizer.param_groups:
                    group["lr"] = peak * training.rate()
                optimizer.zero_grad(set_to_none=True)
            length = 512 if long else text_length(batch, step)
            v = model(x_t, t, torch.full_like(t, GUIDANCE[0]), batch, batch.prompts, length)
            loss = (v - (noise - batch.x_0)).square().mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            muon.step()
            adam.step()
            average.update(model, step)
            losses.append(float(loss.detach()))
            if step % 200 == 199:
                training.log(loss=float(np.mean(losses[-200:])))
            if step % 600 == 599:
                sample_with_average(model, average, vae, training.folder / "samples.png")
    sample_with_average(model, average, vae, training.folder / "samples.png")


def load_teacher(work: Path) -> Teacher:
    """A teacher with random weights and the tokenizers of `work`."""
    folder = work / "tokenizers"
    return Teacher(
        CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        T5Tokenizer.from_pretrained(folder / "tokenizer_2"),
    )


def guide(work: Path, minutes: float, rate: float = 3e-4) -> None:
    """Distil guidance into the trained teacher's guidance input, into `work/guidance`."""
    vae = load_vae(work)
    bank = LatentBank(work / "latents", PanelBank(work / "panels", 6000), vae)
    model, frozen = load_teacher(work), load_teacher(work)
    source = torch.load(work / "teacher" / "checkpoint.pt", weights_only=True)["average"]
    model.load_state_dict(source)
    frozen.load_state_dict(source)
    frozen.requires_grad_(False)
    model.text_encoder.requires_grad_(False)
    model.text_encoder_2.requires_grad_(False)
    average = Average(model, 0.995)
    optimizer = torch.optim.AdamW(
        model.transformer.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.0
    )
    training = Training(work / "guidance", minutes, warmup_steps=20)
    losses: list[float] = []
    for step in training.run(model=model, average=average, optimizer=optimizer):
        batch = examples(bank, 10_000_000 + step)
        generator = torch.Generator().manual_seed(10_000_000 + step)
        t, _, x_t = _noise(batch, generator)
        guidance = GUIDANCE[0] + (GUIDANCE[1] - GUIDANCE[0]) * torch.rand(len(t), generator=generator)
        length = 512 if step % LONG_EVERY == LONG_EVERY - 1 else text.T5_LENGTH
        with torch.no_grad():
            one = torch.ones_like(t)
            conditional = frozen(x_t, t, one, batch, batch.prompts, text.T5_LENGTH)
            free = frozen(x_t, t, one, batch, [""] * len(t), text.T5_LENGTH)
            wanted = free + guidance[:, None, None] * (conditional - free)
        for group in optimizer.param_groups:
            group["lr"] = rate * training.rate()
        loss = (model(x_t, t, guidance, batch, batch.prompts, length) - wanted).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update(model, step)
        losses.append(float(loss.detach()))
        if step % 50 == 49:
            training.log(loss=float(np.mean(losses[-50:])))
    sample_with_average(model, average, vae, training.folder / "samples.png", guidance=3.5)


@torch.no_grad()
def sample_with_average(
    model: Teacher,
    average: Average,
    vae: AutoencoderKL,
    picture: Path,
    guidance: float = 1.0,
    steps: int = 20,
) -> None:
    """Draw held-out prompts with the averaged weights, through the stock pipeline."""
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(average.shadow)
    rng = random.Random("held-out prompts")
    prompts = [str(text.write_grid_prompt(rng, held_out=True)["text"]) for _ in range(SAMPLE_PROMPTS)]
    pipeline = assemble(model, vae)
    pipeline.set_progress_bar_config(disable=True)
    grids = pipeline(
        prompts,
        height=128,
        width=128,
        num_inference_steps=steps,
        guidance_scale=guidance,
        max_sequence_length=text.T5_LENGTH,
        generator=torch.Generator().manual_seed(0),
    ).images
    sheet = Image.new("RGB", (6 * 128, -(-SAMPLE_PROMPTS // 6) * 128))
    for i, grid in enumerate(grids):
        sheet.paste(grid, (i % 6 * 128, i // 6 * 128))
    sheet.save(picture)
    model.load_state_dict(kept)


def export(work: Path, folder: Path, part: str) -> None:
    """Write the averaged weights of `work/PART` as a float16 `FluxPipeline` folder."""
    model = load_teacher(work)
    model.load_state_dict(torch.load(work / part / "checkpoint.pt", weights_only=True)["average"])
    assemble(model.half(), load_vae(work).half()).save_pretrained(folder)
