"""Training data of a pocket model with early fusion: conversations about scenes, documents, texts.

As everywhere in the pocket world, texts state the color or shape of supervised concepts only, as
computed from the pixels.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from PIL import Image

from vlmig.data.pairs import Pair, Source
from vlmig.io.hashing import digest_folder
from vlmig.io.rows import Bad
from vlmig.models.config import IMAGE
from vlmig.pocket.concepts import Concept
from vlmig.pocket.scene_source import RecoloredScenes, any_noun
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
        version = digest_folder(self.vae)
        for i, concept in enumerate(self.concepts):
            for j in range(self.scenes):
                color = self._colored(i, j)[1]
                rng = random.Random(f"conversation {i} {j}")
                text, learnt = render(self._turns(concept, color, rng), "question")
                yield Pair(
                    text,
                    f"{i}/{j}",
                    group=f"{i}/{j}",
                    version=f"{version} {concept.name}",
                    learnt=learnt,
                )

    @staticmethod
    def _turns(concept: Concept, color: str, rng: random.Random) -> list[Turn]:
        possible: list[tuple[str, str]] = [("What is this?", concept.name)]
        looks: dict[Label, str] = {"color": color, "shape": str(concept.shape)}
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
        version = digest_folder(self.vae)
        for number in range(self.documents):
            rng = random.Random(f"document {number}")
            shown = [
                (rng.randrange(len(self.concepts)), rng.randrange(self.scenes))
                for _ in range(rng.randint(2, 4))
            ]
            parts = []
            for i, j in shown:
                concept, color = self.concepts[i], self._colored(i, j)[1]
                if rng.random() < 0.3:
                    parts.append(plain_sentence(concept.names, rng))
                parts.append(IMAGE + look_sentence(any_noun(concept, rng), "color", color, rng))
            first, *more = [f"{i}/{j}" for i, j in shown]
            versions = "\n".join(f"{version} {self.concepts[i].name}" for i, _ in shown)
            yield Pair(
                " ".join(parts),
                first,
                group=f"document {number}",
                version=versions,
                more=tuple(more),
            )


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
    "pocket_conversations": SceneConversations,
    "pocket_documents": SceneDocuments,
    "pocket_sentences": Sentences,
}
"""Data sources for ``vlmig train``."""
