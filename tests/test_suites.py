"""transformers' own tests of a model, on ours and on the plain base LMs (``make proof``).

Nothing of them is kept here: the source package of the installed version is fetched from the
registry into ``.suites/``. Its tests of generation are not in that package.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from collections import defaultdict
from pathlib import Path

import pytest
import transformers
import yaml

ROOT = Path(__file__).parents[1]
STUBS = {"generation/test_utils.py": "GenerationTesterMixin", "exporters/test_export.py": "ExportTesterMixin"}  # fmt: skip
FAILED = re.compile(r"^(?:SUB)?FAILED.*?::(\w+)::(\w+)", re.MULTILINE)


def pip(*arguments: str) -> None:
    """Run the registry's client.

    Raises:
        pytest.skip.Exception: there is none, or it cannot reach the registry.
    """
    command = [str(ROOT / ".uv/bin/pip"), *arguments, "--quiet", "--disable-pip-version-check"]
    if not Path(command[0]).exists():
        pytest.skip("no .uv/bin/pip; make proof sets it up")
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        pytest.skip(f"the registry does not give the suite: {run.stderr[-200:]}")


@pytest.fixture(scope="module")
def suite() -> Path:
    """A folder with ``hf_tests``, the tests of the installed transformers, and what they import."""
    name = f"transformers-{transformers.__version__}"
    folder = ROOT / ".suites" / name
    if not (folder / "hf_tests").is_dir():
        pip("install", "parameterized", "--no-deps", "--target", str(folder))
        exact = name.replace("-", "==", 1)
        pip("download", exact, "--no-deps", "--no-binary", ":all:", "--dest", str(folder))
        with tarfile.open(folder / f"{name}.tar.gz") as archive:
            tests = [item for item in archive if item.name.startswith(f"{name}/tests/")]
            archive.extractall(folder, tests, filter="data")
        for place, mixin in STUBS.items():
            stub = folder / name / "tests" / place
            stub.parent.mkdir(exist_ok=True)
            for package in (stub.parent, stub.parent.parent):
                (package / "__init__.py").touch()
            if not stub.exists():
                stub.write_text(f"class {mixin}:\n    pass\n")
        (folder / name / "tests").rename(folder / "hf_tests")
    return folder


@pytest.mark.proof
def test_what_fails_beyond_the_plain_base_is_on_the_list(suite: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rf", "--tb=line", "-p", "no:cacheprovider",
         "-p", "no:xdist", "-o", "addopts=", str(ROOT / "tests/suite_transformers.py")],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{suite}"},
        capture_output=True,
        text=True,
        cwd=suite,
    )  # fmt: skip
    counts = run.stdout.splitlines()[-1]
    assert int(re.search(r"(\d+) passed", counts)[1]) > 2000, run.stdout[-3000:]  # type: ignore[index]
    failed: dict[str, set[str]] = defaultdict(set)
    for case, name in FAILED.findall(run.stdout):
        failed[case].add(name)
    beyond = set()
    for case, names in failed.items():
        base, _, kind = case.partition("_")
        if kind != "plain":
            beyond |= names - failed.get(f"{base}_plain", set())
    listed = yaml.safe_load((ROOT / "tests/suite_excluded.yaml").read_text())
    print(counts, {case: len(names) for case, names in sorted(failed.items())})
    assert beyond == set(listed), "the list names what fails, and nothing else"
    assert len(listed) < 25
