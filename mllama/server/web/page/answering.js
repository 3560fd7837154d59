/** One answer, from the request to its last token. */

import { keepAttention } from "./attention.js";
import { ServerError } from "./errors.js";
import { chatBody } from "./request_body.js";
import { streamChat } from "./server.js";

/** Tokens that come within fewer seconds came at once, and say nothing about the speed. */
const SHORTEST_STREAM = 0.05;

/**
 * Streams an answer into a message.
 * @param {{model: string, maps: boolean}} asked The model, and whether the answer comes
 *   with where its words looked.
 * @param {Object[]} messages The conversation before it.
 * @param {Object} answer The message, whose text, status, stats and maps change.
 * @param {AbortSignal} signal Stops it.
 * @param {() => void} changed Called after each change.
 * @returns {Promise<?Error>} What went wrong, or null.
 */
export async function streamAnswer({ model, maps }, messages, answer, signal, changed) {
  const begun = performance.now();
  let [first, last, usage] = [null, null, null];
  try {
    const body = await chatBody(model, messages);
    for await (const chunk of chunks(body, maps, answer, signal)) {
      usage = chunk.usage ?? usage;
      const choice = chunk.choices?.[0];
      if (choice?.attention?.error) answer.maps = choice.attention.error.message;
      else if (choice?.attention) answer.maps = await keepAttention(answer.id, choice.attention);
      if (choice?.delta?.content) {
        last = performance.now();
        first ??= last;
        answer.text += choice.delta.content;
      }
      if (choice?.finish_reason) answer.status = choice.finish_reason === "length" ? "length" : "complete";
      changed();
    }
    if (answer.status === "streaming") answer.status = "complete";
    return null;
  } catch (error) {
    // The answer is whole when only its maps or its counts are missing.
    if (answer.status !== "streaming") return null;
    answer.status = signal.aborted ? "stopped" : "interrupted";
    return signal.aborted ? null : error;
  } finally {
    answer.stats = first === null ? null : statistics(begun, first, last, usage);
    changed();
  }
}

/** Yields the chunks of an answer; without maps if they would be too large. */
async function* chunks(body, maps, answer, signal) {
  if (maps) {
    try {
      yield* streamChat({ ...body, attention: {} }, signal);
      return;
    } catch (error) {
      const isRefused = error instanceof ServerError && error.status === 400 && /attention/.test(error.message);
      if (!isRefused) throw error;
      answer.maps = error.message;
    }
  }
  yield* streamChat(body, signal);
}

function statistics(begun, first, last, usage) {
  const stats = { firstToken: first - begun };
  if (!usage) return stats;
  const seconds = (last - first) / 1000;
  return {
    ...stats,
    perSecond: usage.completion_tokens >= 8 && seconds >= SHORTEST_STREAM ? (usage.completion_tokens - 1) / seconds : null,
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

