"""A study: a setup with its networks loaded, and the folder that its results go to."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from ablate.drift import Reader
from ablate.engine import Processes, Progress
from ablate.messages import did_you_mean
from ablate.models import Source, versions
from ablate.network import Catalog, ModuleInfo, build_catalog, phase_of
from ablate.sampling import Pipeline
from ablate.store import Run
from ablate.sweep import Cell, Plan, plan
from ablate.units.record.folder import prepare_folder, read_manifest, unreadable
from ablate.units.record.layers import choose_layers, hidden_layers
from ablate.units.record.setup import CLIP, Setup, StudyError
from ablate.view import letters_note


class Study:
    """A setup with its networks loaded, and its folder. Nothing is written before `begin`.

    Attributes:
        setup: What determines the study.
        folder: Where its results are.
        pipeline: The pipeline that renders the stimuli.
        reader: The CLIP model that reads pictures, None where there is none.
        pictures: The run of the stimuli's images.
        component: The name of the network whose units are recorded.
        progress: Of what is being computed; whoever reports it sets another.

    Raises:
        StudyError: The setup asks for a component that there is none of or that cannot be recorded.
    """

    def __init__(
        self, setup: Setup, folder: str | Path, pipeline: Pipeline, reader: Reader | None
    ) -> None:
        self.setup = setup
        self.folder = Path(folder)
        self.pipeline = pipeline
        self.reader = reader
        self.pictures = Run(self.folder / "pictures")
        self.component = setup.component or pipeline.denoiser_name
        self.progress = Progress()
        self._check_component()

    def _check_component(self) -> None:
        name, pipeline = self.component, self.pipeline
        known = [*(name for name in pipeline.networks if phase_of(name) != "decoding"), CLIP]
        if name == CLIP:
            if self.reader is None:
                raise StudyError(
                    f"`{pipeline.model}` has no CLIP model beside it; `--clip` names one, such as"
                    " `openai/clip-vit-large-patch14`"
                )
        elif name not in pipeline.networks:
            near = did_you_mean(name, known)
            if name == "denoiser":
                near = f", did you mean `{pipeline.denoiser_name}`?"
            raise StudyError(f"there is no component `{name}`{near}; there are {', '.join(known)}")
        elif phase_of(name) == "decoding":
            raise StudyError(
                f"units of `{name}` cannot be recorded; those of {', '.join(known[:-1])} and"
                f" {known[-1]} can"
            )
        if self.setup.when is not None and name != pipeline.denoiser_name:
            raise StudyError(
                f"`{name}` runs once, not at every step of the sampling; leave `when` out"
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
        """Load the networks of a setup, but for a given `pipeline`.

        Raises:
            RecipeError: The setup has wrong keys.
            ModelError: The model cannot be loaded.
        """
        recipe = setup.brief()
        if pipeline is None:
            source = Source.of(recipe)
            pipeline = Pipeline.load(source, device=device, dtype=recipe.dtype)
        reader = Reader.of(recipe.model, recipe.clip, str(pipeline.device))
        return cls(setup, folder, pipeline, reader)

    @classmethod
    def open(cls, folder: str | Path, *, device: str | None = None) -> Study:
        """Load the networks of the study in a folder. Raises `StudyError`."""
        manifest = read_manifest(Path(folder))
        try:
            setup = Setup.from_json(manifest["setup"])
        except (KeyError, TypeError, ValueError) as error:
            raise unreadable(Path(folder), error) from error
        return cls.load(setup, folder, device=device)

    def begin(self, kind: str, fresh: bool = False) -> None:
        """Create the folder, or continue the study in it.

        Args:
            kind: `selectivity` or `atlas`.
            fresh: Whether to remove what an earlier study wrote.

        Raises:
            StudyError: The folder is of another study, or one concept is too few.
            SelectorError: The setup's selector matches nothing.
            ScopeError: No layer that it matches has units of the kind.
        """
        if not Processes(self.pipeline.device.type).alone:
            raise StudyError("a study is recorded by one process; start it without a launcher")
        if kind == "selectivity" and len(self.setup.stimuli.concepts) < 2:
            raise StudyError("one concept has nothing to be compared with; name several")
        manifest = {
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
            "layers": [module.path for module in self.layers],
            "samples": len(self.samples),
        }
        prepare_folder(self.folder, manifest, fresh)

    @cached_property
    def plan(self) -> Plan:
        """The plan of the stimuli's images."""
        return plan(self.setup.recipe())

    def planned(self, edits: Sequence[Any]) -> Plan:
        """Return the plan of the stimuli with edits, written as in a recipe, and baselines.

        Raises:
            RecipeError: The edits are wrong.
            StudyError: They change nothing.
        """
        planned = plan(self.setup.recipe(edits))
        if len(planned.variants) != 2:
            raise StudyError("the edits leave the network as it is")
        return planned

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
        """The network's modules and blocks."""
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
    def layers_note(self) -> str:
        """A note where all modules are recorded because no name is that of hidden units, or ``."""
        named = self.setup.modules is not None or self.component == CLIP
        if named or self.setup.kind == "heads" or hidden_layers(self.catalog):
            return ""
        return (
            f"`{self.component}` has no modules that are known to have hidden units, so that all"
            f" {len(self.layers)} are recorded, such as `{self.layers[0].path}`; `--select` names"
            " others"
        )

    @property
    def letters_note(self) -> str:
        """A note on concepts with letters that drawings cannot show, or ``."""
        return letters_note(self.setup.stimuli.concepts)

    @cached_property
    def texts(self) -> bool:
        """Whether the recorded layers read texts, whatever the seed."""
        if self.component != CLIP:
            return phase_of(self.component) == "encoding"
        reads = {module.path.startswith("text_") for module in self.layers}
        if len(reads) > 1:
            raise StudyError("layers that read images and layers that read texts are two studies")
        return reads.pop()

    @cached_property
    def samples(self) -> tuple[Cell, ...]:
        """The stimuli in order; of layers that read texts each prompt once."""
        return self.samples_of(self.plan)

    def samples_of(self, plan: Plan) -> tuple[Cell, ...]:
        """Return the cells of a plan that are samples: those of its variant, if it has one."""
        first = self.setup.stimuli.seeds[0]
        return tuple(
            cell
            for cell in plan.cells
            if cell.variant.is_baseline == (not plan.recipe.edits)
            and (not self.texts or cell.condition.seed == first)
        )

    @cached_property
    def concepts(self) -> list[int]:
        """The index of each sample's concept."""
        return [self.setup.stimuli.concept_of(cell.condition.prompt) for cell in self.samples]
