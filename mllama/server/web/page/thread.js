/** The shown branch of a conversation. */

import { branch, childrenByParent } from "./conversation.js";
import { byId, element } from "./elements.js";
import { lightUpWords } from "./lit_words.js";
import { showMarkdown } from "./markdown.js";
import { objectUrl } from "./pictures.js";

const thread = byId("thread");

/** Items of shown messages by their ids: a long thread isn't made again for each turn. */
const items = new Map();

let shown = null;

/**
 * Shows a conversation.
 * @param {Object} conversation
 * @param {{regenerate: Function, edit: Function, select: Function}} actions Called with a
 *   message; `edit` with its new text too.
 */
export function showThread(conversation, actions) {
  if (shown !== conversation) {
    items.clear();
    thread.replaceChildren();
    shown = conversation;
  }
  const messages = branch(conversation);
  const children = childrenByParent(conversation);
  const ids = new Set(messages.map((message) => message.id));
  for (const [id, item] of items) {
    if (ids.has(id)) continue;
    item.remove();
    items.delete(id);
  }
  for (const message of messages) {
    let item = items.get(message.id);
    if (!item) {
      item = newItem(message);
      items.set(message.id, item);
      thread.append(item);
      updateMessage(message);
    }
    showTools(item, message, children.get(message.parent), actions);
  }
  byId("welcome").hidden = messages.length > 0;
  byId("copy-request").hidden = messages.length === 0;
}

function newItem(message) {
  const isUser = message.role === "user";
  const item = element("li", { className: message.role, dataset: { id: message.id } },
    element("h2", { className: "hidden" }, isUser ? "You" : "Answer"));
  if (message.pictures.length) {
    item.append(element("div", { className: "pictures" }, ...message.pictures.map(figureOf)));
  }
  item.append(element("div", { className: isUser ? "text" : "text markdown" }),
    element("p", { className: "state" }), element("p", { className: "maps" }), element("p", { className: "stats" }),
    element("div", { className: "tools" }));
  return item;
}

function figureOf(picture) {
  const image = element("img", { alt: picture.name, title: picture.name, width: picture.width, height: picture.height });
  const figure = element("figure", { dataset: { picture: picture.id } }, image);
  objectUrl(picture.id).then((url) => {
    if (url) image.src = url;
    else figure.replaceChildren(element("p", {}, `${picture.name} is no longer in this browser`));
  });
  return figure;
}

/** Shows a message as it is now. */
export function updateMessage(message) {
  const item = items.get(message.id);
  if (!item) return;
  const text = item.querySelector(".text");
  if (message.role === "user") text.textContent = message.text;
  else showMarkdown(text, message.text, message.status !== "streaming");
  item.setAttribute("aria-busy", String(message.status === "streaming"));
  item.querySelector(".state").textContent =
    { stopped: "Stopped.", interrupted: "The answer broke off here.", length: "The answer has reached its longest length." }[message.status] ?? "";
  item.querySelector(".maps").textContent = mapsText(message.maps);
  if (message.maps === true) lightUpWords(message.id, text, figuresBefore(item));
  item.querySelector(".stats").textContent = message.stats ? statsText(message.stats) : "";
}

function mapsText(maps) {
  if (maps === true) return "Point at a word, or tap it, to see where it looked.";
  return maps ? `Where its words looked isn't known: ${maps}` : "";
}

/** Returns the figures of the pictures that an answer could look at, in their order. */
function figuresBefore(item) {
  return [...thread.querySelectorAll("figure[data-picture]")].filter(
    (figure) => figure.compareDocumentPosition(item) & Node.DOCUMENT_POSITION_FOLLOWING
  );
}

function statsText({ firstToken, perSecond, answerTokens, promptTokens, imageTokens, cachedTokens }) {
  const count = (number) => number.toLocaleString("en");
  const parts = [`${(firstToken / 1000).toFixed(2)} s to the first token`];
  if (perSecond) parts.push(`${perSecond < 100 ? perSecond.toFixed(1) : count(Math.round(perSecond))} tokens/s`);
  if (answerTokens !== undefined) {
    parts.push(`${count(answerTokens)} tokens`);
    parts.push(`prompt ${count(promptTokens)}` +
      (imageTokens ? `, ${count(imageTokens)} of pictures` : "") + `, ${count(cachedTokens)} cached`);
  }
  return parts.join(" · ");
}

function showTools(item, message, siblings, actions) {
  const versions = siblings.map((each) => each.id).join();
  if (item.dataset.versions === versions) return;
  item.dataset.versions = versions;
  const button = (label, click) => element("button", { type: "button", click }, label);
  const tools = [];
  if (siblings.length > 1) {
    const place = siblings.indexOf(message);
    const other = (step, label) => element("button", { type: "button", "aria-label": label,
      disabled: !siblings[place + step], click: () => actions.select(siblings[place + step]) }, step < 0 ? "‹" : "›");
    tools.push(other(-1, "Earlier version"), element("span", {}, `${place + 1} of ${siblings.length}`), other(1, "Later version"));
  }
  if (message.role === "user") tools.push(button("Edit", () => editMessage(item, message, actions)));
  else {
    tools.push(button("Regenerate", () => actions.regenerate(message)));
    const copy = button("Copy", async () => {
      await navigator.clipboard?.writeText(message.text);
      copy.textContent = "Copied";
      setTimeout(() => (copy.textContent = "Copy"), 2000);
    });
    tools.push(copy);
  }
  item.querySelector(".tools").replaceChildren(...tools);
}

function editMessage(item, message, actions) {
  const text = item.querySelector(".text");
  const field = element("textarea", { value: message.text, rows: 3, "aria-label": "Edit the question" });
  const close = () => {
    form.remove();
    text.hidden = false;
    item.querySelector(".tools").hidden = false;
    item.querySelector(".tools button:last-child")?.focus();
  };
  const form = element("form", { className: "edit", submit: (event) => {
    event.preventDefault();
    close();
    actions.edit(message, field.value.trim());
  }, keydown: (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      close();
    } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing && event.target === field) {
      event.preventDefault();
      form.requestSubmit();
    }
  } }, field, element("div", { className: "actions" },
    element("button", { type: "button", click: close }, "Cancel"),
    element("button", { type: "submit", className: "primary" }, "Send")));
  text.hidden = true;
  item.querySelector(".tools").hidden = true;
  text.after(form);
  field.focus();
}

const main = byId("main");

let isFollowing = true;
let lastTop = 0;

main.addEventListener("scroll", () => {
  const isAtEnd = main.scrollHeight - main.scrollTop - main.clientHeight < 40;
  if (isAtEnd) isFollowing = true;
  else if (main.scrollTop < lastTop) isFollowing = false;
  lastTop = main.scrollTop;
});

// The thread grows as answers are written and pictures are shown.
new ResizeObserver(() => {
  if (isFollowing) main.scrollTop = main.scrollHeight;
}).observe(thread);

/** Scrolls to the end, and stays there until the user scrolls up. */
export function followEnd() {
  isFollowing = true;
  main.scrollTop = main.scrollHeight;
}
