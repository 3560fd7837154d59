/**
 * Lights up the pictures where a word of an answer looked.
 *
 * With a pointer by hovering or tapping a word; with the keyboard by the arrow keys in the
 * answer, which also say in words where it is.
 */

import { element } from "./elements.js";
import { drawHeat, highestShare, placeOf, removeHeat } from "./heat_map.js";
import { showLens } from "./lens.js";

/** What answers with words that light up are called to those who can't see them. */
const LABEL = "Answer. The left and right arrow keys show where each word looked.";

/**
 * Makes the words of an answer light up the pictures.
 * @param {HTMLElement} answer Where the answer is shown.
 * @param {Object[]} words In the order of the answer, as `wordsOf` returns them.
 * @param {HTMLElement[]} figures The pictures' figures, in the order of the maps.
 * @param {(text: string) => void} say Tells screen readers something.
 */
export function attachOverlay(answer, words, figures, say) {
  const spans = wrapWords(answer, words);
  const found = spans.flatMap((span, index) => (span ? [index] : []));
  if (!found.length) return;
  let [shown, pinned] = [null, null];

  const show = (index) => {
    if (index === shown) return;
    shown = index;
    spans.forEach((span, each) => span?.classList.toggle("current", each === index));
    lightUp(figures, index === null ? [] : words[index].maps, spans[index]);
  };
  const pin = (index) => {
    pinned = index;
    show(index);
    say(index === null ? "" : description(words[index], figures));
  };
  const indexOf = (target) => {
    const index = spans.indexOf(target.closest?.(".word"));
    return index < 0 ? null : index;
  };

  answer.addEventListener("pointerover", (event) => {
    if (event.pointerType !== "touch") show(indexOf(event.target) ?? pinned);
  });
  answer.addEventListener("pointerleave", () => show(pinned));
  answer.addEventListener("click", (event) => {
    const index = indexOf(event.target);
    if (index !== null) pin(pinned === index ? null : index);
  });
  answer.addEventListener("blur", () => pin(null));
  answer.addEventListener("keydown", (event) => {
    const place = pinned === null ? -1 : found.indexOf(pinned);
    const next = {
      ArrowRight: Math.min(place + 1, found.length - 1),
      ArrowLeft: Math.max(place - 1, 0),
      Home: 0,
      End: found.length - 1,
    }[event.key];
    if (event.target !== answer || (next === undefined && event.key !== "Escape")) return;
    event.preventDefault();
    pin(next === undefined ? null : found[next]);
  });
  answer.tabIndex = 0;
  answer.setAttribute("role", "group");
  answer.setAttribute("aria-label", LABEL);
}

/** Letters and digits of scripts that put spaces between words. */
const IN_WORD = /[^\P{L}\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}]|\p{N}/u;

/** Returns where a word begins in a text that isn't part of a longer one; -1 if nowhere. */
function indexOfWord(text, word, start) {
  if (!word) return -1;
  const isCut = (at) => IN_WORD.test(text[at - 1] ?? "") && IN_WORD.test(text[at] ?? "");
  let at = text.indexOf(word, start);
  while (at >= 0 && (isCut(at) || isCut(at + word.length))) at = text.indexOf(word, at + 1);
  return at;
}

/** Makes elements of words, and returns them; null for one that isn't in the text. */
function wrapWords(answer, words) {
  const walker = document.createTreeWalker(answer, NodeFilter.SHOW_TEXT, (node) =>
    node.parentElement.closest("button, figcaption") ? NodeFilter.FILTER_REJECT : NodeFilter.FILTER_ACCEPT
  );
  const nodes = [];
  while (walker.nextNode()) nodes.push(walker.currentNode);
  let [place, from] = [0, 0];
  const found = words.map(({ text }) => {
    for (let node = place, start = from; node < nodes.length; node++, start = 0) {
      const at = indexOfWord(nodes[node].data, text, start);
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
    const span = element("span", { className: "word" });
    word.replaceWith(span);
    span.append(word);
    return span;
  }).reverse();
}

/** Draws the maps of a word over the pictures that it looked at; none shows all as they are. */
function lightUp(figures, maps, word) {
  figures.forEach(removeHeat);
  const highest = maps.map(highestShare);
  const most = Math.max(0, ...highest);
  const lit = figures.filter((figure, each) => highest[each] > 0 && drawHeat(figure, maps[each], most));
  showLens(lit.length ? figures[highest.indexOf(most)] : null, word);
}

/** Returns in words where a word looked. */
function description({ text, maps }, figures) {
  const highest = maps.map(highestShare);
  const most = Math.max(0, ...highest);
  if (most === 0) return `“${text}” looked at no picture.`;
  const picture = highest.indexOf(most);
  const name = figures[picture]?.querySelector("img")?.alt ?? "a picture";
  return `“${text}” looked at the ${placeOf(maps[picture])} of ${name}.`;
}
