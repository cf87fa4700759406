"""Small text-to-image pipelines with random weights, one for each family of architectures.

Real classes of diffusers and transformers, built from configuration alone: every kind of module of
the family is there, once or twice, 16 to 64 wide, and has an effect, unless the architecture itself
leaves it without one (the last text branch of Qwen-Image, the last text layer of SDXL).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import encoders
import torch
from encoders import HEADS, LATENT, SIDE, WIDTH
from torch import nn

Builder = Callable[[], diffusers.DiffusionPipeline]
FAMILIES: dict[str, Builder] = {}

FLOW = {"shift": 3.0}
SHIFTING = {"use_dynamic_shifting": True, "shift": 3.0}
SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
HEAD = 16
TURNS = (4, 6, 6)  # how many of the 16 turn with which axis of position
ATTENTION = {"num_attention_heads": HEADS, "attention_head_dim": HEAD}
LATENTS = {"in_channels": LATENT, "out_channels": LATENT, "sample_size": SIDE}
# Of Flux and its kin, where 2x2 latents are one token.
DOUBLE_AND_SINGLE = {
    **ATTENTION,
    "in_channels": 4 * LATENT,
    "num_layers": 1,
    "num_single_layers": 1,
}
# Fresh attention is nearly even: one word among hundreds of fillers would hardly be seen.
GAIN = {"transformer": 2.0, "unet": 1.5}


def save(name: str, folder: Path) -> Path:
    """Build a family's pipeline into folder/name, as diffusers saves it; returns that folder."""
    FAMILIES[name]().save_pretrained(folder / name, safe_serialization=True)
    return folder / name


def family(name: str) -> Callable[[Builder], Builder]:
    """Register a builder; it draws from a generator of its own, always the same."""

    def register(build: Builder) -> Builder:
        def seeded() -> diffusers.DiffusionPipeline:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                pipe = build()
                for role, part in pipe.components.items():
                    if isinstance(part, nn.Module):
                        _awake(part.eval().requires_grad_(False), GAIN.get(role, 1.0))
            return pipe

        FAMILIES[name] = seeded
        return seeded

    return register


@torch.no_grad()
def _awake(module: nn.Module, gain: float) -> None:
    """Give every constant parameter some noise, multiply every matrix and kernel by the gain.

    Gates, modulations and last layers start at nought, so that a fresh network would not use half
    of its modules; norms start at one, where randomizing them would change nothing.
    """
    for parameter in module.parameters():
        if parameter.numel() == 1 or parameter.amin() == parameter.amax():
            parameter.add_(0.1 * torch.randn_like(parameter))
        elif parameter.ndim > 1:
            parameter.mul_(gain)


# ---------------------------------------------------------------- Stable Diffusion


def stable_diffusion(unet: dict[str, Any], prediction: str, **text: Any) -> Any:
    tokenizer = encoders.clip_tokenizer()
    return diffusers.StableDiffusionPipeline(
        vae=encoders.autoencoder(),
        text_encoder=encoders.clip(tokenizer, **text),
        tokenizer=tokenizer,
        unet=diffusers.UNet2DConditionModel(
            sample_size=SIDE,
            block_out_channels=(16, 32),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=WIDTH,
            norm_num_groups=4,
            **unet,
        ),
        scheduler=diffusers.DDIMScheduler(
            steps_offset=1, clip_sample=False, prediction_type=prediction, **SCALED
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@family("sd1")
def sd1() -> Any:
    return stable_diffusion({"attention_head_dim": HEADS}, "epsilon")


@family("sd2")
def sd2() -> Any:
    linear = {"use_linear_projection": True, "attention_head_dim": (2, 4)}
    return stable_diffusion(linear, "v_prediction", hidden_act="gelu")


@family("sdxl")
def sdxl() -> Any:
    tokenizers = encoders.clip_tokenizer(), encoders.clip_tokenizer()
    return diffusers.StableDiffusionXLPipeline(
        vae=encoders.autoencoder(scaling_factor=0.13025),
        text_encoder=encoders.clip(tokenizers[0], 16),
        text_encoder_2=encoders.clip_projected(tokenizers[1], 16, hidden_act="gelu"),
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        unet=diffusers.UNet2DConditionModel(
            sample_size=SIDE,
            block_out_channels=(16, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2),
            layers_per_block=1,
            cross_attention_dim=2 * 16,
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            norm_num_groups=4,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 16,  # sizes and crop, pooled text
        ),
        scheduler=diffusers.EulerDiscreteScheduler(timestep_spacing="leading", **SCALED),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


@family("sd3")
def sd3() -> Any:
    clips = encoders.clip_tokenizer(), encoders.clip_tokenizer()
    t5_tokenizer = encoders.t5_tokenizer()
    return diffusers.StableDiffusion3Pipeline(
        vae=encoders.flow_autoencoder(),
        text_encoder=encoders.clip_projected(clips[0], 16),
        text_encoder_2=encoders.clip_projected(clips[1], 16, hidden_act="gelu"),
        text_encoder_3=encoders.t5(t5_tokenizer, 48),  # wider than the two others together
        tokenizer=clips[0],
        tokenizer_2=clips[1],
        tokenizer_3=t5_tokenizer,
        transformer=diffusers.SD3Transformer2DModel(
            **LATENTS,
            num_layers=2,
            **ATTENTION,
            caption_projection_dim=HEADS * HEAD,
            joint_attention_dim=48,
            pooled_projection_dim=2 * 16,
            pos_embed_max_size=SIDE,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**FLOW),
    )


# ---------------------------------------------------------------- T5 and transformers


@family("pixart")
def pixart() -> Any:
    tokenizer = encoders.t5_tokenizer()
    return diffusers.PixArtSigmaPipeline(
        tokenizer=tokenizer,
        text_encoder=encoders.t5(tokenizer),
        vae=encoders.autoencoder(scaling_factor=0.13025),
        transformer=diffusers.PixArtTransformer2DModel(
            sample_size=SIDE,
            in_channels=LATENT,
            out_channels=2 * LATENT,
            num_layers=2,
            **ATTENTION,
            cross_attention_dim=HEADS * HEAD,
            caption_channels=WIDTH,
            interpolation_scale=1,
            use_additional_conditions=False,
        ),
        scheduler=diffusers.DPMSolverMultistepScheduler(),
    )


@family("flux")
def flux() -> Any:
    clip_tokenizer, t5_tokenizer = encoders.clip_tokenizer(), encoders.t5_tokenizer()
    return diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**SHIFTING),
        vae=encoders.flow_autoencoder(),
        text_encoder=encoders.clip(clip_tokenizer, 16),
        tokenizer=clip_tokenizer,
        text_encoder_2=encoders.t5(t5_tokenizer),
        tokenizer_2=t5_tokenizer,
        transformer=diffusers.FluxTransformer2DModel(
            **DOUBLE_AND_SINGLE,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=16,
            guidance_embeds=True,
            axes_dims_rope=TURNS,
        ),
    )


@family("sana")
def sana() -> Any:
    tokenizer = encoders.gemma_tokenizer()
    return diffusers.SanaPipeline(
        tokenizer=tokenizer,
        text_encoder=encoders.gemma(tokenizer),
        vae=encoders.deep_autoencoder(),
        transformer=diffusers.SanaTransformer2DModel(
            **LATENTS,
            num_layers=2,
            **ATTENTION,
            num_cross_attention_heads=HEADS,
            cross_attention_head_dim=HEAD,
            cross_attention_dim=HEADS * HEAD,
            caption_channels=WIDTH,
        ),
        scheduler=diffusers.DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )


@family("hunyuan")
def hunyuan() -> Any:
    bert_tokenizer, t5_tokenizer = encoders.bert_tokenizer(), encoders.t5_tokenizer()
    return diffusers.HunyuanDiTPipeline(
        vae=encoders.autoencoder(scaling_factor=0.13025),
        text_encoder=encoders.bert(bert_tokenizer),
        tokenizer=bert_tokenizer,
        text_encoder_2=encoders.t5(t5_tokenizer),
        tokenizer_2=t5_tokenizer,
        transformer=diffusers.HunyuanDiT2DModel(
            sample_size=SIDE,
            patch_size=2,
            in_channels=LATENT,
            num_layers=4,  # the fourth takes what the first leaves
            num_attention_heads=HEADS,
            attention_head_dim=8,
            hidden_size=HEADS * 8,
            cross_attention_dim=WIDTH,
            cross_attention_dim_t5=WIDTH,
            pooled_projection_dim=16,
        ),
        scheduler=diffusers.DDPMScheduler(
            prediction_type="v_prediction",
            steps_offset=1,
            clip_sample=False,
            **(SCALED | {"beta_end": 0.02}),
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@family("auraflow")
def auraflow() -> Any:
    tokenizer = encoders.t5_tokenizer()
    return diffusers.AuraFlowPipeline(
        tokenizer=tokenizer,
        text_encoder=encoders.umt5(tokenizer),
        vae=encoders.autoencoder(scaling_factor=0.13025),
        transformer=diffusers.AuraFlowTransformer2DModel(
            **LATENTS,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            **ATTENTION,
            joint_attention_dim=WIDTH,
            caption_projection_dim=HEADS * HEAD,
            pos_embed_max_size=SIDE**2,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=1.73),
    )


@family("chroma")
def chroma() -> Any:
    tokenizer = encoders.t5_tokenizer()
    return diffusers.ChromaPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**SHIFTING),
        vae=encoders.flow_autoencoder(),
        text_encoder=encoders.t5(tokenizer),
        tokenizer=tokenizer,
        transformer=diffusers.ChromaTransformer2DModel(
            **DOUBLE_AND_SINGLE,
            joint_attention_dim=WIDTH,
            axes_dims_rope=TURNS,
            approximator_num_channels=16,
            approximator_hidden_dim=16,
            approximator_layers=1,
        ),
    )


# ---------------------------------------------------------------- language models as encoders


@family("qwen")
def qwen() -> Any:
    tokenizer = encoders.qwen_tokenizer()
    return diffusers.QwenImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**SHIFTING),
        vae=encoders.frames_autoencoder(),
        text_encoder=encoders.qwen_with_vision(tokenizer),
        tokenizer=tokenizer,
        transformer=diffusers.QwenImageTransformer2DModel(
            in_channels=4 * LATENT,
            out_channels=LATENT,
            num_layers=2,
            **ATTENTION,
            joint_attention_dim=WIDTH,
            axes_dims_rope=TURNS,
        ),
    )


@family("z-image")
def z_image() -> Any:
    tokenizer = encoders.qwen_tokenizer()
    return diffusers.ZImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**FLOW),
        vae=encoders.flow_autoencoder(),
        text_encoder=encoders.qwen(tokenizer).model,
        tokenizer=tokenizer,
        transformer=diffusers.ZImageTransformer2DModel(
            in_channels=LATENT,
            dim=HEADS * HEAD,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=HEADS,
            n_kv_heads=HEADS,
            cap_feat_dim=WIDTH,
            axes_dims=list(TURNS),
            axes_lens=[1024, 64, 64],
        ),
    )


@family("lumina2")
def lumina2() -> Any:
    tokenizer = encoders.gemma_tokenizer()
    return diffusers.Lumina2Pipeline(
        transformer=diffusers.Lumina2Transformer2DModel(
            sample_size=SIDE,
            in_channels=LATENT,
            hidden_size=HEADS * HEAD,
            num_layers=1,
            num_refiner_layers=1,
            num_attention_heads=HEADS,
            num_kv_heads=1,
            multiple_of=8,
            axes_dim_rope=TURNS,
            axes_lens=(512, 64, 64),
            cap_feat_dim=WIDTH,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**FLOW),
        vae=encoders.flow_autoencoder(
            levels=4
        ),  # the pipeline takes for granted that it divides by 8
        text_encoder=encoders.gemma(tokenizer),
        tokenizer=tokenizer,
    )


@family("cogview4")
def cogview4() -> Any:
    tokenizer = encoders.glm_tokenizer()
    return diffusers.CogView4Pipeline(
        tokenizer=tokenizer,
        text_encoder=encoders.glm(tokenizer),
        vae=encoders.autoencoder(use_quant_conv=False, use_post_quant_conv=False),
        transformer=diffusers.CogView4Transformer2DModel(
            **LATENTS,
            num_layers=2,
            **ATTENTION,
            text_embed_dim=WIDTH,
            time_embed_dim=32,
            condition_dim=8,
            pos_embed_max_size=SIDE,
            rope_axes_dim=(16, 16),
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            base_shift=0.25, max_shift=0.75, time_shift_type="linear", use_dynamic_shifting=True
        ),
    )


@family("flux2-klein")
def flux2_klein() -> Any:
    tokenizer = encoders.qwen_tokenizer()
    vae = diffusers.AutoencoderKLFlux2(**encoders.kl_sizes(2))
    vae.bn.running_mean.normal_(std=0.1)
    vae.bn.running_var.uniform_(0.5, 2)
    return diffusers.Flux2KleinPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**SHIFTING),
        vae=vae,
        # The pipeline reads the layers 9, 18 and 27.
        text_encoder=encoders.qwen(tokenizer, 16, layers=27),
        tokenizer=tokenizer,
        transformer=diffusers.Flux2Transformer2DModel(
            **DOUBLE_AND_SINGLE,
            joint_attention_dim=3 * 16,
            timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        ),
    )


# ---------------------------------------------------------------- Kandinsky


@family("kandinsky3")
def kandinsky3() -> Any:
    tokenizer = encoders.t5_tokenizer()
    return diffusers.Kandinsky3Pipeline(
        tokenizer=tokenizer,
        text_encoder=encoders.t5(tokenizer),
        unet=diffusers.Kandinsky3UNet(
            in_channels=LATENT,
            time_embedding_dim=16,
            groups=2,  # the lowest level has one pixel: a group of two would be normed to a sign
            attention_head_dim=4,  # of the eight heads that its class has
            layers_per_block=2,
            block_out_channels=(16, 16, 16, 16),
            cross_attention_dim=WIDTH,
            encoder_hid_dim=WIDTH,
        ),
        scheduler=diffusers.DDPMScheduler(
            beta_schedule="squaredcos_cap_v2", clip_sample=True, clip_sample_range=2.0
        ),
        movq=encoders.movq(levels=4),  # the pipeline counts on a division by 8
    )


@family("kandinsky22")
def kandinsky22() -> Any:
    tokenizer = encoders.clip_tokenizer()
    return diffusers.KandinskyV22CombinedPipeline(
        unet=diffusers.UNet2DConditionModel(
            sample_size=SIDE,
            in_channels=LATENT,
            out_channels=2 * LATENT,
            block_out_channels=(16, 32),
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            layers_per_block=1,
            cross_attention_dim=WIDTH,
            encoder_hid_dim=WIDTH,
            encoder_hid_dim_type="image_proj",
            addition_embed_type="image",
            resnet_time_scale_shift="scale_shift",
            attention_head_dim=HEAD,
            norm_num_groups=4,
        ),
        scheduler=diffusers.DDPMScheduler(
            beta_schedule="linear",
            beta_start=0.00085,
            beta_end=0.012,
            variance_type="learned_range",
            clip_sample_range=2.0,
        ),
        movq=encoders.movq(levels=2),
        prior_prior=diffusers.PriorTransformer(
            **ATTENTION,
            num_layers=2,
            embedding_dim=WIDTH,
            num_embeddings=tokenizer.model_max_length,
        ),
        prior_image_encoder=encoders.clip_vision(),
        prior_text_encoder=encoders.clip_projected(tokenizer),
        prior_tokenizer=tokenizer,
        prior_scheduler=diffusers.UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=10.0
        ),
        prior_image_processor=encoders.clip_processor(),
    )
