/** Chats as files: export and import. */

import { randomId } from "./conversation.js";
import { UserError } from "./errors.js";
import { keep } from "./history.js";
import { dataUrl, keptPicture } from "./pictures.js";

const FORMAT = "mllama-chats";

/** Saves conversations, with their pictures, as a file of the user's. */
export async function exportChats(conversations) {
  const pictures = {};
  for (const picture of conversations.flatMap(picturesOf)) {
    pictures[picture.id] = await dataUrl(picture.id).catch(() => null);
  }
  const text = JSON.stringify({ format: FORMAT, version: 1, conversations, pictures });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = `mllama-chats-${new Date().toISOString().slice(0, 10)}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function picturesOf(conversation) {
  return Object.values(conversation.messages).flatMap((message) => message.pictures);
}

/**
 * Adds the chats of a file to this browser's, beside those that it has.
 * @returns {Promise<number>} Their number.
 * @throws {UserError} If the file has no chats.
 */
export async function importChats(file) {
  const refused = new UserError(`“${file.name}” has no chats of this page. Choose a file that Export has written.`);
  let data;
  try {
    data = JSON.parse(await file.text());
  } catch {
    throw refused;
  }
  if (data?.format !== FORMAT || !Array.isArray(data.conversations)) throw refused;
  const read = data.conversations.map(checkedConversation);
  if (read.includes(null)) throw refused;
  for (const conversation of read) {
    for (const message of Object.values(conversation.messages)) {
      message.pictures = await Promise.all(message.pictures.map((each) => importedPicture(each, data.pictures?.[each.id])));
    }
    await keep(conversation);
  }
  return read.length;
}

async function importedPicture(picture, url) {
  const id = randomId();
  const match = /^data:(image\/(?:jpeg|png|webp|gif));base64,([A-Za-z0-9+/=]*)$/.exec(url ?? "");
  if (!match) return { ...picture, id };
  const bytes = Uint8Array.from(atob(match[2]), (character) => character.charCodeAt(0));
  return keptPicture({ ...picture, id, blob: new Blob([bytes], { type: match[1] }) });
}

/** Returns a copy with only what a conversation has; null if it is none. */
function checkedConversation(given) {
  const messages = {};
  for (const [id, each] of Object.entries(given?.messages ?? {})) {
    const pictures = Array.isArray(each?.pictures) ? each.pictures : [];
    const isGood = (each.parent === null || Object.hasOwn(messages, each.parent)) && typeof each.text === "string" &&
      ["user", "assistant"].includes(each.role) && pictures.every(isPicture);
    if (!isGood) return null;
    messages[id] = {
      id, parent: each.parent, role: each.role, text: each.text, status: String(each.status), stats: null,
      pictures: pictures.map(({ id, name, width, height }) => ({ id, name, width, height })),
    };
  }
  if (!Object.hasOwn(messages, given?.leaf) || !Number.isFinite(given.updated)) return null;
  return {
    id: randomId(), title: String(given.title).slice(0, 200), created: Number(given.created), updated: given.updated,
    messages, leaf: given.leaf,
  };
}

function isPicture(picture) {
  return typeof picture?.id === "string" && typeof picture.name === "string" &&
    Number.isFinite(picture.width) && Number.isFinite(picture.height);
}
