"""Random models of a few thousand weights in folders, as transformers saves them, with tokenizers."""

import string
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    BitImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    Dinov2Config,
    Dinov2Model,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

WIDTH = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
WORDS = "a the on beach in snow dog cat red".split()


def clip_tokenizer() -> CLIPTokenizer:
    letters = [*string.ascii_lowercase, *string.digits, ".", ","]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=77)


def word_tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "</s>", "<unk>", *WORDS]
    found = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    found.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=found, model_max_length=64, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def _vision(side: int, patch: int) -> dict[str, int]:
    return {**WIDTH, "image_size": side, "patch_size": patch}


def _clip() -> nn.Module:
    text = {**WIDTH, "vocab_size": 80, "max_position_embeddings": 77, "bos_token_id": 0, "eos_token_id": 1}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=_vision(224, 32), projection_dim=12))


def _siglip() -> nn.Module:
    text = {**WIDTH, "vocab_size": 16, "max_position_embeddings": 8, "pad_token_id": 0, "eos_token_id": 1}
    return SiglipModel(SiglipConfig(text_config=text, vision_config=_vision(384, 32)))


MODELS = {
    "vit": lambda: ViTModel(ViTConfig(**_vision(224, 32))),
    "dinov2": lambda: Dinov2Model(Dinov2Config(**_vision(224, 14))),
    "clip": _clip,
    "siglip": _siglip,
}
PROCESSORS = {
    "vit": ViTImageProcessor,
    "dinov2": BitImageProcessor,
    "clip": CLIPImageProcessor,
    "siglip": SiglipImageProcessor,
}
TOKENIZERS = {"clip": clip_tokenizer, "siglip": word_tokenizer}


def build(name: str, folder: Path) -> nn.Module:
    """Save the model; what starts at zero or one, and would hide mistakes, is moved."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    size = {"size": {"height": 384, "width": 384}} if name == "siglip" else {}
    PROCESSORS[name](**size).save_pretrained(folder)
    if name in TOKENIZERS:
        TOKENIZERS[name]().save_pretrained(folder)
    return model
