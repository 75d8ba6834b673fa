"""What prompts, captions and encodings are made with at no cost: a slow writer, a captioner, a backbone."""

import hashlib
import time
from typing import ClassVar

import torch

import dsd
from dsd import backbones, captioners, prompts
from dsd.backbones import Backbone
from dsd.backbones.base import Text
from dsd.prompts.file import FileWriter


@prompts.register("slow-file")
class SlowFileWriter(FileWriter):
    def __init__(self, path, pause_s=0.0):
        super().__init__(path)
        self.pause_s = pause_s

    def write(self, count, seed, *, start=0):
        for prompt in super().write(count, seed, start=start):
            time.sleep(self.pause_s)
            yield prompt


@captioners.register("echo")
class EchoCaptioner(captioners.Captioner):
    """Says what the pair is; declines every ninth."""

    def __init__(self, pause_s=0.0):
        self.pause_s = pause_s

    def caption(self, pair):
        time.sleep(self.pause_s)
        if int(pair.id[:6], 16) % 9 == 0:
            raise ValueError(f"nothing to say of {pair.id}")
        return f"caption of {pair.id}"


@backbones.register("cheap-latents")
class CheapLatents(Backbone):
    """Latents are pixels, and texts are hashes: both depend on nothing but what is encoded."""

    lora_targets: ClassVar = {}
    pixels_per_token = pixels_per_latent = 1
    denoiser = scheduler = None

    def __init__(self, pause_s=0.0):
        super().__init__()
        self.pause_s = pause_s

    loaded = frozenset({"vae", "text"})
    device = torch.device("cpu")
    revision = "0123456789abcdef"

    def encode_image(self, pixels):
        time.sleep(self.pause_s * len(pixels))
        return pixels[..., ::4, ::4].clone()

    def encode_text(self, captions):
        rows = [list(hashlib.sha256(caption.encode()).digest()) for caption in captions]
        numbers = torch.tensor(rows, dtype=torch.float32)
        return Text(tokens=numbers.reshape(len(rows), 8, 4), pooled=numbers[:, :4].clone())

    def _unused(self, *args, **kwargs):
        raise AssertionError("the cache needs no such thing")

    load = release = decode = call = schedule = time_shift = components = latent_shape = _unused


def encode(run, pause_s=0.0):
    torch.set_num_threads(1)
    policy = {"rule": "every"}
    backbone = CheapLatents(pause_s)
    return dsd.encode(run, backbone, "token_concat", policy=policy, batch_size=4, progress=False)
