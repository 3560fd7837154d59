/**
 * A conversation: a tree of messages, of which one branch is shown.
 *
 * An edited question and a regenerated answer are siblings of what they replace. A
 * message is `{id, parent, role, text, pictures, status, stats, maps}`; `status` is one of
 * `complete`, `length`, `streaming`, `stopped` and `interrupted`, and `maps` is true if
 * the browser keeps where the words looked, or says in a text why it doesn't.
 */

/** Messages that this page made.  Others are as the browser keeps them. */
const own = new WeakSet();

/** Ids of messages that this page took out. */
const discarded = new Set();

/** Returns an empty conversation. */
export function newConversation() {
  const now = Date.now();
  return { id: crypto.randomUUID?.() ?? randomId(), title: "", created: now, updated: now, messages: {}, leaf: null };
}

/** Returns an id; pages that aren't served over TLS have no `randomUUID`. */
export function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Adds a message below another (null begins a branch), and shows it. */
export function append(conversation, parent, fields) {
  const message = { id: randomId(), parent, text: "", pictures: [], status: "complete", stats: null, ...fields };
  own.add(message);
  conversation.messages[message.id] = message;
  conversation.leaf = message.id;
  conversation.updated = Date.now();
  if (!conversation.title && message.role === "user") conversation.title = titleOf(message);
  return message;
}

/** Takes a message without answers out, and shows the branch of the one before it. */
export function discard(conversation, message) {
  discarded.add(message.id);
  delete conversation.messages[message.id];
  select(conversation, message.parent);
}

/**
 * Brings a conversation up to date with what the browser keeps of it, where another tab
 * may have gone on.  A message is as the tab that made it says.
 * @returns {Object[]} The messages that changed.
 */
export function merge(conversation, stored) {
  const ours = conversation.messages;
  const theirs = stored.messages;
  const needed = new Set(Object.values(theirs).map((message) => message.parent));
  for (const message of Object.values(ours).filter((each) => own.has(each))) {
    for (let id = message.id; id !== null && !needed.has(id); id = ours[id].parent) needed.add(id);
  }
  const merged = {};
  const changed = [];
  for (const message of Object.values(theirs)) {
    if (discarded.has(message.id) && !needed.has(message.id)) continue;
    const known = ours[message.id];
    merged[message.id] = known ?? message;
    if (!known || own.has(known)) continue;
    // An answer that grows no more may be of a tab that was closed.
    if (message.status === "streaming" && message.text === known.text) continue;
    changed.push(Object.assign(known, message));
  }
  for (const message of Object.values(ours)) {
    if (needed.has(message.id)) merged[message.id] ??= message;
  }
  const before = conversation.leaf;
  while (conversation.leaf !== null && !merged[conversation.leaf]) conversation.leaf = ours[conversation.leaf].parent;
  conversation.messages = merged;
  conversation.updated = Math.max(conversation.updated, stored.updated);
  const isBehind = branch(stored).some((message) => message.id === conversation.leaf);
  if (isBehind && merged[stored.leaf]) conversation.leaf = stored.leaf;
  return changed;
}

function titleOf(message) {
  const line = message.text.trim().split("\n")[0] || message.pictures[0]?.name || "Picture";
  return line.length > 60 ? `${line.slice(0, 59)}…` : line;
}

/** Returns the messages of the shown branch, or of the one that ends in a message. */
export function branch(conversation, leaf = conversation.leaf) {
  const path = [];
  for (let id = leaf; id !== null; id = conversation.messages[id].parent) {
    path.push(conversation.messages[id]);
  }
  return path.reverse();
}

/** Returns the messages by their parents' ids, in the order in which they were added. */
export function childrenByParent(conversation) {
  const children = new Map();
  for (const message of Object.values(conversation.messages)) {
    if (!children.has(message.parent)) children.set(message.parent, []);
    children.get(message.parent).push(message);
  }
  return children;
}

/** Shows the branch of a message, as far as its newest answers go. */
export function select(conversation, id) {
  const children = childrenByParent(conversation);
  let leaf = id;
  while (children.has(leaf)) leaf = children.get(leaf).at(-1).id;
  conversation.leaf = leaf;
}
