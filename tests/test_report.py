"""The report: numbers as in results.json, every kind of task, pages that load nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vlmig import VLMIG, VLMIGError
from vlmig.cli.main import main
from vlmig.evaluation.evaluator import Evaluator
from vlmig.evaluation.results import measure_tasks
from vlmig.evaluation.run_folder import main_condition
from vlmig.evaluation.settings import CONTROLS, Settings
from vlmig.evaluation.tasks.items import Item, Question, Task
from vlmig.evaluation.tasks.yaml_task import choose_tasks
from vlmig.imagination.store import Address, FeatureStore, Imagined
from vlmig.predict.answer import Answer, Reply
from vlmig.report.answer import write_answer, write_reply
from vlmig.report.comparison import compare_runs
from vlmig.report.finding import comparison, finding
from vlmig.report.items import split_evenly
from vlmig.report.numbers import fixed, percent, signed
from vlmig.report.page import asset
from vlmig.report.run_page import write_report
from vlmig.report.tables import table

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"><!-- & '\u2028"
TEXTS = Task(
    "texts",
    lambda _: [
        Item(f"texts/{i}", str(i), "a brick", (), (Question((f"A red brick {i}.",), (), -1),))
        for i in range(3)
    ],
    kind="text",
)


def measured(
    model: VLMIG, data: Path, out: Path, tasks: Sequence[Task], **settings: Any
) -> dict[str, Any]:
    """Measure as ``vlmig eval`` does."""
    return measure_tasks(
        Evaluator(model, Settings(**settings), data, out, lambda name: name != "tar"), tasks
    )


def named(*names: str, protocol: str = "default") -> list[Task]:
    return choose_tasks(names, {}, protocol)


class Page(HTMLParser):
    """What a browser's parser makes of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.inside = ""
        self.json = ""
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)
        self.data = json.loads(self.json)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [
            value or "" for name, value in attrs if name in ("src", "href", "action", "srcset")
        ]
        self.inside = dict(attrs).get("id") or ""

    def handle_data(self, data: str) -> None:
        self.json += data if self.inside == "data" else ""


def test_the_page_is_self_contained_and_its_numbers_are_the_results(
    tiny: VLMIG, data: Path, tmp_path: Path
) -> None:
    asked = {"ks": (0, 1, 2), "controls": CONTROLS, "seeds": (0, 1)}
    results = measured(tiny, data, tmp_path, named("memory_color", "imagenetvc_color"), **asked)
    page = Page(write_report(tmp_path, tiny.imagination.store))
    assert (
        page.links == ["data:,"]
        and page.tags.count("script") == 2
        and "default-src 'none'" in page.text
    )
    shown = {(row["task"], row["subset"]): row for row in page.data["main"]}
    assert set(shown) == {
        (task, subset) for task in results["results"] for subset in ("all", "covered")
    }
    places = {
        "text": (0, "none"),
        "main": (2, "none"),
        "shuffled": (2, "shuffled"),
        "caption": (0, "caption"),
    }
    for (task, subset), row in shown.items():
        for name, place in places.items():
            expected = main_condition(results, task, subset, *place)
            assert expected is not None and expected["seed"] == "all"
            assert row["cells"][name]["acc"] == expected["acc"], "rounded once, where it is shown"
            assert row["cells"][name]["ci95"] == expected["ci95"]
        assert {"vote", "clip", "zlavi", "best-image"} <= row["cells"].keys()
    assert len(page.data["conditions"]) == len(results["vlmig"]["conditions"])
    gains = [c["delta"] for c in results["vlmig"]["comparisons"]]
    assert [c["delta"] for c in page.data["comparisons"]] == gains
    assert all(picture.startswith("/9j/") for picture in page.data["pictures"]), (
        "every picture is a JPEG"
    )
    rows = lines(tmp_path, "memory_color", "imagenetvc_color")
    keys = {key for row in rows for own in row["pictures"] for key in own}
    assert len(page.data["pictures"]) == len(keys), "items of one object share their pictures"


def lines(out: Path, *tasks: str) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for task in tasks
        for line in (out / f"samples_{task}.jsonl").read_text().splitlines()
    ]


KINDS = {
    "choice": (named("memory_color"), {"seeds": (0, 1)}),
    "calibrated": (named("imagenetvc_color"), {"calibrated": True}),
    "text alone": (named("memory_color"), {"ks": (0,)}),
    "contexts apart": (named("winogrande"), {}),
    "pictures of candidates": (named("arc"), {"policy": "option"}),
    "first token": (
        [replace(t, counted="each") for t in named("vicomte_color", protocol="reference")],
        {},
    ),
    "sequence": (named("hellaswag", protocol="reference"), {}),
    "sequence, one question": (named("piqa", protocol="reference"), {"limit": 1}),
    "generated": (named("squad"), {}),
    "texts": ([TEXTS], {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_task_is_shown_and_right_where_the_results_say(
    tiny: VLMIG, data: Path, tmp_path: Path, kind: str
) -> None:
    tasks, settings = KINDS[kind]
    results = measured(tiny, data, tmp_path, tasks, **{"ks": (0, 2), **settings})
    page = Page(write_report(tmp_path, tiny.imagination.store))
    assert page.data["items"] and None not in page.data["pictures"]
    runs = [run for item in page.data["items"] for run in item["runs"]]
    marks = [wording["ok"] for run in runs for wording in run["wordings"]]
    condition = main_condition(results, tasks[0].name)
    assert condition is not None
    if condition["acc"] is None:
        assert set(marks) == {None} and page.data["main"][0]["cells"]["main"]["perplexity"] > 1
    else:
        assert np.mean(marks) == pytest.approx(condition["acc"])
    for run in runs:
        for wording in run["wordings"]:
            sets = wording["set"] if isinstance(wording["set"], list) else [wording["set"]]
            assert all(
                len(run["sets"][place]) == results["config"]["model_args"]["k"] for place in sets
            )
            # thousandths of a whole, rounded one by one
            assert all(abs(sum(own) - 1000) <= len(own) for own in wording.get("images", []))


def test_a_store_without_the_pictures_leaves_empty_frames(
    tiny: VLMIG, data: Path, tmp_path: Path
) -> None:
    measured(tiny, data, tmp_path, named("memory_color"), ks=(0, 2))
    page = Page(write_report(tmp_path, FeatureStore(tmp_path / "other")))
    assert page.data["pictures"] == [None] * 6


def test_five_hundred_items_stay_small_and_more_are_counted(
    tiny: VLMIG, data: Path, tmp_path: Path
) -> None:
    measured(tiny, data, tmp_path, named("memory_color"), ks=(0, 6), controls=("none", "shuffled"))
    (line, *_) = lines(tmp_path, "memory_color")
    effects = np.random.default_rng(1).normal(size=(6, 16, 16)).round(3).tolist()
    line["why"] = {"images": [0.5] * 6, "left_out": [0.5] * 6, "patches": effects}
    generator, store = np.random.default_rng(0), FeatureStore(tmp_path / "noise")
    addresses = [Address(f"thing {i}", 0, "noise") for i in range(500 * 6)]
    # Noise is what JPEG compresses worst.
    shown = (
        Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in addresses
    )
    store.put(
        (a, Imagined(p, torch.zeros(1, 1), torch.zeros(1)))
        for a, p in zip(addresses, shown, strict=True)
    )
    with (tmp_path / "samples_memory_color.jsonl").open("w") as file:
        for i in range(600):
            keys = [address.key for address in addresses[6 * i % 3000 :][:6]]
            doc = {**line["doc"], "id": f"memory_color/{i}"}
            print(json.dumps({**line, "doc_id": i, "doc": doc, "pictures": [keys]}), file=file)
    results = json.loads((tmp_path / "results.json").read_text())
    results["n-samples"]["memory_color"]["effective"] = 600
    (tmp_path / "results.json").write_text(json.dumps(results))
    path = write_report(tmp_path, store)
    page = Page(path)
    assert (
        len(page.data["items"]) == 500
        and page.data["total"] == 600
        and len(page.data["pictures"]) == 3000
    )
    layers = page.data["items"][-1]["runs"][0]["why"]["layers"]
    assert len(layers) == 6 and all(layers)
    assert path.stat().st_size < 12_000_000


def hostile(out: Path, task: str) -> None:
    """Put markup into every text of a run."""

    def spoiled(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {key: spoiled(own, key) for key, own in value.items()}
        if isinstance(value, list):
            return value if name == "pictures" else [spoiled(own) for own in value]
        return value + HOSTILE if isinstance(value, str) else value

    rows = [spoiled(row) for row in lines(out, task)]
    (out / f"samples_{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = json.loads((out / "results.json").read_text())
    results["config"]["model_args"]["pretrained"] += HOSTILE
    (out / "results.json").write_text(json.dumps(results))


def test_texts_are_never_markup(tiny: VLMIG, data: Path, tmp_path: Path) -> None:
    measured(tiny, data, tmp_path, named("memory_color"), ks=(0, 1))
    hostile(tmp_path, "memory_color")
    page = Page(write_report(tmp_path, tiny.imagination.store))
    assert "img" not in page.tags and page.tags.count("script") == 2 and "<img" not in page.text
    assert HOSTILE in page.data["items"][0]["wordings"][0]["text"]


def test_two_runs_are_compared_item_by_item(tiny: VLMIG, data: Path, tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    tasks = [*named("imagenetvc_color"), TEXTS]
    measured(tiny, data, a, [*tasks, *named("squad")], ks=(0, 2), seeds=(0, 1))
    results = measured(
        tiny, data, b, [*tasks, *named("memory_color")], ks=(0,), limit=2, seeds=(1, 2)
    )
    page = Page(compare_runs(a, b, tmp_path / "page.html", tiny.imagination.store))
    row, texts = page.data["paired"][0], page.data["paired"][-1]
    assert row["n"] == row["both"] + row["only_a"] + row["only_b"] + row["none"] == 2 * 5, (
        "two items in five wordings"
    )
    assert row["delta"] == pytest.approx(row["a"]["acc"] - row["b"]["acc"])
    # B has just these items, without pictures: seed 1 of it is the text alone
    place = ("imagenetvc_color", 1, "all")
    (alone,) = [
        c for c in results["vlmig"]["conditions"] if (c["task"], c["seed"], c["subset"]) == place
    ]
    assert row["b"]["acc"] == pytest.approx(alone["acc"])
    assert "no difference was found on imagenetvc_color" in page.data["finding"].lower()
    assert f"the perplexity of texts is {texts['a']['perplexity']:.2f} and" in page.data["finding"]
    assert {"ci95", "p", "p_holm", "mcnemar_p", "verdict"} <= row.keys()
    assert texts["a"]["perplexity"] > 1 and "delta" not in texts
    told = " ".join(page.data["notes"])
    assert "Only A has 1 task: squad." in told and "Only B has 1 task: memory_color." in told
    assert (
        "only A has (wordings of) 1 item: imagenetvc_color/2." in told
        and "on the seeds of both: 1." in told
    )
    assert [[run["seed"] for run in item["runs"]] for item in page.data["items"]] == [[1, 1]] * len(
        page.data["items"]
    )


def test_what_is_wrong_with_a_folder_is_said_in_one_line(
    tiny: VLMIG, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, broken = tmp_path / "a", tmp_path / "b", tmp_path / "broken"
    measured(tiny, data, a, named("memory_color"), ks=(0,))
    measured(tiny, data, b, named("imagenetvc_color"), ks=(0,))
    broken.mkdir()
    store = ["--store", str(tmp_path / "store")]
    capsys.readouterr()

    def said(*arguments: str | Path) -> str:
        assert main(["report", *map(str, arguments), *store]) == 2
        shown = capsys.readouterr().err
        assert shown.count("\n") == 1
        return shown

    assert "has no results.json; expected a folder that vlmig eval --out wrote" in said(broken)
    assert "no task in common" in said(a, b) and "has no results.json" in said(a, broken)
    for text, message in (
        ("{", "is not JSON"),
        ("[]", "expected an object"),
        ('{"results": {}}', "no block 'configs'"),
    ):
        (broken / "results.json").write_text(text)
        assert message in said(broken)
    (b / "samples_imagenetvc_color.jsonl").write_text("{}x\n")
    assert "samples_imagenetvc_color.jsonl, line 1, is not JSON" in said(b)
    with pytest.raises(SystemExit):
        said(a, "--out", a / "results.json" / "page.html")
    assert "results.json is a file" in capsys.readouterr().err
    assert main(["report", str(a), str(a), *store]) == 0 and (a / "against_a.html").is_file()
    assert (
        main(["report", str(a), "--out", str(tmp_path / "own.html"), *store]) == 0
        and (tmp_path / "own.html").is_file()
    )


def test_one_formatter_serves_pages_and_terminal(browser: Any) -> None:
    shares = [0.02951, 0.0295, -0.02951, 0.1225, 0.125, -0.0004, 0.0005, 1.0, 0.38495, 2.5, 1e-9]
    shares += np.random.default_rng(0).uniform(-1, 1, 200).tolist()
    code = "return arguments[0].map((s) => [percent(s), percent(s, 0), signed(s), fixed(s, 3)])"
    page = browser.execute_script(f"{asset('dom.js')}\n{code}", shares)
    terminal = [[percent(s), percent(s, 0), signed(s), fixed(s, 3)] for s in shares]
    assert [[text.replace("\u2212", "-") for text in row] for row in page] == terminal
    assert (percent(0.1225), signed(0.02951), percent(0.02951)) == ("12.3", "+3.0", "3.0")


def compared(task: str, other: str, verdict: str, subset: str = "all") -> dict[str, Any]:
    return {"task": task, "subset": subset, "b": other, "verdict": verdict, "detectable": 0.071}


def test_the_sentence_says_what_the_tests_found() -> None:
    accuracies = {
        "colour": (0.061, 0.69, 0.123),
        "any": (0.1, 0.3, 0.3),
        "shape": (0.2, 0.24, 0.24),
    }
    verdicts = {"colour": "better better", "any": "better tied", "shape": "tied tied"}
    conditions, comparisons = [], []
    for task, values in accuracies.items():
        for k, control, acc in zip((0, 6, 6), ("none", "none", "shuffled"), values, strict=True):
            row = {"task": task, "subset": "all", "k": k, "mix": "prob", "weights": "clip"}
            conditions.append({**row, "control": control, "seed": 0, "acc": acc})
        for other, verdict in zip(("text-only", "shuffled"), verdicts[task].split(), strict=True):
            comparisons.append(compared(task, other, verdict))
    results = {
        "results": dict.fromkeys(accuracies),
        "configs": {task: {"mix": "prob", "weights": "clip"} for task in accuracies},
        "config": {"model_args": {"k": 6}},
        "vlmig": {"conditions": conditions, "comparisons": comparisons},
    }
    assert finding(results) == (
        "Images help colour (6 -> 69 %, shuffled 12); other objects' images help as much with "
        "any (10 -> 30 %, shuffled 30); no effect of images was found on shape (20 -> 24 %, "
        "shuffled 24; 7 points would have been found)."
    )
    rows = []
    for task, verdict in (("x", "better"), ("y", "worse"), ("z", "tied")):
        rows.append({**compared(task, "B", verdict), "a": {"acc": 0.5}, "b": {"acc": 0.25}})
    assert comparison(rows) == (
        "A is better at x (50 against 25 %); B is better at y (25 against 50 %); no difference "
        "was found on z (50 against 25 %; 7 points would have been found)."
    )


def test_as_many_images_as_needed_have_their_row(
    tiny: VLMIG, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = {"sure": 0.9, "spread": 1.0, "freedom": 4.0, "most": 2}
    monkeypatch.setattr(tiny.config, "auto", rule)
    for ks in ((0, "auto"), (0, 2, "auto")):
        out = tmp_path / str(len(ks))
        controls = ("none",)
        results = measured(tiny, data, out, named("memory_color"), ks=ks, controls=controls)
        page = Page(write_report(out, tiny.imagination.store))
        cells = page.data["main"][0]["cells"]
        expected = main_condition(results, "memory_color", k="auto")
        assert expected is not None
        cell = cells["main"] if page.data["k"] == "auto" else cells["auto"]
        assert (cell["acc"], cell["pictures"]) == (expected["acc"], expected["pictures"])
        assert "auto" in [dot["k"] for dot in page.data["charts"][0]["dots"]]
        assert "k=auto" in table(results)


def test_a_page_is_shared_evenly() -> None:
    assert split_evenly({"a": 1000, "b": 3, "c": 1000}, 103) == {"a": 50, "b": 3, "c": 50}
    assert split_evenly({"a": 2, "b": 1}, 500) == {"a": 2, "b": 1}


def test_an_answer_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    reply = Reply("red")
    with pytest.raises(VLMIGError, match="cannot write the page .*; choose a folder"):
        write_reply("What color?", reply, tmp_path / "file" / "answer.html")


@pytest.fixture()
def browser(tmp_path: Path) -> Iterator[Any]:
    """Headless Chromium with the logs of its console and of its network."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    for program in ("chromium", "chromedriver"):
        if not shutil.which(program):
            pytest.skip(f"no {program} on PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    flags = (
        "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-sync "
        "disable-background-networking disable-component-update"
    )
    for flag in flags.split():
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path / 'chromium'}")
    options.add_argument("--window-size=1280,900")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def quiet(driver: Any) -> None:
    """Nothing was written to the console, and nothing was asked of any network."""
    assert driver.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [
        e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"
    ]
    assert any(url.startswith("file:") for url in asked) and not [
        u for u in asked if u.startswith(("http", "ws"))
    ]
    resources = driver.execute_script(
        "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    )
    assert not [name for name in resources if name.startswith("http")]
    assert driver.title.startswith("vlmig: ") and driver.execute_script(
        "return window.innerWidth >= document.body.scrollWidth"
    )


def test_the_browser_filters_searches_and_opens(
    tiny: VLMIG, data: Path, tmp_path: Path, browser: Any
) -> None:
    asked = {"ks": (0, 1, 2), "controls": CONTROLS, "seeds": (0, 1)}
    results = measured(
        tiny, data, tmp_path, [*named("memory_color", "imagenetvc_color", "squad"), TEXTS], **asked
    )
    hostile(tmp_path, "imagenetvc_color")
    rows = lines(tmp_path, "memory_color")
    rows[0]["text_answer"] = ["none"] * len(rows[0]["text_answer"])  # as if images changed it
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "samples_memory_color.jsonl").write_text(text)
    path = write_report(tmp_path, tiny.imagination.store)
    browser.get(path.as_uri())

    def texts(selector: str) -> list[str]:
        return [node.text for node in browser.find_elements("css selector", selector)]

    def press(*keys: str) -> Any:
        for key in keys:
            browser.switch_to.active_element.send_keys(key)
        return browser.switch_to.active_element

    shown = texts("[data-task=memory_color][data-subset=all] [data-column=main] .value")
    assert shown == [f"{100 * results['results']['memory_color']['acc,none']:.1f}"]
    pressed = browser.find_element("css selector", ".chip[aria-pressed=true]")
    assert pressed.get_attribute("data-filter") == "changed" and len(texts(".item")) == 1
    browser.find_element("css selector", "[data-filter=all]").click()
    assert texts(".status") == ["10 of 10 items"] and len(texts(".item")) == 3 + 3 + 1 + 3
    assert len(texts(".dots article")) == 4 and texts(".finding")[0].endswith(".")
    browser.find_element("tag name", "body").send_keys("/")  # from here on by keyboard
    search = press("fog")
    assert search.get_attribute("id") == "search" and texts(".status") == ["1 of 10 items"]
    search.clear()
    search.send_keys(" ")
    opened = press(
        "\ue015", "j", "\ue015", "k", "\ue007"
    )  # down into the list, where fog is open, and on to tar
    assert (
        opened.get_attribute("data-id") == "memory_color/2"
        and opened.get_attribute("aria-expanded") == "true"
    )
    assert "tar" in texts(".detail > h3")[0] and len(texts(".detail .matrix .picture")) == 2
    press("\ue004")  # on to the next control: the list is one stop of the tabulator
    assert browser.switch_to.active_element.get_attribute("class") != "item"
    for name in ("right", "wrong", "changed", "sure", "low", "all"):
        chip = browser.find_element("css selector", f"[data-filter={name}]")
        chip.click()
        assert len(texts(".item")) == int(chip.find_element("class name", "count").text)
    for task in ("memory_color", "imagenetvc_color", "squad", "texts"):
        browser.find_element("css selector", f".item[data-id^={task}]").click()
        assert texts(".detail > h3")
    assert browser.find_elements("css selector", "img[onerror]") == []
    quiet(browser)


def test_the_browser_compares_two_runs(
    tiny: VLMIG, data: Path, tmp_path: Path, browser: Any
) -> None:
    for name, ks in (("a", (0, 2)), ("b", (0,))):
        measured(tiny, data, tmp_path / name, named("memory_color", "imagenetvc_color"), ks=ks)
    path = compare_runs(
        tmp_path / "a", tmp_path / "b", tmp_path / "page.html", tiny.imagination.store
    )
    rows = {row["task"]: row for row in Page(path).data["paired"] if row["subset"] == "all"}
    browser.get(path.as_uri())
    assert len(browser.find_elements("css selector", ".detail .block")) == 2
    for name in ("only-a", "only-b", "differs", "all"):
        chip = browser.find_element("css selector", f"[data-filter={name}]")
        chip.click()
        found = int(chip.find_element("class name", "count").text)
        assert len(browser.find_elements("css selector", ".item")) == found
        if name in ("only-a", "only-b"):
            assert (found > 0) == any(row[name.replace("-", "_")] for row in rows.values())
    head = browser.find_element("xpath", "//th[.//button[starts-with(., 'A − B')]]")
    head.find_element("tag name", "button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    quiet(browser)


def test_one_answer_is_a_page(tmp_path: Path, browser: Any) -> None:
    shares = {"red": 0.75, f"blue{HOSTILE}": 0.25}
    picture = Image.new("RGB", (300, 300), "red")
    likeness = [float("nan"), 0.5, 0.9]
    pictures, each = [picture] * 3, [shares] * 3
    answer = Answer("What color?", "red", shares, each, shares, likeness, pictures, "a brick")
    answer.floor = 0.7
    write_answer(answer, tmp_path / "answer.html")
    browser.get((tmp_path / "answer.html").as_uri())
    text = browser.find_element("css selector", "body").text
    assert "1 image with an orange similarity does not fit the prompt, and is not" in text
    assert len(browser.find_elements("css selector", ".alignment.low")) == 1
    assert [
        node.text for node in browser.find_elements("css selector", ".matrix .mixed .number")
    ] == ["75.0", "25.0"]
    assert browser.title == "What color?" and browser.get_log("browser") == []
