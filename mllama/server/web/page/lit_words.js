/** Answers whose words light up pictures. */

import { wordsOf } from "./attention.js";
import { attachOverlay } from "./overlay.js";
import { showStatus } from "./status.js";

/** Answers that have not been in sight: `{id, figures}` by their elements, while these exist. */
const waiting = new WeakMap();

/** Answers that light up, or will as soon as they are seen. */
const known = new WeakSet();

/** A long chat's maps are many, so that they are read for answers near to what is seen. */
const observer = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    observer.unobserve(target);
    const { id, figures } = waiting.get(target);
    waiting.delete(target);
    wordsOf(id).then((words) => attachOverlay(target, words, figures, showStatus));
  }
}, { rootMargin: "200px" });

/**
 * Makes the words of an answer light up pictures when it comes into sight.
 * @param {string} id The message, which is complete.
 * @param {HTMLElement} answer Where it is shown.
 * @param {HTMLElement[]} figures Of the pictures before it.
 */
export function lightUpWords(id, answer, figures) {
  if (known.has(answer)) return;
  known.add(answer);
  waiting.set(answer, { id, figures });
  observer.observe(answer);
}
