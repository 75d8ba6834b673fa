import pytest
from PIL import Image

from dsd import grids, pairs
from dsd.types import Grid, GridPrompt

CAPTIONS = ("at sea", "in snow", "at night", "in town")


def draw(captions=CAPTIONS, layout="2x2", seed=0):
    layout = grids.Layout.parse(layout)
    panels = [Image.new("RGB", (4, 4), (40 * i, 0, seed)) for i in range(layout.num_panels)]
    prompt = GridPrompt(text="a grid", subject="a ball", panels=captions, layout=str(layout), kind="object")
    return Grid(image=grids.compose(panels, layout), prompt=prompt, seed=seed, teacher="folder")


def pair_up(grid, **arguments):
    return pairs.from_panels(grid, grids.split(grid.image, grid.prompt.layout), **arguments)


def test_four_panels_give_twelve_ordered_pairs():
    grid = draw()
    found = pair_up(grid)
    places = [(pair.reference_panel, pair.target_panel) for pair in found]
    assert places == [(i, j) for i in range(4) for j in range(4) if i != j]
    for pair, (i, j) in zip(found, places, strict=True):
        assert pair.reference.getpixel((0, 0)) == (40 * i, 0, 0)
        assert pair.target.getpixel((0, 0)) == (40 * j, 0, 0)
        assert pair.caption == CAPTIONS[j]
        assert (pair.subject, pair.kind, pair.grid_id, pair.source) == ("a ball", "object", grid.id, "folder")
    assert len({pair.id for pair in found}) == 12


def test_other_layouts():
    assert [(p.reference_panel, p.target_panel) for p in pair_up(draw(("a", "b"), "1x2"))] == [(0, 1), (1, 0)]
    assert len(pair_up(draw(tuple("abcdef"), "2x3"))) == 30


def test_a_choice_is_a_part_of_all_pairs_and_depends_on_seed_and_grid_alone():
    grid = draw()
    everything = {pair.id for pair in pair_up(grid)}
    chosen = [pair.id for pair in pair_up(grid, max_pairs=3, seed=1)]
    assert len(chosen) == len(set(chosen)) == 3
    assert set(chosen) < everything
    pair_up(draw(seed=7), max_pairs=3, seed=1)
    assert [pair.id for pair in pair_up(grid, max_pairs=3, seed=1)] == chosen
    assert len({tuple(p.id for p in pair_up(grid, max_pairs=3, seed=seed)) for seed in range(20)}) > 10
    places = {
        tuple((p.reference_panel, p.target_panel) for p in pair_up(draw(seed=s), max_pairs=3))
        for s in range(20)
    }
    assert len(places) > 10


def test_a_limit_beyond_all_pairs_keeps_all():
    assert len(pair_up(draw(), max_pairs=99)) == 12


def test_a_grid_without_captions_gives_pairs_without_captions():
    assert {pair.caption for pair in pair_up(draw(()))} == {""}


def test_bad_grids_are_refused():
    with pytest.raises(ValueError, match="at least 2 panels; a 1x1 grid has 1"):
        pair_up(draw(("a",), "1x1"))
    with pytest.raises(ValueError, match="describes 3 panels, but its grid has 4"):
        pair_up(draw(("a", "b", "c")))
    with pytest.raises(ValueError, match="at least 1"):
        pair_up(draw(), max_pairs=0)
