/** Markdown within a line, as nodes. HTML in it stays text. */

import { element } from "./elements.js";

const INLINE = new RegExp(
  [
    /\\([\\`*_{}[\]()#+\-.!>~|])/,
    /(`+)([^]*?[^`])\2(?!`)/,
    /\[([^[\]]+)\]\(([^\s()]+(?:\([^\s()]*\)[^\s()]*)*)\)/,
    /\*\*(?=\S)([^]*?\S)\*\*/,
    /\*(?=[^\s*])([^*]*?[^\s*])\*/,
    /(?<![\p{L}\p{N}_])_(?=[^\s_])([^_]*?[^\s_])_(?![\p{L}\p{N}_])/,
    /~~(?=\S)([^]*?\S)~~/,
    /(https?:\/\/[^\s<>"'`]+[^\s<>"'`.,;:!?)\]])/,
  ]
    .map((pattern) => pattern.source)
    .join("|"),
  "gu"
);

/** Longer paragraphs are shown as they are: looking for marks in them takes long. */
const LONGEST = 20_000;

/** Returns the nodes of a text. */
export function inlineNodes(text) {
  if (text.length > LONGEST) return [text];
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    if (match.index > end) nodes.push(text.slice(end, match.index));
    nodes.push(nodeOf(match));
    end = match.index + match[0].length;
  }
  if (end < text.length) nodes.push(text.slice(end));
  return nodes;
}

function nodeOf([whole, escaped, , code, label, target, strong, star, underline, struck, url]) {
  if (escaped !== undefined) return escaped;
  if (code !== undefined) return element("code", {}, code.replace(/^ (.*) $/s, "$1"));
  if (label !== undefined) return link(target, inlineNodes(label)) ?? whole;
  if (strong !== undefined) return element("strong", {}, ...inlineNodes(strong));
  if (star ?? underline) return element("em", {}, ...inlineNodes(star ?? underline));
  if (struck !== undefined) return element("s", {}, ...inlineNodes(struck));
  return link(url, [url]) ?? whole;
}

/** Returns a link; null if the target is none that is safe to follow. */
function link(target, children) {
  let url;
  try {
    url = new URL(target);
  } catch {
    return null;
  }
  if (!["http:", "https:", "mailto:"].includes(url.protocol)) return null;
  return element("a", { href: url.href, target: "_blank", rel: "noopener noreferrer" }, ...children);
}
