"""A user's ops: what a file may contain, what is refused, and that nothing is left behind."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from ablate.cli.main import main
from ablate.edits import code, ops
from ablate.edits.noise import draw
from ablate.edits.registry import OPS, Op
from ablate.store.run import Run

HEAD = "import torch\nfrom ablate import op\n"
SHRINK = '''
@op(strength="amount", neutral=0.0, linear=True)
def shrink(tensor, noise, strength):
    """(1−a)·W."""
    tensor *= 1 - strength
    return tensor
'''
SAME = "def same(tensor, noise, strength): return tensor\n"
WEIGHTS = torch.randn(40, 30, generator=torch.Generator().manual_seed(1))
Write = Callable[..., Path]


def forget(*names: str) -> None:
    for name in names:
        del OPS[name]


@pytest.fixture(autouse=True)
def registry() -> Iterator[dict[str, Op]]:
    """The registry as it was, and is afterwards."""
    before = dict(OPS)
    yield before
    forget(*OPS.keys() - before.keys())
    assert before == OPS


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(text: str, name: str = "mine.py") -> Path:
        path = tmp_path / name
        path.write_text(HEAD + text, encoding="utf-8")
        return path

    return written


def apply(name: str, strength: float | None = None, tensor: torch.Tensor = WEIGHTS) -> torch.Tensor:
    op = OPS[name]
    noise = draw(op, tensor, seed=0, module="m", parameter="weight")
    return ops.apply(op, tensor, noise, strength)


def test_a_file_brings_its_ops(write: Write) -> None:
    file = write(
        SHRINK + "@op(draws='values')\ndef second(tensor, noise, strength): return noise\n"
    )
    untouched = WEIGHTS.clone()
    assert code.load_code(file) == ("shrink", "second")
    op = OPS["shrink"]
    assert op.code == hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()
    assert (op.about, op.strength, op.stream) == ("(1−a)·W.", "amount", "shrink")
    torch.testing.assert_close(apply("shrink", 0.25), 0.75 * WEIGHTS)
    assert torch.equal(WEIGHTS, untouched)  # though the op writes into what it is given
    assert OPS["second"].kinds == ("normal", "uniform")
    assert OPS["second"].about == ""
    copy = file.with_name("copy.py")
    copy.write_bytes(file.read_bytes())
    assert code.load_code(file) == code.load_code(copy) == ("shrink", "second")
    assert OPS["shrink"] is op


def test_a_file_is_executed_again_when_its_ops_are_gone(write: Write) -> None:
    file = write(SHRINK)
    forget(*code.load_code(file))
    assert code.load_code(file) == ("shrink",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = (\n", r"mine\.py:3: is not valid Python: '\(' was never closed"),
        ("x = 1\n", r"mine\.py: defines no op; decorate a function with `@ablate\.op"),
        (f"{SHRINK}\n1 / 0\n", r"mine\.py:10: raised ZeroDivisionError: division by zero"),
        (f"{SHRINK}\nraise SystemExit(3)\n", r"mine\.py:10: raised SystemExit: 3"),
        ("def g(x: nowhere): ...\n", r"mine\.py:3: raised NameError"),  # plain Python, as written
        ("import nothing_of_that_name\n", r"mine\.py:3: raised ModuleNotFoundError: No module"),
        ("import json\njson.loads('{')\n", r"mine\.py:4: raised JSONDecodeError"),
        (SHRINK + SHRINK, r"mine\.py:1\d: raised ValueError: there is an op `shrink` already"),
        (SHRINK.replace("def shrink", "def zero"), r"mine\.py:\d: .* an op `zero` already"),
        ("op()(lambda *given: given[0])\n", r"mine\.py:3: the op `<lambda>` must be .* a name"),
        ("@op()\ndef f(tensor): ...\n", r"mine\.py:3: the op `f` must take \(tensor, noise, stre"),
        ("op()(torch.add)\n", r"mine\.py: the op `add` is defined elsewhere"),
        (
            "from textwrap import fill\nop()(fill)\n",
            r"mine\.py: the op `fill` is defined elsewhere, in `textwrap`",
        ),
        ("@op(draws='luck')\n" + SAME, r"draws no `luck`; there are values, spread"),
        ("@op(places=('here',))\n" + SAME, r"places among weights, output"),
        ("@op(draws='mean')\n" + SAME, r'`mean`, which needs `places=\("output",\)`'),
        ("@op(draws='values', kinds=('odd',))\n" + SAME, r"known: normal, uniform"),
        ("@op(neutral=0.0)\n" + SAME, r"has no strength"),
        ("@op(strength='a', linear=True)\n" + SAME, r"its neutral strength must be 0"),
    ],
)
def test_a_file_that_is_wrong_leaves_the_registry_as_it_was(
    text: str, message: str, write: Write, registry: dict[str, Op]
) -> None:
    modules = set(sys.modules)
    with pytest.raises(code.CodeError, match=message):
        code.load_code(write(text))
    assert list(OPS.items()) == list(registry.items())
    assert not any(name.startswith("ablate_code") for name in sys.modules.keys() - modules)


def test_an_interrupt_leaves_the_registry_as_it_was(write: Write, registry: dict[str, Op]) -> None:
    with pytest.raises(KeyboardInterrupt):
        code.load_code(write(f"{SHRINK}\nraise KeyboardInterrupt\n"))
    assert registry == OPS


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(code.CodeError, match=r"none\.py: cannot be read: No such file"):
        code.load_code(tmp_path / "none.py")
    with pytest.raises(code.CodeError, match=r"cannot be read: Is a directory"):
        code.load_code(tmp_path)
    (tmp_path / "picture.py").write_bytes(b"\x89PNG\0\xff")
    with pytest.raises(code.CodeError, match=r"picture\.py"):
        code.load_code(tmp_path / "picture.py")


def test_two_files_may_not_share_a_name(write: Write) -> None:
    code.load_code(write(SHRINK))
    first = OPS["shrink"]
    with pytest.raises(code.CodeError, match=r"other\.py:4: .* an op `shrink` already"):
        code.load_code(write(SHRINK + "# another\n", "other.py"))
    assert OPS["shrink"] is first


def test_an_op_of_another_file_is_not_taken_for_this_ones(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its formula is not in this file's digest."""
    write(SHRINK, "inner_ops.py")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(code.CodeError, match="`shrink` is defined elsewhere, in `inner_ops`; load"):
        code.load_code(write("import inner_ops\n"))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return tensor[:1]", r"the op `f` must keep the shape: \(1200,\), not \(1,\)"),
        ("return tensor.long()", r"the op `f` must return a tensor of floats, not torch\.int64"),
        ("return 0.0", r"the op `f` must return a tensor of floats, not float"),
        ("return tensor / 0", r"the op `f` returned numbers that are not finite"),
        ("return tensor - tensor.mean()", r"the op `f` gives another result for parts .*whole=Tru"),
    ],
)
def test_what_an_op_returns_is_checked(body: str, message: str, write: Write) -> None:
    code.load_code(write(f"@op()\ndef f(tensor, noise, strength):\n    {body}\n"))
    with pytest.raises(ValueError, match=message):
        apply("f")


def test_a_whole_op_gets_the_tensor_in_its_shape(write: Write) -> None:
    code.load_code(
        write(
            "@op(whole=True)\ndef f(tensor, noise, strength): return tensor - tensor.mean(1, True)"
        )
    )
    assert torch.equal(apply("f"), WEIGHTS - WEIGHTS.mean(1, keepdim=True))


def test_parts_are_compared_until_entries_differ(write: Write) -> None:
    code.load_code(write("@op()\ndef f(tensor, noise, strength): return tensor - tensor.mean()"))
    assert torch.equal(apply("f", tensor=torch.ones(6)), torch.zeros(6))
    with pytest.raises(ValueError, match="whole=True"):
        apply("f")


def test_numbers_that_are_not_finite_pass_where_the_weights_are_not(write: Write) -> None:
    code.load_code(write(SHRINK))
    broken = torch.tensor([float("nan"), 1.0])
    assert apply("shrink", 0.5, broken).isnan().tolist() == [True, False]


# ---------------------------------------------------------------- from the command line

FLIP = """
@op(places=("output",), whole=True)
def flip(tensor, noise, strength):
    return tensor.flip(-1)
"""


def run_command(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.fixture
def recipe(write: Write, tiny_folder: Path, tmp_path: Path) -> Path:
    write(SHRINK + "\nopen('ran', 'a').close()\n", "mine.py")
    file = tmp_path / "r.yaml"
    file.write_text(
        f"""\
version: 1
name: mine
model: {tiny_folder}
dtype: float32
ops: mine.py
sampling: {{num_inference_steps: 2}}
edits:
  - shrink: {{modules: "conv_in", amount: 0.5}}
""",
        encoding="utf-8",
    )
    return file


def test_code_runs_only_where_it_is_allowed_to(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in ("check", "plan", "run"):
        status, output = run_command(command, recipe)
        assert status == 2
        assert (
            f"{recipe}:5: ops: names code, `mine.py`; look at it, and allow it to run with"
            " `--allow-code`, or `allow_code=True` in Python\n1 problem"
        ) in output
    assert not (tmp_path / "ran").exists()
    assert run_command("check", "--allow-code", recipe) == (0, f"{recipe}: OK\n")
    assert (tmp_path / "ran").exists()


def test_cells_of_users_ops_record_their_code(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, output = run_command("run", "--allow-code", recipe, "--out", "run", "--device", "cpu")
    assert status == 0, output
    file = tmp_path / "mine.py"
    digest = hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()
    _, edited = Run("run").cells()
    assert edited.record()["edits"][0]["code"] == digest
    assert run_command("replay", edited.path, "--verify", "--device", "cpu", "--yes")[0] == 0
    # In a process that has not loaded the file:
    forget("shrink")
    status, output = run_command("replay", edited.path)
    assert status == 2
    assert output == (
        "`shrink` is not a built-in op: no file is loaded that it comes from; the digest of"
        f" that file is {digest}; `--code FILE`, or `ops:` of a recipe, loads it\n"
    )
    command = ("replay", edited.path, "--code", file, "--yes")
    assert run_command(*command, "--verify", "--device", "cpu")[0] == 0
    forget("shrink")
    file.write_text(file.read_text(encoding="utf-8").replace("1 - strength", "2 - strength"))
    assert run_command(*command)[0] == 2
    run_command("run", "--allow-code", recipe, "--out", "run", "--device", "cpu")
    _, changed = Run("run").cells()
    assert changed.key != edited.key
    assert changed.image().tobytes() != edited.image().tobytes()


def test_users_ops_edit_outputs(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs of a module, of one unit of it, and of a block; weights of the same op too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(HEAD + SHRINK + FLIP, encoding="utf-8")
    text = recipe.read_text(encoding="utf-8")

    def images(edits: str) -> list[bytes]:
        edited = text.replace('shrink: {modules: "conv_in", amount: 0.5}', edits)
        recipe.write_text(edited, encoding="utf-8")
        status, output = run_command("run", "--allow-code", recipe, "--out", "run", "--fresh")
        assert status == 0, output
        return [cell.image().tobytes() for cell in Run("run").cells()]

    def of(op: str) -> bytes:
        return images(f"{op[:-1]}, where: output}}")[-1]

    unedited, weights = images("shrink: {modules: conv_in, amount: 0.5}")
    assert weights != unedited
    assert of("shrink: {modules: conv_in, amount: 0.5}") == of(
        "scale: {modules: conv_in, factor: 0.5}"
    )
    one = "{modules: conv_in, unit: {channels: [1]}, "
    assert of(f"shrink: {one}amount: 0.5}}") == of(f"scale: {one}factor: 0.5}}")
    flipped = of("flip: {modules: up_blocks.0}")
    assert flipped not in (unedited, of("zero: {modules: up_blocks.0}"))


def test_an_op_of_weights_says_how_it_may_edit_outputs(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        HEAD + SHRINK.replace("linear=True", 'places=("weights",)'), encoding="utf-8"
    )
    text = recipe.read_text(encoding="utf-8")
    recipe.write_text(
        text.replace('"conv_in", amount', '"mid_block", where: output, amount'), encoding="utf-8"
    )
    assert run_command("check", "--allow-code", recipe) == (
        2,
        f"{recipe}:8: edits[0].shrink.where: must be `weights`, not `output`: `shrink` edits"
        ' weights alone; in its file, `@ablate.op(places=("weights", "output"))` allows'
        " both\n1 problem\n",
    )
