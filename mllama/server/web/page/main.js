/** The page: joins the conversation, what is shown of it, and the server. */

import { streamAnswer, wantsKey } from "./answering.js";
import { showCode } from "./code_dialog.js";
import { showRunning, startComposer } from "./composer.js";
import { append, branch, discard, merge, newConversation, select } from "./conversation.js";
import { byId } from "./elements.js";
import { ConnectionError, describe } from "./errors.js";
import * as history from "./history.js";
import { askForKey, currentKey } from "./key.js";
import { forget, keptPicture } from "./pictures.js";
import { servedModel } from "./server.js";
import { offerMaps, startSettings, wantsMaps } from "./settings.js";
import { showChats, startSidebar } from "./sidebar.js";
import { showNotice, showStatus, untilReady } from "./status.js";
import { followEnd, showThread, updateMessage } from "./thread.js";
import { exportChats, importChats } from "./transfer.js";

let chats = [];
let current = newConversation();
let model = null;

/** The answer that is being written: `{conversation, stop}`. */
let running = null;

/** Chats that were deleted: an answer that was being written is not kept any more. */
const deleted = new WeakSet();

const actions = {
  regenerate: (answer) => answerTo(current, current.messages[answer.parent]),
  edit: (question, text) => {
    if (running || (!text && !question.pictures.length)) return;
    answerTo(current, append(current, question.parent, { role: "user", text, pictures: question.pictures }));
  },
  select: (message) => {
    if (running?.conversation === current) return;
    select(current, message.id);
    keep(current);
    show();
  },
};

function show() {
  showThread(current, actions);
  showChats(chats, current.id, { open: openChat, remove: removeChat });
}

function openChat(conversation) {
  current = conversation;
  show();
  followEnd();
  byId("question").focus();
}

async function removeChat(conversation) {
  drop(conversation);
  await history.remove(conversation).catch(saySaveFailed);
}

/** Takes a chat that is removed out of the page. */
function drop(conversation) {
  deleted.add(conversation);
  if (running?.conversation === conversation) running.stop();
  chats = chats.filter((each) => each !== conversation);
  if (current === conversation) current = newConversation();
  show();
  const pictures = Object.values(conversation.messages).flatMap((message) => message.pictures);
  forget(pictures.map((picture) => picture.id));
}

/** Shows what another tab did to a chat. */
async function takeOver(id) {
  const stored = await history.conversationOf(id);
  const ours = chats.find((each) => each.id === id);
  if (ours && !stored) return drop(ours);
  if (!stored) return;
  const changed = ours ? merge(ours, stored) : [];
  if (!ours) chats.unshift(stored);
  show();
  changed.forEach(updateMessage);
}

function keep(conversation) {
  if (deleted.has(conversation)) return Promise.resolve();
  if (!chats.includes(conversation)) chats.unshift(conversation);
  return history.keep(conversation).catch(saySaveFailed);
}

function saySaveFailed() {
  showNotice("This browser doesn't let the page keep chats: they are gone when it is closed. Export keeps them.");
}

async function send(text, attached) {
  const conversation = current;
  const pictures = await Promise.all(attached.map(keptPicture));
  const question = append(conversation, conversation.leaf, { role: "user", text, pictures });
  await answerTo(conversation, question);
}

/** Has a question answered; its earlier answers stay as other branches. */
async function answerTo(conversation, question) {
  if (running) return;
  const messages = branch(conversation, question.id);
  const answer = append(conversation, question.id, { role: "assistant", status: "streaming" });
  const stopper = new AbortController();
  running = { conversation, stop: () => stopper.abort() };
  showNotice(null);
  showRunning(true);
  keep(conversation);
  show();
  followEnd();
  const pictures = messages.flatMap((message) => message.pictures).length;
  const name = await modelName();
  const maps = pictures > 0 && wantsMaps();
  showStatus(["Reading the question…", "Looking at the picture…"][pictures] ?? "Looking at the pictures…", true);
  let lastKept = performance.now();
  const changed = oncePerFrame(() => {
    if (answer.text) {
      if (answer.status === "streaming") showStatus(null);
      else if (maps && answer.maps === undefined) showStatus("Finding where each word looked…", true);
    }
    updateMessage(answer);
    if (performance.now() - lastKept > 2000) {
      lastKept = performance.now();
      keep(conversation);
    }
  });
  const error = await streamAnswer({ model: name, maps }, messages, answer, stopper.signal, changed);
  running = null;
  showRunning(false);
  showStatus(error || stopper.signal.aborted ? null : "The answer is complete.");
  updateMessage(answer);
  await keep(conversation);
  if (error) await recover(error, conversation, question, answer);
  if (conversation === current) show();
}

/** Says what went wrong, and offers the way out. */
async function recover(error, conversation, question, answer) {
  if (!answer.text) {
    // A question without an answer stays; the empty answer doesn't.
    discard(conversation, answer);
    await keep(conversation);
  }
  const again = { label: "Try again", run: () => answerTo(conversation, question) };
  if (conversation === current) show();
  if (wantsKey(error)) {
    if (await askForKey(currentKey() ? "The key is wrong. Whoever runs the server has the right one." : "Whoever runs the server has it.")) {
      return answerTo(conversation, question);
    }
  }
  showNotice(describe(error), again);
  if (error instanceof ConnectionError || error.status === 503) untilReady().then(connect).catch(() => {});
}

/** Returns a function that runs another at most once in a frame. */
function oncePerFrame(run) {
  let isPlanned = false;
  return () => {
    if (isPlanned) return;
    isPlanned = true;
    requestAnimationFrame(() => {
      isPlanned = false;
      run();
    });
  };
}

/** Returns the model's name; requests for another one are refused by the server. */
async function modelName() {
  if (!model) await connect().catch(() => {});
  return model?.id ?? "";
}

async function connect() {
  model = await servedModel();
  byId("model").textContent = model.id;
  document.title = model.id;
  offerMaps(model.attention === true);
}

/** Finds the model; asks for the key if the server wants one. */
async function start() {
  for (;;) {
    try {
      await untilReady();
      await connect();
      return;
    } catch (error) {
      const reason = currentKey() ? "The key is wrong. Whoever runs the server has the right one." : "Whoever runs the server has it.";
      if (!wantsKey(error)) showNotice(describe(error), { label: "Try again", run: start });
      else if (await askForKey(reason)) continue;
      else showNotice(describe(error), { label: "Set the key", run: start });
      return;
    }
  }
}

function startButtons() {
  byId("new-chat").addEventListener("click", () => openChat(newConversation()));
  byId("copy-request").addEventListener("click", () => {
    const messages = branch(current);
    if (messages.at(-1)?.role === "assistant") messages.pop();
    showCode(model?.id ?? "", messages).catch((error) => showNotice(describe(error)));
  });
  byId("change-key").addEventListener("click", async () => {
    byId("settings").close();
    if (await askForKey("Requests send it to this server only.")) start();
  });
  byId("export").addEventListener("click", () => exportChats(chats));
  byId("import").addEventListener("click", () => byId("import-file").click());
  byId("import-file").addEventListener("change", async (event) => {
    try {
      const count = await importChats(event.target.files[0]);
      await loadChats();
      showStatus(count === 1 ? "One chat is imported." : `${count} chats are imported.`);
    } catch (error) {
      showNotice(describe(error));
    }
    event.target.value = "";
  });
}

async function loadChats() {
  const kept = await history.conversations();
  const known = new Map(chats.map((each) => [each.id, each]));
  chats = kept.map((each) => known.get(each.id) ?? each);
  for (const message of chats.flatMap((each) => Object.values(each.messages))) {
    if (message.status === "streaming" && !running) message.status = "interrupted";
  }
  show();
}

startSettings();
startSidebar();
startComposer({ send, stop: () => running?.stop() });
startButtons();
history.onChange((id) => takeOver(id).catch(() => {}));
show();
loadChats()
  .then(() => {
    if (chats.length && !Object.keys(current.messages).length) openChat(chats[0]);
  })
  .catch(saySaveFailed);
byId("question").focus();
start();
