"""A teacher and a curator that cost nothing and depend on their input alone, and a whole run of them."""

import hashlib
import os
import signal
import time

import numpy as np
from PIL import Image

import dsd
from dsd import captioners, curators, teachers
from dsd.types import Grid, Verdict


def picture(text, size=16):
    """A picture that depends on every letter of `text`."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


@teachers.register("cheap")
class CheapTeacher(teachers.Teacher):
    """Draws noise; `faults` maps a word of a prompt to what goes wrong with it."""

    def __init__(self, batch_size=3, size=16, pause_s=0.0, faults=(), look="noise"):
        self.batch_size, self.size, self.pause_s, self.look = batch_size, size, pause_s, look
        self.faults = dict(faults)
        self.drawn = []

    def draw(self, prompts, seeds):
        grids = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            fault = next((fault for word, fault in self.faults.items() if word in prompt.text), None)
            if fault == "raise":
                raise RuntimeError(f"cannot draw {prompt.text!r}")
            if fault == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if fault is not None and fault.startswith("/") and not os.path.exists(fault):  # die once
                open(fault, "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(self.pause_s)
            image = picture(f"{prompt.text} {seed}", self.size)
            if fault == "size":
                image = image.crop((0, 0, 15, 16))
            if fault == "black":
                image = Image.new("RGB", image.size)
            if fault == "mode":
                image = image.convert("L")
            self.drawn.append(prompt.id)
            grids.append(Grid(image=image, prompt=prompt, seed=seed, teacher="cheap"))
        return grids


@captioners.register("cheap")
class CheapCaptioner(captioners.Captioner):
    """Says the first pixel; fails where it is dark."""

    def caption(self, pair):
        red, green, blue = pair.target.getpixel((0, 0))
        if red < 16:
            raise RuntimeError("too dark")
        return f"red {red // 64} green {green // 64} blue {blue // 128}"


@curators.register("parity")
class ParityCurator(curators.Curator):
    """Accepts pairs whose first pixel is even; refuses some."""

    def __init__(self, pause_s=0.0, modulus=2):
        self.pause_s, self.modulus = pause_s, modulus

    def judge(self, pair):
        time.sleep(self.pause_s)
        red = sum(image.convert("RGB").getpixel((0, 0))[0] for image in (pair.reference, pair.target))
        if red % 7 == 0:
            return Verdict(status="refused", reason="seven")
        return Verdict(keep=red % self.modulus == 0, score=red / 510, reason=f"red {red}", cost_usd=0.25)


def write_prompt_file(path, count):
    path.write_text("".join(f"prompt number {i:03d}.\n" for i in range(count)))
    return {"name": "file", "path": str(path)}


def make_run(path, count=8, curator="parity", **teacher):
    """A whole run in the folder `path`."""
    run = dsd.Run(path)
    os.makedirs(path, exist_ok=True)
    dsd.write_prompts(
        run, writer=write_prompt_file(path.parent / f"{path.name}.txt", count), count=count, progress=False
    )
    dsd.draw_grids(run, teacher={"name": "cheap", **teacher}, progress=False)
    dsd.make_pairs(run, progress=False)
    if curator:
        dsd.curate(run, curator=curator, progress=False)
    return run
