"""Units that are planted for known concepts are found, content of, and needed for these alone."""

from __future__ import annotations

import csv
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from byhand import hooked, image
from PIL import Image

from ablate.drift.clip import Reader
from ablate.engine import run as engine
from ablate.engine.progress import Progress
from ablate.engine.records import with_keys
from ablate.sampling.pipeline import Pipeline
from ablate.sampling.request import Stopped
from ablate.store.activations import Layer, Statistics
from ablate.store.png import read_record
from ablate.store.run import Run
from ablate.units.concepts import ablation, cards, multimodal, search
from ablate.units.record.setup import Setup, StudyError
from ablate.units.record.stimuli import Stimuli
from ablate.units.record.study import Study

VALUES = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v"
NORM = "down_blocks.0.resnets.0.norm2"
CONCEPTS = ("cat", "dog", "boat", "tree", "owl")
CHANNELS = {"cat": 3, "dog": 7, "boat": 11, "tree": 13}  # none for the owl
STIMULI = Stimuli(CONCEPTS, ("a {}", "a picture of a {}"), (0, 1))


def plant(pipeline: Pipeline) -> None:
    """Give every concept a dimension of the text embeddings of its own, and all but the owl's a
    channel of the denoiser that reads it."""
    network = pipeline.networks["text_encoder"]
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "out_proj" in name or "fc2" in name:  # nothing moves from token to token
                parameter.zero_()
        tokens = network.get_submodule("embeddings.token_embedding").weight
        places = network.get_submodule("embeddings.position_embedding").weight
        tokens.zero_()
        places[:, : len(CONCEPTS) + 1] = 0
        for number, concept in enumerate(CONCEPTS):
            _, token, _ = pipeline.pipe.tokenizer(concept).input_ids
            tokens[token, number] = 1.0
        values = pipeline.denoiser.get_submodule(VALUES).weight
        # Of the others none reads what concepts differ in, nor the mean that a norm takes out.
        values[:, : len(CONCEPTS) + 1] = 0
        values -= values.sum(1, keepdim=True) / (values.shape[1] - len(CONCEPTS) - 1)
        values[:, : len(CONCEPTS) + 1] = 0
        for concept, channel in CHANNELS.items():
            row = torch.zeros(values.shape[1])
            row[CONCEPTS.index(concept)], row[len(CONCEPTS)] = 4.0, -4.0
            values[channel] = row


@pytest.fixture(scope="module")
def planted(tiny_folder: Path) -> Pipeline:
    pipeline = Pipeline.load(str(tiny_folder), device="cpu", dtype="float32")
    plant(pipeline)
    return pipeline


@pytest.fixture
def clip() -> Reader:
    return Reader.load("bundled", "cpu")


Begin = Callable[..., Study]


@pytest.fixture(scope="module")
def begin(planted: Pipeline, tiny_folder: Path) -> Begin:
    keys = {"model": str(tiny_folder), "dtype": "float32", "sampling.num_inference_steps": 2}

    def begun(
        folder: Path, reader: Reader | None, stimuli: Stimuli = STIMULI, **asked: Any
    ) -> Study:
        return Study(Setup(stimuli, keys, **asked), folder, planted, reader)

    return begun


@pytest.fixture(scope="module")
def finished(begin: Begin, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study of the planted channels, with its cards."""
    folder = tmp_path_factory.mktemp("cards") / "study"
    study = begin(folder, Reader.load("bundled", "cpu"), modules=VALUES)
    cards.write_cards(study, count=4, seeds=(0, 1), visualized=False)
    return study


@pytest.fixture(scope="module")
def content(finished: Study) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((finished.folder / cards.FILE).read_text(encoding="utf-8"))
    return found


@pytest.fixture
def sampled(planted: Pipeline, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each call of the pipeline finished."""
    calls: list[int] = []
    before = planted.sample

    def sample(requests: Any, *rest: Any, **others: Any) -> Any:
        calls.append(len(requests))
        return before(requests, *rest, **others)

    monkeypatch.setattr(planted, "sample", sample)
    return calls


# ---------------------------------------------------------------- which units respond to what


def test_the_index_finds_what_was_planted(finished: Study) -> None:
    found = Statistics.load(finished.folder / "activations.npz")
    index, contrast = found.selectivity(), found.contrast()
    rest = [unit for unit in range(found.units) if unit not in CHANNELS.values()]
    for concept, channel in CHANNELS.items():
        assert index[channel] > 0.999
        assert CONCEPTS[found.preferred()[channel]] == concept
        assert contrast[:, channel].max() > 3 * search.threshold(found)
    assert index[rest].max() < 0.01
    assert contrast[:, rest].max() < search.threshold(found)


def test_concepts_lead_to_their_units_and_to_none(content: dict[str, Any]) -> None:
    found = {row["concept"]: [(u["module"], u["unit"]) for u in row["units"]]
             for row in content["search"]}  # fmt: skip
    assert found == {concept: [(VALUES, channel)] for concept, channel in CHANNELS.items()}
    assert content["none"] == ["owl"]


def test_one_concept_or_unit_can_be_asked_for(finished: Study) -> None:
    found = Statistics.load(finished.folder / "activations.npz")
    (dog,) = search.search_units(found, "dog")
    assert [unit["unit"] for unit in dog["units"]] == [7]
    assert search.search_units(found, "owl") == [{"concept": "owl", "units": []}]
    unit = search.describe_unit(found, VALUES, 7)
    assert (unit["concept"], unit["concepts"][0]) == ("dog", ["dog", dog["units"][0]["contrast"]])
    with pytest.raises(StudyError, match="no concept `dgo`, did you mean `dog`"):
        search.search_units(found, "dgo")
    with pytest.raises(StudyError, match=r"no units of `attn2\.to_v`"):
        search.describe_unit(found, "attn2.to_v", 7)
    with pytest.raises(
        StudyError, match="has 16 channels, from 0 to 15; there is none of number 16"
    ):
        search.describe_unit(found, VALUES, 16)


# ---------------------------------------------------------------- cards


def test_cards_are_of_the_planted_units(content: dict[str, Any]) -> None:
    assert {card["concept"]: card["unit"] for card in content["cards"]} == CHANNELS
    assert [card["concepts"][0][1] for card in content["cards"]] == sorted(
        (card["concepts"][0][1] for card in content["cards"]), reverse=True
    )
    for card in content["cards"]:
        assert (card["module"], card["kind"], card["component"]) == (VALUES, "channels", "unet")
        assert card["selectivity"] > 0.999


def test_pictures_that_drive_a_unit_are_of_its_concept(
    finished: Study, content: dict[str, Any]
) -> None:
    for card in content["cards"]:
        assert len(card["top"]) == 8
        own = [top for top in card["top"] if top["value"] > 0]
        assert {(t["prompt"], t["seed"]) for t in own} == {
            (f"{start} {card['concept']}", seed)
            for start in ("a", "a picture of a")
            for seed in (0, 1)
        }
        assert own == card["top"][:4]
        for top in own:
            path = finished.folder / top["image"]
            assert read_record(path)["condition"]["prompt"] == top["prompt"]
            assert top["place"] is None  # texts are no map of a picture


def test_of_one_prompt_two_samples_at_most() -> None:
    found = Statistics([Layer("unet", "a", "channels", 1)], ("cat", "dog"))
    values = np.array([[9.0], [8.0], [7.0], [6.0], [5.0]])
    found.add(np.array([0, 0, 0, 1, 1]), values)
    prompts = ["a cat", "a cat", "a cat", "a dog", "a dog"]
    assert cards.top_ranks(found, 0, prompts) == [0, 1, 3, 4]


def test_places_tell_the_grid_that_they_lie_on() -> None:
    places = np.array([[0.5 / 8, 3.5 / 6], [7.5 / 8, 0.5 / 6], [2.5 / 8, np.nan]], np.float32)
    assert cards.grid_sides(places) == (8, 6)
    assert cards.grid_sides(places[2:]) is None


def test_cards_of_named_units_show_where_in_the_picture(begin: Begin, tmp_path: Path) -> None:
    few = Stimuli(("cat", "dog"), ("a {}",), (0, 1))
    study = begin(tmp_path / "study", None, few, modules=NORM)
    path = cards.write_cards(study, [(NORM, 5), (NORM, 2)], visualized=False)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert [card["unit"] for card in content["cards"]] == [5, 2]
    found = Statistics.load(study.folder / "activations.npz")
    for card in content["cards"]:
        for rank, top in enumerate(card["top"]):
            y, x = found.top_places[rank, card["unit"]]
            assert top["place"] == pytest.approx([y - 1 / 16, x - 1 / 16, y + 1 / 16, x + 1 / 16])
        # Nobody reads the pictures.
        assert (card["effects"], card["examples"], card["sentence"]) == ([], [], None)
    assert content["rough"] == content["notes"][0]
    assert "`--clip` names one" in content["notes"][1]
    with pytest.raises(StudyError, match="there is none of number 99"):
        cards.write_cards(study, [(NORM, 99)], visualized=False)


def test_one_sample_a_concept_makes_no_cards(begin: Begin, tmp_path: Path) -> None:
    study = begin(tmp_path / "study", None, Stimuli(("cat", "dog"), ("a {}",), (0,)), modules=NORM)
    with pytest.raises(StudyError, match="one sample a concept: no spread"):
        cards.write_cards(study, visualized=False)


def test_no_more_than_a_third_of_one_layer_while_others_stand_for_something() -> None:
    rng = np.random.default_rng(0)
    layers = [Layer("unet", name, "channels", 6) for name in "ab"]
    labels = np.repeat(np.arange(6), 8)
    values = rng.normal(size=(48, 12))
    for concept in range(6):
        values[labels == concept, concept] += 30  # the first layer answers more strongly
        values[labels == concept, 6 + concept] += 15
    found = Statistics(layers, "abcdef")
    found.add(labels, values, None, rng.permutation(labels))
    chosen = cards.outstanding_units(found, 6, search.Contrasts.of(found))
    assert sorted(found.contrast()[:, chosen].argmax(0).tolist()) == list(range(6))
    assert sum(unit < 6 for unit in chosen) == 4  # two, and two when both have had theirs
    assert len(cards.outstanding_units(found, 3, search.Contrasts.of(found))) == 3


# ---------------------------------------------------------------- what units are needed for


def test_effects_are_those_of_hooks_by_hand(finished: Study, content: dict[str, Any]) -> None:
    (card,) = (card for card in content["cards"] if card["concept"] == "dog")
    reader, pipe = finished.reader, finished.pipeline.pipe
    assert reader is not None
    words = reader.texts([f"an {c}" if c == "owl" else f"a {c}" for c in CONCEPTS])

    def seen(prompt: str, factor: float) -> tuple[np.ndarray, np.ndarray]:
        def scale(_module: Any, _given: Any, output: torch.Tensor) -> torch.Tensor:
            output = output.clone()
            output[..., 7] *= factor
            return output

        with hooked(pipe.unet, VALUES, scale):
            pictures = [image(pipe, prompt, seed) for seed in (0, 1)]
        vectors = reader.images(
            [Image.fromarray((p * 255).round().astype("uint8")) for p in pictures]
        )
        logits = np.exp(reader.scale * vectors @ words.T)
        return vectors, logits / logits.sum(1, keepdims=True)

    for concept, prompt in (("dog", "a dog"), ("owl", "an owl")):
        number = CONCEPTS.index(concept)
        vectors, before = seen(prompt, 1)
        for factor in (0, 4):
            (row,) = (r for r in card["effects"] if r["units"] == 1
                      and (r["factor"], r["concept"]) == (factor, concept))  # fmt: skip
            others, after = seen(prompt, factor)
            assert row["own"] == (concept == "dog")
            assert row["before"] == pytest.approx(before[:, number].mean(), abs=2e-3)
            assert row["after"] == pytest.approx(after[:, number].mean(), abs=2e-3)
            assert row["change"] == pytest.approx(row["after"] - row["before"])
            changes = after[:, number] - before[:, number]
            # Of two seeds: the tabled t of one degree of freedom, times the standard error.
            reach = 12.706 * np.ptp(changes) / 2
            low, high = changes.mean() - reach, changes.mean() + reach
            assert row["low"] == pytest.approx(max(low, -1), abs=2e-2)
            assert row["high"] == pytest.approx(min(high, 1), abs=2e-2)
            apart = 1 - (vectors * others).sum(1)
            assert row["drift"] == pytest.approx(apart.mean(), abs=2e-3)
            # The owl has no unit that could be removed.
            assert (row["drift"] > 1e-4) == (concept == "dog")


def test_effects_are_of_the_unit_and_of_the_strongest_five(
    finished: Study, content: dict[str, Any]
) -> None:
    for card in content["cards"]:
        asked = [(r["units"], r["factor"], r["concept"]) for r in card["effects"]]
        others = [c for c in CONCEPTS if c != card["concept"]]
        assert sorted(asked) == sorted(
            (units, factor, c)
            for units in (1, 5)
            for factor in (0, 4)
            for c in (card["concept"], *others)
        )
        together = card["together"]["units"]
        assert len(together) == 5
        assert (together[0]["module"], together[0]["unit"]) == (VALUES, card["unit"])
        around = card["together"]["reversed"]
        assert [(r["units"], r["factor"]) for r in around] == [(5, ablation.REVERSED)] * 5
        assert around[0]["own"]
        assert around[0]["drift"] > 10 * max(r["drift"] for r in around[1:])
        assert card["together"]["examples"][0]["reversed"].startswith("effects/cells/")
        own = next(r for r in card["effects"] if r["own"] and r["factor"] == 0)
        assert (
            f"a probability of {100 * own['after']:.1f} % ({100 * own['before']:.1f} % before"
            in card["sentence"]
        )
    cells = list(Run(finished.folder / ablation.FOLDER).cells())
    assert all(cell.done for cell in cells)
    # Five plain prompts: bare, with each of four units twice, with each of four sets three times.
    assert len(cells) == 5 * 2 * (1 + 4 * 2 + 4 * 3)


def test_examples_are_pictures_before_and_after(finished: Study, content: dict[str, Any]) -> None:
    for card in content["cards"]:
        assert card["examples"][0]["prompt"] == f"a {card['concept']}"
        assert len(card["examples"]) == 3
        for example in card["examples"]:
            record = {name: read_record(finished.folder / example[name])
                      for name in ("baseline", "ablated", "amplified")}  # fmt: skip
            assert record["baseline"]["edits"] == []
            for name, factor in (("ablated", 0), ("amplified", 4)):
                (edit,) = record[name]["edits"]
                assert (edit["factor"], edit["unit"]) == (factor, {"channels": [card["unit"]]})
                assert (edit["modules"], edit["where"]) == ([VALUES], "output")


def test_a_second_time_nothing_is_made(
    finished: Study, content: dict[str, Any], sampled: list[int]
) -> None:
    file = finished.folder / cards.FILE
    cards.write_cards(finished, count=4, seeds=(0, 1), visualized=False)
    assert not sampled
    assert json.loads(file.read_text(encoding="utf-8")) == content


def test_stopped_and_gone_on_with(
    finished: Study, content: dict[str, Any], begin: Begin, tmp_path: Path, sampled: list[int]
) -> None:
    study = begin(tmp_path / "study", finished.reader, modules=VALUES)

    def stop(now: Progress) -> None:
        if now.total > len(study.samples) and now.computed:  # the effects are under way
            signal.raise_signal(signal.SIGINT)

    study.progress = Progress(stop)
    with pytest.raises(Stopped):
        cards.write_cards(study, count=4, seeds=(0, 1), visualized=False)
    assert not (study.folder / cards.FILE).exists()
    run = Run(study.folder / ablation.FOLDER)
    before = len(run.finished())
    assert 0 < before < len(list(run.cells()))
    del sampled[:]
    study.progress = Progress()
    cards.write_cards(study, count=4, seeds=(0, 1), visualized=False)
    assert sum(sampled) == len({cell.key for cell in run.cells()}) - before
    found = json.loads((study.folder / cards.FILE).read_text(encoding="utf-8"))
    assert found["search"] == content["search"]


def test_one_seed_has_no_interval(finished: Study) -> None:
    with pytest.raises(StudyError, match="effects take two seeds at least"):
        cards.write_cards(finished, count=4, seeds=(3,), visualized=False)


def test_units_of_a_text_encoder(begin: Begin, finished: Study, tmp_path: Path) -> None:
    path = "embeddings.token_embedding"
    few = Stimuli(("cat", "dog", "owl"), ("a {}", "a picture of a {}"), (0,))
    study = begin(tmp_path / "study", finished.reader, few, modules=path, component="text_encoder")
    file = cards.write_cards(study, [(path, CONCEPTS.index("dog"))], seeds=(0, 1))
    (card,) = json.loads(file.read_text(encoding="utf-8"))["cards"]
    assert card["concept"] == "dog"
    assert all((study.folder / top["image"]).exists() for top in card["top"])
    drifts = {(r["factor"], r["concept"]): r["drift"] for r in card["effects"] if r["units"] == 1}
    assert drifts[0, "dog"] > 1e-4
    assert drifts[0, "cat"] == pytest.approx(0, abs=1e-6)
    (edit,) = read_record(study.folder / card["examples"][0]["ablated"])["edits"]
    assert edit["component"] == "text_encoder"


# ---------------------------------------------------------------- pictures and words


def opened(study: Study, key: str) -> Image.Image:
    with Image.open(study.pictures.path(key)) as picture:
        return picture.convert("RGB")


def inputs(clip: Reader, path: str, show: Callable[[], object]) -> torch.Tensor:
    """What a projection of the CLIP model is given, all calls one after the other."""
    inputs_seen: list[torch.Tensor] = []
    with hooked(clip.network, path, lambda _m, given, _o: inputs_seen.append(given[0].clone())):
        show()
    return torch.cat(inputs_seen)


def answering(given: torch.Tensor, labels: list[int], concept: int, jitter: float) -> torch.Tensor:
    """Weights with which a unit gives 1 for a concept and 0 for others, but for some jitter."""
    noise = torch.randn(len(labels), generator=torch.Generator().manual_seed(concept))
    wanted = torch.tensor([float(label == concept) for label in labels]) + jitter * noise
    return torch.linalg.lstsq(given, wanted[:, None], driver="gelsd").solution[:, 0]


@pytest.fixture
def both(begin: Begin, clip: Reader, tmp_path: Path) -> Study:
    """A study of the shared space of a CLIP model in which dimension 7 answers to dogs: to their
    pictures, prompts, and letters; and 9 to pictures of cats and to words of boats."""
    study = begin(tmp_path / "study", clip, modules="visual_projection", component="clip")
    study.begin("selectivity")
    engine.execute(study.plan, study.pipeline, study.pictures)
    shots = with_keys(study.samples, study.pipeline)
    pictures = [opened(study, shot.key) for shot in shots]
    looks = range(len(multimodal.LOOKS))
    letters = [multimodal.draw_word(word, look, 64) for word in CONCEPTS for look in looks]
    texts = [STIMULI.concept_of(prompt) for prompt in STIMULI.prompts]
    seen = inputs(clip, "visual_projection", lambda: clip.images([*pictures, *letters]))
    read = inputs(
        clip, "text_projection", lambda: [clip.texts([prompt]) for prompt in STIMULI.prompts]
    )
    labels = [*study.concepts, *(word for word in range(5) for _ in looks)]
    other = [*study.concepts, *((word + 4) % 5 if word else 4 for word in range(5) for _ in looks)]
    with torch.no_grad():
        for projection in (clip.network.visual_projection, clip.network.text_projection):
            projection.weight.zero_()
        clip.network.visual_projection.weight[7] = answering(seen, labels, 1, 0.05)
        clip.network.visual_projection.weight[9] = answering(seen, other, 0, 0.1)
        clip.network.text_projection.weight[7] = answering(read, texts, 1, 0.05)
    return study


def test_multimodal_units_answer_to_pictures_and_words(both: Study, sampled: list[int]) -> None:
    file = cards.write_cards(both, [("visual_projection", 7)], visualized=False)
    content = json.loads(file.read_text(encoding="utf-8"))
    found = [
        (row["module"], row["unit"], row["by"], row["concept"]) for row in content["multimodal"]
    ]
    assert found == [("visual_projection", 7, by, "dog") for by in ("letters", "prompts")]
    assert all(min(row["picture"], row["word"]) > 3 for row in content["multimodal"])
    with (both.folder / multimodal.TABLE).open(encoding="utf-8", newline="") as lines:
        assert [row["by"] for row in csv.DictReader(lines)] == ["letters", "prompts"]
    assert "1 respond to pictures of a concept and to pictures of its word" in content["notes"][0]
    # Of these units pictures stay as they are, and are read without the unit, as by hand.
    (row,) = (r for r in content["cards"][0]["effects"]
              if r["units"] == 1 and r["factor"] == 0 and r["own"])  # fmt: skip
    assert both.reader is not None
    words = both.reader.texts([f"an {c}" if c == "owl" else f"a {c}" for c in CONCEPTS])
    shots = with_keys(both.samples, both.pipeline)
    pictures = [opened(both, shots[i].key) for i in range(4, 8)]
    with torch.no_grad():
        both.reader.network.visual_projection.weight[7] = 0
    odds = np.exp(both.reader.scale * both.reader.images(pictures) @ words.T)
    assert row["after"] == pytest.approx((odds / odds.sum(1, keepdims=True))[:, 1].mean(), abs=1e-4)
    assert row["before"] > row["after"] + 0.1
    assert content["cards"][0]["examples"] == []
    assert not sampled


def test_no_more_pictures_are_open_than_are_read_at_once(
    both: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = both.reader
    assert reader is not None
    given: list[int] = []
    images = reader.images
    monkeypatch.setattr(reader, "images", lambda some: given.append(len(some)) or images(some))
    monkeypatch.setattr(ablation, "READ", 3)
    trial = ablation.Trial((("visual_projection", 7),), 1, (0,), (0.0,))
    found = ablation.measure_effects(both, [trial, trial], (0,))
    # Four pictures of each of two concepts: each once before, and together with each trial.
    assert given == [3, 1, 3, 1, 3, 3, 2, 3, 3, 2]
    assert [row["concept"] for row in found[trial].rows] == ["dog", "cat"]


def test_words_are_read_once(both: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    statistics = cards._statistics(both)
    contrasts = search.Contrasts.of(statistics)
    first = multimodal.find_multimodal(both, statistics, contrasts)
    monkeypatch.setattr(multimodal, "ByConcept", None)
    assert multimodal.find_multimodal(both, statistics, contrasts) == first
    statistics.concepts = ("猫", *statistics.concepts[1:])
    *before, last = multimodal.find_multimodal(both, statistics, contrasts).notes
    assert before == first.notes
    assert "1 of 5 concepts, such as “猫”, have letters that the typeface lacks" in last


def test_words_are_shown_in_many_ways() -> None:
    looks = [multimodal.draw_word("cat", look, 64) for look in range(len(multimodal.LOOKS))]
    assert len({picture.tobytes() for picture in looks}) == len(looks)
    for picture in looks:
        values = np.asarray(picture, float).mean(2)
        assert values.min() < 120  # letters
        assert np.median(values) > 180  # on light paper
