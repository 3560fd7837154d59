/** The API key, and the dialog that asks for it. */

import { byId } from "./elements.js";
import { load, save } from "./storage.js";

let key = load("sessionStorage", "key") ?? load("localStorage", "key") ?? "";

/** Returns the key that requests send; empty if there is none. */
export function currentKey() {
  return key;
}

/**
 * Asks for the key.
 * @param {string} reason Why, in a sentence.
 * @returns {Promise<boolean>} Whether the user gave one.
 */
export function askForKey(reason) {
  const dialog = byId("key");
  const form = dialog.querySelector("form");
  byId("key-reason").textContent = reason;
  form.elements.key.value = "";
  form.elements.remember.checked = load("localStorage", "key") !== null;
  return new Promise((resolve) => {
    let given = false;
    form.onsubmit = () => {
      key = form.elements.key.value.trim();
      given = true;
      save("sessionStorage", "key", key || null);
      save("localStorage", "key", form.elements.remember.checked && key ? key : null);
    };
    byId("cancel-key").onclick = () => dialog.close();
    dialog.addEventListener("close", () => resolve(given), { once: true });
    if (!dialog.open) dialog.showModal();
  });
}
