"""Folders in the layouts of DreamBench++ and DreamBooth, with small made pictures."""

import random
from pathlib import Path

from PIL import Image

DREAMBENCH = {"live_subject/animal": 45, "live_subject/human": 20, "object": 65, "style": 20}
ODD_NAMES = {
    ("live_subject/animal", 7): "Cotton-top Tamarin",
    ("live_subject/human", 3): "Human-like Android",
    ("object", 7): "Spider-Man",
    ("object", 20): "Magic Cube",
    ("object", 33): "Humanoid Style-3 Robot",
    ("style", 2): "Ukiyo-e",
}
SUBJECTS = {
    "backpack": "backpack", "backpack_dog": "backpack", "bear_plushie": "stuffed animal",
    "berry_bowl": "bowl",
    "can": "can", "candle": "candle", "cat": "cat", "cat2": "cat", "clock": "clock",
    "colorful_sneaker": "sneaker", "dog": "dog", "dog2": "dog", "dog3": "dog", "dog5": "dog", "dog6": "dog",
    "dog7": "dog", "dog8": "dog", "duck_toy": "toy", "fancy_boot": "boot",
    "grey_sloth_plushie": "stuffed animal", "monster_toy": "toy", "pink_sunglasses": "glasses",
    "poop_emoji": "toy", "rc_car": "toy", "red_cartoon": "cartoon", "robot_toy": "toy",
    "shiny_sneaker": "sneaker", "teapot": "teapot", "vase": "vase", "wolf_plushie": "stuffed animal",
}  # fmt: skip


def picture(name, side=24):
    """A picture of its own for each name."""
    rng = random.Random(ascii(name))
    image = Image.new("RGB", (side, side), tuple(rng.randrange(256) for _ in range(3)))
    image.paste(tuple(rng.randrange(256) for _ in range(3)), (rng.randrange(8), 4, side - 4, side - 6))
    return image


def dreambench(root: Path, counts=None) -> Path:
    """`root/data`, as the authors hand it out."""
    for folder, count in (counts or DREAMBENCH).items():
        images, captions = root / "data" / "images" / folder, root / "data" / "captions" / folder
        images.mkdir(parents=True)
        captions.mkdir(parents=True)
        for number in range(count):
            name = ODD_NAMES.get((folder, number), f"Thing Number {number}")
            picture((folder, number)).save(images / f"{number:02d}.jpg")
            prompts = [f"{name} in place {i} of {folder}" for i in range(9)]
            (captions / f"{number:02d}.txt").write_text("\n".join([name, *prompts]) + "\n")
    return root


def prompts_and_classes(subjects=SUBJECTS, objects=25, live=25) -> str:
    """The index of DreamBooth, in its own form."""

    def listed(count, word):
        lines = [f"'a {{0}} {{1}} {word} {i}'.format(unique_token, class_token)" for i in range(count)]
        return "prompt_list = [\n" + ",\n".join(lines) + "\n]\n"

    classes = "".join(f"{subject},{word}\n" for subject, word in subjects.items())
    return (
        f"Classes\n\nsubject_name,class\n{classes}\nPrompts\n\n"
        f"Object Prompts\n\n{listed(objects, 'on place')}\n"
        f"Live Subject Prompts\n\n{listed(live, 'with dress')}"
    )


def dreambooth(root: Path, subjects=SUBJECTS, pictures=2) -> Path:
    """`root/dataset`, as google/dreambooth has it."""
    dataset = root / "dataset"
    for subject in subjects:
        (dataset / subject).mkdir(parents=True)
        for number in range(pictures):
            picture((subject, number)).save(dataset / subject / f"{number:02d}.jpg")
    (dataset / "prompts_and_classes.txt").write_text(prompts_and_classes(subjects))
    return root
