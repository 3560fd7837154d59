/** System prompt and sampling, which this browser keeps. */

import { byId } from "./elements.js";
import { load, save } from "./storage.js";

const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];

/** Whether the server can say where words look. */
let offersMaps = false;

const form = byId("settings").querySelector("form");

/** Fills the drawer with what was kept, and keeps what is typed. */
export function startSettings() {
  let kept = {};
  try {
    kept = JSON.parse(load("localStorage", "settings") ?? "{}") ?? {};
  } catch {
    // Damaged settings are as none.
  }
  for (const name of ["system", ...NUMBERS]) form.elements[name].value = kept[name] ?? "";
  form.elements.maps.checked = kept.maps ?? true;
  form.addEventListener("input", keepSettings);
  byId("open-settings").addEventListener("click", () => byId("settings").showModal());
  byId("reset-settings").addEventListener("click", () => {
    form.reset();
    keepSettings();
  });
}

function keepSettings() {
  const values = Object.fromEntries(
    ["system", ...NUMBERS].map((name) => [name, form.elements[name].value])
  );
  save("localStorage", "settings", JSON.stringify({ ...values, maps: form.elements.maps.checked }));
}

/** Lets the user choose maps if the server has them; otherwise says why there are none. */
export function offerMaps(isOffered) {
  offersMaps = isOffered;
  form.elements.maps.disabled = !isOffered;
  byId("maps-hint").textContent = isOffered
    ? "Point at a word of an answer, or tap it, and the pictures light up. The model computes that after the answer."
    : "This server doesn't offer that: only mllama serve --attention does.";
}

/** Returns true if answers come with where their words looked. */
export function wantsMaps() {
  return offersMaps && form.elements.maps.checked;
}

/** Returns the system prompt; empty if there is none. */
export function systemPrompt() {
  return form.elements.system.value.trim();
}

/** Returns the fields of a request that are set. */
export function samplingFields() {
  const set = NUMBERS.filter((name) => form.elements[name].value !== "" && form.elements[name].validity.valid);
  return Object.fromEntries(set.map((name) => [name, form.elements[name].valueAsNumber]));
}
