"""Readers of pictures and tensors give a valid value or the error they document, whatever they are given."""

import json
import struct

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save, save_file

from dsd.convert.checkpoint import Stored, read_folder, read_header, read_json
from dsd.data.encodings import encodings
from dsd.data.rows import decode_image
from tests.fuzz_strategies import DEEP, FUZZ, TEXTS, VALUES, damaged, folder
from tests.hostile import encoded


@FUZZ
@given(st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF", "BMP"]).flatmap(lambda kind: damaged(encoded(kind))))
def test_pictures(data):
    try:
        found = decode_image({"bytes": data, "path": None})
    except ValueError:
        return
    assert isinstance(found, Image.Image)
    assert found.width * found.height <= 50_000_000
    found.tobytes()


@FUZZ
@given(st.one_of(VALUES, st.binary(max_size=20)))
def test_cells(cell):
    with pytest.raises(ValueError, match=r"missing|cannot be used"):
        decode_image({"path": "", "bytes": cell})


TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}


@FUZZ
@given(damaged(save(TENSORS)))
def test_cached_tensors(data):
    row = {"id": "x", "reference_id": "", "text_id": "", "tensors": data}
    try:
        found = encodings("x").from_row(row)
    except ValueError:
        return
    assert all(isinstance(x, torch.Tensor) for x in found.tensors.values())


@FUZZ
@given(damaged(save(TENSORS)))
@example(struct.pack("<Q", 2**63) + b"{}")
@example(struct.pack("<Q", 10) + b'{"a":1}   ')
@example(struct.pack("<Q", 99_999_999) + b"{}")
def test_checkpoints(data):
    with folder() as path:
        file = path / "x.safetensors"
        file.write_bytes(data)
        try:
            stored, _ = read_header(file)
            for tensor in stored.values():
                tensor.load()
        except ValueError:
            return
        assert all(isinstance(x, Stored) for x in stored.values())


@FUZZ
@given(
    st.one_of(
        VALUES.map(lambda x: json.dumps(x).encode()),
        st.sampled_from(DEEP),
        st.dictionaries(TEXTS, TEXTS).map(lambda x: json.dumps({"weight_map": x}).encode()),
    )
)
def test_the_index_of_a_checkpoint(data):
    with folder() as path:
        save_file(TENSORS, path / "diffusion_pytorch_model.safetensors")
        (path / "diffusion_pytorch_model.safetensors.index.json").write_bytes(data)
        try:
            found = read_folder(path)
        except (ValueError, FileNotFoundError):
            pass
        else:
            assert found == {}
        try:
            assert isinstance(read_json(path / "diffusion_pytorch_model.safetensors.index.json"), dict)
        except ValueError:
            return


def test_the_damage_is_damage():
    """Otherwise all of the above would pass for nothing."""
    whole = encoded("PNG")
    seen = []

    @settings(max_examples=50, database=None)
    @given(damaged(whole))
    def look(data):
        seen.append(data)

    look()
    assert sum(data != whole for data in seen) > 40
    assert np.ptp([len(data) for data in seen]) > 100
