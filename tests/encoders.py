"""Small text encoders and autoencoders with random weights; tokenizers built without any download.

Every tokenizer but CLIP's has a vocabulary of single characters (or bytes) and special tokens, so
that any prompt has a meaning of its own and no package for sentence pieces is needed.
"""

from __future__ import annotations

import inspect
import re
import string
from typing import Any

import diffusers
import transformers
from tokenizers import pre_tokenizers, processors

from ablate import bundled

WIDTH = 32  # of every text encoder, unless a family asks for another
HEADS = 2
LATENT = 4  # channels
SIDE = 8  # of the latents
CHARACTERS = string.ascii_letters + string.digits + string.punctuation
PLAIN_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# What pipelines write before every prompt.
SANA = inspect.signature(diffusers.SanaPipeline.__call__).parameters["complex_human_instruction"]
LUMINA = (
    "You are an assistant designed to generate superior images with the superior degree of"
    " image-text alignment based on textual prompts or user prompts. <Prompt Start>"
)
QWEN = (
    "Describe the image by detailing the color, shape, size, texture,"
    " quantity, text, spatial relationships of the objects and background:"
)

# ---------------------------------------------------------------- tokenizers


def add_words(tokenizer: Any, text: str) -> None:
    """Make one token of every word, with the space before it: what a pipeline writes before a
    prompt is short then, as it is for a real vocabulary, and does not drown the prompt."""
    tokenizer.add_tokens(sorted(set(re.findall(r" ?[A-Za-z]{3,}", text))))


def clip_tokenizer() -> Any:
    """The bundled model's own: byte pairs, 24 tokens at most."""
    return transformers.CLIPTokenizer.from_pretrained(bundled.FOLDER / "tokenizer")


def t5_tokenizer() -> Any:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(character, -2.0) for character in "▁" + CHARACTERS]
    return transformers.T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def gemma_tokenizer() -> Any:
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    vocabulary = {token: i for i, token in enumerate([*special, *"\n▁", *CHARACTERS])}
    made = transformers.GemmaTokenizer(vocab=vocabulary, merges=[], model_max_length=8192)
    add_words(made, " ".join([LUMINA, *SANA.default]))
    # An empty prompt is one token, not a row without any.
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", made.bos_token_id)]
    )
    return made


def qwen_tokenizer() -> Any:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<|endoftext|>", *alphabet])}
    made = transformers.Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[],
        extra_special_tokens=["<|im_start|>", "<|im_end|>"],
        chat_template=PLAIN_CHAT,
        model_max_length=8192,
    )
    # With them, what Qwen-Image cuts off before the prompt are 34 tokens, as it takes for granted.
    made.add_tokens(["system", "user", "assistant", "Describe", " by", " of"])
    add_words(made, QWEN)
    return made


def bert_tokenizer() -> Any:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    inner = [f"##{c}" for c in CHARACTERS]  # letters inside a word are pieces of their own
    vocabulary = {token: i for i, token in enumerate([*special, *CHARACTERS, *inner])}
    return transformers.BertTokenizer(vocab=vocabulary, model_max_length=77)


def glm_tokenizer() -> Any:
    """As Qwen's, with a beginning before every prompt and padding on the left."""
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=qwen_tokenizer().backend_tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        bos_token="<|im_start|>",
        padding_side="left",
        model_max_length=8192,
    )
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", made.bos_token_id)]
    )
    return made


# ---------------------------------------------------------------- encoders


def clip_config(tokenizer: Any, width: int = WIDTH, **options: Any) -> Any:
    return transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_factor=2.0,
        **options,
    )


def clip(tokenizer: Any, width: int = WIDTH, **options: Any) -> Any:
    return transformers.CLIPTextModel(clip_config(tokenizer, width, **options))


def clip_projected(tokenizer: Any, width: int = WIDTH, **options: Any) -> Any:
    return transformers.CLIPTextModelWithProjection(clip_config(tokenizer, width, **options))


def clip_vision(width: int = WIDTH) -> Any:
    return transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=width,
            num_hidden_layers=1,
            num_attention_heads=HEADS,
            image_size=16,
            patch_size=8,
        )
    )


def clip_processor() -> Any:
    sizes = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    return transformers.CLIPImageProcessor(**sizes)


def t5(tokenizer: Any, width: int = WIDTH) -> Any:
    return transformers.T5EncoderModel(transformers.T5Config(**t5_sizes(tokenizer, width)))


def umt5(tokenizer: Any, width: int = WIDTH) -> Any:
    return transformers.UMT5EncoderModel(transformers.UMT5Config(**t5_sizes(tokenizer, width)))


def t5_sizes(tokenizer: Any, width: int) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "d_model": width,
        "d_kv": width // HEADS,
        "d_ff": 2 * width,
        "num_layers": 2,
        "num_heads": HEADS,
        "feed_forward_proj": "gated-gelu",
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.pad_token_id,
    }


def bert(tokenizer: Any, width: int = WIDTH) -> Any:
    return transformers.BertModel(
        transformers.BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=1,
            num_attention_heads=HEADS,
            max_position_embeddings=128,
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=0.2,
        )
    )


def decoder_sizes(tokenizer: Any, width: int, layers: int) -> dict[str, Any]:
    """What the configurations of Gemma, Qwen and GLM have in common; one head of keys for two."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "max_position_embeddings": 8192,
        "initializer_range": 0.2,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def gemma(tokenizer: Any, width: int = WIDTH) -> Any:
    sizes = decoder_sizes(tokenizer, width, 2)
    return transformers.Gemma2Model(transformers.Gemma2Config(head_dim=width // HEADS, **sizes))


def qwen(tokenizer: Any, width: int = WIDTH, layers: int = 2) -> Any:
    sizes = decoder_sizes(tokenizer, width, layers)
    config = transformers.Qwen3Config(head_dim=width // HEADS, **sizes)
    return transformers.Qwen3ForCausalLM(config)


def qwen_with_vision(tokenizer: Any, width: int = WIDTH) -> Any:
    turns = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10_000.0}
    return transformers.Qwen2_5_VLForConditionalGeneration(
        transformers.Qwen2_5_VLConfig(
            text_config=decoder_sizes(tokenizer, width, 2) | {"rope_parameters": turns},
            vision_config={
                "depth": 1,
                "hidden_size": width,
                "intermediate_size": width,
                "num_heads": HEADS,
                "out_hidden_size": width,
            },
        )
    )


def glm(tokenizer: Any, width: int = WIDTH) -> Any:
    sizes = decoder_sizes(tokenizer, width, 2)
    return transformers.GlmModel(transformers.GlmConfig(head_dim=width // HEADS, **sizes))


# ---------------------------------------------------------------- autoencoders


def autoencoder(levels: int = 2, **options: Any) -> Any:
    """Stable Diffusion's: half the side for each level but one."""
    return diffusers.AutoencoderKL(**kl_sizes(levels), **options)


def kl_sizes(levels: int) -> dict[str, Any]:
    return {
        "block_out_channels": (8, 16, 16, 16)[:levels],
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "layers_per_block": 1,
        "latent_channels": LATENT,
        "norm_num_groups": 4,
        "sample_size": SIDE * 2 ** (levels - 1),
    }


def flow_autoencoder(levels: int = 2) -> Any:
    """As it comes with the flow models: shifted latents, no 1x1 convolutions around them."""
    return autoencoder(
        levels,
        shift_factor=0.1,
        scaling_factor=0.36,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def movq(levels: int) -> Any:
    """Kandinsky's: norms that see the latents wherever they stand, in 32 groups."""
    plain = levels - 1
    return diffusers.VQModel(
        block_out_channels=(32,) * levels,
        down_block_types=("DownEncoderBlock2D",) * plain + ("AttnDownEncoderBlock2D",),
        up_block_types=("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * plain,
        layers_per_block=1,
        latent_channels=LATENT,
        vq_embed_dim=LATENT,
        num_vq_embeddings=16,
        norm_type="spatial",
    )


def deep_autoencoder() -> Any:
    """Sana's: residual blocks outside, attention within; a fourth of the side."""
    blocks = ("ResBlock", "ResBlock", "EfficientViTBlock")
    channels, layers, scales = (8, 16, 16), (1, 1, 1), ((), (), (5,))
    return diffusers.AutoencoderDC(
        latent_channels=LATENT,
        attention_head_dim=8,
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        encoder_layers_per_block=layers,
        decoder_layers_per_block=layers,
        encoder_qkv_multiscales=scales,
        decoder_qkv_multiscales=scales,
        downsample_block_type="Conv",
        upsample_block_type="interpolate",
        scaling_factor=0.41407,
    )


def frames_autoencoder() -> Any:
    """Qwen-Image's, for which an image is a film of one frame; a fourth of the side."""
    return diffusers.AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=LATENT,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[-0.7, 0.1, 0.9, -0.2],
        latents_std=[2.8, 2.3, 1.2, 3.2],
    )
