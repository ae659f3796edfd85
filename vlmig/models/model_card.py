"""The model card of a saved checkpoint."""

from __future__ import annotations

from typing import Any

from vlmig.models.config import COMPONENTS, VLMIGConfig

GENERATED = "# A vlmig adapter for"
CARD = """---
library_name: vlmig
pipeline_tag: {task}
tags: [{tag}, visual-commonsense, imagination]
---

{generated} {language_model}

{about}
Pictures are imagined by {imaginer} and seen by {vision_encoder}.
{state}

```python
from vlmig import VLMIG

model = VLMIG.from_pretrained("<this folder or repository>")
print(model.ask("What is the color of a banana?", choices=["yellow", "red"], k=6).answer)
```

{training}
The weights here are the adapter's; the named parts keep their own licences.
"""
LATE = """Late multi-image fusion (arXiv 2406.13621): a visual token projector and a late-fusion layer ({fusion}) around the frozen
{family} LM {language_model}."""
EARLY = """Early fusion: a projector ({projector}) makes visual tokens of pictures, which stand among the words that the {family} LM
{language_model} reads."""


def model_card(config: VLMIGConfig) -> str:
    """Write the card of a checkpoint from its configuration."""
    state = "The adapter is trained." if config.trained else "**The adapter is untrained**: pictures say nothing yet."
    masked = (config.architectures or [""])[0].endswith("MaskedLM")
    named = {name: getattr(config, name).removeprefix("./") for name in COMPONENTS}
    family, early = config.text_config.model_type, config.images_in_text
    return CARD.format(
        task="fill-mask" if masked else "text-generation",
        generated=GENERATED,
        tag="early-fusion" if early else "late-fusion",
        about=(EARLY if early else LATE).format(
            family=family, fusion=config.fusion, projector=config.projector, language_model=named["language_model"]
        ),
        state=state,
        training=_told(config.training) if config.training else "",
        **named,
    )


def _counted(data: dict[str, Any]) -> list[str]:
    """List every count of a source that is not zero: records, pairs, faults, what curation dropped."""
    flat = {**data, **{f"left out by {rule}": count for rule, count in data.get("curated", {}).items()}}
    return [f"{count:,} {name.replace('_', ' ')}" for name, count in flat.items() if isinstance(count, int) and count]


def _told(training: dict[str, Any]) -> str:
    """Tell how an adapter was trained."""
    versions = ", ".join(f"{name} {version}" for name, version in training["versions"].items())
    lines = ["", "## Training", "", f"Seed {training['seed']}, precision {training['precision']}; {versions}.", ""]
    for stage in training["stages"]:
        data = "; ".join(f"{own['source']} ({', '.join(_counted(own))})" for own in stage["data"])
        lines.append(
            f"- **{stage['name']}**: {stage['steps']:,} steps of {stage['batch']} samples, learning rate "
            f"{stage['learning_rate']:g}, {stage['parameters']:,} parameters of {', '.join(stage['trains'])}, on {data}."
        )
        measured = stage["measured"]
        if "validation" in measured:
            shown = ", ".join(f"{name} {loss:.4f}" for name, loss in measured["validation"].items())
            lines.append(
                f"  Held-out loss per token beside (text: without any; own, shuffled, blank picture): {shown}."
            )
        if "probe" in measured:
            shown = ", ".join(f"{name} {accuracy:.3f}" for name, accuracy in measured["probe"].items())
            lines.append(f"  Accuracy on a few items: {shown}.")
    return "\n".join([*lines, ""])
