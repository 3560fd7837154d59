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
 * @throws {UserError} If the file has no chats, or is damaged: nothing of it is kept then.
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
  const pictures = [];
  for (const message of read.flatMap((each) => Object.values(each.messages))) {
    message.pictures = message.pictures.map((picture) => {
      const id = randomId();
      // Export writes null for a picture that the browser had lost.
      const url = data.pictures?.[picture.id] ?? null;
      const blob = url === null ? null : decoded(url);
      if (blob) pictures.push({ ...picture, id, blob });
      else if (url !== null) {
        throw new UserError(`“${file.name}” is damaged: its picture “${picture.name}” can't be read. Nothing was imported.`);
      }
      return { ...picture, id };
    });
  }
  await Promise.all(pictures.map(keptPicture));
  for (const conversation of read) await keep(conversation);
  return read.length;
}

/** Returns a picture from a data URL; null if it has none. */
function decoded(url) {
  const match = /^data:(image\/(?:jpeg|png|webp|gif));base64,([A-Za-z0-9+/=]*)$/.exec(url);
  if (!match) return null;
  try {
    const bytes = Uint8Array.from(atob(match[2]), (character) => character.charCodeAt(0));
    return new Blob([bytes], { type: match[1] });
  } catch {
    // It isn't base64.
    return null;
  }
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
