"""A run with pairs of every kind and verdicts on them, for tests of what goes out and comes in."""

import io

import dsd
from dsd.data.rows import Judged
from dsd.data.writer import TableWriter
from dsd.types import Pair, Verdict
from tests.cheap_world import picture

CAPTIONS = [
    "a fox, in snow",
    "",
    'said "狐" é\n\tand left',
    "=1+1; <b>|`",
    "x" * 3000,
    "\u202e right to left",
]


def write_run(path, modes=("RGB",)):
    """Three grids of four panels, all twelve pairs of each; two curators, one of which judged some alone."""
    run = dsd.Run(path)
    panels = [[picture(f"{g}{i}", 24).convert(modes[g % len(modes)]) for i in range(4)] for g in range(3)]
    pairs = [
        Pair(
            reference=panels[g][a],
            target=panels[g][b],
            caption=CAPTIONS[(g + b) % len(CAPTIONS)],
            subject="a fox" if g else "",
            kind="object",
            grid_id=f"grid {g}",
            reference_panel=a,
            target_panel=b,
            source=f"teacher {g}",
        )
        for g in range(3)
        for a in range(4)
        for b in range(4)
        if a != b
    ]
    verdicts = {
        "first": [Verdict(keep=i % 3 > 0, score=i / 7, reason=f"r {i} é", raw="{}") for i in range(36)],
        "second": [Verdict(status="refused", cost_usd=0.5) for i in range(10, 20)],
    }
    with run.lock("test"):
        with TableWriter(run.pairs, {"by": "a test"}) as writer:
            writer.add(pairs)
            writer.finish()
        for name, (begin, given) in {
            "first": (0, verdicts["first"]),
            "second": (10, verdicts["second"]),
        }.items():
            with TableWriter(run.verdicts(name), {"curator": {"name": name}}) as writer:
                judged = zip(pairs[begin:], given, strict=False)
                writer.add([Judged(pair_id=pair.id, verdict=verdict) for pair, verdict in judged])
                writer.finish()
        run.save_manifest()
    return run


def pixels(pair):
    return pair.reference.tobytes(), pair.target.tobytes()


def verdicts_of(run, name):
    return {judged.pair_id: judged.verdict for judged in run.verdicts(name)}


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def cell(image):
    return {"bytes": png(image), "path": "a/name.png"}
