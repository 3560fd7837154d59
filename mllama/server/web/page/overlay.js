/**
 * Where in the pictures the model looked for each word.
 *
 * A word is `{text, maps}`; `maps` has one for each picture of the conversation, or null:
 * `{grid, rectangle}`. `grid` has rows of shares of attention; `rectangle` is the part of
 * the picture that it covers, as `[left, top, right, bottom]` from 0 to 1.
 */

import { element } from "./elements.js";

/** From nothing to the highest share: red, green, blue. */
const COLORS = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];

/** Width of what is drawn, in pixels. */
const WIDTH = 640;

function color(value) {
  const place = value * (COLORS.length - 1);
  const low = Math.min(Math.floor(place), COLORS.length - 2);
  return COLORS[low].map((from, channel) => from + (place - low) * (COLORS[low + 1][channel] - from));
}

/**
 * Makes the words of an answer light up the pictures.
 * @param {HTMLElement} answer Where the answer is shown.
 * @param {Object[]} words In the order of the answer.
 * @param {HTMLElement[]} figures The pictures' figures, in the order of the maps.
 */
export function attachOverlay(answer, words, figures) {
  let pinned = null;
  const buttons = wrapWords(answer, words);
  const show = (index) => {
    buttons.forEach((button, each) => button?.setAttribute("aria-pressed", String(each === index)));
    const maps = index === null ? [] : words[index].maps;
    const highest = Math.max(0, ...maps.flatMap((map) => (map ? map.grid.flat() : [])));
    figures.forEach((figure, each) => draw(figure, highest > 0 ? maps[each] ?? null : null, highest));
  };
  buttons.forEach((button, index) => {
    if (!button) return;
    button.addEventListener("pointerenter", () => show(index));
    button.addEventListener("pointerleave", () => show(pinned));
    button.addEventListener("focus", () => show(index));
    button.addEventListener("blur", () => show(pinned));
    button.addEventListener("click", () => {
      pinned = pinned === index ? null : index;
      show(pinned);
    });
  });
}

/** Makes buttons of words, and returns them; null for one that isn't in the text. */
function wrapWords(answer, words) {
  const walker = document.createTreeWalker(answer, NodeFilter.SHOW_TEXT, (node) =>
    node.parentElement.closest("button, figcaption, a") ? NodeFilter.FILTER_REJECT : NodeFilter.FILTER_ACCEPT
  );
  const nodes = [];
  while (walker.nextNode()) nodes.push(walker.currentNode);
  let [place, from] = [0, 0];
  const found = words.map(({ text }) => {
    for (let node = place, start = from; text && node < nodes.length; node++, start = 0) {
      const at = nodes[node].data.indexOf(text, start);
      if (at < 0) continue;
      [place, from] = [node, at + text.length];
      return { node: nodes[node], at, text };
    }
    return null;
  });
  // From the end, so that the places before stay right.
  return found.reverse().map((each) => {
    if (!each) return null;
    const word = each.node.splitText(each.at);
    word.splitText(each.text.length);
    const button = element("button", { type: "button", className: "word", "aria-pressed": "false" });
    word.replaceWith(button);
    button.append(word);
    return button;
  }).reverse();
}

/** Draws a map over a picture; null shows the picture as it is. */
function draw(figure, map, highest) {
  figure.classList.toggle("lit", map !== null);
  figure.querySelector("canvas")?.remove();
  if (map === null) return;
  const picture = figure.querySelector("img");
  const canvas = element("canvas", { width: WIDTH, "aria-hidden": "true" });
  canvas.height = Math.max(1, Math.round((WIDTH * picture.naturalHeight) / (picture.naturalWidth || 1)));
  const columns = map.grid[0].length;
  const pixels = new ImageData(columns, map.grid.length);
  map.grid.flat().forEach((share, cell) => {
    const value = Math.min(1, share / highest);
    pixels.data.set([...color(value), 200 * value ** 0.8], 4 * cell);
  });
  const small = element("canvas", { width: columns, height: map.grid.length });
  small.getContext("2d").putImageData(pixels, 0, 0);
  const [left, top, right, bottom] = map.rectangle;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(small, left * canvas.width, top * canvas.height,
    (right - left) * canvas.width, (bottom - top) * canvas.height);
  figure.append(canvas);
}
