/** One answer, from the request to its last token. */

import { ServerError } from "./errors.js";
import { chatBody } from "./request_body.js";
import { streamChat } from "./server.js";

/**
 * Streams an answer into a message.
 * @param {string} model
 * @param {Object[]} messages The conversation before it.
 * @param {Object} answer The message, whose text, status and stats change.
 * @param {AbortSignal} signal Stops it.
 * @param {() => void} changed Called after each change.
 * @returns {Promise<?Error>} What went wrong, or null.
 */
export async function streamAnswer(model, messages, answer, signal, changed) {
  const begun = performance.now();
  let [first, last, usage] = [null, null, null];
  try {
    const body = await chatBody(model, messages);
    for await (const chunk of streamChat(body, signal)) {
      usage = chunk.usage ?? usage;
      const choice = chunk.choices?.[0];
      if (choice?.delta?.content) {
        last = performance.now();
        first ??= last;
        answer.text += choice.delta.content;
      }
      if (choice?.finish_reason === "length") answer.status = "length";
      changed();
    }
    if (answer.status === "streaming") answer.status = "complete";
    return null;
  } catch (error) {
    answer.status = signal.aborted ? "stopped" : "interrupted";
    return signal.aborted ? null : error;
  } finally {
    answer.stats = first === null ? null : statistics(begun, first, last, usage);
    changed();
  }
}

function statistics(begun, first, last, usage) {
  const stats = { firstToken: first - begun };
  if (!usage) return stats;
  const seconds = (last - first) / 1000;
  return {
    ...stats,
    perSecond: usage.completion_tokens >= 8 && seconds > 0 ? (usage.completion_tokens - 1) / seconds : null,
    answerTokens: usage.completion_tokens,
    promptTokens: usage.prompt_tokens,
    imageTokens: usage.prompt_tokens_details?.image_tokens ?? 0,
    cachedTokens: usage.prompt_tokens_details?.cached_tokens ?? 0,
  };
}

/** Returns true if a request failed for want of the right key. */
export function wantsKey(error) {
  return error instanceof ServerError && error.status === 401;
}

