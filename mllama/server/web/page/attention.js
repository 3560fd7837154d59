/**
 * Where the words of answers looked, which this browser keeps.
 *
 * It is kept as `{words, images}`. An image is `{rows, columns, rectangle, steps, scales}`;
 * `rectangle` is the part of the picture that the map covers, as
 * `[left, top, right, bottom]` from 0 to 1. `steps` has the maps of all words, one after
 * the other, in parts of each word's scale.
 */

import { attentionOf, storeAttention } from "./history.js";

/** The greatest value of a map in an answer, which is as much as its scale. */
const STEPS = 65535;

const kept = new Map();

/** Returns the bytes of a base64 text. */
function bytesOf(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0)).buffer;
}

function imageOf({ width, height, rectangle, shape, maps, scale }, words) {
  const [, rows, columns] = shape;
  const size = rows * columns;
  const steps = new Uint16Array(bytesOf(maps));
  const scales = new Float32Array(bytesOf(scale));
  const ofWords = new Uint16Array(words.length * size);
  words.forEach(({ map_of_token: token }, word) => {
    ofWords.set(steps.subarray(token * size, (token + 1) * size), word * size);
  });
  const sides = [width, height, width, height];
  return {
    rows, columns, rectangle: rectangle.map((side, each) => side / sides[each]),
    steps: ofWords, scales: words.map((word) => scales[word.map_of_token]),
  };
}

/**
 * Keeps what a server's answer says of a message.
 * @param {string} id The message.
 * @param {Object} attention `attention` of the answer, which docs/attention.md describes.
 * @returns {Promise<boolean>} Whether a word looked at a picture.
 */
export async function keepAttention(id, attention) {
  const words = attention.words.filter((word) => !word.prompt);
  if (!words.length || !attention.images.length) return false;
  const images = attention.images.map((image) => imageOf(image, words));
  const record = { id, words: words.map((word) => word.text), images };
  kept.set(id, record);
  await storeAttention(record).catch(() => {});
  return true;
}

/**
 * Returns the words of a message: `{text, maps}`; `maps` has one for each picture before
 * it, `{rows, columns, rectangle, shares}`.
 * @param {string} id
 * @returns {Promise<Object[]>} None if this browser has lost them.
 */
export async function wordsOf(id) {
  const record = kept.get(id) ?? (await attentionOf(id).catch(() => undefined));
  if (!record) return [];
  return record.words.map((text, word) => ({ text, maps: record.images.map((image) => mapOf(image, word)) }));
}

function mapOf({ rows, columns, rectangle, steps, scales }, word) {
  const size = rows * columns;
  const map = steps.subarray(word * size, (word + 1) * size);
  return { rows, columns, rectangle, shares: Float32Array.from(map, (step) => (step * scales[word]) / STEPS) };
}
