"""What trainers ask of a model: what trains, what is tied, a loss that always has a gradient."""

from __future__ import annotations

import copy
import logging
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vlmig.errors import VLMIGError
from vlmig.models.adapter_checkpoint import PREFIX
from vlmig.models.fusion.cross_attention import CrossAttentionFusion
from vlmig.models.projector import Resampler

logger = logging.getLogger(__name__)


class Trainable:
    """A base LM that is frozen or trains, beside projector and fusion layer.

    A base class before ``PreTrainedModel``, whose ``base_model`` and ``train`` it replaces.
    """

    language_model: PreTrainedModel
    blank_features: Tensor
    children: Any
    projector: Any
    fusion: Any
    training: bool
    parameters: Any
    requires_grad_: Any
    warns_frozen = False
    """Whether training has still to say that the base LM is frozen, which nobody asked for."""
    warned_idle = False
    """Whether it was said that a text without images teaches nothing."""

    @property
    def trunk(self) -> PreTrainedModel:
        """The base LM without its head."""
        raise NotImplementedError

    @property
    def base_model(self) -> PreTrainedModel:
        """The base LM without its head, as trainers call it to compute a loss of their own; it
        refuses images, which such a loss would leave out."""
        view = copy.copy(self.trunk)  # its modules and weights, not copies of them
        view.forward = partial(_read_alone, self)
        return view

    def get_decoder(self, *args: Any, **kwargs: Any) -> PreTrainedModel:
        """Return the base LM without its head."""
        return self.trunk

    def get_encoder(self, *args: Any, **kwargs: Any) -> PreTrainedModel:
        """Return the base LM's encoder; of an LM without one this model, as transformers does."""
        encoder: Any = self.trunk.get_encoder(*args, **kwargs)
        return self if encoder is self.trunk else encoder

    def tied_weights(self) -> dict[str, str]:
        """Return which of the base LM's weights are another one, by name."""
        tied = self.language_model.get_expanded_tied_weights_keys(all_submodels=True)
        return {PREFIX + name: PREFIX + other for name, other in tied.items()}

    def idle_gradient(self) -> Tensor:
        """Return zero, as a function of every weight that trains: a loss of a text without images
        around a frozen base LM depends on none."""
        if not self.warned_idle:
            self.warned_idle = True
            logger.warning(
                "a text without images teaches nothing while the base LM is frozen: give "
                "visual_features, or call unfreeze_base()"
            )
        trained = [weight.sum() for weight in self.parameters() if weight.requires_grad]
        return 0.0 * torch.stack([value.float() for value in trained]).sum()

    def without_images(self, output: Any) -> Any:
        """Return the base LM's output; a loss that teaches nothing can still be trained on."""
        if output.loss is not None and self.is_idle(output.loss):
            output["loss"] = output.loss + self.idle_gradient()
        return output

    def is_idle(self, result: Tensor) -> bool:
        """Whether a result of training depends on no weight that trains."""
        learns = self.training and torch.is_grad_enabled() and not result.requires_grad
        return learns and any(weight.requires_grad for weight in self.parameters())

    def _keep_built_weights(self) -> None:
        """Keep ``post_init`` from drawing anew what was built with weights: all but the adapter's
        linear layers."""
        for child in self.children():
            for module in child.modules():
                if child is self.language_model or not isinstance(module, nn.Linear):
                    module._is_hf_initialized = True  # type: ignore[assignment]

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(module, nn.MultiheadAttention):
            module._reset_parameters()
        elif isinstance(module, CrossAttentionFusion | Resampler):
            module.begin()
        elif module is self:
            nn.init.zeros_(self.blank_features)

    def freeze_base(self) -> None:
        """Train projector and fusion layer only; ``save_pretrained`` saves these only."""
        self.requires_grad_(False)
        self.projector.requires_grad_(True)
        self.fusion.requires_grad_(True)
        self.warns_frozen = False
        # The Trainer does not miss them when it resumes.
        self._keys_to_ignore_on_save = {PREFIX + name for name in self.language_model.state_dict()}

    def unfreeze_base(self) -> None:
        """Train the base LM too; ``save_pretrained`` then saves it too.

        Raises:
            VLMIGError: a quantized base LM.
        """
        for name, weight in self.language_model.named_parameters():
            if not weight.is_floating_point():
                raise VLMIGError(
                    f"{name} of the base LM is quantized; expected one in full precision, or "
                    "low-rank layers on it: get_peft_model(model, LoraConfig(...))"
                )
        self.requires_grad_(True)
        self.warns_frozen = False
        self._keys_to_ignore_on_save = set(self.tied_weights())

    def train(self, mode: bool = True) -> Any:
        """Switch to training; says once if the base LM is frozen because it was loaded so."""
        if mode and self.warns_frozen:
            self.warns_frozen = False
            logger.warning(
                "the base LM is frozen: only projector and fusion layer train and are saved; call "
                "unfreeze_base() to train and save it too, or freeze_base() to say that it is meant"
            )
        return super().train(mode)  # type: ignore[misc]

    def _set_gradient_checkpointing(self, *args: Any, **kwargs: Any) -> None:
        """Checkpoint the base LM's blocks: the fusion layer reads its keys from a cache."""
        self.language_model._set_gradient_checkpointing(*args, **kwargs)


def _read_alone(model: Trainable, *args: Any, **kwargs: Any) -> Any:
    """Run the base LM without its head, for a loss that somebody else computes.

    Raises:
        VLMIGError: images, which it would not see.
    """
    for name in ("visual_features", "shown_features"):
        if kwargs.get(name) is not None:
            raise VLMIGError(
                f"{name} for the base LM alone, which does not see them (TRL computes its loss "
                "from it); expected a trainer that takes the model's own loss, such as "
                "transformers' Trainer"
            )
    kwargs.pop("image_weights", None)
    output = model.trunk(*args, **kwargs)
    if model.is_idle(output.last_hidden_state):
        output["last_hidden_state"] = output.last_hidden_state + model.idle_gradient()
    return output
