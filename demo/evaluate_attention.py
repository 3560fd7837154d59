"""Measure attention maps: ``python -m demo.evaluate_attention --seed 7 --count 300``.

Asks the demo model to describe fresh scenes, whose items are at known places, and looks
where the words of its answers looked.  For each word that names one shape or its color:
is the map's highest patch in the shape's box (the pointing game), and how much of the
map is.  The head is chosen without labels, on other scenes than those it is judged on.
Then the most attended patches are blanked: that must change the answer more often than
blanking as many at random.  The last line of the output is one JSON object; a readable
table goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from demo.data.drawing import item_box, render
from demo.data.questions import ask
from demo.data.scenes import COLOR_NAMES, KINDS, Item, Scene, random_scene
from mllama.engine.attention.attention import Attention
from mllama.engine.attention.overlay import overlaid
from mllama.engine.attention.sheet import sheet
from mllama.images.patch_grid import PatchGrid
from mllama.requests.attention_words import AttentionWord

MAX_NEW_TOKENS = 40

BLANKED = (1, 2, 4, 8)
"""Numbers of patches that are blanked."""

FAILURES_SHOWN = 24

Grid = npt.NDArray[np.float32]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Answered:
    """A scene, what was asked about it, and what the model said and looked at."""

    scene: Scene
    picture: Image.Image
    question: str
    attention: Attention


@dataclass(frozen=True)
class NamedItem:
    """A word of an answer that names one item of the scene.

    Attributes:
        word: The word.
        item: The item that it names.
        kind: ``shape``, ``color``, or ``digit`` for both words about a printed digit.
    """

    word: AttentionWord
    item: Item
    kind: str


def scenes(seed: int, count: int, stream: int) -> Iterator[tuple[Scene, str]]:
    """Yields scenes and a question that has the model describe each.

    Args:
        seed: Of the scenes.
        count: Their number.
        stream: Scenes of another stream are others.
    """
    rng = np.random.default_rng((seed, stream))
    while count:
        scene = random_scene(rng)
        asked = ask(rng, scene, "describe")
        if asked is not None:
            yield scene, asked.question
            count -= 1


def named_items(words: Sequence[AttentionWord], scene: Scene) -> list[NamedItem]:
    """Returns the words that name exactly one item: its shape or its color.

    A color and the shape after it name an item together.
    """
    found = []
    texts = [word.text.lower() for word in words]
    for index, (word, text) in enumerate(zip(words, texts, strict=True)):
        before, after = ["", *texts][index], [*texts, ""][index + 1]
        if text in COLOR_NAMES:
            kind = "color"
            items = [
                item
                for item in scene.items
                if item.color == text and (after not in KINDS or item.kind == after)
            ]
        elif text in KINDS:
            kind = "shape"
            items = [
                item
                for item in scene.items
                if item.kind == text
                and (before not in COLOR_NAMES or item.color == before)
            ]
        else:
            continue
        if len(items) == 1:
            kind = "digit" if items[0].is_digit else kind
            found.append(NamedItem(word, items[0], kind))
    return found


def cells_in(grid: PatchGrid, box: Box) -> npt.NDArray[np.bool_]:
    """Returns which patches have their center in a box, ``[rows, columns]``."""
    left, top, right, bottom = box
    x = (np.arange(grid.columns) + 0.5) * grid.covered_width / grid.columns
    y = (np.arange(grid.rows) + 0.5) * grid.covered_height / grid.rows
    return np.outer((y >= top) & (y <= bottom), (x >= left) & (x <= right))


def center_map(grid: PatchGrid) -> Grid:
    """Returns a map that is highest in the middle of the picture."""
    y = (np.arange(grid.rows) + 0.5) / grid.rows - 0.5
    x = (np.arange(grid.columns) + 0.5) / grid.columns - 0.5
    return np.exp(-8 * np.add.outer(y**2, x**2)).astype(np.float32)


def fitted(values: Grid, shape: tuple[int, ...]) -> Grid:
    """Returns another picture's map in the shape of this one's."""
    resized = Image.fromarray(values).resize(
        (shape[1], shape[0]), Image.Resampling.BILINEAR
    )
    return np.asarray(resized, np.float32)


def score(values: Grid, grid: PatchGrid, item: Item) -> tuple[bool, float]:
    """Returns whether a map's highest patch is in an item's box, and its mass there."""
    inside = cells_in(grid, item_box(item))
    total = max(float(values.sum()), 1e-12)
    highest = np.unravel_index(values.argmax(), values.shape)
    return bool(inside[highest]), float(values[inside].sum()) / total


class Means:
    """Means of scores, by kind of word and kind of map."""

    def __init__(self) -> None:
        self._scores: dict[str, dict[str, list[tuple[bool, float]]]] = {}

    def add(self, kind: str, maps: str, result: tuple[bool, float]) -> None:
        """Adds the score of one word."""
        self._scores.setdefault(kind, {}).setdefault(maps, []).append(result)

    def report(self) -> dict[str, Any]:
        """Returns the means, rounded."""
        return {
            kind: {
                maps: {
                    "words": len(scores),
                    "maximum_in_box": round(float(np.mean([s for s, _ in scores])), 4),
                    "mass_in_box": round(float(np.mean([m for _, m in scores])), 4),
                }
                for maps, scores in by_maps.items()
            }
            for kind, by_maps in sorted(self._scores.items())
        }


def choose_head(llm: Any, seed: int, count: int) -> tuple[tuple[int, int], Any]:
    """Returns the head with the clearest maps over many answers, and all scores."""
    totals: dict[tuple[int, int], list[float]] = {}
    for scene, question in scenes(seed, count, stream=6):
        attention = _asked(llm, scene, question, True).attention
        for each in attention.scores:
            totals.setdefault(each.head, []).append(each.entropy)
    means = {head: float(np.mean(values)) for head, values in totals.items()}
    best = min(means, key=lambda head: means[head])
    return best, {f"{a}.{b}": round(mean, 3) for (a, b), mean in sorted(means.items())}


def _asked(llm: Any, scene: Scene, question: str, attention: Any) -> Answered:
    picture = render(scene)
    output = llm.generate(
        question, [picture], max_new_tokens=MAX_NEW_TOKENS, attention=attention
    )
    return Answered(scene, picture, question, output.attention)


def measure_words(
    judged: Sequence[Answered], others: dict[str, Sequence[Answered]]
) -> tuple[dict[str, Any], list[tuple[Answered, NamedItem]]]:
    """Plays the pointing game.

    Args:
        judged: Answers with the maps of the chosen head.
        others: The same answers with other maps, by name.

    Returns:
        The report, and the words whose maximum was outside of the box.
    """
    means, failures = Means(), []
    for number, each in enumerate(judged):
        (image,) = each.attention.images
        grid = image.grid
        other = judged[number - 1].attention
        for named in named_items(each.attention.words, each.scene):
            word, item, kind = named.word, named.item, named.kind
            result = score(image.maps[word.at], grid, item)
            means.add(kind, "chosen head", result)
            if not result[0]:
                failures.append((each, named))
            predicting = score(image.maps[word.start], grid, item)
            means.add(kind, "chosen head, predicting query", predicting)
            for name, answers in others.items():
                attention = answers[number].attention
                same = attention.words[each.attention.words.index(word)]
                values = attention.images[0].maps[same.at]
                means.add(kind, name, score(values, grid, item))
            strange = other.images[0].maps[min(word.at, len(other.tokens) - 1)]
            strange = fitted(strange, image.maps[0].shape)
            means.add(kind, "another picture's map", score(strange, grid, item))
            means.add(kind, "center", score(center_map(grid), grid, item))
            share = float(cells_in(grid, item_box(item)).mean())
            means.add(kind, "chance", (share > 1, share))
    report = means.report()
    for by_maps in report.values():
        # A random patch is in the box as often as its share of the patches.
        by_maps["chance"]["maximum_in_box"] = by_maps["chance"]["mass_in_box"]
    return report, failures


def blanked(each: Answered, cells: Sequence[int]) -> Image.Image:
    """Returns a picture whose patches are filled with the background's color."""
    grid = each.attention.images[0].grid
    start, end = each.scene.background.start, each.scene.background.end
    color = tuple((a + b) // 2 for a, b in zip(start, end, strict=True))
    picture = each.picture.copy()
    draw = ImageDraw.Draw(picture)
    for cell in cells:
        left, top, right, bottom = grid.box(*divmod(int(cell), grid.columns))
        draw.rectangle((left, top, right - 1, bottom - 1), fill=color)
    return picture


def measure_deletion(
    llm: Any, judged: Sequence[Answered], seed: int
) -> dict[str, dict[str, float]]:
    """Returns how often an answer changes when patches are blanked.

    The most attended patches are those with the highest sum over the answer's tokens.
    """
    rng = np.random.default_rng((seed, 7))
    report = {}
    for count in BLANKED:
        changed = {"most attended": 0, "random": 0}
        for each in judged:
            total = each.attention.images[0].maps.sum(axis=0).ravel()
            most = np.argsort(total)[::-1][:count]
            random = rng.permutation(len(total))[:count]
            for name, cells in (("most attended", most), ("random", random)):
                output = llm.generate(
                    each.question,
                    [blanked(each, cells.tolist())],
                    max_new_tokens=MAX_NEW_TOKENS,
                )
                changed[name] += output.text != each.attention.answer
        report[str(count)] = {
            name: round(number / len(judged), 4) for name, number in changed.items()
        }
    return report


def draw_failures(failures: Sequence[tuple[Answered, NamedItem]], path: Path) -> None:
    """Draws words whose map is highest outside of the box: the map, and the box."""
    side, gap, columns = 220, 10, 6
    shown = failures[:FAILURES_SHOWN]
    rows = max(1, -(-len(shown) // columns))
    drawn = Image.new(
        "RGB", (columns * (side + gap) + gap, rows * (side + 34) + gap), "white"
    )
    draw = ImageDraw.Draw(drawn)
    for index, (each, named) in enumerate(shown):
        (image,) = each.attention.images
        over = overlaid(each.picture, image.maps[named.word.at], image.grid)
        ImageDraw.Draw(over).rectangle(item_box(named.item), outline=(0, 255, 255))
        over.thumbnail((side, side))
        left, top = gap + index % columns * (side + gap), index // columns * (side + 34)
        drawn.paste(over, (left, top + gap))
        caption = f"{named.word.text}: {each.attention.answer}"
        draw.text((left, top + side + 12), caption[:40], fill="black")
    drawn.save(path, quality=85)


def draw_example(llm: Any, head: tuple[int, int], seed: int, path: Path) -> None:
    """Draws where the words looked that name three shapes of a fresh scene."""
    for scene, question in scenes(seed, 10_000, stream=8):
        kinds = {item.kind for item in scene.items}
        colors = {item.color for item in scene.items}
        is_wide = 1 < scene.width / scene.height < 1.5 and scene.width > 200
        if scene.digit is not None or min(len(kinds), len(colors)) < 3 or not is_wide:
            continue
        attention = _asked(llm, scene, question, {"heads": [head]}).attention
        named = [each.word for each in named_items(attention.words, scene)]
        if len(named) == 6:
            sheet(replace(attention, words=named)).save(path, quality=85)
            return


def run(
    seed: int,
    count: int,
    calibration: int,
    failures: Path | None = None,
    example: Path | None = None,
    **model: Any,
) -> dict[str, Any]:
    """Chooses a head on some scenes and measures its maps on others.

    Args:
        seed: Of all scenes.
        count: Scenes to judge on.
        calibration: Other scenes to choose the head on.
        failures: A picture file for the words whose maximum is outside of the box.
        example: A picture file for the words of another answer.
        model: Arguments of ``LLM``.
    """
    from mllama import LLM

    with LLM(**model) as llm:
        head, scores = choose_head(llm, seed, calibration)
        drawn = list(scenes(seed, count, stream=5))

        def answers(attention: Any) -> list[Answered]:
            return [_asked(llm, scene, asked, attention) for scene, asked in drawn]

        judged = answers({"heads": [head]})
        others: dict[str, Sequence[Answered]] = {
            "each answer's own choice of head": answers(True),
            "mean of the last layer's heads": answers(
                {"layers": "last", "heads": "all"}
            ),
            "mean of all heads": answers({"heads": "all"}),
        }
        words, missed = measure_words(judged, others)
        deletion = measure_deletion(llm, judged, seed)
        if example is not None:
            draw_example(llm, head, seed, example)
    if failures is not None:
        draw_failures(missed, failures)
    return {
        "seed": seed,
        "count": count,
        "calibration": calibration,
        "head": list(head),
        "entropy": scores,
        "words": words,
        "changed_answers": deletion,
        "failures": [
            f"{named.word.text!r} in {each.attention.answer!r}"
            for each, named in missed
        ],
    }


def table(result: dict[str, Any]) -> str:
    """Returns the result as a table for people."""
    lines = [f"head {result['head']}, the clearest of {result['calibration']} answers"]
    for kind, by_maps in result["words"].items():
        for name, scores in by_maps.items():
            lines.append(
                f"{kind:6} {name:34} n={scores['words']:4} "
                f"maximum in box {scores['maximum_in_box']:.3f}  "
                f"mass in box {scores['mass_in_box']:.3f}"
            )
    for count, changed in result["changed_answers"].items():
        lines.append(f"{count} patches blanked, answers changed: {changed}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--calibration", type=int, default=60)
    parser.add_argument("--failures", type=Path, help="file to draw failures to")
    parser.add_argument("--example", type=Path, help="file to draw an answer to")
    parser.add_argument("--model-path", type=Path, default=None)
    options = parser.parse_args(arguments)
    if options.count < 2 or options.calibration < 1:
        parser.error("--count must be at least 2, and --calibration at least 1")
    result = run(
        options.seed,
        options.count,
        options.calibration,
        options.failures,
        options.example,
        model_path=options.model_path,
        devices="cpu",
        max_batch_size=8,
        quiet=True,
    )
    print(table(result), file=sys.stderr)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
