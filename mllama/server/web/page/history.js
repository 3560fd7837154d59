/** Conversations, their pictures, and where words looked, in this browser's IndexedDB. */

import { BASE } from "./server.js";

let opened = null;

function open() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(`mllama:${BASE.pathname}`, 1);
    request.onupgradeneeded = () => {
      for (const store of ["conversations", "pictures", "attention"]) {
        request.result.createObjectStore(store, { keyPath: "id" });
      }
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

async function run(stores, mode, work) {
  const database = await open();
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(stores, mode);
    const request = work(transaction);
    transaction.oncomplete = () => resolve(request?.result);
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}

/** Returns all conversations, the latest first. */
export async function conversations() {
  const all = await run(["conversations"], "readonly", (each) =>
    each.objectStore("conversations").getAll()
  );
  return all.sort((one, other) => other.updated - one.updated);
}

/** Keeps a conversation as it is now. */
export function keep(conversation) {
  return run(["conversations"], "readwrite", (each) =>
    each.objectStore("conversations").put(conversation)
  );
}

/** Keeps a picture: `{id, name, blob}`. */
export function keepPicture(picture) {
  const { id, name, blob } = picture;
  return run(["pictures"], "readwrite", (each) => each.objectStore("pictures").put({ id, name, blob }));
}

/** Returns a picture's blob; undefined if it is gone. */
export async function pictureBlob(id) {
  const found = await run(["pictures"], "readonly", (each) => each.objectStore("pictures").get(id));
  return found?.blob;
}

/** Keeps where the words of a message looked; its `id` is the message's. */
export function storeAttention(attention) {
  return run(["attention"], "readwrite", (each) => each.objectStore("attention").put(attention));
}

/** Returns where the words of a message looked; undefined if it is gone. */
export function attentionOf(id) {
  return run(["attention"], "readonly", (each) => each.objectStore("attention").get(id));
}

/** Removes a conversation with what belongs to it. */
export function remove(conversation) {
  return run(["conversations", "pictures", "attention"], "readwrite", (each) => {
    each.objectStore("conversations").delete(conversation.id);
    for (const message of Object.values(conversation.messages)) {
      // Imported messages have the ids of others, and no maps.
      if (message.maps === true) each.objectStore("attention").delete(message.id);
      for (const picture of message.pictures) each.objectStore("pictures").delete(picture.id);
    }
  });
}
