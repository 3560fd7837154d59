/** A request as code, for other programs. */

import { byId } from "./elements.js";
import { chatBody } from "./request_body.js";
import { BASE } from "./server.js";

/** Stands for a picture's contents, with its number between. */
const MARK = "\u0001";

/**
 * Shows the request for messages as curl or Python.
 * @param {string} model
 * @param {Object[]} messages
 */
export async function showCode(model, messages) {
  const names = [];
  const body = await chatBody(model, messages, async (picture) => {
    // A line break in a name would end the text that the shell reads.
    names.push(picture.name.replace(/\p{Cc}/gu, "?"));
    return `${MARK}${names.length - 1}${MARK}`;
  });
  const dialog = byId("code");
  const form = dialog.querySelector("form");
  const show = () => {
    const write = form.elements.language.value === "python" ? python : curl;
    byId("code-text").textContent = write(body, names);
  };
  form.onchange = show;
  byId("copy-code").onclick = async () => {
    await navigator.clipboard.writeText(byId("code-text").textContent);
    byId("copy-code").textContent = "Copied";
    setTimeout(() => (byId("copy-code").textContent = "Copy"), 2000);
  };
  show();
  dialog.showModal();
}

/** Returns a shell command; the body goes through its input, where any size fits. */
function curl(body, names) {
  const json = JSON.stringify(body, null, 2).replace(/[\\$`]/g, "\\$&");
  const filled = json.replace(/\\\\u0001(\d+)\\\\u0001/g, (_, index) => {
    const name = names[index].replaceAll("'", "'\\''");
    return `data:image/jpeg;base64,$(base64 < './${name}' | tr -d '\\n')`;
  });
  return [
    `curl ${BASE}v1/chat/completions \\`,
    `  -H 'Content-Type: application/json' \\`,
    `  -H "Authorization: Bearer $API_KEY" \\`,
    "  --data-binary @- <<END",
    filled,
    "END",
  ].join("\n");
}

function python(body, names) {
  const { messages, ...fields } = body;
  const url = (_, index) => `picture(${JSON.stringify(names[index])})`;
  const literal = (value) =>
    JSON.stringify(value, null, 4).replace(/"\\u0001(\d+)\\u0001"/g, url);
  const lines = Object.entries(fields).map(([name, value]) => `    ${name}=${JSON.stringify(value)},`);
  return [
    ...(names.length ? ["import base64", "from pathlib import Path", ""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${JSON.stringify(`${BASE}v1`)}, api_key="YOUR_KEY")`,
    ...(names.length
      ? [
          "",
          "",
          "def picture(path: str) -> str:",
          "    content = base64.b64encode(Path(path).read_bytes()).decode()",
          '    return f"data:image/jpeg;base64,{content}"',
          "",
        ]
      : []),
    "",
    "answer = client.chat.completions.create(",
    ...lines,
    `    messages=${literal(messages).replaceAll("\n", "\n    ")},`,
    ")",
    "print(answer.choices[0].message.content)",
  ].join("\n");
}
