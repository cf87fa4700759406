"""A study: what is shown to which layers of which network, and the folder that holds what was
found.

    outputs/units-selectivity/
      study.json        setup, model, versions
      pictures/         a run of its own: the images of all stimuli, made by the network as it is
      activations.npz   running statistics (ablate.units.statistics)
      units.csv, cards.json, atlas.json, *.svg, *.png, report.html
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from ablate.drift import Reader, vocabulary_of
from ablate.edits import BY, When
from ablate.engine import Processes, Progress
from ablate.messages import RequestError, did_you_mean
from ablate.models import Source, versions
from ablate.network import Catalog, ModuleInfo, Selector, build_catalog, phase_of
from ablate.recipe import Recipe, RecipeError, parse_recipe
from ablate.sampling import Pipeline
from ablate.store import Run, study_pictures
from ablate.sweep import Cell, Plan, resolve
from ablate.units.record.layers import choose_layers, hidden_layers
from ablate.units.record.stimuli import Stimuli
from ablate.view import letters_note

FORMAT = 1
CLIP = "clip"  # the component that reads images
# Keys of recipes that a study may set: which model, and how it is sampled.
KEYS = ("model", "revision", "variant", "config", "lora", "offload", "dtype", "clip", "sampling")
# What studies write into their folders, beside what is drawn from it (`ablate.folio.written`), and
# `begin` may remove.
FOLDERS = ("pictures", "effects", "visualizations", "multimodal", "vectors", "bins", "patches")
FILES = ("activations.npz", "units.csv", "cards.json", "atlas.json", "layout.npz", "multimodal.csv")
DESCRIBED = ("run.json", "recipe.yaml")  # what a run is, before its first picture
MOST = 200_000  # images; more take minutes to be planned alone


class StudyError(RequestError):
    """A study that cannot be made or read; the message says why."""


@dataclass(frozen=True)
class Setup:
    """What determines a study.

    `keys`: those of a recipe that tell of model and sampling, dotted ones too. `component`: a
    network of the pipeline, None for its denoiser, `clip` for the CLIP model that reads images.
    `modules`: which layers, None for hidden units (`ablate.units.layers.choose_layers`). `kind`:
    `channels` or `heads`. `when`: the moments of the sampling that count, None for all.
    """

    stimuli: Stimuli
    keys: Mapping[str, Any] = field(default_factory=dict)
    component: str | None = None
    modules: Selector | None = None
    kind: str = "channels"
    when: When | None = None

    def __post_init__(self) -> None:
        told = self.stimuli
        if len(told) > MOST:
            parts = {"concept": told.concepts, "template": told.templates, "seed": told.seeds}
            counted = (f"{len(p):,} {name}{'s' * (len(p) != 1)}" for name, p in parts.items())
            raise StudyError(
                f"{' × '.join(counted)} are {len(told):,} images, and a study has {MOST:,} at most"
            )
        wrong = [key for key in self.keys if key.partition(".")[0] not in KEYS]
        if wrong:
            named = ", ".join(f"`{key}`{did_you_mean(key, KEYS)}" for key in wrong)
            message = f"{named} cannot be set of a study; there are {', '.join(KEYS)}"
            try:  # so that all mistakes are told at once
                replace(self, keys={k: v for k, v in self.keys.items() if k not in wrong}).brief()
            except RecipeError as error:
                message += f"\n{error}"
            raise StudyError(message)

    def recipe(self, edits: Sequence[Any] = (), name: str = "stimuli") -> Recipe:
        """The recipe of the stimuli's images, with these edits beside the baseline."""
        told = {
            "version": 1,
            "name": name,
            "about": "What the units of a network were shown.",
            "axes": {"prompt": {"values": list(self.stimuli.prompts)}},
            "seeds": list(self.stimuli.seeds),
            **({"edits": list(edits)} if edits else {}),
        }
        return parse_recipe(yaml.safe_dump(told, sort_keys=False), None, self.keys).get()

    def brief(self) -> Recipe:
        """The recipe of one of the images, for what all have in common: model and sampling."""
        told = self.stimuli
        first = Stimuli(told.concepts[:1], told.templates[:1], told.seeds[:1])
        return replace(self, stimuli=first).recipe()

    def as_json(self) -> dict[str, Any]:
        """Plain objects, for `study.json`."""
        return {
            "concepts": list(self.stimuli.concepts),
            "templates": list(self.stimuli.templates),
            "seeds": list(self.stimuli.seeds),
            "keys": dict(self.keys),
            "component": self.component,
            "modules": self.modules,
            "kind": self.kind,
            "when": self.when.as_json() if self.when else None,
        }

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Setup:
        """The setup that `as_json` told of. Raises `KeyError`, `TypeError` or `ValueError`."""
        return cls(
            Stimuli(tuple(told["concepts"]), tuple(told["templates"]), tuple(told["seeds"])),
            dict(told["keys"]),
            told["component"],
            told["modules"],
            told["kind"],
            When.from_json(told["when"]) if told["when"] else None,
        )


class Study:
    """A setup with its networks loaded, and its folder. Nothing is written before `begin`."""

    def __init__(
        self, setup: Setup, folder: str | Path, pipeline: Pipeline, reader: Reader | None
    ) -> None:
        self.setup = setup
        self.folder = Path(folder)
        self.reader = reader
        self.pipeline = pipeline
        self.progress = Progress()  # of what is being made; whoever reports it sets another
        self.pictures = Run(self.folder / "pictures")
        if setup.component == CLIP and reader is None:
            raise StudyError(
                f"`{pipeline.model}` has no CLIP model beside it; `--clip` names one, such as"
                " `openai/clip-vit-large-patch14`"
            )
        self.component = setup.component or pipeline.denoiser_name
        known = [*(name for name in pipeline.networks if phase_of(name) != "decoding"), CLIP]
        if self.component != CLIP and self.component not in pipeline.networks:
            near = did_you_mean(self.component, known)
            if self.component == "denoiser":
                near = f", did you mean `{pipeline.denoiser_name}`?"
            raise StudyError(
                f"there is no component `{self.component}`{near}; there are {', '.join(known)}"
            )
        if self.component != CLIP and phase_of(self.component) == "decoding":
            raise StudyError(
                f"units of `{self.component}` cannot be recorded; those of"
                f" {', '.join(known[:-1])} and {known[-1]} can"
            )
        if setup.when is not None and self.component != pipeline.denoiser_name:
            raise StudyError(
                f"`{self.component}` is at work once, not at every step of the sampling; leave"
                " `when` out"
            )

    @classmethod
    def load(
        cls,
        setup: Setup,
        folder: str | Path,
        *,
        pipeline: Pipeline | None = None,
        device: str | None = None,
    ) -> Study:
        """Load what a setup asks for. Raises `RecipeError` or `ModelError`."""
        recipe = setup.brief()
        if pipeline is None:
            source = Source.of(recipe)
            pipeline = Pipeline.load(source, device=device, dtype=recipe.dtype)
        reader = Reader.of(recipe.model, recipe.clip, str(pipeline.device))
        return cls(setup, folder, pipeline, reader)

    @classmethod
    def open(cls, folder: str | Path, *, device: str | None = None) -> Study:
        """The study that lies in a folder, with its networks loaded. Raises `StudyError`."""
        told = read_manifest(Path(folder))
        try:
            setup = Setup.from_json(told["setup"])
        except (KeyError, TypeError, ValueError) as error:
            raise StudyError(_unreadable(Path(folder) / "study.json", error)) from error
        return cls.load(setup, folder, device=device)

    # ------------------------------------------------------------ what is recorded

    @cached_property
    def plan(self) -> Plan:
        """The plan of the stimuli's images."""
        return resolve(self.setup.recipe())

    @property
    def network(self) -> nn.Module:
        """The network whose units are recorded."""
        if self.component != CLIP:
            return self.pipeline.networks[self.component]
        assert self.reader is not None
        network: nn.Module = self.reader.network
        return network

    @cached_property
    def catalog(self) -> Catalog:
        """Its modules and blocks."""
        if self.component != CLIP:
            return self.pipeline.catalog_of(self.component)
        return build_catalog(self.network)

    @cached_property
    def layers(self) -> tuple[ModuleInfo, ...]:
        """The modules and blocks whose units are recorded, in forward order."""
        selector = self.setup.modules
        if selector is None and self.component == CLIP:
            heads = self.setup.kind == "heads"
            selector = "vision_model.*.out_proj" if heads else "vision_model.*.mlp.fc1"
        return choose_layers(self.catalog, selector, self.setup.kind)

    @property
    def note(self) -> str:
        """What is to be said of the layers where nobody named them, and none has a name that tells
        of hidden units; else nothing."""
        named = self.setup.modules is not None or self.component == CLIP
        if named or self.setup.kind == "heads" or hidden_layers(self.catalog):
            return ""
        return (
            f"`{self.component}` has no modules that are known to hold hidden units, so that all"
            f" {len(self.layers)} are recorded, such as `{self.layers[0].path}`; `--select` names"
            " others"
        )

    @property
    def letters(self) -> str:
        """What is to be said of concepts that pictures cannot show; else nothing."""
        return letters_note(self.setup.stimuli.concepts)

    @cached_property
    def texts(self) -> bool:
        """Whether what is recorded reads texts, whatever the seed."""
        if self.component != CLIP:
            return phase_of(self.component) == "encoding"
        reads = {module.path.startswith("text_") for module in self.layers}
        if len(reads) > 1:
            raise StudyError("layers that read images and layers that read texts are two studies")
        return reads.pop()

    @cached_property
    def samples(self) -> tuple[Cell, ...]:
        """The stimuli in their order; of what reads texts each prompt once."""
        return self.samples_of(self.plan)

    def samples_of(self, plan: Plan) -> tuple[Cell, ...]:
        """The cells of a plan that are samples: where it edits, those of its one variant."""
        first = self.setup.stimuli.seeds[0]
        return tuple(
            cell
            for cell in plan.cells
            if cell.variant.is_baseline == (not plan.recipe.edits)
            and (not self.texts or cell.condition.seed == first)
        )

    def planned(self, edits: Sequence[Any]) -> Plan:
        """The plan of the stimuli with edits, as a recipe writes them; baselines are in it.

        Raises `RecipeError`, and `StudyError` where nothing is edited.
        """
        plan = resolve(self.setup.recipe(edits))
        if len(plan.variants) != 2:
            raise StudyError("the edits leave the network as it is")
        return plan

    @cached_property
    def concepts(self) -> list[int]:
        """The number of each sample's concept."""
        stimuli = self.setup.stimuli
        numbers = {prompt: stimuli.concept_of(prompt) for prompt in stimuli.prompts}
        return [numbers[cell.condition.prompt] for cell in self.samples]

    # ------------------------------------------------------------ its folder

    def begin(self, kind: str, fresh: bool = False) -> None:
        """Make the folder, or go on with what lies there. Raises `StudyError` where that is of
        another setup, and, before anything is written, `SelectorError` or `ScopeError` where the
        setup names no layers."""
        if not Processes(self.pipeline.device.type).alone:
            raise StudyError("a study is made by one process; start it without a launcher")
        if self.folder.exists() and not self.folder.is_dir():
            raise StudyError(f"{self.folder} is a file; `--out` names a folder")
        if (self.folder / "run.json").exists():
            raise StudyError(
                f"{self.folder} holds the run of a recipe; `--out` names another folder"
            )
        if kind == "selectivity" and len(self.setup.stimuli.concepts) < 2:
            raise StudyError("one concept has nothing to be told apart from; name several")
        layers = [module.path for module in self.layers]  # they may be named wrongly
        told = {
            "format": FORMAT,
            "kind": kind,
            "setup": self.setup.as_json(),
            "model": self.pipeline.identity,
            "component": self.component,
            "clip": self.reader.id if self.reader is not None else None,
            "clip_fingerprint": self.reader.fingerprint if self.reader is not None else None,
            "dtype": str(self.pipeline.dtype).removeprefix("torch."),
            "device": str(self.pipeline.device),
            "sampling": self.setup.brief().sampling.__dict__,
            "versions": versions(),
            "layers": layers,
            "samples": len(self.samples),
        }
        known, recorded = ((self.folder / f).exists() for f in ("study.json", "activations.npz"))
        if not known and recorded:
            raise StudyError(
                f"{self.folder} holds activations.npz and no study.json that tells what they are"
                " of; `--out` names another folder"
            )
        if known and (fresh or self._empty()):
            self._forget()
        elif known:
            self._continue(told)
        told = json.loads(json.dumps(told, default=str))
        Run(self.folder).write_text("study.json", json.dumps(told, indent=1) + "\n")
        Run(self.folder).sweep_temporaries()

    def _empty(self) -> bool:
        """Whether nothing was ever recorded beside a `study.json` that can be read, as of a study
        that was refused: it stands in the way of no other."""
        read_manifest(self.folder)
        if any((self.folder / name).is_file() for name in FILES):
            return False
        made = (path for name in FOLDERS for path in (self.folder / name).rglob("*"))
        return not any(path.is_file() and path.name not in DESCRIBED for path in made)

    def _forget(self) -> None:
        """Remove what studies write, and nothing else. Raises `StudyError` where `study.json` is
        none of theirs; one that cannot be read may be."""
        path = self.folder / "study.json"
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            told = {"format": FORMAT}
        if not isinstance(told, dict) or "format" not in told:
            raise StudyError(f"{path} tells of no study of units; `--out` names another folder")
        names = (*FILES, *FOLDERS)
        for path in (*(self.folder / name for name in names), *study_pictures(self.folder)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _continue(self, told: Mapping[str, Any]) -> None:
        """Raise `StudyError` where the folder's study is another than this one."""
        before, now = read_manifest(self.folder), json.loads(json.dumps(told, default=str))
        setup = before.get("setup", {})
        differing = [key for key, value in now["setup"].items() if setup.get(key) != value]
        names = {"kind": "kind of study", "clip_fingerprint": "CLIP model"}
        for key in ("kind", "model", "clip_fingerprint", "dtype", "layers"):
            known = before.get(key, now[key])
            if known != now[key] and not (key == "layers" and "modules" in differing):
                differing.append(names.get(key, key))
        if differing:
            raise StudyError(
                f"{self.folder} holds another study (of other {', '.join(differing)});"
                " `--out` names another folder, `--fresh` begins anew"
            )


def read_manifest(folder: Path) -> dict[str, Any]:
    """`study.json` of a folder. Raises `StudyError` when there is none or it cannot be read."""
    path = folder / "study.json"
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StudyError(f"{folder} is no study of units: it has no study.json") from None
    except (ValueError, RecursionError) as error:
        raise StudyError(_unreadable(path, error)) from error
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise StudyError(f"{path} is of a format that this version does not read")
    return told


def _unreadable(path: Path, error: Exception) -> str:
    return (
        f"{path} cannot be read: {error}; the command that made the study begins it anew with"
        " `--fresh`"
    )


def parse_window(given: str) -> When:
    """A window of the sampling, as recipes write it. Raises `StudyError`."""
    try:
        found = When.from_json(yaml.safe_load(given))
    except (yaml.YAMLError, ValueError, TypeError, AttributeError):
        raise StudyError(
            f"--when: `{given}` is no window; write one of {', '.join(BY)}, as in `{{t: [1, 0.5]}}`"
        ) from None
    ends, wrong = (found.first, found.last), None
    if found.by == "steps" and any(type(end) is not int for end in ends):
        wrong = "steps are whole numbers, counted from 0"
    elif found.by != "steps" and not all(0 <= end <= 1 for end in ends):
        wrong = "both ends must lie between 0 and 1"
    elif found.by != "t" and found.last < found.first:  # of noise levels either may come first
        wrong = "it ends before it begins"
    elif found.by != "steps" and found.last == found.first:
        wrong = "it is empty: it begins where it ends"
    if wrong:
        raise StudyError(f"--when: `{given}`: {wrong}")
    return found


def default_concepts(model: str, clip: str | None) -> tuple[str, ...]:
    """The vocabulary of the CLIP model that reads a model's images. Raises `StudyError` where there
    is none, `ModelError` where there is no such model."""
    words = vocabulary_of(model, clip)
    if words is None:
        raise StudyError(f"`{model}` names no concepts by itself; `--concepts` names them")
    return words
