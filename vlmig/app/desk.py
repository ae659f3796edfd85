"""What the page asks for: models, answers image by image, other mixtures, exports."""

from __future__ import annotations

import base64
import io
import secrets
from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vlmig.app.worker import Emit, Worker
from vlmig.errors import VLMIGError
from vlmig.evaluation.run_folder import Row

if TYPE_CHECKING:
    from PIL import Image

    from vlmig.models.mixture import Mixture
    from vlmig.predict.answer import Answer
    from vlmig.predict.predictions import Predictions

KEPT = 64
"""Questions whose predictions are kept, the latest ones."""
MOST_IMAGES = 12
MIXTURE = ("mix", "weights", "strength", "doubt")
"""The fields of a checkpoint's mixture that the page changes."""


class Form(BaseModel):
    """Fields of a request; others are refused."""

    model_config = ConfigDict(extra="forbid")

    @classmethod
    def of(cls, fields: Any) -> Any:
        """Check fields.

        Raises:
            VLMIGError: one is missing, unknown, or not what it should be.
        """
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"])) or "the request"
            raise VLMIGError(f"{name}: {first['msg'].lower()}; correct it on the page") from None


class Question(Form):
    """What to ask."""

    question: str = Field(max_length=4000)
    choices: list[str] = Field(default=[], max_length=64)
    """The likeliest next words without any."""
    k: int | str | None = None
    seed: int = Field(default=0, ge=0, lt=2**31)
    images: list[str] = Field(default=[], max_length=MOST_IMAGES)
    """Given images, each a file in base64."""


class Settings(Form):
    """How to mix; the checkpoint's own where a field is None."""

    key: str
    """Of the predictions."""
    mix: str | None = None
    weights: str | None = None
    strength: float | None = Field(default=None, ge=0, le=10)
    doubt: float | None = Field(default=None, ge=0, le=10)
    places: list[int] | None = Field(default=None, max_length=MOST_IMAGES)
    """The images to listen to."""


class Desk:
    """Answers the page's requests."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._stored: OrderedDict[str, tuple[str, Question, Predictions]] = OrderedDict()

    def describe(self) -> Iterator[Row]:
        """Yield each model as it is ready."""

        def work(emit: Emit) -> None:
            for name in self.worker.loaders:
                emit({"loading": name})
                model = self.worker.model(name)
                emit({"ready": name, "auto": model.config.auto is not None})
                _ = model.imagination.source  # loaded now, or the first question waits for it

        return self.worker.events(work)

    def ask(self, fields: Any) -> Iterator[Row]:
        """Yield every model's answer after each image."""

        def work(emit: Emit) -> None:
            question = Question.of(fields)
            if isinstance(question.k, int) and not 0 <= question.k <= MOST_IMAGES:
                raise VLMIGError(f"{question.k} images; expected 0 to {MOST_IMAGES}")
            given = [_opened(text, i) for i, text in enumerate(question.images, 1)]
            for name in self.worker.loaders:
                if name not in self.worker.models:
                    emit({"loading": name})
                self._answer(name, question, given, emit)

        return self.worker.events(work)

    def _answer(self, name: str, form: Question, given: list[Image.Image], emit: Emit) -> None:
        from vlmig.predict.predictions import predictions

        model, key = self.worker.model(name), secrets.token_urlsafe(9)
        k = None if given and not model.config.images_in_text else form.k
        rounds = predictions(
            model.scorer,
            model.images,
            form.question,
            form.choices or None,
            k,
            given=given,
            seed=form.seed,
        )
        for latest in rounds:
            self._stored[key] = (name, form, latest)
            while len(self._stored) > KEPT:
                self._stored.popitem(last=False)
            emit({"model": name, **self._mixed(Settings(key=key))})

    def mix(self, fields: Any) -> Row:
        """Mix the stored predictions of a question otherwise.

        Raises:
            VLMIGError: the question is not kept any more; a rule that does not go with the model.
        """
        return self._mixed(Settings.of(fields))

    def why(self, fields: Any) -> Row:
        """Mix them, and say what moved the answer: each image, and each patch of it.

        Raises:
            VLMIGError: as ``mix``; images inside the text.
        """
        settings = Settings.of(fields)

        def work(emit: Emit) -> None:
            name, predictions, mixture = self._look_up(settings)
            answer = predictions.why(self.worker.model(name).scorer, mixture)
            emit(self._described(settings, answer))

        *_, row = self.worker.events(work)
        if "error" in row:
            raise VLMIGError(row["error"])
        return row

    def _mixed(self, settings: Settings) -> Row:
        _, predictions, mixture = self._look_up(settings)
        return self._described(settings, predictions.answer(mixture))

    def _described(self, settings: Settings, answer: Answer) -> Row:
        """Return an answer, and what it can be mixed by."""
        from vlmig.models.config import MIX_RULES, WEIGHT_KINDS
        from vlmig.report.answer import answer_data

        name, _, predictions = self._stored[settings.key]
        config, scores = self.worker.models[name].config, predictions.scores
        mixes = [rule for rule in MIX_RULES if rule != "contrast" or scores.generic is not None]
        kinds = [kind for kind in WEIGHT_KINDS if kind != "learned" or config.learned]
        if any(value != value for value in predictions.visuals.alignment.tolist()):
            kinds = [kind for kind in kinds if kind not in ("clip", "doubled")]
        defaults = {field: getattr(config, field) for field in MIXTURE}
        row = {"key": settings.key, "data": answer_data(answer), "mixture": defaults}
        return {**row, "mixes": mixes, "kinds": kinds}

    def _look_up(self, settings: Settings) -> tuple[str, Predictions, Mixture]:
        """Return a model's name, the predictions to mix, and how.

        Raises:
            VLMIGError: the question is not kept any more; a rule that does not go with the model.
        """
        from dataclasses import replace

        from vlmig.models.mixture import Mixture

        if settings.key not in self._stored:
            raise VLMIGError("this answer is not kept any more; ask again")
        name, _, predictions = self._stored[settings.key]
        mixture = Mixture.of(self.worker.models[name].config, settings.mix, settings.weights)
        if settings.strength is not None:
            mixture = replace(mixture, strength=settings.strength)
        if settings.doubt is not None:
            mixture = replace(mixture, doubt=settings.doubt)
        if settings.places is not None:
            count = len(predictions.visuals.features)
            predictions = predictions.only([i for i in settings.places if 0 <= i < count])
        return name, predictions, mixture

    def page(self, fields: Any) -> str:
        """Return the answer as a self-contained page."""
        from vlmig.report.answer import answer_page

        _, predictions, mixture = self._look_up(Settings.of(fields))
        return answer_page(predictions.answer(mixture))

    def code(self, fields: Any) -> str:
        """Return Python code that gives the same answer."""
        settings = Settings.of(fields)
        self._look_up(settings)  # refuses what cannot be mixed
        name, form, predictions = self._stored[settings.key]
        loaded = [repr(name)]
        for field in ("strength", "doubt"):
            if (value := getattr(settings, field)) is not None:
                loaded.append(f"{field}={value}")
        call = [f"    {form.question!r},"]
        if form.choices:
            call.append(f"    choices={form.choices!r},")
        given, images = predictions.given, len(predictions.visuals.features)
        if given:
            files = [f"image{i}.png" for i in range(1, len(given) + 1)]
            call.append(f"    images={files!r},  # your files")
        if form.k is not None and not (given and images):
            call.append(f"    k={form.k!r},")
        call.append(f"    seed={form.seed},")
        for field in ("mix", "weights"):
            if (value := getattr(settings, field)) is not None:
                call.append(f"    {field}={value!r},")
        lines = ["from vlmig import VLMIG", ""]
        lines += [f"model = VLMIG.from_pretrained({', '.join(loaded)})", "answer = model.ask("]
        lines += [*call, ")", "print(answer.answer, answer.probabilities)"]
        if settings.places is not None and len(settings.places) < images:
            lines.append(f"# The page listened only to the images {_counted(settings.places)}.")
        return "\n".join(lines) + "\n"


def _counted(indices: list[int]) -> str:
    return ", ".join(str(i + 1) for i in indices) or "none"


def _opened(text: str, number: int) -> Image.Image:
    """Decode a given image.

    Raises:
        VLMIGError: it is none.
    """
    from vlmig.vision.files import BadImage, read_image

    try:
        return read_image(io.BytesIO(base64.b64decode(text, validate=True)))
    except (BadImage, ValueError) as reason:
        raise VLMIGError(
            f"image {number} cannot be read ({reason}); expected a file such as PNG, JPEG or WebP"
        ) from None
