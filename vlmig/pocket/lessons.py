"""Training data of other models than the pocket one: answers for a pretrained LM; conversations
about scenes, documents and texts for early fusion.

As everywhere in the pocket world, texts state the color or shape of supervised concepts only, as
computed from the pixels.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from PIL import Image

from vlmig.data.pairs import Pair, Source
from vlmig.io.rows import Bad
from vlmig.models.checkpoint import POCKET
from vlmig.models.config import IMAGE
from vlmig.pocket.concepts import Concept
from vlmig.pocket.scene_source import CAPTIONS, SCENES, Drawn, RecoloredScenes, any_noun, draw_glyph
from vlmig.pocket.size_lessons import ComparedScenes
from vlmig.pocket.text import (
    CORPUS_SEED,
    Label,
    language_corpus,
    look_question,
    look_sentence,
    plain_sentence,
)
from vlmig.processing.chat_templates import Turn, render
from vlmig.vision.files import BadImage

SLOTS: dict[Label, str] = {"color": "[color]", "shape": "[shape]"}
"""What stands for the color or shape in a wording."""
PLAIN, SHAPES, CHATS = 0.1, 0.25, 0.1
"""Shares: of plain texts among wordings, of shapes and of chats among the others."""
CHAT_ANSWERS = ("{v}", "{v}.", "It is {v}.", "{D} is {v}.", "The {label} of {d} is {v}.")


class SceneConversations(RecoloredScenes):
    """One to three questions and answers about a scene of ``RecoloredScenes``: its name, color and
    shape.

    The image is before or after the first question at random, as in LLaVA.
    """

    def __len__(self) -> int:
        """Return the number of pairs."""
        return self.scenes * len(self.concepts)

    def pairs(self) -> Iterator[Pair | Bad]:
        """Yield a conversation for each scene."""
        version = self.version
        for i, concept in enumerate(self.concepts):
            for j in range(self.scenes):
                drawn, _ = self.drawn(i, j)
                rng = random.Random(f"conversation {i} {j}")
                text, learnt = render(self._turns(concept, drawn, rng), "question")
                yield Pair(
                    text,
                    f"{i}/{j}",
                    group=f"{i}/{j}",
                    version=f"{version} {concept.name}",
                    learnt=learnt,
                )

    @staticmethod
    def _turns(concept: Concept, drawn: Drawn, rng: random.Random) -> list[Turn]:
        possible: list[tuple[str, str]] = [("What is this?", concept.name)]
        looks: dict[Label, str] = {"color": drawn.color, "shape": drawn.shape}
        for label, value in looks.items():
            possible.append((look_question(any_noun(concept, rng), label, rng), value))
        chosen = rng.sample(possible, rng.randint(1, 3))
        marked = [f"{IMAGE}\n{chosen[0][0]}", f"{chosen[0][0]}\n{IMAGE}"][rng.random() < 0.5]
        turns = []
        for i, (question, answer) in enumerate(chosen):
            turns += [Turn("user", question if i else marked), Turn("assistant", answer)]
        return turns


class SceneDocuments(RecoloredScenes):
    """Documents of two to four scenes, each before the sentence about it (as in MMC4).

    Args:
        scenes: number of scenes of each concept, see ``RecoloredScenes``.
        documents: number of documents.
    """

    def __init__(self, scenes: int = 200, documents: int = 8000) -> None:
        super().__init__(scenes)
        self.documents = documents

    def __len__(self) -> int:
        """Return the number of pairs."""
        return self.documents

    def pairs(self) -> Iterator[Pair | Bad]:
        """Yield every document."""
        version = self.version
        for number in range(self.documents):
            rng = random.Random(f"document {number}")
            chosen = []
            for _ in range(rng.randint(2, 4)):
                chosen.append((rng.randrange(len(self.concepts)), rng.randrange(self.scenes)))
            sentences = []
            for i, j in chosen:
                concept, color = self.concepts[i], self.drawn(i, j)[0].color
                if rng.random() < 0.3:
                    sentences.append(plain_sentence(concept.names, rng))
                sentences.append(IMAGE + look_sentence(any_noun(concept, rng), "color", color, rng))
            first, *more = [f"{i}/{j}" for i, j in chosen]
            versions = "\n".join(f"{version} {self.concepts[i].name}" for i, _ in chosen)
            yield Pair(
                " ".join(sentences),
                first,
                group=f"document {number}",
                version=versions,
                more=tuple(more),
            )


class SceneAnswers(RecoloredScenes):
    """Texts about scenes for a pretrained LM: the color or shape of each, as a statement, as an
    answer and in a chat; one in ten is plain.

    Of those only the color or shape is learned, so that the LM reads a wording once for all of
    them. A plain text is learned whole: beside it an image must change nothing.

    Args:
        scenes: number of scenes of each concept, see ``RecoloredScenes``.
        wordings: number of texts of each concept, without their colors and shapes.
        template: of chats, see ``vlmig.processing.chat_templates``.
        tokenizer: for the template of that name.
        generator: see ``RecoloredScenes``, and ``sets`` too.
    """

    def __init__(
        self,
        scenes: int = SCENES,
        wordings: int = 40,
        template: str = "question",
        tokenizer: Any = None,
        generator: str = str(POCKET / "generator"),
        *,
        sets: Sequence[Callable[[Concept], Image.Image]] = (draw_glyph,),
    ) -> None:
        super().__init__(scenes, generator, sets=sets)
        self.wordings, self.template, self.tokenizer = wordings, template, tokenizer

    def pairs(self) -> Iterator[Pair | Bad]:
        """Yield six texts of each scene."""
        version = self.version
        for i, concept in enumerate(self.concepts):
            wordings = self.written(i)
            for j in range(self.scenes):
                drawn, rng = self.drawn(i, j)[0], random.Random(f"answers {i} {j}")
                for wording in rng.choices(wordings, k=CAPTIONS):
                    text, learnt = _fill(wording, drawn)
                    yield Pair(
                        text,
                        f"{i}/{j}",
                        group=f"{i}/{j}",
                        version=f"{version} {concept.name}",
                        learnt=learnt,
                    )

    def written(self, number: int) -> list[str]:
        """Write all texts of a concept, with one of ``SLOTS`` for the color or shape; plain ones
        without it."""
        rngs = [random.Random(f"wording {number} {n}") for n in range(self.wordings)]
        return [self._wording(self.concepts[number], rng) for rng in rngs]

    def _wording(self, concept: Concept, rng: random.Random) -> str:
        if rng.random() < PLAIN:
            return plain_sentence(concept.names, rng)
        noun = any_noun(concept, rng)
        label: Label = "shape" if rng.random() < SHAPES else "color"
        if rng.random() >= CHATS:
            return look_sentence(noun, label, SLOTS[label], rng)
        question = Turn("user", look_question(noun, label, rng))
        said = rng.choice(CHAT_ANSWERS).format(
            d=f"the {noun}", D=f"The {noun}", v=SLOTS[label], label=label
        )
        return render([question, Turn("assistant", said)], self.template, self.tokenizer)[0]


def _fill(wording: str, drawn: Drawn) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Put what a scene shows into a wording, and return where it stands; of a plain one nothing."""
    for label, slot in SLOTS.items():
        before, match, after = wording.partition(slot)
        if match:
            said: str = getattr(drawn, label)
            if before.endswith("\n") and after.startswith("."):
                said = said.capitalize()
            return before + said + after, ((len(before), len(before) + len(said)),)
    return wording, ()


class Sentences:
    """The language model's training texts, which early fusion would forget.

    Args:
        sentences: number of sentences.
    """

    def __init__(self, sentences: int = 20_000) -> None:
        self.name, self.sentences = "pocket_sentences", sentences

    def __len__(self) -> int:
        """Return the number of pairs."""
        return self.sentences

    def pairs(self) -> Iterator[Pair | Bad]:
        """Yield every sentence."""
        for text in language_corpus(CORPUS_SEED, self.sentences):
            yield Pair(text)

    def open(self, pair: Pair) -> Image.Image:
        """Raise an error: there are no images.

        Raises:
            BadImage: always.
        """
        raise BadImage("no such image")


SOURCES: dict[str, Callable[..., Source]] = {
    "pocket": RecoloredScenes,
    "pocket_answers": SceneAnswers,
    "pocket_conversations": SceneConversations,
    "pocket_documents": SceneDocuments,
    "pocket_sentences": Sentences,
    "pocket_sizes": ComparedScenes,
}
"""Data sources for ``vlmig train``."""
