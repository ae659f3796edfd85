"""From image descriptions to rows: each image and kind is requested once, and again after a bad
reply."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vlmig.data.instruct.contexts import Context, contexts
from vlmig.data.instruct.ledger import Bounds, Ledger, Line
from vlmig.data.instruct.prompts import KINDS, Prompts
from vlmig.data.instruct.replies import BadReply, Turns, read_reply
from vlmig.data.instruct.teachers import Refused, Reply, Sampling, Teacher
from vlmig.data.sources.visual_genome import VisualGenome
from vlmig.errors import VLMIGError
from vlmig.io.hashing import number_of
from vlmig.io.json_stream import find_json
from vlmig.models.config import IMAGE


@dataclass(frozen=True)
class Settings:
    """Everything that decides the rows."""

    teacher: str
    """The teacher's name, for the rows."""
    kinds: tuple[str, ...] = KINDS
    seed: int = 0
    retries: int = 2
    """How often to ask again after a bad reply."""
    regions: int = 16
    """Most phrases and most boxes of an image."""
    sampling: Sampling = Sampling()

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            VLMIGError: one is out of range, or an unknown kind.
        """
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise VLMIGError(
                f"kinds are {', '.join(self.kinds) or 'none'}; expected some of "
                f"{', '.join(KINDS)}; correct them"
            )
        if self.retries < 0 or self.regions < 1:
            raise VLMIGError(
                f"retries {self.retries}, regions {self.regions}; expected 0 or more retries and "
                "at least 1 region; correct them"
            )


@dataclass(frozen=True)
class Task:
    """One image and one kind."""

    context: Context
    kind: str

    @property
    def id(self) -> str:
        """The id of its row."""
        return f"{self.context.image}_{self.kind}"


@dataclass(frozen=True)
class Outcome:
    """A row or a reject, and how often requests were sent again."""

    line: Line
    repeats: int


def generate(
    folder: Path, out: Path, teacher: Teacher, settings: Settings, bounds: Bounds
) -> dict[str, Any]:
    """Request every image and kind that is missing, and return the report.

    Args:
        folder: Visual Genome's files and images.
        out: folder of rows, rejects, settings and report; a stopped run resumes there.
        teacher: answers requests, from ``bounds.parallel`` threads.
        settings: everything that decides the rows.
        bounds: limits of the run.

    Raises:
        VLMIGError: the folders do not fit, the teacher does not answer, or a limit is reached; rows
            that were written stay.
    """
    VisualGenome(folder)  # refuses a wrong folder before anything is written
    prompts = Prompts()
    with Ledger(out, _identity(folder, settings, prompts), bounds) as ledger:
        try:
            every = contexts(folder, settings.regions, settings.seed, ledger.left_out)
            chosen = islice(every, bounds.images)
            tasks = (Task(context, kind) for context in chosen for kind in settings.kinds)
            images = _work(tasks, ledger, lambda task: answer(task, teacher, settings, prompts))
        except BaseException:
            ledger.report(finished=False)
            raise
        if not images:
            raise VLMIGError(
                f"no image of {folder} has a file and a phrase ({dict(ledger.left_out)}); "
                "expected VG_100K and its regions; fetch the images"
            )
        return ledger.report(finished=True)


def _identity(folder: Path, settings: Settings, prompts: Prompts) -> dict[str, Any]:
    """Return everything that decides the rows, to be stored beside them; the folder may move."""
    identity = asdict(settings)
    sampling = identity.pop("sampling")
    identity |= {"kinds": list(settings.kinds), **sampling, "prompts": prompts.version}
    for name in ("region_descriptions", "objects"):
        path = find_json(folder, name)
        identity[f"bytes of {name}"] = path.stat().st_size if path else None
    return identity


def _work(tasks: Iterator[Task], ledger: Ledger, run: Any) -> int:
    """Keep the teacher busy; after an error, still wait for pending replies and keep them.

    Returns:
        The number of tasks.
    """
    waiting: set[Future[Outcome]] = set()
    count, start = 0, time.monotonic()

    def collect(finished: set[Future[Outcome]]) -> None:
        nonlocal start
        for future in finished:
            waiting.discard(future)
            outcome, now = future.result(), time.monotonic()
            ledger.keep(outcome.line, now - start, outcome.repeats)
            start = now
            bar.update()

    with ThreadPoolExecutor(ledger.bounds.parallel) as pool, tqdm(unit="row", disable=None) as bar:
        try:
            for task in tasks:
                count += 1
                if task.id in ledger.done:
                    continue
                if len(waiting) == ledger.bounds.parallel:
                    collect(wait(waiting, return_when=FIRST_COMPLETED).done)
                ledger.check()
                waiting.add(pool.submit(run, task))
            while waiting:
                collect(wait(waiting, return_when=FIRST_COMPLETED).done)
        finally:
            for future in list(waiting):
                with suppress(Exception):
                    collect({future})
    return count


def answer(task: Task, teacher: Teacher, settings: Settings, prompts: Prompts) -> Outcome:
    """Request one row until a reply is good or the retries are used up.

    Raises:
        VLMIGError: the teacher does not answer.
    """
    context, kind = task.context, task.kind
    request = prompts.request(context.image, settings.seed) if kind == "detail" else ""
    rejections: list[str] = []
    replies: list[Reply] = []
    text, turns = "", None
    for attempt in range(settings.retries + 1):
        messages = prompts.messages(kind, context, request, rejections[-1] if rejections else "")
        seed = number_of(f"{task.id} {attempt}", settings.seed) % 2**31
        try:
            replies.append(teacher.ask(messages, seed))
            text = replies[-1].text
            turns = _turns(kind, replies[-1], request)
            break
        except BadReply as reason:
            rejections.append(str(reason))
        except Refused as refusal:
            text = str(refusal)
            rejections.append("request refused")
            break
    line: Line = {"id": task.id, "image": context.picture}
    if turns is None:
        line |= {"reason": rejections[-1], "reply": text}
    else:
        line["conversations"] = _conversation(turns, task, settings.seed)
    line |= {
        "kind": kind,
        "teacher": settings.teacher,
        "prompt_version": prompts.version,
        "context": context.digest,
    }
    line |= {"seed": seed, "rejections": rejections, "requests": attempt + 1}
    line |= {"prompt_tokens": 0, "answer_tokens": 0, "uncounted": 0}
    repeats = 0
    for reply in replies:
        line["prompt_tokens"] += reply.prompt_tokens or 0
        line["answer_tokens"] += reply.answer_tokens or 0
        line["uncounted"] += None in (reply.prompt_tokens, reply.answer_tokens)
        repeats += reply.repeats
    return Outcome(line, repeats)


def _turns(kind: str, reply: Reply, request: str) -> Turns:
    if not reply.whole:
        raise BadReply("cut off at the largest number of tokens")
    return read_reply(kind, reply.text, request)


def _conversation(turns: Turns, task: Task, seed: int) -> list[dict[str, str]]:
    """Write turns in LLaVA's form, with the image before or after the first question at random."""
    first, _ = turns[0]
    before = number_of(f"{task.id} place", seed) % 2 == 0
    marked = f"{IMAGE}\n{first}" if before else f"{first}\n{IMAGE}"
    conversation = []
    for number, (question, reply) in enumerate(turns):
        conversation.append({"from": "human", "value": question if number else marked})
        conversation.append({"from": "gpt", "value": reply})
    return conversation
