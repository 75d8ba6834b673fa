"""A vision-language model as a judge: pairs for it, what it answers, and what it costs."""

import json

from PIL import Image

from dsd import curators
from dsd.curators import Pair

PRICE = {"prompt": 1.0, "completion": 10.0}
COST = 1000 / 1e6 + 100 * 10 / 1e6  # of one call of the server


def picture(red, other=0):
    """A picture whose red can be read from what the server gets, JPEG or not."""
    return Image.new("RGB", (40, 30), (red, other, 90))


def pair(red=200, other=100, caption="the fox in snow", subject="a fox"):
    return Pair(reference=picture(red), target=picture(red, other), caption=caption, subject=subject)


def judge(server, **options):
    return curators.create(
        {"name": "vlm", "model": "openai/judge-1", "api_base": server.openai, "api_key": "test-key-123456"}
        | {"price": PRICE, "timeout_s": 5.0, "structured": "schema", **options}
    )


def judgement(same=True, score=0.9, different=True, words="both are red"):
    return json.dumps(
        {
            "subject": "a fox",
            "first_picture": "a red fox",
            "second_picture": "a red fox in snow",
            "comparison": words,
            "different_pictures": different,
            "same_subject": same,
            "score": score,
        }
    )


def text_of(asked):
    return "\n".join(asked.texts)
