/** Requests to the server that serves this page. */

import { ConnectionError, ServerError } from "./errors.js";
import { readEvents } from "./event_stream.js";
import { currentKey } from "./key.js";

/** Where the server is: the page's folder, which a proxy may have put below a path. */
export const BASE = new URL("../", import.meta.url);

async function request(path, options = {}) {
  const headers = { Accept: "application/json", ...options.headers };
  if (currentKey()) headers.Authorization = `Bearer ${currentKey()}`;
  let response;
  try {
    response = await fetch(new URL(path, BASE), { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ConnectionError(error.message);
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const report = body.error ?? {};
  throw new ServerError(
    response.status,
    report.message ?? `The server answered ${response.status} ${response.statusText}.`,
    report.code
  );
}

/** Returns the served model, as `/v1/models` describes it. */
export async function servedModel() {
  const { data } = await (await request("v1/models")).json();
  return data[0];
}

/** Returns true if the model can answer, false if the server or the model is starting. */
export async function isReady() {
  try {
    await request("health");
    return true;
  } catch (error) {
    if (error instanceof ConnectionError || error.status >= 500) return false;
    throw error;
  }
}

/**
 * Yields the chunks of an answer.
 * @param {Object} body The body of a chat request.
 * @param {AbortSignal} signal Stops it.
 */
export async function* streamChat(body, signal) {
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  try {
    for await (const data of readEvents(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) {
        throw new ServerError(chunk.error.status ?? 0, chunk.error.message, chunk.error.code);
      }
      yield chunk;
    }
  } catch (error) {
    if (signal.aborted || error instanceof ServerError) throw error;
    throw new ConnectionError(error.message);
  }
  throw new ConnectionError("the answer ended early");
}
