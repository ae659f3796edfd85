"""The tests of transformers and of PEFT on our models and on the plain base LMs (``make proof``).

Nothing of them is kept here: the source packages of the installed versions are fetched from the
registry into ``.suites/``. transformers' tests of generation are not in its package, which has only
``tests/test_*.py``; ours are in ``tests/test_families.py`` and ``tests/test_cache.py``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
STUBS = {"generation/test_utils.py": "GenerationTesterMixin", "exporters/test_export.py": "ExportTesterMixin"}  # fmt: skip
FAILED = re.compile(r"^(?:SUB)?FAILED.*? (\S+\.py::.*?)(?: - .*)?$", re.MULTILINE)
OF_TRANSFORMERS = re.compile(r"::(?P<base>[a-z0-9]+)_(?P<kind>\w+)::(?P<test>\w+)")
OF_PEFT = re.compile(
    r"::(?P<test>\w+)\[.*?(?P<method>\w+)-config_kwargs\d+-.*/(?P<base>\w+?)_(?P<kind>\w+?)_"
)


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


def fetch(package: str, name: str) -> Path:
    """Return a folder with a module ``name``, the tests of the installed ``package``."""
    release = f"{package}-{version(package)}"
    folder = ROOT / ".suites" / release
    if not (folder / name).is_dir():
        pip("install", "parameterized", "--no-deps", "--target", str(folder))
        exact = release.replace("-", "==", 1)
        pip("download", exact, "--no-deps", "--no-binary", ":all:", "--dest", str(folder))
        with tarfile.open(folder / f"{release}.tar.gz") as archive:
            tests = [item for item in archive if item.name.startswith(f"{release}/tests/")]
            archive.extractall(folder, tests, filter="data")
        (folder / release / "tests/__init__.py").touch()
        (folder / release / "tests").rename(folder / name)
    return folder


def stub(tests: Path) -> None:
    """Write empty classes in place of what transformers' package leaves out."""
    for place, mixin in STUBS.items():
        missing = tests / place
        missing.parent.mkdir(exist_ok=True)
        (missing.parent / "__init__.py").touch()
        if not missing.exists():
            missing.write_text(f"class {mixin}:\n    pass\n")


def fails_beyond_the_base(
    script: str, folder: Path, names: re.Pattern[str], least: int
) -> set[str]:
    """Run a script of tests; return what fails on our models only, by test and method."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rf", "--tb=line", "-p", "no:cacheprovider",
         "-p", "no:xdist", "-o", "addopts=", str(ROOT / "tests" / script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests", folder)))},
        capture_output=True,
        text=True,
        cwd=folder,
    )  # fmt: skip
    counts = run.stdout.splitlines()[-1]
    assert int(re.search(r"(\d+) passed", counts)[1]) > least, run.stdout[-3000:]  # type: ignore[index]
    failed: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for line in FAILED.findall(run.stdout):
        found = names.search(line)
        assert found, line
        parts = found.groupdict()
        test = parts["test"] + (f"[{parts['method']}]" if "method" in parts else "")
        failed[parts["kind"]].add((parts["base"], test))
    print(counts, {kind: len(tests) for kind, tests in sorted(failed.items())})
    plain = failed.pop("plain", set())
    return {test for tests in failed.values() for base, test in tests if (base, test) not in plain}


def listed(package: str) -> set[str]:
    return set(yaml.safe_load((ROOT / "tests/suite_excluded.yaml").read_text())[package])


@pytest.mark.proof
def test_transformers_tests_fail_as_listed() -> None:
    folder = fetch("transformers", "hf_tests")
    stub(folder / "hf_tests")
    beyond = fails_beyond_the_base("suite_transformers.py", folder, OF_TRANSFORMERS, 2000)
    assert beyond == listed("transformers"), "the list names what fails, and nothing else"


@pytest.mark.proof
def test_peft_tests_fail_as_listed() -> None:
    folder = fetch("peft", "peft_tests")
    beyond = fails_beyond_the_base("suite_peft.py", folder, OF_PEFT, 900)
    assert beyond == listed("peft"), "the list names what fails, and nothing else"
    assert len(listed("transformers") | listed("peft")) < 25
