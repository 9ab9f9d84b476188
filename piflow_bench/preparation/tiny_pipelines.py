"""Tiny text-to-image pipelines of random weights, in the format of the real ones.

FLUX.1's and Qwen-Image's classes at a few thousandths of their size, tokenizers and text encoders
included, as diffusers saves them. Numbers made from them mean nothing, but every file goes the way
of the real one.
"""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from piflow_bench.networks.text_to_image.loading import quietly

PROMPTS = (
    "a red square on a blue floor",
    "two green circles",
    "a photo of a cat wearing a hat",
    "the word HELLO on a sign",
)
WIDTH = 32
"""Of every network's hidden state."""
HEAD = {"attention_head_dim": 16, "num_attention_heads": 2, "axes_dims_rope": (4, 6, 6)}
"""Of the transformers: axes are even and add up to a head's width."""
TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, "
    "quantity, text, spatial relationships of the objects and background:<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
"""Qwen-Image's: 34 tokens stand before the prompt, 5 behind it."""
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""How Qwen's tokenizer splits text."""


def tiny_flux(folder: Path, prompts: Sequence[str] = PROMPTS) -> None:
    """A pipeline of FLUX.1 [dev]'s classes."""
    from diffusers import FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    clip_tokens, t5_tokens = _clip_tokenizer(), _t5_tokenizer(prompts)
    clip = CLIPTextConfig(
        vocab_size=len(clip_tokens),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        projection_dim=WIDTH,
        hidden_act="quick_gelu",
        bos_token_id=clip_tokens.bos_token_id,
        eos_token_id=clip_tokens.eos_token_id,  # The pooled state is taken there.
        pad_token_id=clip_tokens.pad_token_id,
    )
    t5 = T5Config(
        vocab_size=len(t5_tokens),
        d_model=WIDTH,
        d_kv=8,
        d_ff=2 * WIDTH,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
        use_cache=False,
    )
    transformer = FluxTransformer2DModel(
        num_layers=1,
        num_single_layers=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=True,
        **HEAD,
    )
    _save(
        FluxPipeline(
            scheduler=_scheduler(shift=3.0, max_shift=1.15, max_image_seq_len=4096),
            vae=_autoencoder(),
            text_encoder=CLIPTextModel(clip),
            tokenizer=clip_tokens,
            text_encoder_2=T5EncoderModel(t5),
            tokenizer_2=t5_tokens,
            transformer=transformer,
        ),
        folder,
    )


def tiny_qwen(folder: Path, prompts: Sequence[str] = PROMPTS) -> None:
    """A pipeline of Qwen-Image's classes."""
    from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    size = 1024
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": size,
            "hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1200,
            "rope_theta": 1e6,
            "rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [1, 1, 2]},
            "tie_word_embeddings": False,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        vision_config={
            "depth": 1,
            "hidden_size": WIDTH,
            "intermediate_size": WIDTH,
            "num_heads": 2,
            "out_hidden_size": WIDTH,
            "patch_size": 14,
            "window_size": 28,
            "fullatt_block_indexes": [0],
        },
        image_token_id=size - 1,
        video_token_id=size - 2,
        vision_start_token_id=size - 3,
        vision_end_token_id=size - 4,
    )
    autoencoder = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        attn_scales=[],
        temperal_downsample=[False, True, True],
        latents_mean=[0.1 * (i - 8) for i in range(16)],
        latents_std=[1 + 0.1 * i for i in range(16)],
    )
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=64,
        out_channels=16,
        num_layers=2,  # The last one's text is never read.
        joint_attention_dim=WIDTH,
        **HEAD,
    )
    _save(
        QwenImagePipeline(
            scheduler=_scheduler(
                shift=1.0,
                max_shift=0.9,
                max_image_seq_len=8192,
                shift_terminal=0.02,
                time_shift_type="exponential",
            ),
            vae=autoencoder,
            text_encoder=Qwen2_5_VLForConditionalGeneration(config),
            tokenizer=_qwen_tokenizer(prompts),
            transformer=transformer,
        ),
        folder,
    )


def _scheduler(**settings: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, base_image_seq_len=256, **settings
    )


def _autoencoder() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,  # Four levels halve three times.
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 8, 8, 8),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


@torch.no_grad()
def _save(pipeline: Any, folder: Path) -> None:
    embedder = pipeline.transformer.time_text_embed.timestep_embedder.linear_1
    # A random network's velocity is rough in time: its high frequencies are damped, so that a
    # sample does not depend on rounding.
    frequencies = 10000.0 ** (-torch.arange(128) / 128)
    embedder.weight /= (1 + 50 * frequencies).repeat(2)
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):  # Fresh ones are in training, with dropout.
            part.eval()
    with quietly():
        pipeline.save_pretrained(folder, safe_serialization=True)


# ------------------------------------------------------------------ tokenizers


def _trained_bpe(texts: Sequence[str], special: Sequence[str], size: int) -> tuple[Any, Any]:
    """Vocabulary and merges of a byte-level tokenizer of these texts."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def _qwen_tokenizer(prompts: Sequence[str]) -> Any:
    """Every word of the template is one token, as in the real one."""
    from transformers import Qwen2Tokenizer

    marks = ("<|im_start|>", "<|im_end|>")
    plain = TEMPLATE.format("")
    for mark in marks:
        plain = plain.replace(mark, "")
    vocabulary, merges = _trained_bpe([plain] * 50 + list(prompts), ("<|endoftext|>", *marks), 700)
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary,
        merges=merges,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(marks)})
    return tokenizer


def _clip_tokenizer() -> Any:
    """Bytes, each also as the end of a word, and the two marks."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("a", "t</w>"), ("t", "h"), ("th", "e</w>")]
    tokens = [
        *letters,
        *(letter + "</w>" for letter in letters),
        *("".join(merge) for merge in merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    made: Any = CLIPTokenizer  # Its annotation of merges knows no pairs.
    return made(vocab=vocabulary, merges=merges, model_max_length=77)


def _t5_tokenizer(prompts: Sequence[str]) -> Any:
    """Letters and the prompts' words, most likely first."""
    from transformers import T5TokenizerFast  # type: ignore[attr-defined]

    words = sorted({word for prompt in prompts for word in prompt.split()})
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -4.0) for word in words if len(word) > 1]
    letters = string.ascii_letters + string.digits + string.punctuation
    pieces += [(letter, -6.0 - i / 100) for i, letter in enumerate(letters)]
    return T5TokenizerFast(vocab=pieces, extra_ids=0)
