"""The workloads: the questions that engines are asked in each round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from benchmarks.compare.ceilings import CompilerFailure, compiled
from benchmarks.compare.guesses import guesses
from benchmarks.compare.picture_streams import ENGINES as PICTURE_ENGINES
from benchmarks.compare.session import ON_TEXT_LAYERS, Session
from benchmarks.compare.variants import OURS

WORKLOADS = {
    "a": "vision encoder, 4 valid tiles and 1",
    "b": "first token of an image question",
    "c": "decode with an image in the context",
    "d": "text of 512, and decode",
    "e": "follow-up on the same image",
    "f": "1, 4 and 8 streams",
    "g": "the demo model: everything around the model",
    "h": "from nothing to the first answer",
    "i": "guessed tokens, forced acceptance rates and prompt lookup",
    "j": "8 streams about 8 pictures, with the image cache in int8",
}

IMAGE_TOKENS, TEXT_TOKENS = 176, 512
"""Lengths of prompts with the chat template; an image counts as one token."""

OUR_TOKENS, THEIR_TOKENS, DEMO_TOKENS = 49, 17, 129
"""Lengths of answers.  Slower engines give shorter answers."""

TURNS = 4
"""Answers of each of two engines that are asked in turn in a round."""

SLOW_ROUNDS = 3
"""Rounds of an engine that needs a minute for the first token."""

IMAGE_READS = {
    "readable_in_a_step": "readable",
    "bandwidth_between_steps": "bandwidth",
}
TEXT_READS = {
    "readable_in_a_text_step": "readable",
    "bandwidth_between_text_steps": "bandwidth",
}
"""What is measured between decode steps with a picture and without."""

STREAMS = (1, 4, 8)
QUESTIONS_A_STREAM = 2


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
    first = {f"vision_{name}": "vision", f"first_token_image{suffix}": "first"}
    later = {f"decode_image{suffix}": "per_token"}

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
        if "c" in letters and engine in session.ours("c"):
            steps = {f"step_{name}": "decode_graph"}
            ask(engine, first | later | steps, OUR_TOKENS, picture)
            if tiles == 4 and engine == OURS:
                _decode_between_reads(session, engine, IMAGE_READS, [picture])
        else:
            ask(engine, first, 1, picture)
        if "e" in letters and tiles == 4 and engine in session.ours("e"):
            ask(engine, {"follow_up": "first"}, 1, picture)

    def transformers() -> None:
        answers = "c" in letters and tiles == 4
        metrics = first | later if answers else first
        tokens = THEIR_TOKENS if answers else 1
        ask("transformers", metrics, tokens, session.prompts.picture(tiles))

    def mistralrs() -> None:
        picture = session.prompts.picture(tiles)
        ask("mistralrs", {"first_token_image": "first"}, 1, picture)

    asked = "".join(set(letters) & set("abce" if tiles == 4 else "ac"))
    calls: list[Callable[[], None]] = [
        partial(ours, engine) for engine in session.ours(asked)
    ]
    calls.append(transformers)
    is_asked = "b" in letters and "mistralrs" in session.on_checkpoint
    if is_asked and tiles == 4 and number < SLOW_ROUNDS:
        calls.append(mistralrs)
    _rotated(calls, number)


def _decode_between_reads(
    session: Session, engine: str, metrics: dict[str, str], images: list[str]
) -> None:
    """Measures the read bandwidth between decode steps, with the engine's threads.

    Other work on the machine can halve the bandwidth for seconds or minutes, so it is
    measured next to the steps that it is compared with.
    """
    try:
        library = compiled("ceilings", "-shared", "-fPIC", suffix=".so")
    except CompilerFailure:
        return
    tokens = IMAGE_TOKENS if images else TEXT_TOKENS
    session.measure(
        engine,
        metrics,
        "ask_between_reads",
        library=str(library),
        prompt=_question(session, engine, tokens, len(images)),
        images=images,
        new_tokens=OUR_TOKENS,
    )


def mistralrs_decode(session: Session) -> None:
    """Runs workload c of mistral.rs once, last: 0.9.5 exits at the second token."""
    if "mistralrs" not in session.on_checkpoint:
        return
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

    def ours(engine: str) -> None:
        steps = {"step_text": "decode_graph"}
        _ask_about_text(session, engine, metrics | steps, OUR_TOKENS)
        _decode_between_reads(session, engine, TEXT_READS, [])

    calls: list[Callable[[], None]] = []
    if "d" in letters:
        calls += [
            partial(_ask_text_layers, session, engine, metrics)
            for engine in ON_TEXT_LAYERS
        ]
        calls += [partial(ours, engine) for engine in session.ours("d")]
        calls += [
            partial(_ask_about_text, session, engine, metrics, THEIR_TOKENS)
            for engine in session.on_checkpoint
        ]
    else:
        calls.append(partial(_ask_text_layers, session, "llama_cpp", metrics))
    _rotated(calls, number)
    if "d" in letters:
        _text_in_turn(session)


def _text_in_turn(session: Session) -> None:
    """Asks ik_llama.cpp and this project in turn, so that both meet the same state of
    the memory, which decides what a token takes."""
    metrics = {"first_token_text_in_turn": "first", "decode_text_in_turn": "per_token"}
    calls: list[Callable[[], None]] = [
        partial(_ask_text_layers, session, "ik_llama_cpp", metrics),
        partial(_ask_about_text, session, OURS, metrics, OUR_TOKENS),
    ]
    for turn in range(TURNS):
        _rotated(calls, turn)


def _ask_about_text(
    session: Session, engine: str, metrics: dict[str, str], new_tokens: int
) -> None:
    """Asks an engine one question with a new text."""
    session.measure(
        engine,
        metrics,
        "ask",
        checked={"prompt_tokens": TEXT_TOKENS},
        prompt=_question(session, engine, TEXT_TOKENS, 0),
        images=[],
        new_tokens=new_tokens,
    )


def _ask_text_layers(session: Session, engine: str, metrics: dict[str, str]) -> None:
    """Asks an engine that reads the text layers alone, in as many token ids."""
    session.measure(
        engine, metrics, "ask_tokens", tokens=TEXT_TOKENS, new_tokens=OUR_TOKENS
    )


def streams(session: Session, letters: str, number: int) -> None:
    """Runs workload f: concurrent users with sequential questions about one image."""
    picture = session.prompts.picture(1)
    for engine in session.ours("f"):
        # The image is encoded before the measurement.
        session.measure(
            engine, {}, "ask", prompt="Hello", images=[picture], new_tokens=1
        )
        for count in STREAMS:
            session.measure(
                engine,
                {f"streams_{count}": ""},
                "streams",
                images=[picture] * count,
                asked=QUESTIONS_A_STREAM,
            )


def demo(session: Session, letters: str, number: int) -> None:
    """Runs workload g: the demo model's time per token outside the text graph."""
    for engine in session.demos("g"):
        answer = session.measure(
            engine,
            {"demo_token": "per_token"},
            "ask",
            prompt="Describe everything that you see.",
            images=[session.prompts.picture(1)],
            new_tokens=DEMO_TOKENS,
        )
        if answer:
            around = answer["per_token"] - answer["decode_graphs"] / (DEMO_TOKENS - 1)
            session.results.add("around_the_model", engine, around)
            sampling = answer["sampling"] / DEMO_TOKENS
            session.results.add("sampling", engine, sampling)


def engines_of(session: Session, letters: str) -> list[str]:
    """Returns the engines that workloads ask, each once, but for `profiled_engines`."""
    letters = letters.replace("j", "")
    both = session.on_checkpoint
    others = {
        "a": ("transformers",),
        "b": both,
        "c": (*both, "llama_cpp"),
        "d": (*both, *ON_TEXT_LAYERS),
        "e": ("transformers",),
    }
    needed = session.ours(letters) + session.demos(letters)
    return list(
        dict.fromkeys(
            needed + [e for letter in letters for e in others.get(letter, ())]
        )
    )


def profiled_engines(letters: str) -> list[str]:
    """Returns the engines whose operations are timed."""
    return [OURS, *(PICTURE_ENGINES if "j" in letters else ())]


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
    if "i" in chosen:
        guesses(session, number)


def _rotated(calls: Sequence[Callable[[], None]], number: int) -> None:
    """Makes the calls, starting each round with another one."""
    first = number % len(calls)
    for call in [*calls[first:], *calls[:first]]:
        call()
