/** Conversations, their pictures, and where words looked, in this browser's IndexedDB. */

import { merge } from "./conversation.js";
import { BASE } from "./server.js";

const NAME = `mllama:${BASE.pathname}`;

/** Ids of conversations that were kept: one that is gone was removed by another tab. */
const known = new Set();

/** Tells this page's other tabs of conversations that changed. */
const channel = new BroadcastChannel(NAME);

let opened = null;

function open() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
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
  for (const each of all) known.add(each.id);
  return all.sort((one, other) => other.updated - one.updated);
}

/** Returns a conversation; undefined if it is gone. */
export async function conversationOf(id) {
  const found = await run(["conversations"], "readonly", (each) => each.objectStore("conversations").get(id));
  if (found) known.add(id);
  return found;
}

/** Calls a function with the id of each conversation that another tab keeps or removes. */
export function onChange(changed) {
  channel.addEventListener("message", (event) => changed(event.data));
}

/**
 * Keeps a conversation as it is now, with what other tabs have added to it meanwhile.
 * One that another tab has removed stays removed.
 */
export async function keep(conversation) {
  await run(["conversations"], "readwrite", (each) => {
    const store = each.objectStore("conversations");
    const request = store.get(conversation.id);
    request.onsuccess = () => {
      const stored = request.result;
      if (!stored && known.has(conversation.id)) return;
      if (stored) merge(conversation, stored);
      store.put(conversation);
    };
    return request;
  });
  known.add(conversation.id);
  channel.postMessage(conversation.id);
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
export async function remove(conversation) {
  await run(["conversations", "pictures", "attention"], "readwrite", (each) => {
    const store = each.objectStore("conversations");
    const request = store.get(conversation.id);
    request.onsuccess = () => {
      // Another tab may have added some.
      for (const message of Object.values({ ...request.result?.messages, ...conversation.messages })) {
        // Imported messages have the ids of others, and no maps.
        if (message.maps === true) each.objectStore("attention").delete(message.id);
        for (const picture of message.pictures) each.objectStore("pictures").delete(picture.id);
      }
      store.delete(conversation.id);
    };
    return request;
  });
  channel.postMessage(conversation.id);
}
