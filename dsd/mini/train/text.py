"""The small world's tokenizers, trained on its own captions, and the two small text encoders, with random
weights.
"""

import json
import math
import random
import string
from collections import Counter
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from dsd.mini.world import write_grid_prompt

CLIP_LENGTH = 77
T5_LENGTH = 64
WIDTH = 128


def captions(count: int, seed: int) -> list[str]:
    """Prompts of every layout, some of them with a capital letter and a full stop as people write them."""
    rng = random.Random(seed)
    texts = []
    for _ in range(count):
        text = str(write_grid_prompt(rng, rng.choice(["2x2", "1x2", "1x1"]))["text"])
        texts.append(punctuate(text, rng))
    return texts


def punctuate(text: str, rng: random.Random) -> str:
    """The same text as a person might type it: a capital first letter, a full stop."""
    if rng.random() < 0.3:
        text = text[0].upper() + text[1:]
    return f"{text}." if rng.random() < 0.3 else text


def make_clip_tokenizer(texts: list[str]) -> CLIPTokenizer:
    """A CLIP tokenizer: all 256 bytes, so that any text has tokens, and merges learned from `texts`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    blank = CLIPTokenizer().backend_tokenizer
    model = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>"))
    model.normalizer, model.pre_tokenizer = blank.normalizer, blank.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
    )
    model.train_from_iterator(texts, trainer)
    learned = json.loads(model.to_str())["model"]
    vocabulary: dict[str, int] = learned["vocab"]
    for letter in alphabet:
        vocabulary.setdefault(f"{letter}</w>", len(vocabulary))
    merges = [tuple(merge) for merge in learned["merges"]]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CLIP_LENGTH)


def make_t5_tokenizer(texts: list[str]) -> T5Tokenizer:
    """A T5 tokenizer: a unigram model with a piece for each word of `texts`, and printable ASCII for all
    other words.
    """
    words = Counter(f"▁{word.strip(string.punctuation)}" for text in texts for word in text.split())
    total = sum(words.values())
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(word, math.log(count / total)) for word, count in words.most_common() if len(word) > 1]
    pieces += [
        (letter, -15.0) for letter in [*string.ascii_letters, *string.digits, *string.punctuation, "▁"]
    ]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=T5_LENGTH)


def make_encoders(clip: CLIPTokenizer, t5: T5Tokenizer) -> tuple[CLIPTextModel, T5EncoderModel]:
    """Text encoders of two layers and width 128."""
    clip_config = CLIPTextConfig(
        vocab_size=len(clip),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CLIP_LENGTH,
        hidden_act="quick_gelu",
        bos_token_id=clip.bos_token_id,
        eos_token_id=clip.eos_token_id,
        pad_token_id=clip.pad_token_id,
    )
    t5_config = T5Config(
        vocab_size=len(t5),
        d_model=WIDTH,
        d_kv=32,
        d_ff=2 * WIDTH,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=t5.pad_token_id,
        eos_token_id=t5.eos_token_id,
        tie_word_embeddings=False,
    )
    encoder = T5EncoderModel(t5_config)
    _look_nearby(encoder)
    return CLIPTextModel(clip_config), encoder


@torch.no_grad()
def _look_nearby(encoder: T5EncoderModel) -> None:
    """Let three heads begin with the token before, the tokens before and the tokens after, as trained T5
    encoders have such heads: without them, "top left: on the beach" stayed a bag of words for 2,000 steps.
    """
    bias = encoder.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    bucket = torch.arange(len(bias))
    after, distance = bucket >= len(bias) // 2, (bucket % (len(bias) // 2)).float()
    bias[:, 0] = torch.where(after, -5.0, -1.5 * (distance - 1).abs())
    bias[:, 1] = torch.where(after, -5.0, -0.5 * distance)
    bias[:, 2] = torch.where(after, -0.5 * distance, -5.0)


def save_tokenizers(folder: Path) -> None:
    """Write `tokenizer/` and `tokenizer_2/` of a FluxPipeline folder."""
    texts = captions(20_000, seed=0)
    make_clip_tokenizer(texts).save_pretrained(folder / "tokenizer")
    make_t5_tokenizer(texts).save_pretrained(folder / "tokenizer_2")
