import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dsd.grids import Layout, compose, split


@given(rows=st.integers(1, 4), columns=st.integers(1, 4), width=st.integers(1, 5), height=st.integers(1, 5))
def test_split_undoes_compose(rows, columns, width, height):
    panels = [Image.new("RGB", (width, height), (i, 2 * i, 255 - i)) for i in range(rows * columns)]
    grid = compose(panels, Layout(rows=rows, columns=columns))
    assert grid.size == (columns * width, rows * height)
    assert split(grid, f"{rows}x{columns}") == panels


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_compose_undoes_split_in_every_mode(mode):
    grid = Image.linear_gradient("L").resize((6, 4)).convert(mode)
    panels = split(grid, "2x3")
    assert [panel.mode for panel in panels] == [mode] * 6
    assert compose(panels, "2x3") == grid


def test_panels_are_counted_row_by_row():
    grid = Image.new("L", (3, 2))
    grid.putdata([0, 1, 2, 3, 4, 5])
    assert [panel.getpixel((0, 0)) for panel in split(grid, "2x3")] == [0, 1, 2, 3, 4, 5]


def test_a_panel_is_a_copy():
    grid = Image.new("L", (2, 2), 9)
    split(grid, "2x2")[0].putpixel((0, 0), 0)
    assert grid.getpixel((0, 0)) == 9


@pytest.mark.parametrize(
    "text", ["", "2", "2x", "x2", "0x2", "2x0", "2 x 2", "2X2", "-1x2", "100x1", "2x2x2", "٢x٢"]
)
def test_what_is_not_a_layout_is_refused(text):
    with pytest.raises(ValueError, match=r"is not a layout\. Write rows x columns"):
        Layout.parse(text)


def test_layouts_are_rows_by_columns():
    layout = Layout.parse("1x4")
    assert (layout.rows, layout.columns, layout.num_panels, str(layout)) == (1, 4, 4, "1x4")
    assert Layout.parse(layout) is layout
    with pytest.raises(ValueError, match="at least 1 row"):
        Layout(rows=0, columns=2)


@pytest.mark.parametrize("size", [(129, 128), (128, 127)])
def test_a_grid_that_does_not_divide_is_an_error(size):
    with pytest.raises(
        ValueError, match=rf"{size[0]} x {size[1]} px grid does not divide into 2 columns and 2 rows"
    ):
        split(Image.new("RGB", size), "2x2")


def test_compose_needs_like_panels_in_the_right_number():
    panel = Image.new("RGB", (4, 4))
    with pytest.raises(ValueError, match="2x2 grid takes 4 panels; got 3"):
        compose([panel] * 3, "2x2")
    with pytest.raises(ValueError, match="4 x 4 px RGB, 5 x 4 px RGB"):
        compose([panel, Image.new("RGB", (5, 4))], "1x2")
    with pytest.raises(ValueError, match="4 x 4 px L, 4 x 4 px RGB"):
        compose([panel, Image.new("L", (4, 4))], "1x2")
