"""How far each image, and each patch of it, moved an answer.

Everything is in nats of the answer's *log-odds* against all other candidates, log p / (1 - p): 0.7
doubles the odds. Log-odds do not saturate where an answer is certain already, as probabilities do.

- **Images** (``images``, ``left_out``): arithmetic on the stored predictions, exact for every rule
  and all weights. An image may be silenced, so that its share of the mixture goes to the text
  alone, or left out, so that the other images take its share: where six images agree, each one adds
  to the text, and none is missed.
- **Patches** by ``attention``, for the ``cross_attention`` layer, which is one softmax over [visual
  tokens ; text]: its output is exactly a sum of weight times value over patches and text positions.
  How each term reaches the log-odds, through the feed-forward layer, the head and the mixture, is
  taken to first order, gradient times term, with the attention weights as they are. One pass and
  one gradient, whatever the number of patches; effects add up, over patches and over any region.
- **Patches** by ``occlusion``, for every kind of fusion: the answer is computed anew with one
  patch's features replaced by the blank image's. These effects do not add up: where two patches
  tell the same color, neither one is missed.

Both speak of features at a place. The encoder is not run again, and a patch's features hold what
its own attention took from other places.
Axes: K images, P patches, C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.special import log_softmax
from torch import Tensor

from vlmig.errors import VLMIGError
from vlmig.imagination.visuals import Visuals
from vlmig.models.fusion.cross_attention import CrossAttentionFusion
from vlmig.models.mixture import Mixture
from vlmig.predict.batching import Batch, candidate_tokens, pick
from vlmig.predict.scorer import Scorer
from vlmig.predict.scores import Scores

METHODS = ("attention", "occlusion")
STEP = 1e-4
"""Change of a log-probability, in nats, by which derivatives of the mixture are measured."""
PLACES = (
    ("upper left", "top", "upper right"),
    ("left", "middle", "right"),
    ("lower left", "bottom", "lower right"),
)


@dataclass(frozen=True, eq=False)
class Attribution:
    """How far images and their patches moved an answer, in nats of its log-odds."""

    target: str
    """The answer that is explained: the chosen one."""
    images: tuple[float, ...]
    """Of each image: the log-odds gained by listening to it, against leaving its share of the
    mixture to the text alone."""
    left_out: tuple[float, ...]
    """Of each image: the log-odds gained against the same question without it, whose share the
    other images take."""
    patches: tuple[np.ndarray, ...]
    """Of each image: what each patch adds to the log-odds, (rows, columns) from the upper left,
    more than 0 where it speaks for the answer; (1, 1) where the encoder's features have no
    place."""
    text: tuple[float, ...]
    """Of each image: what the fusion layer's attention to the text adds beside it; nothing by
    occlusion."""
    method: str
    """How patches were measured: ``attention`` or ``occlusion``."""

    @property
    def scale(self) -> float:
        """The largest effect of a patch, for or against: images drawn on it can be compared."""
        return max((float(np.abs(effects).max()) for effects in self.patches), default=0.0)

    def where(self, image: int) -> tuple[str, float]:
        """Return which ninth of an image holds most of what speaks for the answer, in words, and
        its share of that; an even spread has a ninth in each."""
        return place_of(self.patches[image])


def place_of(effects: np.ndarray) -> tuple[str, float]:
    """Return the ninth of an image that holds most of its positive effects (rows, columns), and its
    share of them; ("nowhere", 0.0) without any."""
    positive = np.maximum(effects, 0)
    total = float(positive.sum())
    if not total:
        return "nowhere", 0.0
    rows, columns = (_ninths(length) for length in positive.shape)
    shares = rows @ positive @ columns.T / total
    best = np.unravel_index(shares.argmax(), shares.shape)
    return PLACES[best[0]][best[1]], float(shares[best])


def _ninths(length: int) -> np.ndarray:
    """Return how much of each of ``length`` cells lies in each third, (3, length)."""
    edges = np.arange(length + 1) * 3 / length
    shares = np.zeros((3, length))
    for third in range(3):
        inside = np.minimum(edges[1:], third + 1) - np.maximum(edges[:-1], third)
        shares[third] = np.maximum(inside, 0) * length / 3
    return shares


def explain(
    scorer: Scorer,
    question: tuple[str, Sequence[str]],
    visuals: Visuals,
    scores: Scores,
    mixture: Mixture,
    names: Sequence[str],
    method: str | None = None,
) -> Attribution:
    """Attribute the likeliest answer to its images and their patches.

    Args:
        question: its context and its candidates, verbatim.
        visuals: the images that it was answered with.
        scores: of the candidates with these images.
        names: of the candidates.
        method: how patches are measured; ``attention`` where the fusion layer allows it when None.

    Raises:
        VLMIGError: an unknown method, or ``attention`` for another kind of fusion; images inside
            the text.
    """
    if len(visuals.shown):
        raise VLMIGError(
            "why=True with images inside the text; expected images beside it, given or imagined: "
            "only those have a prediction each"
        )
    chosen = method or ("attention" if has_attention(scorer) else "occlusion")
    if chosen not in METHODS or (chosen == "attention" and not has_attention(scorer)):
        raise VLMIGError(
            f"method={chosen!r} for fusion={scorer.config.fusion!r}; expected occlusion, or "
            "attention with fusion cross_attention and one visual token for each patch"
        )
    index = int(scores.mixed(len(scores.per_image), mixture).argmax())
    if not len(visuals.features):
        return Attribution(names[index], (), (), (), (), chosen)
    if chosen == "attention":
        effects, text = by_attention(scorer, question, visuals, scores, mixture, index)
    else:
        effects, text = by_occlusion(scorer, question, visuals, scores, mixture, index), np.zeros(0)
    return Attribution(
        target=names[index],
        images=tuple(silenced(scores, mixture, index)),
        left_out=tuple(left_out(scores, mixture, index)),
        patches=tuple(_grid(row) for row in effects),
        text=tuple(text.tolist()),
        method=chosen,
    )


def has_attention(scorer: Scorer) -> bool:
    """Whether the fusion layer's attention tells patches apart."""
    per_patch = scorer.config.projector in ("mlp", "linear")
    return isinstance(scorer.model.fusion, CrossAttentionFusion) and per_patch


def log_odds(
    scores: Scores, mixture: Mixture, target: int, trust: np.ndarray | None = None
) -> float:
    """Return a candidate's log-odds against all others in the mixture of all images, in nats."""
    count = len(scores.per_image)
    mixed = scores.mixed(count, mixture, trust) if count else log_softmax(scores.text)
    return float(mixed[target] - np.logaddexp.reduce(np.delete(mixed, target)))


def left_out(scores: Scores, mixture: Mixture, target: int) -> list[float]:
    """Return the log-odds gained by each image against a run without it."""
    whole = log_odds(scores, mixture, target)
    gained = []
    for image in range(len(scores.per_image)):
        without = replace(
            scores,
            per_image=np.delete(scores.per_image, image, 0),
            alignment=np.delete(scores.alignment, image, 0),
        )
        gained.append(whole - log_odds(without, mixture, target))
    return gained


def silenced(scores: Scores, mixture: Mixture, target: int) -> list[float]:
    """Return the log-odds gained by each image against leaving its share to the text alone."""
    whole, count = log_odds(scores, mixture, target), len(scores.per_image)
    gained = []
    for image in range(count):
        trust = scores.trust(count, mixture)
        trust[image] = 0.0
        gained.append(whole - log_odds(scores, mixture, target, trust))
    return gained


def by_occlusion(
    scorer: Scorer,
    question: tuple[str, Sequence[str]],
    visuals: Visuals,
    scores: Scores,
    mixture: Mixture,
    target: int,
) -> np.ndarray:
    """Return the log-odds lost where one patch's features are the blank image's, (K, P)."""
    whole, blank = log_odds(scores, mixture, target), scorer.model.blank_features.cpu()
    context, candidates = question
    effects = []
    for image, features in enumerate(visuals.features):
        patches = torch.arange(len(features))
        variants = features.repeat(len(features), 1, 1)
        variants[patches, patches] = blank.to(variants)
        count = len(variants)
        alike = visuals.alignment[image].repeat(count)
        occluded = Visuals(count * [""], variants, alike, [], count * [""], given=visuals.given)
        row = scorer.score([context], [candidates], [occluded], verbatim=True)[0].per_image
        lost = []
        for patch in range(count):
            lost.append(whole - log_odds(_with(scores, image, row[patch]), mixture, target))
        effects.append(lost)
    return np.array(effects)


def by_attention(
    scorer: Scorer,
    question: tuple[str, Sequence[str]],
    visuals: Visuals,
    scores: Scores,
    mixture: Mixture,
    target: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return what each patch, (K, P), and the text beside each image, (K,), add to the log-odds
    through the layer's attention."""
    slopes = torch.from_numpy(_slopes(scores, mixture, target))
    model, (context, candidates) = scorer.model, question
    patches, text = np.zeros(visuals.features.shape[:2]), np.zeros(len(visuals.features))
    with torch.no_grad():
        states = model.fusion.encode_images(model, visuals.features[None].to(model.device))
        batches = list(scorer.batches([context], [candidates], [visuals]))
    for batch in batches:
        of_patches, of_text = _through_attention(scorer, batch, states, slopes)
        patches, text = patches + of_patches, text + of_text
    return patches, text


def _through_attention(
    scorer: Scorer, batch: Batch, states: tuple[Tensor, ...], slopes: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Return gradient times each term of the attention's output: of patches, (K, P), and of the
    text, (K,).

    Args:
        states: the layer's keys and values of the images, (1, K, heads, P, d).
        slopes: of the log-odds by the log-probability of each candidate beside each image, (K, C).
    """
    model: Any = scorer.model
    reading: Any = batch.reading  # of late fusion
    keys, values = (tensor.expand(len(reading.hidden), *tensor.shape[1:]) for tensor in states)
    of_text = reading.text[1][:, None]
    with torch.no_grad():
        weights, on_text = model.fusion.attention(
            reading.hidden, (keys, values), reading.text, reading.mask
        )
        attended = weights @ values + on_text @ of_text
    attended.requires_grad_()
    candidates, starts, indices = candidate_tokens(batch.requests)
    lengths = np.diff([*starts, len(indices[0])])
    owner = np.repeat([candidate for _, candidate in candidates], lengths)
    with torch.enable_grad():
        fused = model.fusion.finish(reading.hidden, attended)
        aim = fused.new_zeros((), dtype=torch.float32)
        for image in range(fused.shape[1]):
            logits = model.head(model.language_model, fused[:, image])
            tokens = pick(logits.float().log_softmax(-1), indices)
            aim = aim + (tokens * slopes[image, owner].to(tokens)).sum()
        (gradient,) = torch.autograd.grad(aim, attended)
    terms = weights * (gradient @ values.transpose(-1, -2))
    text_terms = on_text * (gradient @ of_text.transpose(-1, -2))
    return _summed(terms, (0, 2, 3)), _summed(text_terms, (0, 2, 3, 4))


def _summed(terms: Tensor, axes: tuple[int, ...]) -> np.ndarray:
    return terms.double().sum(axes).cpu().numpy()


def _slopes(scores: Scores, mixture: Mixture, target: int) -> np.ndarray:
    """Differentiate the log-odds by each image's log-probability of each candidate, (K, C).

    By central differences, which serve every rule and all weights, learned ones too.
    """
    slopes = np.zeros_like(scores.per_image)
    for image, candidate in np.ndindex(slopes.shape):
        step = np.zeros(slopes.shape[1])
        step[candidate] = STEP
        row = scores.per_image[image]
        above = log_odds(_with(scores, image, row + step), mixture, target)
        below = log_odds(_with(scores, image, row - step), mixture, target)
        slopes[image, candidate] = (above - below) / (2 * STEP)
    return slopes


def _with(scores: Scores, image: int, row: np.ndarray) -> Scores:
    """Replace the prediction beside one image by another, (C,)."""
    per_image = scores.per_image.copy()
    per_image[image] = row
    return replace(scores, per_image=per_image)


def _grid(effects: np.ndarray) -> np.ndarray:
    """Lay out the effects of patches (P,) as the encoder cuts a square image."""
    side = round(len(effects) ** 0.5)
    return effects.reshape(side, side) if side**2 == len(effects) else effects.sum().reshape(1, 1)
