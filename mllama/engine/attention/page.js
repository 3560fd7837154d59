"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const answer = document.getElementById("answer");
const shares = document.getElementById("shares");
let pinned = null;

/** Returns the color of a share of the highest, as red, green, blue. */
function color(value) {
  const place = value * (data.colors.length - 1);
  const low = Math.min(Math.floor(place), data.colors.length - 2);
  return data.colors[low].map(
    (from, channel) => from + (place - low) * (data.colors[low + 1][channel] - from)
  );
}

const figures = data.pictures.map((url, index) => {
  const figure = document.createElement("figure");
  const picture = document.createElement("img");
  picture.src = url;
  picture.alt = data.pictures.length > 1 ? `Image ${index + 1}` : "The picture";
  const canvas = document.createElement("canvas");
  figure.append(picture, canvas);
  document.getElementById("images").append(figure);
  return { figure, canvas };
});

/** Draws a word's map over an image, on the scale of the word's highest share. */
function draw(index, map, highest) {
  const { figure, canvas } = figures[index];
  const size = data.images[index];
  canvas.width = 640;
  canvas.height = Math.max(1, Math.round((640 * size.height) / size.width));
  const context = canvas.getContext("2d");
  figure.classList.toggle("lit", map !== null);
  if (map === null || highest <= 0) return;
  const rows = map.grid.length;
  const columns = map.grid[0].length;
  const small = document.createElement("canvas");
  small.width = columns;
  small.height = rows;
  const pixels = new ImageData(columns, rows);
  map.grid.flat().forEach((share, cell) => {
    const value = Math.min(1, share / highest);
    const [red, green, blue] = color(value);
    pixels.data.set([red, green, blue, 184 * value ** 0.8], 4 * cell);
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  context.imageSmoothingQuality = "high";
  const scale = canvas.width / size.width;
  context.drawImage(small, 0, 0, map.rectangle[2] * scale, map.rectangle[3] * scale);
}

/** Shows where a word looked; null shows the pictures as they are. */
function show(word) {
  for (const button of answer.querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.word) === word));
  }
  if (word === null) {
    figures.forEach((_, index) => draw(index, null, 0));
    shares.textContent = "";
    return;
  }
  const maps = data.words[word].images;
  const highest = Math.max(...maps.flatMap((map) => map.grid.flat()));
  maps.forEach((map, index) => draw(index, map, highest));
  const percent = (value) => `${Math.round(100 * value)} %`;
  shares.textContent = maps
    .map((map, index) => {
      const total = map.grid.flat().reduce((sum, share) => sum + share, 0);
      const name = maps.length > 1 ? `image ${index + 1}` : "the picture";
      return `${percent(total)} on ${name}, ${percent(map.class_tokens)} on class tokens`;
    })
    .join("; ");
}

/** Writes the text, in which the words are buttons. */
function write() {
  for (const { text, word } of data.segments) {
    if (word === null) {
      answer.append(text);
      continue;
    }
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.dataset.word = String(word);
    button.addEventListener("pointerenter", () => show(word));
    button.addEventListener("focus", () => show(word));
    button.addEventListener("pointerleave", () => show(pinned));
    button.addEventListener("click", () => {
      pinned = pinned === word ? null : word;
      show(pinned);
    });
    answer.append(button);
  }
}

write();
show(null);
