"""A model that writes prompts and says of captions what it thinks of them, and writers that ask it."""

import hashlib
import itertools
import json
import random
import re

from dsd.prompts import LLMWriter

SYLLABLES = [a + b for a, b in itertools.product("b d f g k l m n p r s t v z".split(), "a e i o u".split())]
FEW_WORDS = ["".join(pair) for pair in itertools.product(SYLLABLES[:10], SYLLABLES[:20])]
KINDS = ("character", "object", "animal")


def word(rng):
    return "".join(rng.choices(SYLLABLES, k=3))


def caption_of(text):
    found = re.search(r'<data name="caption" mark="(\w+)">\n(.*?)\n</data mark="\1">', text, re.DOTALL)
    return found[2] if found else None


class Author:
    """A model whose every answer depends on the question alone. Captions say what it thinks of them."""

    def __init__(self, **changes):
        self.changes = changes
        self.written, self.judged = [], []

    def __call__(self, asked):
        question = asked.texts[1]
        if "Does it have one clear subject?" in question:
            return self.judge(asked, caption_of(question))
        return self.write(asked, question)

    def judge(self, asked, caption):
        self.judged.append(caption)
        kind = next((kind for kind in KINDS if f"kind {kind}" in caption), "none")
        clear = "unclear" not in caption
        return json.dumps({"reasoning": "seen", "subject": caption[:20], "kind": kind, "clear": clear})

    def write(self, asked, question):
        self.written.append(question)
        content = json.dumps(asked.body["messages"]) + str(asked.number if self.changes.get("moody") else "")
        rng = random.Random(hashlib.sha256(content.encode()).hexdigest())
        num_panels = int(re.search(r"a grid of (\d+) panels", question)[1])
        few = self.changes.get("few_words")
        a, b, c, d, e = rng.sample(FEW_WORDS, 5) if few else (word(rng) for _ in range(5))
        subject = f"a {a} {b} with {c} {d} and {e}"
        panels = [f"{subject}, {word(rng)} in {word(rng)}" for _ in range(num_panels)]
        return json.dumps({"plan": "vary", "subject": subject, "panels": panels})


class Changed(Author):
    def __init__(self, write):
        super().__init__()
        self.own = write

    def write(self, asked, question):
        return self.own(asked, super().write(asked, question))


def draft(subject, num_panels=4, of="{subject}, doing thing {i} in place {i}"):
    panels = [of.format(subject=subject, i=i) for i in range(num_panels)]
    return json.dumps({"plan": "p", "subject": subject, "panels": panels})


MADE = []


def writer(server, **arguments):
    MADE.append(
        LLMWriter("openai/author-1", api_base=server.openai, api_key="test", structured="schema", **arguments)
    )
    return MADE[-1]


def close_writers():
    while MADE:
        MADE.pop().llm.close()


def some_captions(folder):
    """90 captions, of which a third has no clear subject; every kind equally often."""
    path = folder / "captions.txt"
    rows = [f"caption {i} kind {KINDS[i // 3 % 3]} {'unclear' if i % 3 == 0 else 'clear'}" for i in range(90)]
    path.write_text("\n".join(rows), encoding="utf-8")
    return str(path)
