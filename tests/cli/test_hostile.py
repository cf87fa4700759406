"""Arguments that are no help: files of other kinds, keys and values without end."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from reported import make_run

from ablate.cli.main import main

RECIPE = "version: 1\nname: x\nedits:\n  - zero: {modules: conv_in}\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "r.yaml"
    file.write_text(RECIPE)
    return file


def refused(*arguments: object) -> str:
    """The message of a command that refuses its arguments."""
    began = time.perf_counter()
    done = CliRunner().invoke(main, [str(a) for a in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert time.perf_counter() - began < 5
    assert done.exit_code == 2, done.output
    assert done.output.replace("\n", "").isprintable()
    assert len(done.output) < 2000
    return done.output


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


KINDS: dict[str, Callable[[Path], object]] = {
    "fifo": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
    "socket": _socket,
    "link to nothing": lambda path: path.symlink_to("gone"),
    "huge file": lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 10**10),
    "no text": lambda path: path.write_bytes(b"caf\xe9\n"),
}


@pytest.fixture(params=KINDS)
def odd(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    KINDS[request.param](Path("odd.txt"))
    return tmp_path / "odd.txt"


@pytest.mark.parametrize(
    "command",
    [
        ("check", "ODD"), ("run", "ODD"), ("plan", "ODD"),
        ("check", "RECIPE", "--allow-code", "--set", "ops=ODD"),
        ("check", "RECIPE", "--set", "lora=[ODD]"),
        ("check", "RECIPE", "--set", "model=ODD"),
        ("check", "RECIPE", "--set", "clip=ODD"),
        ("drift", "nowhere", "--vocabulary", "ODD"),
        ("units", "selectivity", "--concepts", "ODD"),
        ("show", "ODD"), ("replay", "ODD"), ("replay", "nowhere", "--code", "ODD"),
        ("sheet", "ODD"), ("verify", "ODD"),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_is_refused(
    command: tuple[str, ...], odd: Path, recipe: Path
) -> None:
    named = [a.replace("ODD", str(odd)).replace("RECIPE", str(recipe)) for a in command]
    assert odd.name in refused(*named)


@pytest.mark.parametrize("name", ["run.json", "files.json", "drift.csv", "drift.json"])
def test_a_pipe_in_the_folder_of_a_run_is_never_waited_for(name: str, tmp_path: Path) -> None:
    run = make_run(tmp_path, {"module": ["a", "b"]})
    (run.folder / name).unlink(missing_ok=True)
    os.mkfifo(run.folder / name)
    for command in ("sheet", "report"):
        began = time.perf_counter()
        done = CliRunner().invoke(main, [command, str(run.folder)])
        assert time.perf_counter() - began < 5
        assert done.exit_code in (0, 2), done.output
        assert done.exit_code == 0 or f"{name}: " in done.output or f"{name} cannot" in done.output


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("a", "`a` is not key=value"),
        ("=", "`=` is not key=value"),
        ("x=!!python/object:os.system", "could not determine a constructor"),
        ("x=" + "a" * 10**6, "has 1,000,000 characters"),
        ("x=" + "[" * 10**5, "more than 50 deep"),
        ("x=&a [*a]", "an alias is inside the value that it repeats"),
        ("x=" + "9" * 5000, "a number of 5,000 characters"),
        ("x=\x1b", "the character #x001b is not allowed"),
        ("x=\ud800", "the character #xd800 is not allowed"),
        (".".join("a" * 1000) + "=1", "there is no such place in the recipe"),
        ("sampling." + ".".join("a" * 1000) + "=1", "there is no such place in the recipe"),
        ("a" * 10**6 + "=1", "there is no such place in the recipe"),
        ("edits." + "9" * 5000 + "=1", "there is no such place in the recipe"),
        ("..=1", "--set ..: there is no such place in the recipe"),
        ("a\x1b[31m\u202e=1", r"--set a\x1b[31m\u202e: unknown key"),
        ("prompts.99=a", "--set prompts: must be a list of prompts, not a mapping"),
        ('vocabulary=[a, ""]', "--set vocabulary[1]: must not be blank"),
    ],
    ids=lambda value: ascii(value)[:24],
)
def test_a_value_that_is_set_is_bounded(given: str, message: str, recipe: Path) -> None:
    assert message in refused("check", recipe, "--set", given)


@pytest.mark.parametrize("option", ["--when", "--select"])
def test_options_in_yaml_are_bounded(option: str) -> None:
    for hostile in ("[" * 10**5, "{a: &a [*a]}", "[!!python/object:os.system {}]"):
        assert option in refused("units", "selectivity", "--concepts", "a,b", option, hostile)


def test_words_are_not_blank(tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text(" \n\n", encoding="utf-8")
    assert "has no words" in refused("drift", tmp_path, "--vocabulary", tmp_path / "blank.txt")
    assert "is blank" in refused("units", "selectivity", "--concepts", "cat,,dog")
