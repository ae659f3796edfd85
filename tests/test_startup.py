"""What a command does not need is not imported, and an installed package has all it needs; how
fast that is is never tested."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import vlmig
from vlmig.cli.main import main
from vlmig.errors import VLMIGError
from vlmig.models.checkpoint import POCKET
from vlmig.training.recipe import find_recipe

ROOT = Path(__file__).parents[1]
HEAVY = {"diffusers", "sklearn", "datasets", "bitsandbytes", "pandas", "lm_eval"}
ASK = ["ask", "What is the color of a banana?", "--choices", "yellow,red", "--k", "1"]


def imported_by(code: str, *arguments: str) -> set[str]:
    """Run code in a process of its own and return the libraries that it has imported."""
    code = f"import sys; {code}; print(); print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return {name.partition(".")[0] for name in run.stdout.splitlines()[-1].split()}


def imported_by_command(*arguments: str) -> set[str]:
    return imported_by("from vlmig.cli.main import main; main(sys.argv[1:])", *arguments)


def test_answers_from_stored_pictures_and_plans_import_no_more_than_they_use(
    tmp_path: Path,
) -> None:
    asked = [*ASK, "--store", str(tmp_path)]
    main(asked)  # draws the picture
    # Some releases of transformers import scikit-learn by themselves.
    transformers = imported_by("from transformers import GPT2LMHeadModel")
    assert not (imported_by_command(*asked) - transformers) & HEAVY
    plan = imported_by_command("train", "pocket", "--plan", "--store", str(tmp_path))
    assert not (plan - transformers) & (HEAVY - {"bitsandbytes"})


def test_a_folder_without_a_run_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    assert not imported_by_command("report", str(tmp_path)) & {
        "torch",
        "transformers",
        "numpy",
        "scipy",
    }


def test_the_app_s_page_is_there_before_torch_is() -> None:
    code = """
from vlmig.app.desk import Desk
from vlmig.app.server import Server
from vlmig.app.worker import Worker
with Server(Desk(Worker({})), ["pocket"], "127.0.0.1", 0) as server:
    assert "Ask and look" in server.page
"""
    assert not imported_by(f"exec({code!r})") & {"torch", "transformers", "numpy", "scipy"}


def test_import_vlmig_is_enough_for_transformers() -> None:
    """A new process that only did ``import vlmig`` loads a checkpoint by the auto classes; until
    then the import costs nothing."""
    code = """
import sys
import vlmig
assert not {"torch", "transformers"} & {name.partition(".")[0] for name in sys.modules}
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
folder = sys.argv[1]
names = [type(AutoModelForCausalLM.from_pretrained(folder)).__name__]
assert AutoTokenizer.from_pretrained(folder)("A banana").input_ids
names.append(type(pipeline("text-generation", model=folder).model).__name__)
print(*names)
"""
    run = subprocess.run(
        [sys.executable, "-c", code, str(POCKET)], capture_output=True, text=True, cwd=ROOT
    )
    assert run.stdout.split() == ["VLMIGForCausalLM"] * 2, run.stderr
    described = json.loads((POCKET / "config.json").read_text())
    assert described["architectures"] == ["VLMIGForCausalLM"]


def test_the_public_names_are_listed_and_the_version_is_the_metadata(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert set(vlmig.__all__) <= set(dir(vlmig))
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"vlmig {vlmig.__version__}\n"
    assert f"version = {vlmig.__version__}" in (ROOT / "setup.cfg").read_text()


def test_a_recipe_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_recipe(Path("pocket")).read_text() == (ROOT / "configs/pocket.yaml").read_text()
    (tmp_path / "pocket").write_text("own")
    assert find_recipe(Path("pocket")) == Path("pocket"), "a file goes first"
    with pytest.raises(VLMIGError, match="no recipe moon; expected .* one of .*pocket, "):
        find_recipe(Path("moon"))


def test_every_package_is_shipped() -> None:
    text = (ROOT / "setup.cfg").read_text()
    for place in (ROOT / "vlmig").rglob("__init__.py"):
        name = ".".join(place.parent.relative_to(ROOT).parts)
        assert f"    {name}\n" in text, f"setup.cfg does not list {name}"


@pytest.mark.proof
def test_the_wheel_works_from_another_folder(tmp_path: Path) -> None:
    uv = ROOT / ".uv/bin/uv"
    # Without a choice uv builds the wheel from the source archive, so both are complete or this
    # fails.
    subprocess.run(
        [uv, "build", "--quiet", "--out-dir", tmp_path, ROOT], check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    python = tmp_path / "venv/bin/python"
    subprocess.run(
        [uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv"], check=True
    )
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", python, "--no-deps", wheel], check=True
    )
    place = sysconfig.get_path("purelib", vars={"base": str(tmp_path / "venv")})
    # The libraries are those of this environment; a plain line of a path file brings no editable
    # install along.
    (Path(place) / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    assert (Path(place) / "vlmig/py.typed").is_file() and not (Path(place) / "configs").exists()
    folder = tmp_path / "elsewhere"
    folder.mkdir()

    def told(*arguments: str) -> str:
        command = [tmp_path / "venv/bin/vlmig", *arguments]
        return subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=folder
        ).stdout

    assert told("--version") == f"vlmig {vlmig.__version__}\n"
    assert "85,200 pairs" in told("train", "pocket", "--plan", "--store", str(tmp_path / "store"))
    assert "with images" in told(*ASK, "--store", str(tmp_path / "store"))
    assert (Path(place) / "vlmig" / POCKET.relative_to(POCKET.parents[1])).is_dir()
