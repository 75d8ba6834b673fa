"""Fixtures for every test: a random FLUX pipeline of a few thousand parameters."""

import signal
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)


@pytest.fixture
def ctrl_c_works() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, as in a terminal: what a shell starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def redraw(module: nn.Module, generator: torch.Generator, scale: float = 0.25) -> None:
    """Draw all parameters anew, those too that start at zero or one, so that nothing is without effect."""
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
            parameter.copy_(noise * (scale * 4 / fan_in**0.5 if parameter.ndim > 1 else scale))


def tiny_transformer(in_channels: int = 64, out_channels: int | None = None) -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        in_channels=in_channels,
        out_channels=out_channels,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        pooled_projection_dim=20,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    ).eval()


def _clip_tokenizer() -> CLIPTokenizer:
    letters = [*string.ascii_lowercase, *string.digits, ".", ","]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=16)


def _t5_tokenizer() -> PreTrainedTokenizerFast:
    words = [
        "<pad>",
        "</s>",
        "<unk>",
        *"a the red blue round creature with horns sits on beach in snow forest".split(),
    ]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=24,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )


@pytest.fixture(scope="session")
def tiny_flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `FluxPipeline.save_pretrained` writes it; every parameter is random and has an effect."""
    generator = torch.Generator().manual_seed(0)
    clip = CLIPTextConfig(
        vocab_size=80, hidden_size=20, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=16, projection_dim=20, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    t5 = T5Config(
        vocab_size=32, d_model=24, d_kv=8, d_ff=32, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu"
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1, norm_num_groups=4, latent_channels=16,
        scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False,
        sample_size=32,
    )  # fmt: skip
    models_ = {
        "transformer": tiny_transformer(),
        "vae": vae,
        "text_encoder": CLIPTextModel(clip),
        "text_encoder_2": T5EncoderModel(t5),
    }
    for model in models_.values():
        redraw(model, generator)
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=4,
        max_image_seq_len=64,
        shift=3.0,
    )
    folder = tmp_path_factory.mktemp("tiny_flux")
    pipe = FluxPipeline(
        scheduler=scheduler, tokenizer=_clip_tokenizer(), tokenizer_2=_t5_tokenizer(), **models_
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder
