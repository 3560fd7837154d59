"""Draw the pictures that ship with the demo model: ``python -m demo.draw_pictures``.

Their questions and answers are in ``mllama/demo_model/__init__.py``.
"""

from __future__ import annotations

from pathlib import Path

from demo.data.drawing import render
from demo.data.scenes import Background, Item, Scene
from mllama.demo_model import PICTURES_PATH

LIGHT_GRAY = (232, 232, 232)
MIDNIGHT = (32, 36, 48)

SCENES: dict[str, Scene] = {
    "shapes": Scene(
        320,
        320,
        Background((236, 232, 224), (208, 214, 224), direction=0.8),
        (
            Item("star", "red", (220, 40, 40), x=90, y=165, size=120, angle=0.2),
            Item("circle", "blue", (40, 80, 220), x=232, y=165, size=120),
        ),
    ),
    # Four tiles side by side.
    "row": Scene(
        480,
        120,
        Background(LIGHT_GRAY, LIGHT_GRAY),
        (
            Item("square", "green", (40, 160, 60), x=60, y=60, size=66),
            Item("triangle", "purple", (140, 50, 170), x=240, y=60, size=72),
            Item("square", "green", (40, 160, 60), x=420, y=60, size=66),
        ),
    ),
    "digit": Scene(
        300,
        300,
        Background(MIDNIGHT, MIDNIGHT),
        (
            Item("7", "yellow", (240, 220, 50), x=85, y=150, size=165),
            Item("cross", "white", (245, 245, 245), x=225, y=150, size=90),
        ),
    ),
}
"""Scenes by the name of their picture."""


def main(directory: Path = PICTURES_PATH) -> None:
    """Draws every scene into ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, scene in SCENES.items():
        render(scene).save(directory / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
