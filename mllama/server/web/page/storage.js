/** Small values that this browser keeps, apart for each server of an origin. */

const PREFIX = `mllama:${new URL("../", import.meta.url).pathname}:`;

/** Returns a kept value; null if there is none, or the browser keeps nothing. */
export function load(area, name) {
  try {
    return window[area].getItem(PREFIX + name);
  } catch {
    return null;
  }
}

/** Keeps a value until it is replaced; null removes it. */
export function save(area, name, value) {
  try {
    if (value === null) window[area].removeItem(PREFIX + name);
    else window[area].setItem(PREFIX + name, value);
  } catch {
    // A browser that keeps nothing still chats.
  }
}
