/** What went wrong, in the user's words, with the way out. */

/** An error that is shown as it is. */
export class UserError extends Error {}

/** A request that the server refused, or failed on. */
export class ServerError extends Error {
  /**
   * @param {number} status HTTP status; 0 for an error in a stream.
   * @param {string} message The server's own words.
   * @param {?string} code OpenAI's word for the kind of error.
   */
  constructor(status, message, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** The connection failed, or broke before the answer was complete. */
export class ConnectionError extends Error {}

/** Returns a sentence or two about an error. */
export function describe(error) {
  if (error instanceof UserError) return error.message;
  if (error instanceof ConnectionError) {
    return "The connection to the server broke. It may be restarting; the page tries to reach it again.";
  }
  if (!(error instanceof ServerError)) {
    return `Something in this page failed: ${error.message}. Reload it and try again.`;
  }
  if (error.code === "context_length_exceeded") {
    return "This chat is longer than the model can read. Start a new chat, or edit an earlier question.";
  }
  switch (error.status) {
    case 401:
      return "The server wants a key. Set it under Settings, API key.";
    case 413:
      return "The request is too large for the server. Send fewer or smaller pictures.";
    case 429:
      return "The server is busy with other requests. Try again in a moment.";
    case 503:
      return "The model is starting. The page says when it is ready.";
    default:
      return error.message;
  }
}
