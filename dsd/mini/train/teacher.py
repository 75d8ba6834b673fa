"""Trains the small world's teacher: a FLUX transformer and its two text encoders, together, by flow matching.

Panels are encoded once; a training picture is one panel, two side by side or four in a grid, of one character
in contexts that differ, put together from latents. In most of the grids one panel has less noise than the
others: the model learns to draw a character from a picture of it in its context much faster than where all
panels are equally hidden, and a large model has learnt that from the web.
`dsd.mini.train.guidance` then distils guidance into it.
"""

import json
import math
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPTokenizer, T5Tokenizer

from dsd.mini.train import text
from dsd.mini.train.align import PANEL_TOKENS, Aligner
from dsd.mini.train.bank import PanelBank
from dsd.mini.train.examples import (
    LAYOUTS,
    LENGTHS,
    Examples,
    LatentBank,
    at_once,
    batch_size,
    examples,
    text_length,
)
from dsd.mini.train.fast import fast
from dsd.mini.train.loop import Average, Training
from dsd.mini.train.metric import BROAD, broad_error, error_metric, mean_error
from dsd.mini.train.muon import Muon, split_parameters
from dsd.mini.train.reading import Reader
from dsd.mini.world import SCENES, scene_of, write_grid_prompt

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
TIMES = (0.0, 1.3)
"""Mean and deviation of logit(t). Where much noise hides which scene and whom a picture shows, the text is
learnt, so the mean was 0.7 until it was. Then more than half of what a student's pictures lost of their
character was lost below t = 0.48 (measured by noising true pictures so far; see docs/mini.md)."""
SHIFT = 1.0
"""exp(SHIFT) is how much drawing dwells on much noise, where scene and character are settled."""
NUM_CHARACTERS = 24_000
"""From 6,000 characters the model learnt their colours and patterns by heart: drawings from a picture of one
of them had an identity of 0.80, from one of a held-out character 0.75 (48 characters each).
"""
GIVEN = {"2x2": 0.65, "1x2": 0.85, "1x1": 0.0}
"""Share of the grids in which one panel has less noise than the others."""
READING = 0.1
"""Weight of the loss by which the T5 encoder learns early which scene the prompt puts in which panel."""
ALIGNMENT = 0.1
"""Weight of the loss of `Aligner`."""

SAMPLE_PROMPTS = 12


class Teacher(nn.Module):
    """The transformer and the text encoders as one trainable module."""

    def __init__(self, clip: CLIPTokenizer, t5: T5Tokenizer) -> None:
        super().__init__()
        self.clip, self.t5 = clip, t5
        self.transformer = FluxTransformer2DModel(**CONFIG)
        self.text_encoder, self.text_encoder_2 = text.make_encoders(clip, t5)
        self.reader = Reader()
        self.aligner = Aligner(self.transformer.inner_dim)
        self.aligner.watch(self.transformer)

    def forward(
        self, x_t: Tensor, t: Tensor, guidance: Tensor, batch: Examples, prompts: list[str], length: int
    ) -> tuple[Tensor, Tensor]:
        """Velocity of packed latents, through the same calls as `FluxPipeline` makes; and the T5 tokens."""
        clip_ids = self.clip(
            prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        ).input_ids
        tokens = self.read(prompts, length)
        v = self.transformer(
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
        return v, tokens

    def begin_at(self, folder: Path) -> None:
        """Take the weights of a `FluxPipeline` folder, such as the shipped one."""
        pipeline = FluxPipeline.from_pretrained(folder, torch_dtype=torch.float32)
        for name in ("transformer", "text_encoder", "text_encoder_2"):
            getattr(self, name).load_state_dict(getattr(pipeline, name).state_dict())

    def read(self, prompts: list[str], length: int) -> Tensor:
        """T5 tokens (n, length, width)."""
        ids = self.t5(
            prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
        tokens: Tensor = self.text_encoder_2(ids)[0]
        return tokens


def load_vae(work: Path) -> AutoencoderKL:
    """The finished autoencoder, with its refined decoder where there is one."""
    refined = work / "decoder" / "vae"
    return AutoencoderKL.from_pretrained(refined if refined.exists() else work / "autoencoder" / "vae").eval()


def assemble(model: Teacher, vae: AutoencoderKL) -> FluxPipeline:
    """The parts as a stock pipeline."""
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=SHIFT, max_shift=SHIFT, shift=math.exp(SHIFT)
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


def noised(batch: Examples, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Times of a batch, its noise and its noisy latents."""
    mean, deviation = TIMES
    t = torch.sigmoid(mean + deviation * torch.randn(len(batch.prompts), generator=generator))
    noise = torch.randn(batch.x_0.shape, generator=generator)
    return t, noise, torch.lerp(batch.x_0, noise, t[:, None, None])


def give(
    batch: Examples, t: Tensor, noise: Tensor, generator: torch.Generator
) -> tuple[Float[Tensor, "n tokens d"], Float[Tensor, "n tokens 1"]]:
    """Noisy latents in which some grids have one panel of less noise, and the tokens that are not in one.

    The model is told the time of the other panels, so the given one is not asked of it.
    """
    layout = LAYOUTS[batch.layout]
    n, panels = len(t), layout[0] * layout[1]
    which = torch.randint(panels, (n,), generator=generator)
    chosen = torch.rand(n, generator=generator) < GIVEN[batch.layout]
    given = chosen[:, None] & (torch.arange(panels) == which[:, None])
    less = t * torch.rand(n, generator=generator).square()
    side = PANEL_TOKENS
    in_given = at_once(given.float().reshape(-1, 1, 1).expand(-1, side * side, 1), layout)
    times = torch.where(in_given > 0, less[:, None, None], t[:, None, None])
    return torch.lerp(batch.x_0, noise, times), 1 - in_given


def is_inner(name: str) -> bool:
    """Whether the weight of that name is one of the matrices inside the blocks."""
    if "relative_attention_bias" in name:
        return False
    return ("blocks." in name and "norm" not in name) or ".layers." in name or ".block." in name


def _optimizers(model: nn.Module, rate: float) -> tuple[Muon, torch.optim.AdamW]:
    matrices, others = split_parameters(model, is_inner)
    return Muon(matrices, lr=2 * rate), torch.optim.AdamW(
        others, lr=rate, betas=(0.9, 0.98), weight_decay=1e-3
    )


def train(
    work: Path,
    minutes: float,
    num_characters: int = NUM_CHARACTERS,
    rate: float = 1.5e-3,
    restart: bool = False,
) -> None:
    """Train, or go on training, into `work/teacher`."""
    vae = load_vae(work)
    bank = LatentBank(work / "latents", PanelBank(work / "panels", num_characters), vae)
    if not (work / "tokenizers").exists():
        text.save_tokenizers(work / "tokenizers")
    torch.manual_seed(0)
    model = load_teacher(work)
    average = Average(model, 0.998)
    muon, adam = _optimizers(model, rate)
    training = Training(work / "teacher", minutes, restart=restart)
    if not (training.folder / "checkpoint.pt").exists():
        shipped = work / "teacher" / "begin"
        if shipped.exists():
            model.begin_at(shipped)
        learn_to_read(model, encoder=not shipped.exists())
        average = Average(model, 0.998)
    losses: list[list[float]] = []
    weights = error_metric(vae, bank.some(40), torch.Generator().manual_seed(0))
    with ThreadPoolExecutor(1) as ahead:
        coming = None
        for step in training.run(model=model, average=average, muon=muon, adam=adam):
            batch = coming.result() if coming else examples(bank, step, batch_size(step))
            coming = ahead.submit(examples, bank, step + 1, batch_size(step + 1))
            generator = torch.Generator().manual_seed(step)
            t, noise, _ = noised(batch, generator)
            x_t, asked = give(batch, t, noise, generator)
            for optimizer, peak in ((muon, 2 * rate), (adam, rate)):
                for group in optimizer.param_groups:
                    group["lr"] = peak * training.rate()
                optimizer.zero_grad(set_to_none=True)
            length = text_length(batch.layout, step)
            with fast():
                v, tokens = model(x_t, t, torch.ones_like(t), batch, batch.prompts, length)
                reading = model.reader(tokens, batch)
                assert batch.facts is not None
                alignment = model.aligner(batch.rows, batch.columns, batch.facts)
            wrong = v.float() - (noise - batch.x_0)
            loss, plain = mean_error(wrong @ weights, asked), mean_error(wrong, asked)
            broad = broad_error(wrong, asked, weights, LAYOUTS[batch.layout])
            (loss + BROAD * broad + READING * reading + ALIGNMENT * alignment).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            muon.step()
            adam.step()
            average.update(model, step)
            losses.append([float(x.detach()) for x in (loss, plain, broad, reading, alignment)])
            if step % 100 == 99:
                means = np.mean(losses[-100:], axis=0).tolist()
                training.log(
                    **dict(zip(("seen", "loss", "broad", "reading", "alignment"), means, strict=True))
                )
            if step % 600 == 599:
                sample_with_average(model, average, vae, training.folder / "samples.png")
    sample_with_average(model, average, vae, training.folder / "samples.png")


def learn_to_read(model: Teacher, steps: int = 400, rate: float = 1.5e-3, encoder: bool = True) -> float:
    """Train the T5 encoder to say which scene the prompt puts in which panel; returns the last loss.

    Without `encoder` only the reader learns, from an encoder that can read already.
    """
    rng, reading = random.Random("reading"), torch.zeros(())
    optimizers: list[torch.optim.Optimizer] = (
        [*_optimizers(nn.ModuleList([model.reader, model.text_encoder_2]), rate)]
        if encoder
        else [torch.optim.AdamW(model.reader.parameters(), lr=rate)]
    )
    peaks = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    for step in range(steps):
        layout = "1x2" if step % 4 == 0 else "2x2"
        written = [write_grid_prompt(rng, layout) for _ in range(64)]
        batch = Examples(
            x_0=torch.zeros(64, 0, 64),
            prompts=[text.punctuate(prompt["text"], rng) for prompt in written],
            captions=[str(c) for prompt in written for c in prompt["panels"]],
            layout=layout,
            scenes=torch.tensor(
                [[SCENES.index(scene_of(c)) for c in prompt["panels"]] for prompt in written]
            ),
            facts=None,
            rows=0,
            columns=0,
        )
        reading = model.reader(model.read(batch.prompts, LENGTHS[layout]), batch)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * min(1.0, step / 20, (steps - step) / (0.5 * steps))
            optimizer.zero_grad(set_to_none=True)
        reading.backward()
        for optimizer in optimizers:
            optimizer.step()
    return float(reading.detach())


def load_teacher(work: Path) -> Teacher:
    """A teacher with random weights and the tokenizers of `work`."""
    folder = work / "tokenizers"
    return Teacher(
        CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        T5Tokenizer.from_pretrained(folder / "tokenizer_2"),
    )


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
    prompts = [str(write_grid_prompt(rng, held_out=True)["text"]) for _ in range(SAMPLE_PROMPTS)]
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
    """Write the averaged weights of `work/PART` as a float16 `FluxPipeline` folder.

    The configurations of the text encoders say float32: transformers loads what they say, and diffusers loads
    float32 when it is not told; so `from_pretrained` without a dtype gives a pipeline that works.
    """
    model = load_teacher(work)
    model.load_state_dict(torch.load(work / part / "checkpoint.pt", weights_only=True)["average"])
    assemble(model.half(), load_vae(work).half()).save_pretrained(folder)
    for name in ("text_encoder", "text_encoder_2"):
        path = folder / name / "config.json"
        config = {**json.loads(path.read_text()), "dtype": "float32"}
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
