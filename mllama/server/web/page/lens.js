/** A copy of a lit picture, for words whose picture has been scrolled away. */

import { byId } from "./elements.js";

/** Space around the copy, in pixels. */
const MARGIN = 12;

/**
 * Shows a copy of a lit figure if it isn't in sight; null hides the copy.
 * @param {?HTMLElement} figure
 * @param {?HTMLElement} word The word, which stays uncovered.
 */
export function showLens(figure, word) {
  const lens = byId("lens");
  const heat = figure?.querySelector("canvas");
  const isNeeded = Boolean(heat) && !isInSight(figure);
  lens.hidden = !isNeeded;
  lens.replaceChildren();
  if (!isNeeded) return;
  const copy = figure.cloneNode(true);
  // A canvas is cloned without what is drawn on it.
  copy.querySelector("canvas").getContext("2d").drawImage(heat, 0, 0);
  lens.append(copy);
  const [column, sight] = [lens.parentElement.getBoundingClientRect(), byId("main").getBoundingClientRect()];
  const height = lens.offsetHeight;
  const isCovered = word.getBoundingClientRect().top < sight.top + height + 2 * MARGIN;
  const top = isCovered ? sight.bottom - height - MARGIN : sight.top + MARGIN;
  lens.style.top = `${top - column.top}px`;
}

function isInSight(figure) {
  const [area, sight] = [figure.getBoundingClientRect(), byId("main").getBoundingClientRect()];
  const visible = Math.min(area.bottom, sight.bottom) - Math.max(area.top, sight.top);
  return visible > area.height / 2;
}
