/** Markdown as elements: the blocks that models write. HTML in it stays text. */

import { element } from "./elements.js";
import { inlineNodes } from "./inline_markdown.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const QUOTE = /^ {0,3}>\s?(.*)$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const DELIMITER = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

/** How deep quotes and lists may lie in each other. */
const DEEPEST = 8;

/**
 * Shows a text in an element, and touches only blocks that have changed since the last
 * call: an answer grows at its end.
 * @param {HTMLElement} target
 * @param {string} text
 */
export function showMarkdown(target, text) {
  const blocks = splitBlocks(text.split("\n"));
  const shown = (target.shownBlocks ??= []);
  let same = 0;
  while (same < shown.length && same < blocks.length && shown[same] === blocks[same].source) same++;
  while (target.childNodes.length > same) target.lastChild.remove();
  target.append(...blocks.slice(same).map((block) => blockNode(block, 0)));
  target.shownBlocks = blocks.map((block) => block.source);
}

/** Returns blocks: `{kind, lines, source}`. */
function splitBlocks(lines) {
  const blocks = [];
  let index = 0;
  while (index < lines.length) {
    if (!lines[index].trim()) {
      index++;
      continue;
    }
    const [kind, count] = blockAt(lines, index);
    const taken = lines.slice(index, index + count);
    blocks.push({ kind, lines: taken, source: `${kind}\n${taken.join("\n")}` });
    index += count;
  }
  return blocks;
}

/** Returns the kind of the block that begins at a line, and its number of lines. */
function blockAt(lines, start) {
  const count = (belongs) => {
    let end = start + 1;
    while (end < lines.length && belongs(lines[end], end)) end++;
    return end - start;
  };
  const first = lines[start];
  const fence = first.match(FENCE);
  if (fence) {
    let isOpen = true;
    const closes = new RegExp(`^ {0,3}${fence[1][0]}{${fence[1].length},}\\s*$`);
    return ["code", count((line) => {
      const belongs = isOpen;
      if (closes.test(line)) isOpen = false;
      return belongs;
    })];
  }
  if (HEADING.test(first)) return ["heading", 1];
  if (RULE.test(first)) return ["rule", 1];
  if (QUOTE.test(first)) return ["quote", count((line) => QUOTE.test(line))];
  if (ITEM.test(first)) {
    return ["list", count((line, at) => {
      if (line.trim()) return ITEM.test(line) || /^\s{2,}/.test(line) || (lines[at - 1].trim() && !startsBlock(line));
      return at + 1 < lines.length && (ITEM.test(lines[at + 1]) || /^\s{2,}\S/.test(lines[at + 1]));
    })];
  }
  if (first.includes("|") && DELIMITER.test(lines[start + 1] ?? "") && lines[start + 1].includes("-")) {
    return ["table", count((line) => line.includes("|"))];
  }
  return ["paragraph", count((line) => line.trim() && !startsBlock(line))];
}

function startsBlock(line) {
  return [FENCE, HEADING, RULE, QUOTE, ITEM].some((pattern) => pattern.test(line));
}

function blockNode({ kind, lines }, depth) {
  switch (kind) {
    case "code":
      return codeBlock(lines);
    case "heading": {
      const [, marks, text] = lines[0].match(HEADING);
      // The page has headings of its own above these.
      return element(`h${Math.min(6, marks.length + 2)}`, {}, ...inlineNodes(text));
    }
    case "rule":
      return element("hr");
    case "quote":
      return element("blockquote", {}, ...nested(lines.map((line) => line.match(QUOTE)[1]), depth));
    case "list":
      return list(lines, depth);
    case "table":
      return table(lines);
    default:
      return element("p", {}, ...inlineNodes(lines.join("\n")));
  }
}

function nested(lines, depth) {
  if (depth >= DEEPEST) return [element("p", {}, lines.join("\n"))];
  return splitBlocks(lines).map((block) => blockNode(block, depth + 1));
}

function codeBlock(lines) {
  const [, mark, language] = lines[0].match(FENCE);
  const isClosed = lines.length > 1 && lines.at(-1).trim().startsWith(mark);
  const code = lines.slice(1, isClosed ? -1 : undefined).join("\n");
  const copy = element("button", { type: "button", className: "copy", click: async () => {
    await navigator.clipboard?.writeText(code);
    copy.textContent = "Copied";
    setTimeout(() => (copy.textContent = "Copy"), 2000);
  } }, "Copy");
  return element("figure", { className: "code" },
    element("figcaption", {}, element("span", {}, language.trim() || "text"), copy),
    element("pre", { tabIndex: 0 }, element("code", {}, code)));
}

function list(lines, depth) {
  const indent = lines[0].match(ITEM)[1].length;
  const isOrdered = /\d/.test(lines[0].match(ITEM)[2]);
  const items = [];
  for (const line of lines) {
    const match = line.match(ITEM);
    if (match && match[1].length <= indent + 1) items.push([match[3]]);
    else items.at(-1).push(line.replace(/^\s{1,4}/, ""));
  }
  const made = element(isOrdered ? "ol" : "ul");
  if (isOrdered) made.start = parseInt(lines[0].match(ITEM)[2], 10);
  for (const item of items) {
    const blocks = nested(item, depth);
    const isTight = blocks[0]?.tagName === "P";
    made.append(element("li", {}, ...(isTight ? [...blocks[0].childNodes, ...blocks.slice(1)] : blocks)));
  }
  return made;
}

function table(lines) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const row = (line, tag) => element("tr", {}, ...cells(line).map((cell) => element(tag, {}, ...inlineNodes(cell))));
  return element("div", { className: "table", tabIndex: 0, role: "group", "aria-label": "Table" },
    element("table", {},
      element("thead", {}, row(lines[0], "th")),
      element("tbody", {}, ...lines.slice(2).map((line) => row(line, "td")))));
}
