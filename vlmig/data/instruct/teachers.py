"""Teachers: a chat model of transformers on this machine, or one behind an OpenAI-style
endpoint."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast
from urllib.parse import urlparse

from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from vlmig.data.instruct.prompts import Message
from vlmig.errors import VLMIGError, one_line

TRANSPORT = cast(type[Exception], HfHubHTTPError.__mro__[1])
"""The error class of the hub client's HTTP library, which differs between versions."""
TRIES, PAUSE, LONGEST = 6, 1.0, 60.0
"""Most attempts of a request, and the first and the longest pause between them in seconds; pauses
double."""
REFUSED = 400, 413, 422
"""Statuses that concern one request, such as a context that is too long or that a filter blocks."""
NO_KEY = "none"
"""Sent if there is no key: otherwise the client would send the user's hub key to the endpoint."""


@dataclass(frozen=True)
class Reply:
    """A teacher's reply, and its tokens."""

    text: str
    prompt_tokens: int | None
    """None if the endpoint does not report it."""
    answer_tokens: int | None
    whole: bool = True
    """Whether the reply ended before the limit of tokens."""
    repeats: int = 0
    """How often the request had to be sent again."""


class Refused(Exception):
    """The endpoint refuses this request; the message is its reason."""


class Teacher(Protocol):
    """Anything that answers messages."""

    def ask(self, messages: Sequence[Message], seed: int) -> Reply:
        """Answer the last of the messages; if a seed can be set, from messages and seed alone.

        Raises:
            Refused: this request is refused; others may not be.
            VLMIGError: no request can be answered.
        """
        ...


@dataclass(frozen=True)
class Sampling:
    """How replies are sampled."""

    max_tokens: int = 800
    temperature: float = 0.7
    """0: always the likeliest token."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            VLMIGError: one is out of range.
        """
        if self.max_tokens < 1:
            raise VLMIGError(f"max-tokens is {self.max_tokens}; expected at least 1; correct it")
        if not 0 <= self.temperature <= 5:
            raise VLMIGError(
                f"temperature is {self.temperature}; expected 0 (the likeliest tokens) to 5, "
                "mostly below 1; correct it"
            )


class EndpointTeacher:
    """A model behind an endpoint, such as a vLLM server or a paid service; may be used by several
    threads.

    Args:
        url: where it is, such as ``http://localhost:8000/v1``.
        model: its name there.
        key: the key, if it wants one.
        sampling: sampling parameters of the replies.
        timeout: seconds without a byte after which a request is sent again.
        pause: seconds before a request is sent the second time; doubled each time after.
        sleep: waits.

    Raises:
        VLMIGError: the address is none.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key: str | None = None,
        sampling: Sampling | None = None,
        timeout: float = 120.0,
        pause: float = PAUSE,
        sleep: Callable[[float], Any] = time.sleep,
    ) -> None:
        if urlparse(url).scheme not in ("http", "https") or not urlparse(url).hostname:
            raise VLMIGError(
                f"endpoint {url!r} is no address; expected one such as http://localhost:8000/v1; "
                "correct it"
            )
        self.url, self.model, self.sampling = url, model, sampling or Sampling()
        self.pause, self.sleep, self.answered = pause, sleep, False
        self.client = InferenceClient(
            base_url=url, api_key=(key or "").strip() or NO_KEY, timeout=timeout
        )

    def ask(self, messages: Sequence[Message], seed: int) -> Reply:
        """Answer; wait and send again if the endpoint is busy or out of order.

        Raises:
            Refused: the endpoint does not take this request; it took one before.
            VLMIGError: it is out of reach, wants another key, does not know the model, or takes no
                request.
        """
        fault = ""
        for repeats in range(TRIES):
            pause = min(LONGEST, self.pause * 2**repeats)
            try:
                reply = self._reply(messages, seed, repeats)
            except OfflineModeIsEnabled:
                raise VLMIGError(
                    "HF_HUB_OFFLINE is set, which keeps the client from any endpoint; expected it "
                    "unset; unset it for this command"
                ) from None
            except HfHubHTTPError as error:
                fault = self._judge(error)
                pause = max(pause, _requested_pause(error))
            except (
                TRANSPORT,
                OSError,
                ValueError,
                TypeError,
                LookupError,
                AttributeError,
            ) as error:
                fault = one_line(error, whole=True)[:200]
            else:
                self.answered = True
                return reply
            if repeats + 1 < TRIES:
                self.sleep(pause)
        raise VLMIGError(
            f"no reply from {self.url} in {TRIES} tries ({fault}); expected one to a chat "
            "completion; start it or correct --endpoint, and the same command goes on"
        )

    def _reply(self, messages: Sequence[Message], seed: int, repeats: int) -> Reply:
        completion = self.client.chat_completion(
            [dict(message) for message in messages],
            model=self.model,
            max_tokens=self.sampling.max_tokens,
            temperature=self.sampling.temperature,
            seed=seed,
        )
        choice, usage = completion.choices[0], getattr(completion, "usage", None)
        counts = []
        for name in ("prompt_tokens", "completion_tokens"):
            count = getattr(usage, name, None)
            counts.append(count if isinstance(count, int) else None)
        whole = choice.finish_reason != "length"
        return Reply(choice.message.content or "", counts[0], counts[1], whole, repeats)

    def _judge(self, error: HfHubHTTPError) -> str:
        """Return the fault, if sending again may help.

        Raises:
            Refused: this request is not taken, though another was.
            VLMIGError: no request will be.
        """
        status = error.response.status_code
        reason = f"status {status}: {' '.join(error.response.text.split())[:200]}"
        if status in (401, 403):
            raise VLMIGError(
                f"{self.url} does not take the key ({reason}); expected a valid one in the "
                "environment variable that --key-variable names; set it"
            ) from None
        if status == 404:
            raise VLMIGError(
                f"{self.url} has no chat completions of {self.model!r} ({reason}); expected a "
                "model it serves; correct --teacher or --endpoint"
            ) from None
        if status in REFUSED and self.answered:
            raise Refused(reason) from None
        if status not in (408, 409, 425, 429) and status < 500:
            raise VLMIGError(
                f"{self.url} refuses the request ({reason}); expected it to take a chat completion "
                "with seed, temperature and max_tokens; change what it names"
            ) from None
        return reason


def _requested_pause(error: HfHubHTTPError) -> float:
    """Return the seconds that the endpoint asks to wait for."""
    try:
        return min(LONGEST, float(error.response.headers.get("retry-after", 0)))
    except ValueError:  # a date
        return 0.0


class LocalTeacher:
    """A chat model of transformers; used by one thread.

    Args:
        model: its folder or hub id.
        sampling: sampling parameters of the replies.

    Raises:
        VLMIGError: there is no such model, or it has no chat template.
    """

    def __init__(self, model: str, sampling: Sampling | None = None) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.sampling = sampling or Sampling()
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(model)
            self.model: Any = AutoModelForCausalLM.from_pretrained(model, dtype="auto").eval()
        except (OSError, ValueError, ImportError) as error:
            fault = one_line(error, whole=True)[:200]
            raise VLMIGError(
                f"no chat model at {model} ({fault}); expected a causal LM of transformers, as a "
                "folder or hub id; correct --teacher, or name its --endpoint"
            ) from None
        if not self.tokenizer.chat_template:
            raise VLMIGError(
                f"{model} has no chat template; expected a model that was trained to follow "
                "instructions; choose another --teacher"
            )
        self.name = model
        self.model.to("cuda" if torch.cuda.is_available() else "cpu")

    def ask(self, messages: Sequence[Message], seed: int) -> Reply:
        """Answer by sampling, or with the likeliest tokens at temperature 0.

        Raises:
            VLMIGError: the messages and the longest reply are too long for the model.
        """
        import torch

        inputs = self._inputs(messages).to(self.model.device)
        length = inputs["input_ids"].shape[1]
        room = getattr(self.model.config, "max_position_embeddings", None)
        if room is not None and length + self.sampling.max_tokens > room:
            raise VLMIGError(
                f"{length} tokens of prompt and {self.sampling.max_tokens} of reply; expected at "
                f"most {room} together for {self.name}; lower --regions or --max-tokens, or choose "
                "another --teacher"
            )
        drawn: dict[str, Any] = {"do_sample": False}
        if self.sampling.temperature > 0:
            drawn = {"do_sample": True, "temperature": self.sampling.temperature}
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(seed)
            pad = self.tokenizer.pad_token_id
            drawn["pad_token_id"] = self.tokenizer.eos_token_id if pad is None else pad
            written = self.model.generate(
                **inputs, max_new_tokens=self.sampling.max_tokens, **drawn
            )[0, length:]
        ends = self.model.generation_config.eos_token_id
        whole = len(written) < self.sampling.max_tokens or written[-1].item() in (
            ends if isinstance(ends, list) else [ends]
        )
        return Reply(
            self.tokenizer.decode(written, skip_special_tokens=True), length, len(written), whole
        )

    def _inputs(self, messages: Sequence[Message]) -> Any:
        """Write the messages as the model's template does; where it knows no system, the rules open
        the first question."""
        import jinja2

        options = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
        try:
            return self.tokenizer.apply_chat_template(list(messages), **options)
        except jinja2.TemplateError:
            system, first, *rest = messages
            merged = {"role": "user", "content": f"{system['content']}\n\n{first['content']}"}
            return self.tokenizer.apply_chat_template([merged, *rest], **options)


def key_of(variable: str | None) -> str | None:
    """Read the endpoint's key from the environment.

    Args:
        variable: the variable's name; without one ``OPENAI_API_KEY``, which need not be set.

    Raises:
        VLMIGError: a variable is named and not set.
    """
    if variable and not os.environ.get(variable):
        raise VLMIGError(
            f"the environment variable {variable} is not set; expected the endpoint's key in it; "
            "set it, or leave --key-variable out"
        )
    return os.environ.get(variable or "OPENAI_API_KEY")
