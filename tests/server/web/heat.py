"""What is drawn over a picture."""

from __future__ import annotations

from .browser import Locator, expect


def heat_maximum(figure: Locator) -> tuple[float, float]:
    """Returns where the heat over a picture is highest, from 0 to 1: right and down."""
    canvas = figure.locator("canvas")
    expect(canvas).to_be_visible()
    x, y = canvas.evaluate(
        """canvas => {
            const { width, height } = canvas;
            const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
            let [highest, right, down, count] = [0, 0, 0, 0];
            for (let each = 0; each < width * height; each++) {
                // Red, which only the glow has.
                const value = data[4 * each];
                if (value < highest) continue;
                if (value > highest) [highest, right, down, count] = [value, 0, 0, 0];
                right += each % width;
                down += Math.floor(each / width);
                count++;
            }
            return [(right / count + 0.5) / width, (down / count + 0.5) / height];
        }"""
    )
    return x, y
