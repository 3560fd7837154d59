// Ollama's library for JavaScript: chats, prompts, formats, tools, models, its errors.

import assert from "node:assert/strict";

import { Ollama } from "ollama";

import picture from "./picture.mjs";

const model = "llama3.2-vision";
const image = picture.data_url.split(",")[1];
const messages = [{ role: "user", content: picture.QUESTION, images: [image] }];
const greet = [{ role: "user", content: picture.HELLO }];
const options = { temperature: 0 };
const tool = {
  type: "function",
  function: {
    name: "count_shapes",
    description: "Counts shapes",
    parameters: {
      type: "object",
      required: ["color"],
      properties: { color: { type: "string", description: "Their color" } },
    },
  },
};
const schema = {
  type: "object",
  properties: { kind: { enum: ["circle", "square"] } },
  required: ["kind"],
};

function client(url) {
  return new Ollama({ host: url });
}

function ask(url, fields) {
  return client(url).chat({ model, messages, options, ...fields });
}

export async function check_a_text_and_a_picture(url) {
  assert.equal((await ask(url, { messages: greet })).message.content, picture.GREETING);
  const answer = await ask(url);
  assert.equal(answer.message.content, picture.ANSWER);
  assert.ok(answer.prompt_eval_count > answer.eval_count);
  const bytes = Uint8Array.from(Buffer.from(image, "base64"));
  const prompt = { model, prompt: picture.QUESTION, images: [bytes], options };
  assert.equal((await client(url).generate(prompt)).response, picture.ANSWER);
}

export async function check_streams(url) {
  let text = "";
  let end;
  for await (const part of await ask(url, { stream: true })) {
    text += part.message.content;
    end = part;
  }
  assert.equal(text, picture.ANSWER);
  assert.equal(end.done_reason, "stop");
  assert.ok(end.total_duration >= end.eval_duration);
  text = "";
  const prompt = { model, prompt: picture.HELLO, options, stream: true };
  for await (const part of await client(url).generate(prompt)) {
    text += part.response;
  }
  assert.equal(text, picture.GREETING);
}

export async function check_an_answer_comes_back_as_the_next_turn(url) {
  const first = (await ask(url)).message;
  const second = { role: "user", content: picture.SECOND_QUESTION };
  const answer = await ask(url, { messages: [...messages, first, second] });
  assert.equal(answer.message.content, picture.SECOND_ANSWER);
}

export async function check_formats_and_limits(url) {
  const answer = await ask(url, { format: schema });
  assert.ok(["circle", "square"].includes(JSON.parse(answer.message.content).kind));
  const short = await ask(url, { options: { ...options, num_predict: 2 } });
  assert.equal(short.done_reason, "length");
}

export async function check_tools(url) {
  const call = { function: { name: "count_shapes", arguments: { color: "red" } } };
  const called = [
    ...greet,
    { role: "assistant", content: "", tool_calls: [call] },
    { role: "tool", content: "1", tool_name: "count_shapes" },
  ];
  const plain = await ask(url, { messages: greet });
  for (const sent of [greet, called]) {
    const fields = { tools: [tool], options: { ...options, num_predict: 4 } };
    const answer = await ask(url, { messages: sent, ...fields });
    assert.ok(answer.prompt_eval_count > plain.prompt_eval_count);
  }
}

export async function check_an_aborted_stream_frees_the_server(url) {
  for (let turn = 0; turn < 5; turn++) {
    const stream = await ask(url, { stream: true, options: { temperature: 2 } });
    const reading = (async () => {
      for await (const part of stream) {
        assert.ok(part);
        stream.abort();
      }
    })();
    // An answer may have ended before it is aborted.
    await reading.catch((error) => assert.equal(error.name, "AbortError"));
  }
  assert.equal((await ask(url)).message.content, picture.ANSWER);
}

export async function check_models(url) {
  const { models } = await client(url).list();
  assert.equal(models.length, 1);
  assert.ok(new Date(models[0].modified_at).getFullYear() > 2000);
  const loaded = (await client(url).ps()).models[0];
  assert.equal(loaded.digest, models[0].digest);
  assert.ok(new Date(loaded.expires_at) > new Date());
  const shown = await client(url).show({ model: models[0].name });
  assert.equal(shown.details.family, "mllama");
  assert.ok(shown.capabilities.includes("vision"));
}

export async function check_errors(url) {
  for (const stream of [false, true]) {
    await assert.rejects(ask(url, { model: "llava", stream }), (error) => {
      assert.equal(error.status_code, 404);
      assert.equal(error.error, "model 'llava' not found");
      return true;
    });
  }
  await assert.rejects(client(url).pull({ model: "llava" }), /is not possible/);
}
