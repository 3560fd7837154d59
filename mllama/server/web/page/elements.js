/** Elements of the document. Text becomes text nodes, never markup. */

/**
 * Makes an element.
 * @param {string} tag
 * @param {Object} [properties] Its properties; `dataset`, and names with a hyphen or
 *   `role`, which are attributes. Functions listen to the event of their name.
 * @param {...(Node|string)} children
 * @returns {HTMLElement}
 */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (name === "dataset") Object.assign(made.dataset, value);
    else if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** Returns the page's element with an id. */
export function byId(id) {
  return document.getElementById(id);
}
