"""Train the bundled model: `python -m ablate.training.train`.

Stages: pictures, tokenizer, autoencoder, image/text encoder, U-Net, decoder, export. Each writes
files into the working folder and is resumed, or skipped, when run again. Learning rates follow
elapsed time, so that a stage ends when its minutes are spent, on any hardware.

Latents are 8 × 8 × 16: as many numbers as 16 × 16 × 4, but on so small a grid a network learns
shapes several times sooner. Noise: v-prediction with zero terminal signal-to-noise ratio
(Salimans & Ho 2022, arXiv:2202.00512; Lin et al. 2023, arXiv:2305.08891).
"""

from __future__ import annotations

import json
import math
import multiprocessing
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPTokenizer

from ablate.bundled import FOLDER
from ablate.training import data

PICTURES = 40_000
LENGTH = 24  # tokens in a caption, start and end included
# Minutes that the shipped weights took, on one core of an AMD EPYC 9004 (AVX-512 with bf16) each.
MINUTES = {"vae": 30.0, "decoder": 40.0, "clip": 31.0, "unet": 52.0}
STAGES = ("pictures", "tokenizer", "vae", "clip", "unet", "decoder", "export")
VAE = {
    "block_out_channels": (32, 32, 96, 192),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "latent_channels": 16,
    "norm_num_groups": 8,
    "sample_size": data.SIZE,
    "scaling_factor": 1.0,
    "mid_block_add_attention": False,
}
CLIP_TOWER = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
}
UNET = {
    "sample_size": data.SIZE // 8,
    "in_channels": 16,
    "out_channels": 16,
    "block_out_channels": (96, 192, 192),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": CLIP_TOWER["hidden_size"],
    "attention_head_dim": 4,
    "norm_num_groups": 12,
}
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": True,
}


def pictures(work: Path) -> tuple[np.ndarray, list[data.Picture]]:
    """Return the training pictures, uint8 (n, 64, 64, 3), and their contents; draw them once."""
    rng = random.Random(0)
    shown = [data.sample(rng) for _ in range(PICTURES)]
    file = work / "pictures.npy"
    if not file.exists():
        with multiprocessing.get_context("spawn").Pool() as pool:
            drawn = np.stack(pool.map(data.render, shown, chunksize=256))
        np.save(work / "pictures.tmp.npy", drawn)
        (work / "pictures.tmp.npy").rename(file)
    return np.load(file, mmap_mode="r"), shown


def batch_of(images: np.ndarray, index: np.ndarray, device: torch.device) -> torch.Tensor:
    """Convert pictures for the networks: float32 in [-1, 1], shape (n, 3, 64, 64)."""
    chosen = torch.from_numpy(images[np.sort(index)]).to(device)
    return chosen.permute(0, 3, 1, 2).float() / 127.5 - 1


def tokenizer(work: Path) -> CLIPTokenizer:
    """A CLIP tokenizer whose byte-pair merges make one token of every word in the captions."""
    folder = work / "tokenizer"
    if not folder.exists():
        rng = random.Random(0)
        lines = sorted({c for _ in range(20_000) for c in data.captions(data.sample(rng), rng)})
        bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
        bpe.pre_tokenizer = pre_tokenizers.Whitespace()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        bpe.train_from_iterator(
            lines, trainers.BpeTrainer(end_of_word_suffix="</w>", min_frequency=1, vocab_size=9999)
        )
        merges = json.loads(bpe.to_str())["model"]["merges"]
        tokens = [*sorted(alphabet), *(f"{c}</w>" for c in sorted(alphabet))]
        tokens += ["".join(m) for m in merges] + ["<|startoftext|>", "<|endoftext|>"]
        vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
        trained = CLIPTokenizer(
            vocab=vocabulary, merges=[tuple(m) for m in merges], model_max_length=LENGTH
        )
        words = {word for line in lines for word in line.split()}
        split = [w for w in words if len(trained(w).input_ids) != 3]
        assert not split, f"words of several tokens: {split}"
        trained.save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def tokens_of(tokenizer: CLIPTokenizer, texts: list[str], device: torch.device) -> torch.Tensor:
    """Token numbers of texts, (texts, LENGTH)."""
    encoded = tokenizer(texts, padding="max_length", max_length=LENGTH, truncation=True)
    return torch.tensor(encoded.input_ids, device=device)


class Average:
    """Exponential moving average of a network's parameters."""

    def __init__(self, net: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.shadow = {k: v.detach().clone() for k, v in net.state_dict().items()}

    @torch.no_grad()
    def update(self, net: torch.nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 10))
        for name, value in net.state_dict().items():
            if value.is_floating_point():
                self.shadow[name].lerp_(value, 1 - decay)


def train(
    net: torch.nn.Module,
    loss_of: Callable[[int], tuple[torch.Tensor, str]],
    *,
    checkpoint: Path,
    minutes: float,
    rate: float,
    decay: float = 0.999,
) -> torch.nn.Module:
    """Minimize a loss, resuming from a checkpoint; return `net` with averaged weights.

    The learning rate warms up over 200 steps, is constant, and decays over the last third.

    Args:
        loss_of: Returns the loss of a step and a note to print with it.
        checkpoint: File of the state, written every three minutes, on Ctrl-C and at the end.
        minutes: Training time, summed over resumed runs.
        rate: The highest learning rate.
        decay: Of the moving average of the weights.
    """
    optimizer = torch.optim.AdamW(
        [p for p in net.parameters() if p.requires_grad], lr=rate, betas=(0.9, 0.99), fused=True
    )
    average = Average(net, decay)
    step, spent = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        average.shadow, average.steps = state["average"], state["step"]
        step, spent = state["step"], state["spent"]

    def save() -> None:
        state = {
            "net": net.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": average.shadow,
            "step": step,
            "spent": spent,
        }
        torch.save(state, checkpoint.with_suffix(".tmp"))
        checkpoint.with_suffix(".tmp").replace(checkpoint)

    last = saved = time.monotonic()
    losses: list[float] = []
    try:
        while spent < minutes * 60:
            left = 1 - spent / (minutes * 60)
            factor = min(1.0, (step + 1) / 200, 0.02 + 3 * left)
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            loss, note = loss_of(step)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            average.update(net)
            losses.append(float(loss.detach()))
            step += 1
            now = time.monotonic()
            # A suspended process has not been training.
            spent, last = spent + min(now - last, 30), now
            if step % 100 == 0:
                click.echo(
                    f"{checkpoint.stem}  step {step}  {spent / 60:.1f} of {minutes:g} min"
                    f"  loss {np.mean(losses):.4f}  {note}"
                )
                losses.clear()
            if now - saved > 180:
                save()
                saved = now
    except KeyboardInterrupt:
        save()
        raise
    save()
    net.load_state_dict(average.shadow)
    return net.eval()


def shuffled(count: int, size: int) -> Iterator[np.ndarray]:
    """Yield batches of indices without end, each picture once per epoch."""
    rng = np.random.default_rng()
    while True:
        order = rng.permutation(count)
        yield from (order[i : i + size] for i in range(0, count - size + 1, size))


def autocast(device: torch.device) -> Any:
    """bfloat16 arithmetic on a device."""
    return torch.autocast(device.type, torch.bfloat16)


def reconstruction_loss(decoded: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1 of the pixels and of their differences to right and lower neighbors, which keeps edges."""
    error = decoded.float() - target
    return error.abs().mean() + 0.5 * sum(error.diff(dim=axis).abs().mean() for axis in (2, 3))


def psnr(decoded: torch.Tensor, target: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [-1, 1]."""
    return float(10 * torch.log10(4 / (decoded.detach().float() - target).square().mean()))


def vae(work: Path, minutes: float, device: torch.device) -> AutoencoderKL:
    """Train encoder and decoder, then scale latents to mean 0 and deviation 1 by channel."""
    folder = work / "vae"
    if folder.exists():
        return AutoencoderKL.from_pretrained(folder).to(device)
    images, _ = pictures(work)
    net = AutoencoderKL(**VAE).to(device)
    with torch.no_grad():  # start with nearly certain latents, or noise drowns them for long
        net.quant_conv.bias[16:] = -6.0
    batches = shuffled(len(images), 8 if device.type == "cpu" else 64)

    def loss_of(step: int) -> tuple[torch.Tensor, str]:
        target = batch_of(images, next(batches), device)
        with autocast(device):
            posterior = net.encode(target).latent_dist
            decoded = net.decode(posterior.sample()).sample
        divergence = posterior.kl().mean() / math.prod(posterior.mean.shape[1:])
        note = f"{psnr(decoded, target):.1f} dB  KL {float(divergence.detach()):.2f}"
        return reconstruction_loss(decoded, target) + 1e-3 * divergence, note

    train(net, loss_of, checkpoint=work / "vae.pt", minutes=minutes, rate=1e-3)
    normalize(net, images, device)
    net.save_pretrained(folder)
    return net


@torch.no_grad()
def normalize(net: AutoencoderKL, images: np.ndarray, device: torch.device) -> None:
    """Fold the latents' mean and deviation into the 1 × 1 convolutions around them."""
    latents = torch.cat([
        net.encode(batch_of(images, np.arange(i, i + 64), device)).latent_dist.mode()
        for i in range(0, 2048, 64)
    ])  # fmt: skip
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    before, after = net.quant_conv, net.post_quant_conv
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight *= deviation[None, :, None, None]
    before.bias[:16] -= mean
    before.weight[:16] /= deviation[:, None, None, None]
    before.bias[:16] /= deviation
    before.bias[16:] -= 2 * deviation.log()


def decoder(work: Path, minutes: float, device: torch.device) -> AutoencoderKL:
    """Train the decoder alone, on latents with a little noise such as a U-Net leaves."""
    folder = work / "decoder"
    net = vae(work, 0, device)
    if folder.exists():
        return AutoencoderKL.from_pretrained(folder).to(device)
    images, _ = pictures(work)
    for part in (net.encoder, net.quant_conv):
        part.requires_grad_(False)
    latents = latents_of(work, net, device)
    batches = shuffled(len(images), 8 if device.type == "cpu" else 64)

    def loss_of(step: int) -> tuple[torch.Tensor, str]:
        index = np.sort(next(batches))
        target = batch_of(images, index, device)
        latent = latents[index].to(device).float()
        latent = latent + 0.1 * torch.randn_like(latent)
        with autocast(device):
            decoded = net.decode(latent).sample
        return reconstruction_loss(decoded, target), f"{psnr(decoded, target):.1f} dB"

    train(net, loss_of, checkpoint=work / "decoder.pt", minutes=minutes, rate=1e-3)
    net.save_pretrained(folder)
    return net


@torch.no_grad()
def latents_of(work: Path, net: AutoencoderKL, device: torch.device) -> torch.Tensor:
    """Return the latents of all pictures, bfloat16 (n, 16, 8, 8); compute them once."""
    file = work / "latents.pt"
    if not file.exists():
        images, _ = pictures(work)
        parts = []
        for i in range(0, len(images), 100):
            with autocast(device):
                batch = batch_of(images, np.arange(i, i + 100), device)
                parts.append(net.encode(batch).latent_dist.mode().bfloat16().cpu())
        torch.save(torch.cat(parts), file)
    latents: torch.Tensor = torch.load(file, weights_only=True)
    return latents


def clip(work: Path, minutes: float, device: torch.device) -> CLIPModel:
    """Train the image/text encoder contrastively (Radford et al. 2021, arXiv:2103.00020).

    The captions of a batch have one level of detail, and pictures with equal captions count as
    matches of each other: with so few captions, many would otherwise be pushed apart for nothing.
    """
    folder = work / "clip"
    if folder.exists():
        return CLIPModel.from_pretrained(folder).to(device)
    images, shown = pictures(work)
    words = tokenizer(work)
    text = {"vocab_size": len(words), "max_position_embeddings": LENGTH, "projection_dim": 128}
    text |= {
        f"{name}_token_id": getattr(words, f"{name}_token_id") for name in ("bos", "eos", "pad")
    }
    vision = {"image_size": data.SIZE, "patch_size": 8, "projection_dim": 128}
    config = CLIPConfig(
        text_config=CLIP_TOWER | text, vision_config=CLIP_TOWER | vision, projection_dim=128
    )
    net = CLIPModel(config).to(device)
    batches = shuffled(len(images), 128)
    rng = random.Random(0)

    def loss_of(step: int) -> tuple[torch.Tensor, str]:
        index = np.sort(next(batches))
        level = step % 3
        # One wording a batch: two wordings of one meaning must not compete.
        wording = rng.random()
        texts = [list(data.captions(shown[i], random.Random(wording)))[level] for i in index]
        distinct = sorted(set(texts))
        pixels = degraded(batch_of(images, index, device))
        with autocast(device):
            out = net(
                input_ids=tokens_of(words, distinct, device), pixel_values=pixels, return_dict=True
            )
        scores = out.logits_per_image.float()  # (pictures, distinct captions)
        target = torch.tensor([distinct.index(t) for t in texts], device=device)
        belongs = F.one_hot(target, len(distinct)).T.float()
        loss = F.cross_entropy(scores, target)
        loss = loss + F.cross_entropy(scores.T, belongs / belongs.sum(1, keepdim=True))
        right = (scores.argmax(1) == target).float().mean()
        return loss / 2, f"level {level}: right {float(right):.2f}"

    train(net, loss_of, checkpoint=work / "clip.pt", minutes=minutes, rate=1e-3)
    net.save_pretrained(folder)
    return net


def degraded(pixels: torch.Tensor) -> torch.Tensor:
    """Shift, soften and add noise at random: drawn pictures are cleaner than generated ones."""
    dx, dy = random.randint(-4, 4), random.randint(-4, 4)
    pixels = F.pad(pixels, (4, 4, 4, 4), mode="replicate")
    pixels = pixels[:, :, 4 + dy : 4 + dy + data.SIZE, 4 + dx : 4 + dx + data.SIZE]
    if random.random() < 0.4:
        pixels = F.interpolate(F.avg_pool2d(pixels, 2), scale_factor=2, mode="bilinear")
    return pixels + random.random() * 0.1 * torch.randn_like(pixels)


def unet(work: Path, minutes: float, device: torch.device) -> UNet2DConditionModel:
    """Train the denoiser on latents and captions; one in ten captions is empty, for guidance."""
    folder = work / "unet"
    if folder.exists():
        return UNet2DConditionModel.from_pretrained(folder)
    _, shown = pictures(work)
    words = tokenizer(work)
    encoder = text_encoder(work).to(device).eval()
    latents = latents_of(work, vae(work, 0, device), device)
    net = UNet2DConditionModel(**UNET).to(device)
    net.set_attn_processor(AttnProcessor())  # on a CPU its backward pass beats the fused kernel's
    scheduler = DDIMScheduler(**SCHEDULER)
    steps = scheduler.config.num_train_timesteps
    size = 32 if device.type == "cpu" else 512
    batches = shuffled(len(latents), size)
    rng = random.Random()

    def caption(picture: data.Picture) -> str:
        full, without_place, _ = data.captions(picture, rng)
        return rng.choices(("", full, without_place), (0.1, 0.55, 0.35))[0]

    def loss_of(step: int) -> tuple[torch.Tensor, str]:
        index = next(batches)
        clean = latents[index].to(device).float()
        noise = torch.randn_like(clean)
        # Stratified over the batch: the loss varies most with the noise level.
        t = (torch.arange(size, device=device) + torch.rand(1, device=device)) / size % 1
        t = (t * steps).long()
        texts = tokens_of(words, [caption(shown[i]) for i in index], device)
        with autocast(device):
            with torch.no_grad():
                states = encoder(texts).last_hidden_state
            velocity = net(scheduler.add_noise(clean, noise, t), t, states).sample
        return F.mse_loss(velocity.float(), scheduler.get_velocity(clean, noise, t)), ""

    train(net, loss_of, checkpoint=work / "unet.pt", minutes=minutes, rate=6e-4)
    net.save_pretrained(folder)
    return net


def text_encoder(work: Path) -> CLIPTextModel:
    """The text tower of the image/text encoder is the pipeline's text encoder."""
    return CLIPTextModel.from_pretrained(work / "clip")


def export(work: Path, target: Path) -> None:
    """Write the pipeline in Stable Diffusion's format, and the image/text encoder beside it."""
    half = torch.float16
    pipeline = StableDiffusionPipeline(
        vae=decoder(work, 0, torch.device("cpu")).to(half),
        text_encoder=text_encoder(work).to(half),
        tokenizer=tokenizer(work),
        unet=UNet2DConditionModel.from_pretrained(work / "unet").to(half),
        scheduler=DDIMScheduler(**SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(target)
    clip(work, 0, torch.device("cpu")).to(half).save_pretrained(target / "clip")
    data.describe(target / "clip")
    for file in target.rglob("config.json"):  # parts note the folder they were loaded from
        config = json.loads(file.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@click.command()
@click.option("--work", type=click.Path(path_type=Path), default=Path("outputs/training"))
@click.option("--out", type=click.Path(path_type=Path), default=FOLDER, help="Where weights go.")
@click.option("--stage", type=click.Choice(STAGES), multiple=True, help="Only these. Default: all.")
@click.option("--minutes", type=float, help="Of each trained stage. Default: as shipped.")
def main(work: Path, out: Path, stage: tuple[str, ...], minutes: float | None) -> None:
    """Train the bundled model and write its weights."""
    work.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trained: dict[str, Callable[..., Any]] = {
        "vae": vae, "clip": clip, "unet": unet, "decoder": decoder
    }  # fmt: skip
    for name in stage or STAGES:
        if name in trained:
            trained[name](work, MINUTES[name] if minutes is None else minutes, device)
        elif name == "export":
            export(work, out)
        else:
            {"pictures": pictures, "tokenizer": tokenizer}[name](work)


if __name__ == "__main__":
    main()
