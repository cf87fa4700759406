"""What the tokenizers of a model read of a text: the words beyond their length are lost."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from ablate.messages import shown
from ablate.models.catalogs import class_of, is_listed
from ablate.models.errors import ModelError
from ablate.models.files import configuration, described_by, folder_of
from ablate.models.source import Source

MOST_NOTES = 3  # of texts that are too long
MOST_TEXTS = 1_000  # that are looked at
ENDLESS = 10**6  # tokens; tokenizers without a limit say more


def lost_words(source: Source, texts: Iterable[str]) -> list[str]:
    """Notes on texts of which a tokenizer of a model does not read the end; of many, the first.

    Only files of tokenizers are read, and only where a text may be too long for one.
    """
    notes: list[str] = []
    limits = list(_limits(source))
    for text in list(dict.fromkeys(texts))[:MOST_TEXTS]:
        lost: dict[str, list[str]] = {}
        for name, kind, limit in limits:
            # No token is shorter than a byte.
            if len(text.encode("utf-8", "replace")) + 2 > limit:
                words = _lost(source, name, kind, limit, text)
                if words:
                    lost.setdefault(words, []).append(f"`{name}` reads {limit} tokens")
        notes += [
            f"of the prompt “{shown(text, 60)}” the end is lost: {' and '.join(readers)}, without"
            f" “{shown(words)}”"
            for words, readers in lost.items()
        ]
    rest = len(notes) - MOST_NOTES
    more = [f"{rest:,} more prompts lose their ends"] if rest > 0 else []
    return notes[:MOST_NOTES] + more


def _limits(source: Source) -> Iterator[tuple[str, str, int]]:
    """The tokenizers of a model: component, class and how many tokens its pipeline has read."""
    try:
        index = configuration(source, "model_index.json") or {}
        names = [name for name in index if "tokenizer" in name and is_listed(index, name)]
        configs = {name: configuration(source, f"{name}/tokenizer_config.json") for name in names}
    except ModelError:  # reported where it matters
        return
    pipeline = class_of("diffusers", index.get("_class_name"))
    parameters = inspect.signature(pipeline.__call__).parameters if pipeline else {}
    asked = parameters.get("max_sequence_length")
    for name, config in configs.items():
        kind = index[name][1]
        limit = (config or {}).get("model_max_length")
        # Pipelines that ask for a length have the one of CLIP's tokenizers beside.
        if asked is not None and isinstance(asked.default, int) and "CLIP" not in kind:
            limit = asked.default
        if isinstance(limit, int) and 2 < limit < ENDLESS:
            yield name, kind, limit


def _lost(source: Source, name: str, kind: str, limit: int, text: str) -> str:
    """The words of a text that a tokenizer does not read."""
    tokenizer = _tokenizer(source, name, kind)
    if tokenizer is None:
        return ""
    tokens = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    beyond = tokens[limit - tokenizer.num_special_tokens_to_add() :]
    return str(tokenizer.decode(beyond, skip_special_tokens=True)).strip()


@lru_cache(maxsize=8)
def _tokenizer(source: Source, name: str, kind: str) -> Any | None:
    where, revision = described_by(source)
    folder = folder_of(where)
    built = class_of("transformers", kind)
    if built is None:
        return None
    try:
        if folder is not None:
            return built.from_pretrained(folder / name)
        return built.from_pretrained(where, subfolder=name, revision=revision or "main")
    except Exception:  # of files that are damaged, which loading names
        return None
