"""What the tests of judges share: cases whose pictures can be told apart, a judge, answers."""

import json

from PIL import Image

from dsd import judges
from dsd.judges import Case
from tests.asking import KEY, PRICE

RED, GREEN = (200, 0, 90), (30, 180, 40)
"""Of the reference and of the generated picture: what a server gets can be told apart by it."""


def case(key="dog-0", red=200, prompt="a dog on the moon", subject="a dog", size=(40, 30)):
    return Case(
        key=key,
        generated=Image.new("RGB", size, GREEN),
        reference=Image.new("RGB", size, (red, 0, 90)),
        prompt=prompt,
        subject=subject,
    )


def judge(server, **options):
    spec = {"name": "rubric", "model": "openai/judge-1", "api_base": server.openai, "api_key": KEY}
    return judges.create(spec | {"price": PRICE, "timeout_s": 5.0, "structured": "schema", **options})


def scored(score=3, **words):
    told = {"shape": "a dog's", "colour": "brown, as there", "texture": "short fur", "face": "both ears down"}
    return json.dumps(told | words | {"score": score})


def which(image):
    """Whose picture it is that a server got."""
    red, green, _ = image.getpixel((5, 5))
    return "generated" if green > 100 > red else "reference"


def red_of(asked):
    """How red the reference is, by which a case can be told."""
    (reference,) = (image for image in asked.images if which(image) == "reference")
    return reference.getpixel((5, 5))[0]


def text_of(asked):
    return "\n".join(asked.texts)
