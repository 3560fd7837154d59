/** Markdown as elements: marked reads it, and HTML in it stays text. */

import { element } from "./elements.js";
import { Lexer } from "./marked.js";

/** Longer texts within a block are shown as they are: looking for marks takes long. */
const LONGEST = 20_000;

/** How deep quotes, lists and marks may lie in each other. */
const DEEPEST = 12;

class BoundedLexer extends Lexer {
  inlineTokens(text, tokens = []) {
    if (text.length <= LONGEST) return super.inlineTokens(text, tokens);
    tokens.push({ type: "text", raw: text, text });
    return tokens;
  }
}

/**
 * Shows a text in an element, and touches only blocks that have changed since the last
 * call: an answer grows at its end.
 * @param {HTMLElement} target
 * @param {string} text
 * @param {boolean} isWhole Whether the text is complete, so that all of it is read again.
 */
export function showMarkdown(target, text, isWhole = true) {
  const shown = target.shownMarkdown ?? { text: "", blocks: [], isWhole: false };
  if (shown.text === text && (shown.isWhole || !isWhole)) return;
  const blocks = isWhole || !text.startsWith(shown.text) ? blocksOf(text) : grownBlocks(shown, text);
  let same = 0;
  while (same < Math.min(shown.blocks.length, blocks.length) && isSame(shown.blocks[same], blocks[same])) same++;
  while (target.childNodes.length > same) target.lastChild.remove();
  target.append(...blockNodes(blocks.slice(same), 0));
  target.shownMarkdown = { text, blocks, isWhole };
}

function isSame(one, other) {
  return one.type === other.type && one.raw === other.raw;
}

/** Returns the blocks of a text; what can't be read is one paragraph. */
function blocksOf(text) {
  let tokens;
  try {
    tokens = new BoundedLexer().lex(text);
  } catch {
    // Thousands of quotes in each other, for example.
    tokens = [{ type: "paragraph", raw: text, tokens: [{ type: "text", raw: text, text }] }];
  }
  let start = 0;
  const blocks = tokens.map((token) => {
    const block = { ...token, start };
    start += token.raw.length;
    return block;
  });
  return blocks.filter((block) => !["space", "def"].includes(block.type));
}

/** Returns the blocks of a text whose beginning is shown: only the last block can grow. */
function grownBlocks({ blocks }, text) {
  const last = blocks.at(-1);
  if (!last) return blocksOf(text);
  const grown = blocksOf(text.slice(last.start));
  return [...blocks.slice(0, -1), ...grown.map((block) => ({ ...block, start: block.start + last.start }))];
}

function blockNodes(tokens, depth) {
  return tokens.filter((token) => !["space", "def"].includes(token.type)).map((token) => blockNode(token, depth));
}

function blockNode(token, depth) {
  switch (depth < DEEPEST ? token.type : "text") {
    case "code":
      return codeBlock(token);
    case "heading":
      // The page has headings of its own above these.
      return element(`h${Math.min(6, token.depth + 2)}`, {}, ...inlineNodes(token.tokens, depth));
    case "hr":
      return element("hr");
    case "blockquote":
      return element("blockquote", {}, ...blockNodes(token.tokens, depth + 1));
    case "list":
      return list(token, depth + 1);
    case "table":
      return table(token, depth);
    case "paragraph":
      return element("p", {}, ...inlineNodes(token.tokens, depth));
    default:
      return element("p", {}, token.raw.trimEnd());
  }
}

function codeBlock({ text, lang }) {
  const copy = element("button", { type: "button", className: "copy", click: async () => {
    await navigator.clipboard?.writeText(text);
    copy.textContent = "Copied";
    setTimeout(() => (copy.textContent = "Copy"), 2000);
  } }, "Copy");
  return element("figure", { className: "code" },
    element("figcaption", {}, element("span", {}, lang || "text"), copy),
    element("pre", { tabIndex: 0 }, element("code", {}, text)));
}

function list({ ordered, start, items }, depth) {
  const made = element(ordered ? "ol" : "ul");
  if (ordered) made.start = start;
  // Text of a tight list is no paragraph.
  const nodes = (token) => (token.type === "text" ? inlineNodes([token], depth)
    : token.type === "checkbox" ? [token.checked ? "☑ " : "☐ "]
    : blockNodes([token], depth));
  made.append(...items.map((item) => element("li", {}, ...item.tokens.flatMap(nodes))));
  return made;
}

function table({ header, rows }, depth) {
  const row = (cells, tag) => element("tr", {}, ...cells.map(({ align, tokens }) =>
    element(tag, align ? { dataset: { align } } : {}, ...inlineNodes(tokens, depth))));
  return element("div", { className: "table", tabIndex: 0, role: "group", "aria-label": "Table" },
    element("table", {},
      element("thead", {}, row(header, "th")),
      element("tbody", {}, ...rows.map((cells) => row(cells, "td")))));
}

const ELEMENTS = { strong: "strong", em: "em", del: "s" };

function inlineNodes(tokens, depth) {
  return tokens.flatMap((token) => inlineNode(token, depth + 1));
}

function inlineNode(token, depth) {
  switch (depth <= 2 * DEEPEST ? token.type : "html") {
    case "strong":
    case "em":
    case "del":
      return [element(ELEMENTS[token.type], {}, ...inlineNodes(token.tokens, depth))];
    case "codespan":
      return [element("code", {}, token.text)];
    case "br":
      return [element("br")];
    case "link":
      return [link(token.href, inlineNodes(token.tokens, depth)) ?? token.raw];
    case "image":
      // The page loads nothing from other hosts.
      return [link(token.href, [token.text || token.href]) ?? token.raw];
    case "html":
      return [token.raw];
    default:
      return token.tokens ? inlineNodes(token.tokens, depth) : [token.text];
  }
}

/** Returns a link; null if the target is none that is safe to follow. */
function link(href, children) {
  let url;
  try {
    url = new URL(href);
  } catch {
    return null;
  }
  if (!["http:", "https:", "mailto:"].includes(url.protocol)) return null;
  return element("a", { href: url.href, target: "_blank", rel: "noopener noreferrer" }, ...children);
}
