/** The lines above the question: what the server does, and what went wrong. */

import { byId, element } from "./elements.js";
import { isReady } from "./server.js";

let timer = null;

/**
 * Says what is going on, with the seconds that it takes; null says nothing.
 * @param {?string} text
 */
export function showStatus(text, counts = false) {
  clearInterval(timer);
  const line = byId("status");
  line.classList.toggle("busy", counts);
  line.replaceChildren(...(text ? [text] : []));
  if (!text || !counts) return;
  // Screen readers hear the text once, and not each second.
  const seconds = element("span", { "aria-hidden": "true" });
  line.append(seconds);
  const begun = performance.now();
  timer = setInterval(() => {
    seconds.textContent = ` ${Math.round((performance.now() - begun) / 1000)} s`;
  }, 1000);
}

/**
 * Says what went wrong until it is closed or replaced; null removes it.
 * @param {?string} text
 * @param {?{label: string, run: () => void}} wayOut
 */
export function showNotice(text, wayOut = null) {
  const notice = byId("notice");
  if (!text) {
    notice.replaceChildren();
    return;
  }
  const children = [element("p", {}, text)];
  if (wayOut) {
    children.push(element("button", { type: "button", click: () => {
      showNotice(null);
      wayOut.run();
    } }, wayOut.label));
  }
  children.push(element("button", { type: "button", className: "icon", "aria-label": "Close this message",
    click: () => showNotice(null) }, "✕"));
  notice.replaceChildren(...children);
}

let waiting = null;

/** Waits until the model can answer, and says so meanwhile. */
export function untilReady() {
  waiting ??= (async () => {
    let said = false;
    while (!(await isReady())) {
      if (!said) showStatus("Waiting for the model to start…", true);
      said = true;
      await new Promise((resolve) => setTimeout(resolve, 1500));
    }
    if (said) showStatus("The model is ready.");
  })().finally(() => (waiting = null));
  return waiting;
}
