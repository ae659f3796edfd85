"""Benchmark files of our own making: the public formats, a few invented rows each."""

from __future__ import annotations

import json
from typing import Any

from vlmig.data.sources.visual_genome import held_out


def table(header: str, *rows: str) -> str:
    """CSV."""
    return "\n".join([header, *rows, ""])


def json_lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def pairs(*rows: str) -> str:
    """ViComTe: a thing, its look (or a thing to compare with), another look."""
    return json_lines(*(dict(zip(("sub", "obj", "alt"), row.split(), strict=True)) for row in rows))


def stem(stem: str, key: str, labels: str, *texts: str, **others: Any) -> dict[str, Any]:
    """A question of ARC, OpenBookQA or CommonsenseQA; others belong beside its stem."""
    choices = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    return {"id": stem, "question": {**others, "stem": stem, "choices": choices}, "answerKey": key}


def asked(id: str, question: str, *answers: str) -> dict[str, Any]:
    """A question of SQuAD or QuAC; one without answers is unanswerable."""
    given = [{"text": text, "answer_start": 0} for text in answers]
    return {"id": id, "question": question, "answers": given, "is_impossible": not answers}


def turn(id: str, question: str, *answers: str) -> dict[str, Any]:
    """A turn of a QuAC dialogue; the first answer is the teacher's."""
    row = asked(id, question, *answers)
    return {**row, "orig_answer": row["answers"][0], "yesno": "x", "followup": "y"}


def compared(one: str, two: str, *rows: tuple[str, str, int]) -> str:
    """Pairs of things, each in both orders, and whether the first is more."""
    both = [
        (a, b, label) for a, b, more in rows for a, b, label in ((a, b, more), (b, a, 1 - more))
    ]
    return json_lines(*({one: a, two: b, "label": label} for a, b, label in both))


def singular(one: str | None, many: str) -> dict[str, Any]:
    """The forms of an object's name."""
    return {"object_s": one, "areis_s": "is", "object_pl": many, "areis_pl": "are"}


def told(thing: str, person: int, **counts: int) -> dict[str, Any]:
    """What one person says of a thing's colors; nothing where it was skipped."""
    return {"class_id": thing, "worker_id": person, "included": bool(counts), **counts}


GENOME = [number for number in range(1000) if held_out(number)][:3]
"""Images of the task visual_genome_captions."""


def region(number: int, phrase: str, x: int = 0) -> dict[str, Any]:
    """A region of an image of 40 by 30 pixels."""
    return {"region_id": number, "x": x, "y": 2, "width": 20, "height": 20, "phrase": phrase}


def seen(kind: str, values: str, **nouns: str) -> dict[str, Any]:
    """What images say of nouns, as vlmig data attributes writes it."""
    rows = []
    for noun, said in nouns.items():
        counts = {value: said.split().count(value) for value in said.split()}
        rows.append({"noun": noun, "images": len(said.split()), "counts": counts})
    return {"kind": kind, "candidates": values.split(), "nouns": rows}


VC = "category,question,answer"
SIZES = "Descriptor1,Item1,Descriptor2,Item2,Label"
FILES = {
    "valm/memory_color_data.csv": table(
        "Index,Descriptor,Item,Shape", "1,a,brick,red", "2,the,fog,grey", "3,,tar,black"
    ),
    "valm/color-concrete-objects.csv": table("object,color", "brick,red", "ink,blue"),
    "valm/shape.csv": table(
        "Index,Descriptor,Item,Shape", "1,,ball,round", "2,,plate,round", "3,,sail,triangle"
    ),
    "valm/size.csv": table(SIZES, "a,barn,a,needle,yes", "the,harbour,an,oar,yes"),
    "imagenetvc/color.csv": table(
        VC,
        "brick,What color is a brick?,red",
        "brick,What color is its edge?,gray",
        "tar,What color is tar?,black",
    ),
    "imagenetvc/shape.csv": table(
        VC, "ball,What is the shape of a ball?,round", "sail,What shape is a sail?,triangle"
    ),
    "imagenetvc/material.csv": table(
        VC, "oar,What is an oar made of?,wood", "kettle,What is a kettle made of?,metal"
    ),
    "imagenetvc/component.csv": table(
        VC, "kettle,Has it a spout?,yes", "oar,Has it a wheel?,no", "kettle,Has it a spout?,yes"
    ),
    "imagenetvc/others.csv": table(
        VC,
        "kettle,Is it hot?,yes",
        "stool,How many legs has a stool?,3",
        '"heron, grey",Where does a heron stand?,water',
    ),
    "imagenetvc/dev/color.csv": table(
        VC, "coal,What color is coal?,black", "chalk,What color is chalk?,white"
    ),
    "imagenetvc/dev/shape.csv": table(VC, "coin,What shape is a coin?,round"),
    "imagenetvc/dev/material.csv": table(VC, "mitten,What is a mitten made of?,fabric"),
    "imagenetvc/dev/component.csv": table(VC, "cart,Has it a wheel?,Yes"),
    "imagenetvc/dev/others_yes.csv": table(VC, "cart,Is it wild?,no"),
    "imagenetvc/dev/others_number.csv": table(VC, "crab,How many legs has a crab?,10"),
    "imagenetvc/dev/others_other.csv": table(VC, "heron,Is its neck long or short?,long"),
    "vicomte/color/test.jsonl": pairs("brick red blue", "tar black pink"),
    "vicomte/color/train.jsonl": pairs("coal black red", "chalk white blue", "plum purple gray"),
    "vicomte/material/test.jsonl": pairs("oar wood jade", "kettle metal denim"),
    "vicomte/material/train.jsonl": pairs("mitten cotton tin"),
    "vicomte/shape/test.jsonl": pairs("ball round star", "sail triangle heart"),
    "vicomte/shape/train.jsonl": pairs("coin round oval"),
    "vicomte/size_larger/test.jsonl": pairs("barn needle cloud", "harbour oar moon"),
    "vicomte/size_larger/train.jsonl": pairs("cart crab hill"),
    "vicomte/size_smaller/test.jsonl": pairs("thimble ladder seed"),
    "vicomte/size_smaller/train.jsonl": pairs("crumb loaf grain"),
    "spatial/size.json": compared(
        "obj_a", "obj_b", ("barn", "needle", 1), ("needle", "oar", 0), ("thimble", "harbour", 0)
    ),
    "spatial/posrel.json": json_lines(
        {"text": "A man rows the boat. ", "label": 0, "obj_a": "man", "obj_b": "boat"},
        {"text": "A girl mends the boat. ", "label": 3, "obj_a": "girl", "obj_b": "boat"},
        {"text": "A boy climbs the oak. ", "label": 1, "obj_a": "boy", "obj_b": "oak"},
    ),
    "vec/mass.json": compared("obj1", "obj2", ("anvil", "feather", 1), ("feather", "oar ", 0)),
    "vec/temperature.json": compared("obj1", "obj2", ("fog", "lava", 0), ("lava", "milk", 1)),
    "visual_genome/attribute_shares.json": json.dumps(
        {
            "kinds": [
                seen("color", "red blue gray", brick="red red gray", oar="gray"),
                seen("shape", "round square star", coin="round round", brick="square"),
                seen("size", "small large", barn="large", coin="small small large"),
                seen("material", "wood metal stone", oar="wood", kettle="metal stone"),
            ]
        }
    ),
    "visual_genome/region_descriptions.json": json.dumps(
        [
            {"id": 1, "regions": [region(1, "not of this split")]},
            {
                "id": GENOME[0],
                "regions": [region(2, "a red ball on grass"), region(3, "tall tree", 9)],
            },
            {"id": GENOME[1], "regions": [region(4, "kite"), region(5, " the blue   kite ", 30)]},
            {"id": GENOME[2], "regions": [region(6, "a man rows a boat")]},
        ]
    ),
    "coda/objects.jsonl": json_lines(
        {"class_id": "/m/1", **singular("brick", "bricks")},
        {"class_id": "/m/2", **singular("kite", "kites")},
        {"class_id": "/m/3", **singular("tar", "tar") | {"areis_pl": "is"}},
        {"class_id": "/m/4", **singular(None, "gloves") | {"areis_s": None}},
    ),
    "coda/annotations.jsonl": json_lines(
        told("/m/1", 0, red=4, brown=1, black=0),
        told("/m/1", 1, red=1, brown=0, black=0),
        told("/m/1", 2),
        told("/m/2", 0, red=1, blue=1, green=1, yellow=1),
        told("/m/2", 1, red=2, blue=1, white=1),
        told("/m/3", 0, black=5),
        told("/m/4", 0, black=2, brown=2),
        told("/m/4", 1, black=1, brown=1, white=1),
        told("/m/5", 0, pink=1),
    ),
    "piqa/dev.jsonl": json_lines(
        {
            "id": "a",
            "goal": "Keep a door open.",
            "sol1": "Put a wedge under it.",
            "sol2": "Put a cloud under it.",
        },
        {
            "id": "b",
            "goal": "Dry a wet coat.",
            "sol1": "Hang it in the rain.",
            "sol2": "Hang it near the stove.",
        },
    ),
    "piqa/dev-labels.lst": "0\n1\n",
    "siqa/dev.jsonl": json_lines(
        {
            "context": "Ada lent Bo her umbrella.",
            "question": "Why did Ada do this?",
            "answerA": "to see a film",
            "answerB": "to keep Bo dry",
            "answerC": "to sell it",
        },
        {
            "context": "Ada lent Bo her umbrella.",
            "question": "How does Bo feel?",
            "answerA": "wet",
            "answerB": "angry",
            "answerC": "grateful",
        },
    ),
    "siqa/dev-labels.lst": "2\n3\n",
    "hellaswag/hellaswag_val.jsonl": json_lines(
        {
            "ind": 1,
            "activity_label": "Baking bread",
            "ctx_a": "A man kneads dough on a table.",
            "ctx_b": "he",
            "ctx": "A man kneads dough on a table. he",
            "endings": [
                "paints the dough.",
                "puts it into a tin.",
                ", a dog flies off.",
                "sings it a law.",
            ],
            "label": 1,
            "source_id": "film~1",
        },
        {
            "ind": 2,
            "activity_label": "Home",
            "ctx_a": "[header] How to sharpen a knife [title] Wet the stone. [step] Use water.",
            "ctx_b": "",
            "ctx": "[header] How to sharpen a knife [title] Wet the stone. [step] Use water.",
            "endings": [
                "Eat it.",
                "Burn it [title] Run.",
                "Sell it.",
                "Draw the edge over it. [substeps] Turn it.",
            ],
            "label": 3,
            "source_id": "guide~1",
        },
    ),
    "winogrande/dev.jsonl": json_lines(
        {
            "qID": "X-1",
            "sentence": "The pie did not fit the box because the _ was too small.",
            "option1": "pie",
            "option2": "box",
            "answer": "2",
        },
        {
            "qID": "X-2",
            "sentence": "The pie did not fit the box because the _ was too big.",
            "option1": "pie",
            "option2": "box",
            "answer": "1",
        },
        {
            "qID": "Y-1",
            "sentence": "Ada thanked Bo since _'s tools were good.",
            "option1": "Ada",
            "option2": "Bo",
            "answer": "2",
        },
    ),
    "arc/ARC-Easy-Test.jsonl": json_lines(
        stem("What melts first?", "B", "ABCD", "iron", "ice", "sand", "glass"),
        stem("Which is a gas?", "C", "ABC", "salt", "milk", "steam"),
    ),
    "arc/ARC-Challenge-Test.jsonl": json_lines(
        stem("Which moves fastest?", "1", "1234", "light", "sound", "a car", "a snail"),
        stem("Which is alive?", "E", "ABCDE", "a rock", "a cloud", "a flame", "a river", "a moss"),
    ),
    "openbookqa/test.jsonl": json_lines(
        stem("A seed needs", "D", "ABCD", "noise", "paint", "salt", "water"),
        stem("What gives shade?", "A", "ABCD", "a tree", "a song", "a lamp", "a smell"),
    ),
    "commonsenseqa/dev_rand_split.jsonl": json_lines(
        stem(
            "Where do you keep soup?",
            "C",
            "ABCDE",
            "sock",
            "roof",
            "pot",
            "book",
            "moon",
            question_concept="soup",
        ),
        stem(
            "What cuts paper?",
            "A",
            "ABCDE",
            "scissors",
            "wool",
            "tea",
            "fog",
            "song",
            question_concept="paper",
        ),
    ),
    "boolq/dev.jsonl": json_lines(
        {
            "question": "is a whale a fish",
            "title": "Whale",
            "answer": False,
            "passage": "Whales are mammals of the Sea.",
        },
        {
            "question": "can a whale sing",
            "title": "Whale",
            "answer": True,
            "passage": "Some Whales sing.",
        },
    ),
    "squad/dev-v2.0.json": json.dumps(
        {
            "version": "v2.0",
            "data": [
                {
                    "title": "Old_Mill",
                    "paragraphs": [
                        {
                            "context": "Kay built the mill in 1801.",
                            "qas": [
                                asked("1", "Who built the mill?", "Kay", "Kay"),
                                asked("2", "Who burned it?"),
                            ],
                        },
                        {
                            "context": "It stands on the Elm.",
                            "qas": [asked("3", "Where does it stand?", "on the Elm", "Elm")],
                        },
                    ],
                },
                {
                    "title": "Elm",
                    "paragraphs": [
                        {"context": "A river.", "qas": [asked("4", "What is it?", "A river")]}
                    ],
                },
            ],
        }
    ),
    "quac/val_v0.2.json": json.dumps(
        {
            "data": [
                {
                    "title": "Ada Kay",
                    "section_title": "Youth",
                    "background": "Ada Kay was a miller.",
                    "paragraphs": [
                        {
                            "id": "C_1_0",
                            "context": "Born in Ely, Ada soon left it. She sailed north. "
                            "CANNOTANSWER",
                            "qas": [
                                turn("C_1_0_q#0", "Where was she born?", "Born in Ely", "in Ely"),
                                turn("C_1_0_q#1", "Who was her aunt?", "CANNOTANSWER"),
                                turn(
                                    "C_1_0_q#2",
                                    "Then?",
                                    "She sailed north.",
                                    "sailed north",
                                    "CANNOTANSWER",
                                ),
                            ],
                        }
                    ],
                },
                {
                    "title": "Ada Kay",
                    "section_title": "Mill",
                    "background": "Ada Kay was a miller.",
                    "paragraphs": [
                        {
                            "id": "C_2_0",
                            "context": "The mill made her rich. It burned in 1850. CANNOTANSWER",
                            "qas": [
                                turn("C_2_0_q#0", "Was she rich?", "The mill made her rich."),
                                turn("C_2_0_q#1", "What became of it?", "It burned in 1850."),
                            ],
                        }
                    ],
                },
            ]
        }
    ),
}
"""Path below the data folder -> text."""
