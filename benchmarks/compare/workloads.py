"""The workloads: the questions that engines are asked in each round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from benchmarks.compare.ceilings import CompilerFailure, compiled
from benchmarks.compare.figures import DEMO, OURS
from benchmarks.compare.session import Session

WORKLOADS = {
    "a": "vision encoder, 4 valid tiles and 1",
    "b": "first token of an image question",
    "c": "decode with an image in the context",
    "d": "text of 512, and decode",
    "e": "follow-up on the same image",
    "f": "1, 4 and 8 streams",
    "g": "the demo model: everything around the model",
    "h": "from nothing to the first answer",
}

IMAGE_TOKENS, TEXT_TOKENS = 176, 512
"""Lengths of prompts with the chat template; an image counts as one token."""

OUR_TOKENS, THEIR_TOKENS, DEMO_TOKENS = 49, 17, 129
"""Lengths of answers.  Slower engines give shorter answers."""

SLOW_ROUNDS = 3
"""Rounds of an engine that needs a minute for the first token."""

STREAMS = (1, 4, 8)
QUESTIONS_A_STREAM = 2


def _ours(session: Session) -> list[str]:
    return [OURS, *session.variants]


def _question(session: Session, engine: str, tokens: int, images: int) -> str:
    """Returns a question in an engine's form: with the chat template for mistral.rs."""
    question = session.prompts.question(tokens, images)
    if engine != "mistralrs":
        return question
    return session.prompts.rendered(question, images)


def image_questions(session: Session, letters: str, number: int) -> None:
    """Runs workloads a, b, c and e: a new picture, and the same one again."""
    _image_round(session, letters, number, 4)
    if set(letters) & set("ac"):
        _image_round(session, letters, number, 1)


def _image_round(session: Session, letters: str, number: int, tiles: int) -> None:
    """Asks every engine one question about a new picture of a number of tiles."""
    suffix = "" if tiles == 4 else "_1_tile"
    name = "4_tiles" if tiles == 4 else "1_tile"
    decodes = "c" in letters
    first = {f"vision_{name}": "vision", f"first_token_image{suffix}": "first"}
    later = {f"decode_image{suffix}": "per_token"} if decodes else {}

    def ask(engine: str, metrics: dict[str, str], tokens: int, picture: str) -> None:
        session.measure(
            engine,
            metrics,
            "ask",
            checked={"prompt_tokens": IMAGE_TOKENS},
            prompt=_question(session, engine, IMAGE_TOKENS, 1),
            images=[picture],
            new_tokens=tokens,
        )

    def ours(engine: str) -> None:
        picture = session.prompts.picture(tiles)
        steps = {f"step_{name}": "decode_graph"} if decodes else {}
        ask(engine, first | later | steps, OUR_TOKENS if decodes else 1, picture)
        if decodes and tiles == 4 and engine == OURS:
            _between_reads(session, picture)
        if "e" in letters and tiles == 4:
            ask(engine, {"follow_up": "first"}, 1, picture)

    def transformers() -> None:
        answers = decodes and tiles == 4
        metrics = first | later if answers else first
        tokens = THEIR_TOKENS if answers else 1
        ask("transformers", metrics, tokens, session.prompts.picture(tiles))

    def mistralrs() -> None:
        picture = session.prompts.picture(tiles)
        ask("mistralrs", {"first_token_image": "first"}, 1, picture)

    calls: list[Callable[[], None]] = [partial(ours, e) for e in _ours(session)]
    calls.append(transformers)
    if "b" in letters and tiles == 4 and number < SLOW_ROUNDS:
        calls.append(mistralrs)
    _rotated(calls, number)


def _between_reads(session: Session, picture: str) -> None:
    """Measures the read bandwidth between decode steps.

    Other work on the machine can halve the bandwidth for seconds or minutes, so it is
    measured next to the steps that it is compared with.
    """
    try:
        library = compiled("ceilings", "-shared", "-fPIC", suffix=".so")
    except CompilerFailure:
        return
    answer = session.measure(
        OURS,
        {"readable_in_a_step": "readable"},
        "ask_between_reads",
        library=str(library),
        prompt=_question(session, OURS, IMAGE_TOKENS, 1),
        images=[picture],
        new_tokens=OUR_TOKENS,
    )
    if answer is not None:
        session.results.add("bandwidth_between_steps", "machine", answer["bandwidth"])


def mistralrs_decode(session: Session) -> None:
    """Runs workload c of mistral.rs once, last: 0.9.5 exits at the second token."""
    session.measure(
        "mistralrs",
        {"decode_image": "per_token"},
        "ask",
        prompt=_question(session, "mistralrs", IMAGE_TOKENS, 1),
        images=[session.prompts.picture(1)],
        new_tokens=THEIR_TOKENS,
    )


def text(session: Session, letters: str, number: int) -> None:
    """Runs workload d, and llama.cpp's part of workload c."""
    metrics = {"first_token_text": "first", "decode_text": "per_token"}

    def asked(engine: str, tokens: int) -> None:
        session.measure(
            engine,
            metrics,
            "ask",
            checked={"prompt_tokens": TEXT_TOKENS},
            prompt=_question(session, engine, TEXT_TOKENS, 0),
            images=[],
            new_tokens=tokens,
        )

    def llama_cpp() -> None:
        session.measure(
            "llama_cpp",
            metrics,
            "ask_tokens",
            tokens=TEXT_TOKENS,
            new_tokens=OUR_TOKENS,
        )

    calls: list[Callable[[], None]] = [llama_cpp]
    if "d" in letters:
        calls += [partial(asked, engine, OUR_TOKENS) for engine in _ours(session)]
        calls += [
            partial(asked, engine, THEIR_TOKENS)
            for engine in ("transformers", "mistralrs")
        ]
    _rotated(calls, number)


def streams(session: Session, letters: str, number: int) -> None:
    """Runs workload f: concurrent users with sequential questions about one image."""
    picture = session.prompts.picture(1)
    # The image is encoded before the measurement.
    session.measure(OURS, {"streams_warm": "first"}, "ask",
                    prompt="Hello", images=[picture], new_tokens=1)  # fmt: skip
    session.results.samples.pop("streams_warm", None)
    for count in STREAMS:
        session.measure(
            OURS,
            {f"streams_{count}": ""},
            "streams",
            number=count,
            asked=QUESTIONS_A_STREAM,
            image=picture,
        )


def demo(session: Session, letters: str, number: int) -> None:
    """Runs workload g: the demo model's time per token outside the text graph."""
    answer = session.measure(
        DEMO,
        {"demo_token": "per_token"},
        "ask",
        prompt="Describe everything that you see.",
        images=[session.prompts.picture(1)],
        new_tokens=DEMO_TOKENS,
    )
    if answer:
        later = DEMO_TOKENS - 1
        session.results.add(
            "around_the_model",
            DEMO,
            answer["per_token"] - answer["decode_graphs"] / later,
        )
        session.results.add("sampling", DEMO, answer["sampling"] / DEMO_TOKENS)


def play(session: Session, letters: str, number: int) -> None:
    """Runs one round of the workloads."""
    chosen = set(letters)
    if chosen & set("abce"):
        image_questions(session, letters, number)
    if chosen & set("cd"):
        text(session, letters, number)
    if "f" in chosen:
        streams(session, letters, number)
    if "g" in chosen:
        demo(session, letters, number)


def _rotated(calls: Sequence[Callable[[], None]], number: int) -> None:
    """Makes the calls, starting each round with another one."""
    first = number % len(calls)
    for call in [*calls[first:], *calls[:first]]:
        call()
