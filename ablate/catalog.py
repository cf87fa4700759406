"""The catalog: all modules of a component, numbered in forward order; and selectors over it.

A module is a `torch.nn.Module` that owns parameters itself. Building a catalog reads shapes only,
so that a network on the meta device, without weights, is enough.
"""

from __future__ import annotations

import difflib
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from ablate.modules import ModuleInfo as ModuleInfo

Selector = str | Mapping[str, Any] | Sequence[Any]
FIELDS = ("kind", "role", "stage", "block")


class SelectorError(ValueError):
    """A selector that is not well formed or matches nothing; the message says which and why."""


# The first pattern found in a path names the role. Names are those of diffusers and transformers.
ROLES = tuple(
    (re.compile(pattern), role)
    for pattern, role in (
        (r"time_emb|time_proj|timestep_emb|add_embedding|time_text_embed", "time"),
        (r"conv_shortcut|skip", "skip"),
        (r"(^|\.)(\w*norm\w*)$|(^|\.)norm\d?_?\w*(\.|$)|_norm(\.|$)|layer_norm\d?$", "norm"),
        (r"attn2(\.|$)|cross_attn", "cross_attention"),
        (r"attn1(\.|$)|self_attn|\.attn(\.|$)|attentions\.\d+\.to_", "self_attention"),
        (r"(^|\.)(ff|mlp|ff_context|proj_mlp)(\.|$)", "feed_forward"),
        (r"\.proj_in|\.proj_out$|quant_conv$", "projection"),
        (r"downsamplers", "downsample"),
        (r"upsamplers", "upsample"),
        (r"resnets", "resnet"),
        (r"^(\w+\.)?(conv_in|pos_embed|x_embedder|patch_embed\w*)(\.|$)", "input"),
        (r"^(\w+\.)?(conv_out|proj_out)(\.|$)", "output"),
        (r"embed", "embedding"),
    )
)


def catalog(network: nn.Module, run: Callable[[], object] | None = None) -> tuple[ModuleInfo, ...]:
    """All modules of a network that own parameters, in forward order.

    `run` calls the network once (on the meta device this costs nothing); modules are numbered in
    the order in which they first ran. Without it, or for modules that it never reaches, the order
    is that of registration.
    """
    owners = {
        path: module
        for path, module in network.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    }
    first: dict[str, int] = {}
    if run is not None:
        for path in _calls(owners, run):
            first.setdefault(path, len(first))
    registered = list(owners)
    last_reached = {path: first.get(path, len(first) + i) for i, path in enumerate(registered)}
    return tuple(
        ModuleInfo(
            number=number,
            path=path,
            kind=type(owners[path]).__name__,
            stage=stage_of(path),
            block=block_of(path),
            role=role_of(path),
            parameters=sum(p.numel() for p in owners[path].parameters(recurse=False)),
        )
        for number, path in enumerate(sorted(registered, key=last_reached.__getitem__))
    )


def _calls(owners: Mapping[str, nn.Module], run: Callable[[], object]) -> Iterable[str]:
    calls: list[str] = []
    handles = []
    try:
        for path, module in owners.items():
            handles.append(
                module.register_forward_pre_hook(lambda _m, _args, path=path: calls.append(path))
            )
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return calls


def stage_of(path: str) -> str:
    """Where in the network a module path lies."""
    head = path.partition(".")[0]
    tail = path.split(".")
    for part, stage in (("down_blocks", "down"), ("mid_block", "mid"), ("up_blocks", "up")):
        if part in tail[:2]:
            return stage
    if re.search(r"blocks|layers", path):
        return "blocks"
    if re.search(r"(^|\.)(conv_norm_out|conv_out|norm_out|proj_out|final_layer|final_norm)", path):
        return "out"
    return "out" if head == "quant_conv" else "in"


def block_of(path: str) -> str:
    """The path up to the number of its block: `down_blocks.0`, `mid_block`, `conv_in`."""
    parts = path.split(".")
    for i, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: i + 1]) if parts[0] != "mid_block" else "mid_block"
    return parts[0]


def role_of(path: str) -> str:
    """What a module does, read off its path; `other` when no name is known."""
    for pattern, role in ROLES:
        if pattern.search(path):
            return role
    return "other"


# ---------------------------------------------------------------- selectors


def select(selector: Selector, modules: Sequence[ModuleInfo]) -> tuple[ModuleInfo, ...]:
    """The modules that a selector names, in catalog order.

    A string is a glob over module paths (`*` crosses dots), `re:` and a pattern, a number or range
    (`#3`, `#0-#40`), or `kind=`, `role=`, `stage=`, `block=` with a glob. A list is all of its
    items together; an item `{not: S}` takes S out of what stands before it (or of everything when
    it stands first). `{sample: {of: S, count: n, seed: s}}` draws n of S.

    Raises `SelectorError` when the selector is not well formed or matches nothing.
    """
    chosen = _select(selector, modules)
    if not chosen:
        raise SelectorError(_nothing(selector, modules))
    return tuple(m for m in modules if m.path in chosen)


def _select(selector: Selector, modules: Sequence[ModuleInfo]) -> set[str]:
    match selector:
        case str():
            return {m.path for m in modules if matcher(selector)(m)}
        case {"not": inner, **rest} if not rest:
            return {m.path for m in modules} - _nonempty(inner, modules)
        case {"sample": {"of": inner, "count": int(count), **rest}} if not set(rest) - {"seed"}:
            found = sorted(_nonempty(inner, modules))
            if not 1 <= count <= len(found):
                raise SelectorError(
                    f"sample asks for {count} modules of {len(found)} that `{inner}` matches"
                )
            return set(random.Random(str(rest.get("seed", 0))).sample(found, count))
        case Mapping():
            raise SelectorError(
                f"a selector mapping is {{not: S}} or {{sample: {{of: S, count: n, seed: s}}}},"
                f" not {_brief(selector)}"
            )
        case Sequence():
            chosen: set[str] = set()
            for i, item in enumerate(selector):
                if isinstance(item, Mapping) and set(item) == {"not"}:
                    start = {m.path for m in modules} if i == 0 else chosen
                    chosen = start - _nonempty(item["not"], modules)
                else:
                    chosen |= _nonempty(item, modules)
            return chosen
    raise SelectorError(f"a selector is a string, a list or a mapping, not {selector!r}")


def _nonempty(selector: Selector, modules: Sequence[ModuleInfo]) -> set[str]:
    chosen = _select(selector, modules)
    if not chosen:
        raise SelectorError(_nothing(selector, modules))
    return chosen


def matcher(text: str) -> Callable[[ModuleInfo], bool]:
    """The test that one selector string stands for. Raises `SelectorError` when malformed."""
    if text.startswith("re:"):
        try:
            pattern = re.compile(text[3:])
        except re.error as error:
            raise SelectorError(f"`{text}` is no regular expression: {error}") from error
        return lambda m: pattern.search(m.path) is not None
    if text.startswith("#"):
        span = re.fullmatch(r"#(\d+)(?:-#?(\d+))?", text)
        if span is None:
            raise SelectorError(f"`{text}` is no module number; write `#3` or `#0-#40`")
        low, high = int(span[1]), int(span[2] or span[1])
        return lambda m: low <= m.number <= high
    field, equals, value = text.partition("=")
    if equals:
        if field not in FIELDS:
            raise SelectorError(
                f"`{text}`: modules have no `{field}`{did_you_mean(field, FIELDS)};"
                f" use {', '.join(f'{f}=' for f in FIELDS)}"
            )
        return lambda m: fnmatchcase(getattr(m, field), value)
    return lambda m: fnmatchcase(m.path, text)


def _nothing(selector: Selector, modules: Sequence[ModuleInfo]) -> str:
    if not isinstance(selector, str):
        return f"`{_brief(selector)}` matches no module"
    text = selector
    if text.startswith("#"):
        return f"`{text}` matches no module; they are numbered #0 to #{len(modules) - 1}"
    field, equals, _ = text.partition("=")
    if equals:
        present = sorted({getattr(m, field) for m in modules})
        return f"`{text}` matches no module; {field} is one of {', '.join(present)}"
    if any(m.path.startswith(text.rstrip(".") + ".") for m in modules):
        return f"`{text}` is no module but holds some; write `{text.rstrip('.')}.*`"
    plain = text.removeprefix("re:").strip("*.")
    paths = {m.path for m in modules}
    near = difflib.get_close_matches(plain, paths | {m.block for m in modules}, n=3, cutoff=0.6)
    shown = ", ".join(name if name in paths else f"{name}.*" for name in near)
    nearest = f"; the nearest {'is' if len(near) == 1 else 'are'} {shown}" if near else ""
    return f"`{text}` matches no module{nearest}"


def _brief(selector: object) -> str:
    text = str(selector)
    return text if len(text) <= 80 else text[:77] + "..."


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`, did you mean ...?` for a near miss, else nothing."""
    near = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f", did you mean `{near[0]}`?" if near else ""


def groups(modules: Sequence[ModuleInfo], by: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Module paths by the value of a field, in the order in which the values first appear."""
    found: dict[str, list[str]] = {}
    for module in modules:
        found.setdefault(str(getattr(module, by)), []).append(module.path)
    yield from ((name, tuple(paths)) for name, paths in found.items())
