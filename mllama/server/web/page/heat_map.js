/** A map of attention as light over a picture: `{rows, columns, rectangle, shares}`. */

import { element } from "./elements.js";

/** What lies over a place that a word didn't look at, and over the one it looked at most. */
const [SHADE, GLOW] = [{ color: [8, 8, 14], alpha: 0.64 }, { color: [255, 150, 30], alpha: 0.3 }];

/** Width of what is drawn, in pixels. */
const WIDTH = 640;

/** Returns red, green, blue and alpha from 0 to 255 for a value from 0 to 1. */
function pixel(value) {
  const [shade, glow] = [SHADE.alpha * (1 - value), GLOW.alpha * value];
  const alpha = shade + glow;
  const color = SHADE.color.map((each, channel) => (each * shade + GLOW.color[channel] * glow) / alpha);
  return [...color, 255 * alpha];
}

/** Returns the highest share of a map. */
export function highestShare(map) {
  return map.shares.reduce((highest, share) => Math.max(highest, share), 0);
}

/** Returns where a map is highest, in words. */
export function placeOf(map) {
  const cell = map.shares.indexOf(highestShare(map));
  const column = (cell % map.columns + 0.5) / map.columns;
  const row = (Math.floor(cell / map.columns) + 0.5) / map.rows;
  const third = (place, names) => names[Math.min(2, Math.floor(3 * place))];
  const [vertical, horizontal] = [third(row, ["top", "middle", "bottom"]), third(column, ["left", "center", "right"])];
  if (vertical === "middle") return horizontal === "center" ? "center" : `${horizontal} side`;
  return `${vertical} ${horizontal}`;
}

/**
 * Draws a map over a picture.
 * @param {HTMLElement} figure The picture's.
 * @param {Object} map
 * @param {number} highest The share that is the brightest.
 * @returns {boolean} False if the picture is no longer there.
 */
export function drawHeat(figure, map, highest) {
  const picture = figure.querySelector("img");
  if (!picture?.naturalWidth) return false;
  const canvas = element("canvas", { width: WIDTH, "aria-hidden": "true" });
  canvas.height = Math.max(1, Math.round((WIDTH * picture.naturalHeight) / picture.naturalWidth));
  const pixels = new ImageData(map.columns, map.rows);
  map.shares.forEach((share, cell) => {
    pixels.data.set(pixel(Math.min(1, share / highest) ** 0.8), 4 * cell);
  });
  const small = element("canvas", { width: map.columns, height: map.rows });
  small.getContext("2d").putImageData(pixels, 0, 0);
  const [left, top, right, bottom] = map.rectangle;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(small, left * canvas.width, top * canvas.height,
    (right - left) * canvas.width, (bottom - top) * canvas.height);
  figure.append(canvas);
  figure.classList.add("lit");
  return true;
}

/** Shows the picture as it is again. */
export function removeHeat(figure) {
  figure.classList.remove("lit");
  figure.querySelector("canvas")?.remove();
}
