"""Docs are executed: README commands parse and run, configs build, the notebook runs."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import nbformat
import pytest
import yaml
from families import build
from nbclient import NotebookClient
from PIL import Image
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from benchmarks import imagination
from tools import rooms
from tools.pocket import (
    adapter,
    autoencoder,
    distillation,
    encoder,
    language,
    looks,
    several,
    smollm2,
    transformer,
)
from tools.pocket.__main__ import STAGES
from vlmig.cli.main import build_parser, main
from vlmig.data.sources.build import KINDS
from vlmig.evaluation.tasks.yaml_task import choose_tasks
from vlmig.imagination.store import FeatureStore
from vlmig.pocket.lessons import SOURCES
from vlmig.training import load_recipe
from vlmig.training.model import choose_trained, count_parameters, start

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES)
BLOCKS = [block.replace("\\\n", " ") for block in re.findall(r"```bash\n(.*?)```", TEXT, re.S)]
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line]
YAML_BLOCKS = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/evaluation.md").read_text(), re.S)
PROGRAMS = [
    block
    for block in re.findall(r"```python\n(.*?)```", TEXT, re.S)
    if not block.startswith("# needs a hub")
]


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("vlmig ")])
def test_every_command_parses(command: str) -> None:
    build_parser().parse_args(shlex.split(command, comments=True)[1:])


def test_quick_commands_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the order of the pages, and in one folder: a later command may read what an earlier one
    wrote."""
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("a banana\na frog\n")
    monkeypatch.setenv("VLMIG_STORE", str(tmp_path / "store"))
    for command in dict.fromkeys(COMMANDS):
        if command.startswith(("vlmig ask", "vlmig doctor", "vlmig imagine")):
            assert main(shlex.split(command, comments=True)[1:]) == 0, (
                f"{command}: {capsys.readouterr().err}"
            )


@pytest.mark.parametrize("module", sorted(set(re.findall(r"python -m ([\w.]+)", TEXT))))
def test_every_module_that_docs_run_exists(module: str) -> None:
    assert importlib.util.find_spec(module)


def test_the_benchmark_of_imagination_runs(capsys: pytest.CaptureFixture[str]) -> None:
    imagination.main(["--prompts", "1", "--k", "2", "--rounds", "1"])
    assert re.search(r"median +[\d.]+ +[\d.]+\nfill / plain loop: [\d.]+", capsys.readouterr().out)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.splitlines()[0])
def test_every_program_runs(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLMIG_STORE", str(tmp_path / "store"))
    exec(compile(program, "docs", "exec"), {})


@pytest.mark.parametrize("make", sorted(set(re.findall(r"^make (\w+)", "\n".join(COMMANDS), re.M))))
def test_readme_make_targets_exist(make: str) -> None:
    assert re.search(rf"^{make}:", (ROOT / "Makefile").read_text(), re.M)


@pytest.mark.proof
def test_notebooks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLMIG_STORE", str(tmp_path / "store"))
    paths = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert paths
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        assert any(cell.get("outputs") for cell in notebook.cells), (
            f"{path.name} was committed unexecuted"
        )
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT)}}).execute(
            env=dict(os.environ)
        )


def test_the_example_task_runs(tmp_path: Path) -> None:
    block, *_ = YAML_BLOCKS
    assert block.count("\n") <= 20
    (tmp_path / "sounds").mkdir()
    (tmp_path / "sounds.yaml").write_text(block)
    (tmp_path / "sounds/test.csv").write_text("animal,sound\nowl,hoot\ncow,moo\n")
    (tmp_path / "sounds/train.csv").write_text("animal,sound\nape,moo\nyak,hoot\n")
    (task,) = choose_tasks([str(tmp_path / "sounds.yaml")], {})
    owl = task.load(tmp_path)[0]
    assert (owl.picture, owl.label, owl.choices) == ("an owl", "hoot", ("hoot", "moo"))
    assert owl.questions[1].contexts == ("An owl says",)
    taught = owl.taught(task.demonstrations(tmp_path))
    assert taught is not None and taught.questions[1].contexts[0].startswith("An ape says moo. ")


def test_the_keys_of_other_kinds_make_tasks(tmp_path: Path) -> None:
    """The blocks after the example: things, what people say, and texts with images of their own, in
    a task with the other keys; and minimal pairs, whose block is whole."""
    (tmp_path / "mine").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "mine/cup.png")
    (tmp_path / "mine/cup.txt").write_text("a red cup")
    row = {"a": "Ada", "b": "Bo", "colors": {"red": 3, "blue": 1}}
    (tmp_path / "own.jsonl").write_text(json.dumps(row))
    names = {"task": "own", "files": {"test": "own.jsonl"}, "columns": ["a"], "answer": "'yes'"}
    texts = {"subject": "{{ a }}", "picture": "{{ a }}", "prompts": ["{{ a }} is"]}
    items = []
    *parts, pairs = YAML_BLOCKS[1:]
    for block in parts:
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(names | texts | yaml.safe_load(block)))
        (task,) = choose_tasks([str(tmp_path / "own.yaml")], {})
        items += task.load(tmp_path)
    (tmp_path / "pairs.yaml").write_text(pairs)
    (task,) = choose_tasks([str(tmp_path / "pairs.yaml")], {})
    cat, dog, *_ = task.load(tmp_path)
    assert (cat.picture, dog.questions[0].contexts) == ("a cat", ("Who keeps a dog?",))
    compared, told, seen = items
    swapped = compared.questions[1]
    assert swapped.contexts == ("Which is larger, Bo or Ada?",)
    assert swapped.continuations[swapped.answer] == "Ada"
    assert (told.distribution, told.label) == ((0.75, 0.0, 0.25), "red")
    assert seen.questions[0].continuations == (" red cup",) and seen.pair is not None


def test_the_file_for_skypilot_parses() -> None:
    """A task as SkyPilot's documentation has it, whose shell and whose command parse."""
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/imagination.md").read_text(), re.S)
    task = yaml.safe_load(block)
    assert task.keys() == {"name", "num_nodes", "resources", "file_mounts", "setup", "run"}
    subprocess.run(["sh", "-n"], input=task["run"], text=True, check=True)
    (command,) = [
        line for line in task["run"].replace("\\\n", " ").splitlines() if line.startswith("vlmig ")
    ]
    parsed = build_parser().parse_args(shlex.split(command)[1:])
    assert parsed.engine == "ray" and f"-lt {task['num_nodes']}" in task["run"]


def test_docs_name_no_missing_file_or_heading() -> None:
    for document in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for target, anchor in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", document.read_text()):
            path = document.parent / target if target else document
            assert path.exists(), f"{document.name} links to {target}"
            headings = re.findall(r"^#+ (.*)", path.read_text(), re.M) if anchor else []
            anchors = {
                re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings
            }
            assert not anchor or anchor in anchors, f"{document.name} links to {target}#{anchor}"


def test_the_architecture_describes_every_package() -> None:
    """What the picture of the packages was drawn from, and the paragraphs beside it."""
    page = (ROOT / "docs/architecture.md").read_text()
    assert rooms.read_graph().keys() == rooms.CAPTIONS.keys()
    missing = [name for name in (*rooms.CAPTIONS, *rooms.BASE) if f"**{name}**" not in page]
    assert not missing


def test_docs_keep_to_100_columns() -> None:
    for document in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        long = [line for line in document.read_text().splitlines() if len(line) > 100]
        assert not [line for line in long if not re.search(r"\]\(|^http", line)], document.name


CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_config_opens_with_its_command_and_the_figure_to_expect(path: Path) -> None:
    opening = "".join(re.findall(r"^#.*\n", path.read_text(), re.M))
    assert re.search(r"vlmig(\.cli)? train|python -m tools.pocket", opening) and re.search(
        r"[Ff]igure|Published", opening
    )


@pytest.mark.parametrize(
    "path",
    [p for p in CONFIGS if "stages" in p.read_text() or "extends" in p.read_text()],
    ids=lambda p: p.name,
)
def test_every_recipe_builds(path: Path, parts: Path, bert: Path, tmp_path: Path) -> None:
    """Around the embedded parts, or around tiny ones of the same families in place of what a hub
    would give."""
    recipe = load_recipe(path)
    early = recipe.model.get("fusion") == "prefix" or "runs/" in recipe.model.get("from", "")
    if recipe.model.get("language_model", "").startswith("package:"):
        tiny = save_family("llama", tmp_path / "llama")
        recipe = load_recipe(path, [f"model.language_model={tiny}"])
    if recipe.model.get("from") != "pocket":
        family = "llama" if early else re.split(r"[-_.]", path.stem)[1]
        folder = (
            bert if family == "bert" else save_family(family.removesuffix("3"), tmp_path / family)
        )
        places = {
            "language_model": folder,
            "vision": parts / "vision_encoder",
            "generator": parts / "generator",
        }
        changes = [
            *(f"model.{name}={place}" for name, place in places.items()),
            "model.projector_width=8",
        ]
        if "from" in recipe.model:  # an earlier stage's run
            changes = [
                f"model={{fusion: prefix, {', '.join(f'{k}: {v}' for k, v in places.items())}}}"
            ]
        recipe = load_recipe(path, changes)
    for stage in recipe.stages:
        for entry in stage.data:
            kind = entry["source"]
            assert kind in {**KINDS, **SOURCES}
            inspect.signature({**KINDS, **SOURCES}[kind]).bind_partial(
                **{
                    k: v
                    for k, v in entry.items()
                    if k not in ("source", "weight", "limit", "curate")
                }
            )
    model = start(recipe, FeatureStore(tmp_path / "store"))
    for stage in recipe.stages:
        choose_trained(model.model, stage.trains, stage.lora)
        trained = {part for part, (count, _) in count_parameters(model.model).items() if count}
        assert trained == set(stage.trains)


def save_family(family: str, folder: Path) -> Path:
    """Save a tiny LM of a family with a tokenizer that fits it."""
    build(family).save_pretrained(folder)
    words = Tokenizer(
        models.WordLevel(
            {"[PAD]": 0, "[BOS]": 1, "[EOS]": 2, "[UNK]": 3, "a": 4}, unk_token="[UNK]"
        )
    )
    names = {"pad_token": "[PAD]", "bos_token": "[BOS]", "eos_token": "[EOS]", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=words, **names).save_pretrained(folder)
    return folder


def test_the_pocket_world_can_be_rebuilt() -> None:
    stages = {
        "autoencoder": autoencoder.train_autoencoder,
        "encoder": encoder.train_encoder,
        "looks": looks.train_looks,
        "language": language.train_language_model,
        "adapter": adapter.train_pocket_adapter,
        "smaller": adapter.train_pocket_adapter,
        "generator": transformer.train_generator,
        "student": distillation.train_student,
        "several": several.teach_several,
        "smollm2": smollm2.train_smollm2_adapter,
    }
    sizes = yaml.safe_load((ROOT / "tools/pocket/world.yaml").read_text())
    assert sizes.keys() == stages.keys() <= STAGES.keys()
    sizes["encoder"]["pools"] = []  # arrays, which no file of sizes holds
    for stage, settings in sizes.items():
        inspect.signature(stages[stage]).bind(Path(), Path(), **settings)
    for stage in ("adapter", "smaller", "smollm2"):
        assert (ROOT / sizes[stage]["recipe"]).is_file()
