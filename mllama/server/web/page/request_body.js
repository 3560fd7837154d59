/** The body of a chat request. */

import { dataUrl } from "./pictures.js";
import { samplingFields, systemPrompt } from "./settings.js";

/**
 * Returns the body for messages of a conversation.
 * @param {string} model
 * @param {Object[]} messages
 * @param {(picture: Object) => Promise<string>} urlOf Returns a picture's URL.
 */
export async function chatBody(model, messages, urlOf = (picture) => dataUrl(picture.id)) {
  const system = systemPrompt();
  const sent = system ? [{ role: "system", content: system }] : [];
  for (const { role, text, pictures } of messages) {
    // A stopped answer may have no text yet.
    if (role === "assistant" && !text) continue;
    if (!pictures.length) {
      sent.push({ role, content: text });
      continue;
    }
    const parts = await Promise.all(
      pictures.map(async (each) => ({ type: "image_url", image_url: { url: await urlOf(each) } }))
    );
    if (text) parts.push({ type: "text", text });
    sent.push({ role, content: parts });
  }
  return { model, messages: sent, ...samplingFields() };
}
