"""The stage, block, role, heads and channels of a module, read from names and classes.

Names are those of diffusers and transformers. Where a name is not enough, the modules around it
decide.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from ablate.network.modules import ROOT, ModuleInfo

SIDES = {
    "down_blocks": "down", "down_downscalers": "down", "down_repeat_mappers": "down",
    "mid_block": "mid",
    "up_blocks": "up", "up_upscalers": "up", "up_repeat_mappers": "up",
}  # fmt: skip
REPEATED = re.compile(r"(?:^|\.)(\w*(?:blocks?|layers?|refiner))\.\d+(?=\.|$)")
LAST = re.compile(
    r"(^|\.)(conv_norm_out|conv_out|norm_out|proj_out|final_layer|final_norm|all_final_layer|clf"
    r"|proj_to_clip_embeddings|post_layernorm|text_projection|visual_projection|lm_head)"
    r"|^quant_conv$|^(head|pooler)(\.|$)|^((model|language_model)\.)*norm$"
)


def stage_of(path: str, network: Any = None) -> str:
    """The stage of a module path (`ModuleInfo.stage`).

    With the network itself, a block of two streams is recognized by its modules for the second
    stream (`add_q_proj`, `norm1_context`, `txt_mlp`).
    """
    for part in path.split(".")[:2]:
        if part in SIDES:
            return SIDES[part]
    match = REPEATED.search(path)
    if match and not path.startswith("distilled_guidance_layer"):  # Chroma's, before all blocks
        return _stage_of_block(match, network)
    return "out" if LAST.search(path) else "in"


def _stage_of_block(match: re.Match[str], network: Any) -> str:
    name = match[1]
    if name.endswith("refiner"):
        return "refiner"
    if name.startswith("single"):
        return "single"
    if name.startswith(("joint", "double")):
        return "double"
    block = network.get_submodule(match.string[: match.end()]) if network is not None else None
    return "double" if block is not None and _has_two_streams(block) else "blocks"


def _has_two_streams(block: Any) -> bool:
    return any(
        re.search(r"(^|\.)(\w+_context|add_q_proj|txt_\w+)$", name)
        for name, _ in block.named_modules()
    )


def block_of(path: str) -> str:
    """The path up to the number of the block: `down_blocks.0`, `mid_block`, `conv_in`."""
    parts = path.split(".")
    for i, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: i + 1]) if parts[0] != "mid_block" else "mid_block"
    return parts[0] or ROOT


NORM = r"(^|\.)(\w*norm\w*)$|(^|\.)norm\d?_?\w*(\.|$)|_norm(\.|$)|layer_norm\d?$"
# The first pattern that matches a path gives the role; norms are recognized by their class too.
ROLES = tuple(
    (re.compile(pattern), role)
    for pattern, role in (
        (r"(^|\.)(\w*norm\w*|adaln_single|time_embed)\.linear$|(^|\.)norm_out\.linear_1$"
         r"|adaLN_modulation|_mod\.\d+$|stream_modulation|context_mlp"
         r"|\w*norm\w*\.conv_[yb]$|_blocks\.\d+\.\d+\.mapper(_\w+)?$", "modulation"),
        (r"(^|\.)norm_out\.linear_2$", "output"),
        (r"time_emb|time_proj|timestep_emb|add_embedding|time_text_embed|time_step_proj|(^|\.)t_embed"
         r"|time_guidance_embed|time_extra_emb|time_condition_embed|add_time_condition"
         r"|adaln_single\.emb", "time"),
        (NORM, "norm"),
        (r"conv_shortcut|skip|shortcut_", "skip"),
        (r"attn2(\.|$)|cross_attn", "cross_attention"),
        (r"attn1(\.|$)|self_attn|\.attn(\.|$)|attentions\.\d+\.to_|\.(Self)?[aA]ttention\.",
         "self_attention"),
        (r"(^|\.)(ff|mlp|ff_context|proj_mlp|feed_forward|(img|txt)_mlp|DenseReluDense)(\.|$)"
         r"|\.conv_out\.conv_|layer\.\d+\.(intermediate|output)\.dense$", "feed_forward"),
        (r"context_embedder|caption_projection|caption_embedder|cap_embedder|^txt_in(\.|$)"
         r"|^text_embedder|^patch_embed\.text_proj|encoder_hid_proj|encoder_hidden_states_proj"
         r"|^embedding_proj|^(clip_\w+|effnet|pixels)_mapper", "context_embedding"),
        (r"distilled_guidance_layer", "modulation"),
        (r"\.proj_in|\.proj_out$|quant_conv$|kv_mapper|^(text|visual)_projection|pooler"
         r"|multi_modal_projector", "projection"),
        (r"downsamplers|downscalers|\.down_sample$|down_blocks\.\d+\.(resample\.\d+|time_conv)$",
         "downsample"),
        (r"upsamplers|upscalers|\.up_sample$", "upsample"),
        (r"resnets|repeat_mappers", "resnet"),
        (r"(^|\.)(pos_embed|x_embedder|all_x_embedder|patch_embed\w*|patch_conv|img_in)(\.|$)",
         "patch_embedding"),
        (r"^(\w+\.)?(conv_in|proj_in)(\.|$)|^embedding\.\d+$", "input"),
        (r"^(\w+\.)?(conv_out|proj_out|all_final_layer)(\.|$)|^clf\.|^lm_head$"
         r"|^proj_to_clip_embeddings$", "output"),
        (r"embed|^shared$", "embedding"),
    )
)  # fmt: skip
# Classes of modules that give a role to parts with neutral names (`conv1`, `1.conv`).
CLASSES = (
    (re.compile(r"DownBlock2d$"), "downsample"),
    (re.compile(r"UpBlock2d$"), "upsample"),
    (re.compile(r"Res(net|Net|idual)?Block"), "resnet"),
)
MINOR = ("norm", "time", "modulation", "skip")  # beside the main part of a block


def role_of(path: str, ancestry: Sequence[Any] = (), stage: str = "") -> str:
    """What a module does; `other` where nothing indicates it.

    Args:
        path: Its path.
        ancestry: The modules from the network down to this one. With them attention layers are
            recognized by structure, and parts of ResNets, samplers and norms by their classes.
        stage: Its stage.
    """
    role = next((role for pattern, role in ROLES if pattern.search(path)), "other")
    if not ancestry:
        return role
    if role not in ("modulation", "time") and re.search("norm", _kind(ancestry[-1]), re.IGNORECASE):
        return "norm"
    if role in ("modulation", "time", "norm", "skip", "output"):
        return role
    attention = attention_of(ancestry)
    if attention is not None:
        return _attention_role(path, ancestry, attention, stage)
    if list(ancestry[-1].children()):  # it has parameters besides those of its parts
        names = {name for name, _ in ancestry[-1].named_parameters(recurse=False)}
        return "modulation" if "scale_shift_table" in names else "embedding"
    if role == "other" and len(ancestry) > 1:
        for parent in reversed(ancestry[:-1]):
            for pattern, name in CLASSES:
                if pattern.search(_kind(parent)):
                    return name
    return role


def role_of_block(path: str, inside: Iterable[ModuleInfo]) -> str:
    """The common role of all modules inside a block apart from minor ones.

    `block` where there are several, and for the numbered blocks of the network.
    """
    roles = {module.role for module in inside}
    main = roles.difference(MINOR) or roles - {"norm"} or roles
    if "resnet" in main:  # one may change the size too
        main = main - {"downsample", "upsample"}
    is_whole = (path == block_of(path) and REPEATED.search(path)) or path.endswith("mid_block")
    return "block" if is_whole or len(main) > 1 else main.pop()


QUERY = ("to_q", "q_proj", "q", "query", "to_qkv", "qkv", "to_qkv_mlp_proj", "in_proj")
PROJECTIONS = re.compile(
    r"(^|\.)(to_[qkv]|[qkv]_proj|[qkv]|query|key|value|add_[qkv]_proj|to_qkv|qkv|to_qkv_mlp_proj"
    r"|to_out(\.0)?|to_add_out|out_proj|o_proj|o|proj|output\.dense)$"
)


def attention_of(ancestry: Sequence[Any]) -> int | None:
    """The index of the innermost attention layer among the modules from the network down."""
    for i in range(len(ancestry) - 1, -1, -1):
        parts = dict(ancestry[i].named_children())
        inner = dict(parts["self"].named_children()) if "self" in parts else {}  # BERT
        if parts.keys() & set(QUERY) or inner.keys() & set(QUERY):
            return i
    return None


def _attention_role(path: str, ancestry: Sequence[Any], i: int, stage: str) -> str:
    """Self, cross or joint attention, by the source of keys and values.

    Joint attention is over text and image together: both streams of a block of two, and the single
    stream of a sequence that contains both.
    """
    layer, parent = ancestry[i], ancestry[i - 1] if i else None
    if getattr(layer, "add_q_proj", None) is not None:
        return "joint_attention"
    if getattr(layer, "add_k_proj", None) is not None or hasattr(parent, "kv_mapper"):
        return "cross_attention"  # of an image that also reads itself
    if getattr(layer, "is_cross_attention", False):
        same = layer.to_k.in_features == layer.to_q.in_features
        # Kandinsky 3 has one class for all its layers, including those on the image itself.
        return "self_attention" if same and ".attn2" not in path else "cross_attention"
    if stage == "single":
        return "joint_attention"
    if stage == "double":  # beside a joint layer, one on the image alone
        siblings = parent.children() if parent is not None else ()
        is_beside_joint = any(getattr(s, "add_q_proj", None) is not None for s in siblings)
        return "self_attention" if is_beside_joint else "joint_attention"
    if stage == "blocks" and hasattr(ancestry[0], "context_refiner"):
        return "joint_attention"
    return "cross_attention" if "cross_attn" in path else "self_attention"


def heads_along(path: str, ancestry: Sequence[Any]) -> int:
    """The number of heads of an attention layer, or of the one that a module is a projection of.

    For projections of keys and values it is the number of their heads, where these are fewer; 0 for
    all other modules.
    """
    i = attention_of(ancestry)
    if i is None:
        return 0
    layer = getattr(ancestry[i], "self", ancestry[i])
    heads = _heads(layer)
    if not heads or ancestry[i] is ancestry[-1]:
        return heads
    inner = ".".join(path.split(".")[-(len(ancestry) - 1 - i) :])
    # Where queries, keys and values, or more, share one projection, heads are not separate in it.
    if not PROJECTIONS.search(inner) or re.search(r"qkv|mlp|in_proj$", inner):
        return 0
    if hasattr(layer, "to_qkv_mlp_proj"):
        return 0
    query = next(filter(None, (getattr(layer, n, None) for n in ("to_q", "q_proj"))), None)
    is_shared = re.search(r"(to_[kv]|[kv]_proj|add_[kv]_proj)$", inner)
    if is_shared and query is not None:
        return channels_of(ancestry[-1]) * heads // channels_of(query)
    return heads


def _heads(layer: Any) -> int:
    for name in ("heads", "num_heads", "n_heads", "num_attention_heads"):
        heads = getattr(layer, name, None)
        if isinstance(heads, int):
            return heads
    if hasattr(layer, "attention_head_dim") and hasattr(layer, "to_q"):
        return channels_of(layer.to_q) // int(layer.attention_head_dim)
    return int(getattr(getattr(layer, "config", None), "num_attention_heads", 0))


def channels_of(module: Any) -> int:
    """The number of a module's output channels, of a norm its width; 0 where unknown."""
    if any(True for _ in module.children()):
        return 0
    attributes = vars(module)  # networks of diffusers warn when asked for keys of their config
    for name in ("out_features", "out_channels", "embedding_dim", "num_channels"):
        if isinstance(attributes.get(name), int):
            return int(attributes[name])
    weight = getattr(module, "weight", getattr(module, "gamma", None))
    if re.search("norm", _kind(module), re.IGNORECASE) and weight is not None:
        return int(max(weight.shape))
    return 0


def _kind(module: Any) -> str:
    return type(module).__name__
