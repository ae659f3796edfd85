"""Tasks on tiny files of our own in the public formats: what is read, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from vlmig import VLMIGError
from vlmig.evaluation.tasks.download import SOURCES
from vlmig.evaluation.tasks.items import Item, Question
from vlmig.evaluation.tasks.yaml_task import declaration, known_tasks, read_declaration
from vlmig.io.rows import Row

PROTOCOLS = ("default", "reference")
CASES = [
    (task, protocol, s)
    for task in known_tasks()
    for protocol in PROTOCOLS
    for s in declaration(task).files
]
LOOKS = [
    name for name in known_tasks() if name.endswith(("color", "color_terms", "shape", "material"))
]


def load(task: str, data: Path, protocol: str = "default") -> list[Item]:
    return declaration(task, protocol).made().load(data)


def right(question: Question) -> str:
    """What stands there when the right candidate is taken, of questions with one spelling."""
    return question.context(question.answer) + question.continuations[question.answer]


@pytest.mark.parametrize(("task", "protocol", "split"), CASES)
def test_every_task_reads_every_split(task: str, protocol: str, split: str, data: Path) -> None:
    made = declaration(task, protocol).made(split)
    items = made.load(data)
    assert made.split == split and items
    assert len({item.id for item in items}) == len(items)
    assert all((data / name).is_file() and name in SOURCES for name in made.files)
    for item in items:
        assert item.cluster and item.picture and bool(item.choices) == (made.kind != "text")
        assert len({q.contexts for q in item.questions}) == len(item.questions)
        for question in item.questions:
            assert all(question.contexts)
            if made.kind != "choice":
                rest = task == "visual_genome_captions"
                assert (question.answer, len(question.continuations)) == (-1, rest)
                assert made.max_new_tokens == {"generate": 50, "text": 0}[made.kind]
            else:
                assert 0 <= question.answer < len(item.choices)
                assert len(question.contexts) in (1, len(item.choices))
                assert len(question.continuations) % len(item.choices) == 0 and all(
                    question.continuations
                )


@pytest.mark.parametrize("task", LOOKS)
def test_no_candidate_reaches_the_picture(task: str, data: Path) -> None:
    for item in load(task, data):
        assert not set(item.choices) & set(item.picture.lower().replace(",", " ").split())


def test_grey_is_gray_and_descriptors_are_kept(data: Path) -> None:
    fog = load("memory_color", data)[1]
    assert fog.label == "gray"
    assert fog.questions[0].contexts == ("Q: What is the color of the fog? A: It is",)
    assert fog.questions[-1].contexts == ("The fog usually has the color of",)
    assert load("memory_color", data, "reference")[1].label == "grey"


@pytest.mark.parametrize("task", ["relative_size", "vicomte_size"])
def test_always_the_first_is_right_in_half_of_the_comparisons(task: str, data: Path) -> None:
    answers = [item.choices[q.answer] for item in load(task, data) for q in item.questions]
    assert answers.count("first") * 2 == len(answers)


def test_both_orders_of_a_pair_are_one_cluster(data: Path) -> None:
    larger, *_, smaller = load("vicomte_size", data)
    assert (larger.questions[0].contexts, larger.label) == (
        ("Which is larger, a barn or a needle?",),
        "first",
    )
    assert (smaller.questions[0].contexts, smaller.label) == (
        ("Which is larger, a thimble or a ladder?",),
        "second",
    )
    assert smaller.cluster == "ladder / thimble"


def test_candidates_follow_the_kind_of_answer(data: Path) -> None:
    assert [len(item.choices) for item in load("imagenetvc_others", data)] == [2, 7, 46]
    assert "10" in declaration("imagenetvc_others").read(data, "dev")[1].choices


def test_arc_has_three_to_five_answers_under_letters_or_numbers(data: Path) -> None:
    items = load("arc", data)
    assert [len(item.choices) for item in items] == [4, 3, 4, 5]
    assert [item.label for item in items] == ["ice", "steam", "light", "a moss"]
    assert items[0].questions[0].contexts == ("Question: What melts first?\nAnswer:",)


def test_equal_candidates_are_one_and_the_right_one_stays_right(data: Path, tmp_path: Path) -> None:
    row = json.loads((data / "arc/ARC-Easy-Test.jsonl").read_text().splitlines()[0])
    for choice, text in zip(
        row["question"]["choices"], ["ice", "ice", "sand", "iron"], strict=True
    ):
        choice["text"] = text
    changed(data, tmp_path, "arc/ARC-Easy-Test.jsonl", json.dumps({**row, "answerKey": "D"}))
    item = load("arc", tmp_path / "data")[0]
    assert (item.choices, item.label) == (("ice", "sand", "iron"), "iron")


def test_winogrande_scores_what_follows_either_name(data: Path) -> None:
    first, second, third = load("winogrande", data)
    start = "The pie did not fit the box because the "
    assert first.questions[0] == Question(
        (f"{start}pie", f"{start}box"), (" was too small.",) * 2, 1
    )
    assert first.cluster == second.cluster == "x" != third.cluster
    assert first.picture == start.strip()


def test_hellaswag_loses_its_brackets_unless_as_published(data: Path) -> None:
    film, guide = load("hellaswag", data)
    assert film.questions[0].contexts == ("Baking bread: A man kneads dough on a table. He",)
    assert guide.questions[0].contexts == (
        "Home: How to sharpen a knife. Wet the stone. Use water.",
    )
    assert guide.questions[0].continuations[1:] == (
        "Burn it. Run.",
        "Sell it.",
        "Draw the edge over it. Turn it.",
    )
    published = load("hellaswag", data, "reference")[1].questions[0]
    assert (
        published.contexts[0].startswith("[header] How")
        and "[title] Run" in published.continuations[1]
    )


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("piqa", "Keep a door open. Put a wedge under it."),
        ("siqa", "Ada lent Bo her umbrella. Why did Ada do this? to keep Bo dry"),
        ("hellaswag", "A man kneads dough on a table. he puts it into a tin."),
        ("winogrande", "The pie did not fit the box because the box was too small."),
        ("arc", "What melts first? ice"),
        ("openbookqa", "A seed needs water"),
        ("commonsenseqa", "Where do you keep soup? pot"),
    ],
)
def test_published_sequences_are_whole_texts(task: str, text: str, data: Path) -> None:
    made = declaration(task, "reference").made()
    assert (made.scoring, made.policy) == ("sequence", "sentences")
    assert right(made.load(data)[0].questions[0]) == text


def test_a_name_may_stand_before_a_letter(data: Path) -> None:
    published = load("winogrande", data, "reference")[2].questions[0]
    assert right(published) == "Ada thanked Bo since Bo's tools were good."


def test_boolq_is_asked_in_both_ways(data: Path) -> None:
    no, yes = load("boolq", data)
    assert (no.label, yes.label, no.cluster) == ("no", "yes", "whale")
    assert no.questions[0].contexts == (
        "Whales are mammals of the Sea.\nQuestion: is a whale a fish?\nAnswer:",
    )
    published = load("boolq", data, "reference")[0].questions[0]
    assert published.contexts == (
        "Context: Whales are mammals of the sea.. Question: Is a whale a fish? Answer:",
    )
    assert published.continuations == ("Yes", "No")


def test_squad_shows_the_answered_question_before(data: Path) -> None:
    (item,) = load("squad", data)
    text = item.questions[0].contexts[0]
    assert item.choices == ("on the Elm", "Elm") and item.picture == "Where does it stand?"
    assert "Title: Old Mill\n\nBackground: It stands on the Elm." in text
    assert text.endswith("Q: Who built the mill?\n\nA: Kay\n\nQ: Where does it stand?\n\nA:")
    assert "Who burned it" not in text
    assert "Title: Old_Mill\n" in load("squad", data, "reference")[0].questions[0].contexts[0]


def test_paragraphs_of_a_page_are_plain_text_about_its_title(data: Path) -> None:
    mill, elm = load("squad_text", data)[1:]
    assert [item.questions[0].contexts for item in (mill, elm)] == [
        ("It stands on the Elm.",),
        ("A river.",),
    ]
    assert (mill.picture, mill.cluster, elm.picture) == ("Old Mill", "old_mill", "Elm")


def test_quac_shows_the_answered_turn_before(data: Path) -> None:
    then, became = load("quac", data)
    text = then.questions[0].contexts[0]
    assert then.choices == ("She sailed north.", "sailed north") and (
        then.cluster,
        became.cluster,
    ) == (
        "c_1_0",
        "c_2_0",
    )
    assert (
        "Paragraph: Youth\n\nBackground: Born in Ely, Ada soon left it. She sailed north.\n\n"
        in text
    )
    assert text.endswith("Q: Where was she born?\n\nA: Born in Ely\n\nQ: Then?\n\nA:")
    assert "CANNOTANSWER" not in text + became.questions[0].contexts[0]


def test_published_quac_reads_the_lead_and_goes_on_across_dialogues(data: Path) -> None:
    then, rich, _ = load("quac", data, "reference")
    assert then.choices == ("She sailed north.",)
    assert "Background: Ada Kay was a miller.\n" in then.questions[0].contexts[0]
    assert "Q: Then?\n\nA: She sailed north.\n\nQ: Was she rich?" in rich.questions[0].contexts[0]


def test_demonstrations_come_from_their_own_split(data: Path) -> None:
    task = declaration("imagenetvc_color").made()
    taught = task.load(data)[0].taught(task.demonstrations(data))
    assert taught is not None
    assert (
        taught.questions[1]
        .contexts[0]
        .endswith("What color is chalk? Answer: white. What color is a brick? Answer:")
    )


def changed(data: Path, tmp_path: Path, file: str, text: str | bytes | None) -> Path:
    """Copy the data folder and give one file another content, or none."""
    path = Path(shutil.copytree(data, tmp_path / "data")) / file
    if text is None:
        path.unlink()
    else:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


MEMORY, LABELS = "valm/memory_color_data.csv", "piqa/dev-labels.lst"
HEADER = "Index,Descriptor,Item,Shape\n"
SOUP = '{"question": {"stem": "Soup is", "choices": [{"text": "hot", "label": "A"}]}, "answerKey": "A"}\n'
BROKEN = [
    ("memory_color", MEMORY, None, r"no file .*; pass --data"),
    (
        "memory_color",
        MEMORY,
        "Index,Descriptor,Item,Hue\n1,a,brick,red\n",
        r"has no column Shape; expected Descriptor",
    ),
    (
        "memory_color",
        MEMORY,
        HEADER + "1,a,brick,red\n2,,tar,blakc\n",
        r"line 3: label 'blakc'; expected one of .*correct",
    ),
    ("memory_color", MEMORY, HEADER, r"has no rows; fetch"),
    ("memory_color", MEMORY, "", r"is empty; expected a first line of column names; fetch"),
    (
        "memory_color",
        MEMORY,
        HEADER.encode() + b"1,a,caf\xe9,red\n",
        r"line 2: not UTF-8 \(byte 0xe9\); save",
    ),
    (
        "memory_color",
        MEMORY,
        HEADER + "1,a,brick,red\n1,a,brick,red\n",
        r"line 3, repeats .*, line 2; remove",
    ),
    (
        "memory_color",
        MEMORY,
        HEADER + "1,a,,red\n",
        r"line 2 says nothing that could be imagined; .*correct",
    ),
    (
        "memory_color",
        MEMORY,
        HEADER + "1,a,brick\n",
        r"line 2: wrong number of fields \(got 3, expected 4\); correct",
    ),
    (
        "memory_color",
        MEMORY,
        HEADER + "1,a,brick,red,dry\n",
        r"line 2: wrong number of fields \(got 5, expected 4\); correct",
    ),
    ("memory_color", MEMORY, HEADER + '1,a,"brick,red\n', r"line 2: not CSV \(.*\); correct"),
    (
        "openbookqa",
        "openbookqa/test.jsonl",
        SOUP + '{"question": {}}\n',
        r"line 2 has no column answerKey; expected",
    ),
    ("openbookqa", "openbookqa/test.jsonl", SOUP + SOUP[:30], r"line 2: not JSON \(.*\); correct"),
    (
        "openbookqa",
        "openbookqa/test.jsonl",
        SOUP + "[1]\n",
        r"line 2: not a JSON object \(got a list\); correct",
    ),
    (
        "openbookqa",
        "openbookqa/test.jsonl",
        SOUP.replace('rKey": "A', 'rKey": "F'),
        r"line 1: label 'F'; expected one of hot",
    ),
    (
        "openbookqa",
        "openbookqa/test.jsonl",
        SOUP.replace("stem", "stalk"),
        r"line 1 does not fit the task: .*stem.*; correct",
    ),
    (
        "boolq",
        "boolq/dev.jsonl",
        '{"question": "?", "passage": "", "answer": "so"}',
        r"line 1: label 'so'; expected one of yes, no",
    ),
    ("piqa", LABELS, "0\n7\n", r"dev.jsonl, line 2: label '7'; expected one of Hang"),
    ("piqa", LABELS, "0\n1\n1\n", r"has 3 labels for 2 rows; fetch"),
    ("piqa", LABELS, None, r"has 0 labels for 2 rows; fetch"),
    ("piqa", LABELS, b"0\n\xff\n", r"line 2: not UTF-8 .*; save"),
    ("squad", "squad/dev-v2.0.json", '{"data": [', r"dev-v2.0.json is not JSON \(.*\); correct"),
    (
        "squad",
        "squad/dev-v2.0.json",
        '{"data": [{"title": "Elm"}]}',
        r"has no list 'paragraphs' of objects in .*; fetch",
    ),
    (
        "squad",
        "squad/dev-v2.0.json",
        '{"data": ["Elm"]}',
        r"has no list 'data' of objects in .*; fetch",
    ),
    ("squad", "squad/dev-v2.0.json", '{"data": []}', r"has no rows; fetch"),
]


@pytest.mark.parametrize(
    ("task", "file", "text", "message"), BROKEN, ids=[str(i) for i in range(len(BROKEN))]
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(
    task: str, file: str, text: str | bytes | None, message: str, data: Path, tmp_path: Path
) -> None:
    path = changed(data, tmp_path, file, text)
    with pytest.raises(VLMIGError, match=message) as raised:
        load(task, tmp_path / "data")
    assert "\n" not in str(raised.value)
    assert str(path if "line 2: label '7'" not in message else path.parent) in str(raised.value)


def flat(row: Row) -> Row:
    """A question as the hub has it."""
    inner = row["question"]
    choices = {name: [one[name] for one in inner["choices"]] for name in ("text", "label")}
    return {"question": inner["stem"], "choices": choices, "answerKey": row["answerKey"]}


def superglue(row: Row) -> Row:
    return {name: row[name] for name in ("question", "passage", "title")} | {"label": row["answer"]}


OTHER_FORMS = {
    "arc": ("arc/ARC-Easy-Test.jsonl", flat),
    "commonsenseqa": ("commonsenseqa/dev_rand_split.jsonl", flat),
    "openbookqa": (
        "openbookqa/test.jsonl",
        lambda row: {("question_stem" if k == "question" else k): v for k, v in flat(row).items()},
    ),
    "boolq": ("boolq/dev.jsonl", superglue),
    "boolq in numbers": (
        "boolq/dev.jsonl",
        lambda row: superglue(row) | {"label": int(row["answer"])},
    ),
}


@pytest.mark.parametrize("form", OTHER_FORMS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_other_publications_give_the_same_items(
    form: str, protocol: str, data: Path, tmp_path: Path
) -> None:
    file, change = OTHER_FORMS[form]
    rows = [json.loads(line) for line in (data / file).read_text().splitlines()]
    changed(data, tmp_path, file, "".join(json.dumps(change(row)) + "\n" for row in rows))
    task = form.split()[0]
    assert load(task, tmp_path / "data", protocol) == load(task, data, protocol)


def test_other_names_of_columns_and_files(data: Path, tmp_path: Path) -> None:
    path = changed(data, tmp_path, MEMORY, (data / MEMORY).read_text().replace("Shape", "Color"))
    assert load("memory_color", tmp_path / "data") == load("memory_color", data)
    (tmp_path / "data/ViComTe").mkdir()
    for relation, name in (
        ("color", "color"),
        ("size_larger", "larger"),
        ("size_smaller", "smaller"),
    ):
        where = tmp_path / f"data/vicomte/{relation}/train.jsonl"
        where.rename(tmp_path / f"data/ViComTe/{name}.jsonl")
    for task in ("vicomte_color", "vicomte_size"):
        made = declaration(task).made("train")
        assert made.load(path.parents[1]) == declaration(task).made("train").load(data)
        assert declaration(task).made().demonstrations(path.parents[1])


@pytest.mark.parametrize("form", ["lines", "list"])
def test_rows_named_json(tmp_path: Path, form: str) -> None:
    rows = [{"obj": "mug", "label": "blue"}, {"obj": "bench", "label": "green"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "own.json").write_text(lines if form == "lines" else json.dumps(rows))
    fields = {"task": "own", "files": {"test": "own.json"}, "columns": ["obj", "label"]}
    texts = {"prompts": ["{{ obj }}"], "subject": "{{ obj }}", "picture": "{{ obj }}"}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({**fields, **texts, "answer": "label"}))
    items = read_declaration(tmp_path / "own.yaml").made().load(tmp_path)
    assert [(item.picture, item.label) for item in items] == [("mug", "blue"), ("bench", "green")]


def test_a_line_ends_at_its_line_feed_only(data: Path, tmp_path: Path) -> None:
    changed(
        data,
        tmp_path,
        "openbookqa/test.jsonl",
        SOUP.replace("Soup is", "Soup\u2028 is").replace("\n", "\r\n"),
    )
    assert load("openbookqa", tmp_path / "data")[0].label == "hot"


def test_what_is_wrong_with_a_declaration_is_said_in_one_line(tmp_path: Path) -> None:
    fields: dict[str, object] = {
        "task": "own",
        "files": {"test": "own.csv"},
        "columns": [],
        "prompts": ["{{ a"],
        "subject": "x",
    }
    (tmp_path / "own.csv").write_text("a\nb\n")
    changes: list[tuple[dict[str, object], str]] = [
        ({}, "is missing 'picture' .given: columns.*docs/evaluation.md"),
        ({"picture": "x"}, "has an answer and sides, or neither; expected one"),
        ({"picture": "x", "answer": "a", "size": 1}, "has no field 'size'"),
        ({"picture": "x", "answer": "a"}, "line 2 does not fit the task: "),
        ({"picture": "x", "answer": "b"}, "line 2 does not fit the task: 'b' is undefined"),
    ]
    for change, message in changes:
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(fields | change))
        with pytest.raises(VLMIGError, match=message) as raised:
            read_declaration(tmp_path / "own.yaml").made().load(tmp_path)
        assert "\n" not in str(raised.value)


OWN = {
    "task": "own",
    "files": {"test": "own.csv"},
    "columns": ["a"],
    "prompts": ["{{ a }}"],
    "subject": "x",
    "picture": "x",
    "choices": ["b", "c"],
    "answer": "a",
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *[({"task": name}, "is named ") for name in ("../x", "/tmp/x", "a/b", "", "x" * 300)],
        ({"task": None}, "task"),
        ({"task": ["own"]}, "task"),
        ({"prompts": []}, "has an empty prompt, or none"),
        ({"prompts": [""]}, "has an empty prompt, or none"),
        ({"columns": ["a", "a"]}, "names a column twice"),
        ({"shots": -1}, "has shots -1; expected 0 or more"),
        ({"scoring": "best"}, "scoring"),
        ({"policy": "all"}, "policy"),
        ({"weights": "heavy"}, "weights"),
        ({"files": ["own.csv"]}, "files"),
        ({"prompts": ["{{ 'x' * 10 ** 9 }}"]}, "may make more than"),
        ({"prompts": ["{{ 'x' * 1000000000 }}"]}, "may make more than"),
        ({"prompts": ["{{ '%1000000000d' % 1 }}"]}, "a format with a field of more than 999"),
        *[
            ({"prompts": [f"{{{{ {grown} }}}}"]}, "as an argument; at most 999")
            for grown in (
                "'x' | center(1000000000)",
                "'x' | indent(1000000000)",
                "'x'.ljust(1000000000)",
                "'x'.zfill(1000000000)",
                "'\\t'.expandtabs(1000000000)",
            )
        ],
        ({"prompts": ["{{ ('x' * 99999) | replace('x', 'y' * 99999) }}"]}, "a call may make more"),
        ({"prompts": ["{{ ('x' * 9999).replace('x', 'y' * 999) }}"]}, "characters of text"),
        ({"prompts": ["{{ lipsum(n=1000000) }}"]}, "'lipsum' is undefined"),
        ({"prompts": ["{% for i in range(99999) %}x{% endfor %}"]}, "'range' is undefined"),
        ({"prompts": ["{% for i in 'x' * 999999 %}xx{% endfor %}"]}, "characters of text"),
        ({"prompts": ["{{ 1 / 0 }}"]}, "division by zero"),
        ({"where": "nowhere"}, "'nowhere' is undefined"),
        ({"answer": "nothing"}, "'nothing' is undefined"),
        ({"prompts": ["{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"]}, "recursion"),
    ],
)
def test_a_task_file_from_anyone_is_bounded(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    """Names of files come from the task's name, and templates are programs."""
    (tmp_path / "own.csv").write_text("a\nb\n")
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(OWN))
    assert len(read_declaration(tmp_path / "own.yaml").made().load(tmp_path)) == 1
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(OWN | change))
    with pytest.raises(VLMIGError, match=message) as raised:
        read_declaration(tmp_path / "own.yaml").made().load(tmp_path)
    assert "\n" not in str(raised.value)
