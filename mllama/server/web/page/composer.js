/** The question that is being written, with its pictures. */

import { byId, element } from "./elements.js";
import { describe } from "./errors.js";
import { forget, objectUrl, readPicture } from "./pictures.js";
import { showNotice } from "./status.js";

let attached = [];
let reading = Promise.resolve();

/**
 * Takes pictures that are dropped, pasted, picked or photographed, and questions.
 * @param {{send: (text: string, pictures: Object[]) => void, stop: () => void}} actions
 */
export function startComposer(actions) {
  const form = byId("composer");
  const question = byId("question");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    await reading;
    const text = question.value.trim();
    if ((!text && !attached.length) || !byId("stop").hidden) return;
    const pictures = attached;
    attached = [];
    question.value = "";
    showAttached();
    fitQuestion();
    actions.send(text, pictures);
  });
  question.addEventListener("input", fitQuestion);
  question.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !byId("stop").hidden && !document.querySelector("dialog[open]")) actions.stop();
  });
  byId("stop").addEventListener("click", actions.stop);
  for (const [button, input] of [["pick", "files"], ["pick-first", "files"], ["photograph", "camera"]]) {
    byId(button).addEventListener("click", () => byId(input).click());
  }
  for (const id of ["files", "camera"]) {
    byId(id).addEventListener("change", (event) => {
      attach([...event.target.files]);
      event.target.value = "";
    });
  }
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    attach(files);
  });
  startDrop();
}

function startDrop() {
  let depth = 0;
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  const show = (shown) => document.body.classList.toggle("dropping", shown);
  document.addEventListener("dragenter", (event) => {
    if (!hasFiles(event)) return;
    depth++;
    show(true);
  });
  document.addEventListener("dragleave", () => {
    depth = Math.max(0, depth - 1);
    if (!depth) show(false);
  });
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
  });
  document.addEventListener("drop", (event) => {
    depth = 0;
    show(false);
    if (!hasFiles(event)) return;
    event.preventDefault();
    attach([...event.dataTransfer.files]);
  });
}

/** Adds pictures to the question, in their order. */
export function attach(files) {
  reading = reading.then(async () => {
    showNotice(null);
    for (const file of files) {
      try {
        attached.push(await readPicture(file));
      } catch (error) {
        showNotice(describe(error));
      }
    }
    await showAttached();
    byId("question").focus();
  });
  return reading;
}

async function showAttached() {
  const items = await Promise.all(
    attached.map(async (picture) =>
      element("li", {},
        element("img", { src: await objectUrl(picture.id), alt: picture.name, title: picture.name }),
        element("button", { type: "button", className: "icon", "aria-label": `Remove ${picture.name}`, click: () => {
          attached = attached.filter((each) => each !== picture);
          forget([picture.id]);
          showAttached();
          byId("question").focus();
        } }, "✕"))
    )
  );
  byId("attached").replaceChildren(...items);
}

function fitQuestion() {
  // Only browsers without `field-sizing` need this.
  if (CSS.supports("field-sizing", "content")) return;
  const question = byId("question");
  question.style.height = "auto";
  question.style.height = `${question.scrollHeight}px`;
}

/** Shows whether an answer is being written. */
export function showRunning(running) {
  const hadFocus = [byId("send"), byId("stop")].includes(document.activeElement);
  byId("stop").hidden = !running;
  byId("send").hidden = running;
  if (hadFocus) byId("question").focus();
}
