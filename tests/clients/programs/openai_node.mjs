// OpenAI's SDK for JavaScript: chats, its stream helper, pages, and its errors.

import assert from "node:assert/strict";

import OpenAI, { BadRequestError, NotFoundError } from "openai";

import picture from "./picture.mjs";

const model = "meta-llama/Llama-3.2-11B-Vision-Instruct";
const greet = [{ role: "user", content: picture.HELLO }];
const messages = [
  {
    role: "user",
    content: [
      { type: "text", text: picture.QUESTION },
      { type: "image_url", image_url: { url: picture.data_url, detail: "auto" } },
    ],
  },
];
const secondQuestion = { role: "user", content: picture.SECOND_QUESTION };
const tools = [
  {
    type: "function",
    function: {
      name: "count_shapes",
      description: "Counts shapes",
      parameters: { type: "object", properties: { color: { type: "string" } } },
    },
  },
];

function client(url) {
  return new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
}

function ask(url, options) {
  return client(url).chat.completions.create({ model, messages, ...options });
}

export async function check_a_text(url) {
  const answer = await ask(url, { messages: greet });
  assert.equal(answer.choices[0].message.content, picture.GREETING);
  assert.equal(answer.choices[0].finish_reason, "stop");
}

export async function check_a_picture_and_its_usage(url) {
  const answer = await ask(url);
  assert.equal(answer.choices[0].message.content, picture.ANSWER);
  const { prompt_tokens, completion_tokens, total_tokens } = answer.usage;
  assert.equal(total_tokens, prompt_tokens + completion_tokens);
  assert.ok(prompt_tokens > completion_tokens);
}

export async function check_chats_at_once(url) {
  const answers = await Promise.all(Array.from({ length: 4 }, () => ask(url)));
  for (const answer of answers) {
    assert.equal(answer.choices[0].message.content, picture.ANSWER);
  }
}

export async function check_a_stream(url) {
  const stream = await ask(url, {
    stream: true,
    stream_options: { include_usage: true },
  });
  let text = "";
  let usage = null;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, picture.ANSWER);
  assert.ok(usage.total_tokens > usage.completion_tokens);
}

export async function check_the_stream_helper_over_two_turns(url) {
  const conversation = [...messages];
  for (const expected of [picture.ANSWER, picture.SECOND_ANSWER]) {
    const stream = client(url).chat.completions.stream({
      model,
      messages: conversation,
      stream_options: { include_usage: true },
    });
    let heard = "";
    stream.on("content", (piece) => (heard += piece));
    const message = await stream.finalMessage();
    assert.equal(message.content, expected);
    assert.equal(heard, expected);
    assert.ok((await stream.totalUsage()).completion_tokens > 1);
    conversation.push(message, secondQuestion);
  }
}

export async function check_an_answer_comes_back_as_the_next_turn(url) {
  const first = (await ask(url)).choices[0].message;
  const answer = await ask(url, { messages: [...messages, first, secondQuestion] });
  assert.equal(answer.choices[0].message.content, picture.SECOND_ANSWER);
}

export async function check_a_stop_string_and_a_limit(url) {
  const stopped = await ask(url, { stop: [" left"], temperature: 0, user: "me" });
  const expected = picture.ANSWER.split(" left")[0];
  assert.equal(stopped.choices[0].message.content, expected);
  const short = await ask(url, { max_completion_tokens: 2 });
  assert.equal(short.choices[0].finish_reason, "length");
}

export async function check_several_choices(url) {
  const options = { n: 3, temperature: 2, seed: 3, max_tokens: 8 };
  const { choices } = await ask(url, options);
  assert.deepEqual(choices.map((choice) => choice.index), [0, 1, 2]);
  assert.ok(new Set(choices.map((choice) => choice.message.content)).size > 1);
}

export async function check_log_probabilities(url) {
  const options = { logprobs: true, top_logprobs: 2 };
  const answer = await ask(url, options);
  const stream = client(url).chat.completions.stream({ model, messages, ...options });
  for (const completion of [answer, await stream.finalChatCompletion()]) {
    const entries = completion.choices[0].logprobs.content;
    assert.equal(entries.length, answer.usage.completion_tokens);
    for (const entry of entries) {
      assert.equal(entry.top_logprobs.length, 2);
    }
  }
}

export async function check_completions(url) {
  const asked = { model, prompt: ["A red", "hello"], max_tokens: 8 };
  const answer = await client(url).completions.create(asked);
  const texts = ["", ""];
  for await (const chunk of await client(url).completions.create({
    ...asked,
    stream: true,
  })) {
    for (const choice of chunk.choices) {
      texts[choice.index] += choice.text;
    }
  }
  assert.deepEqual(texts, answer.choices.map((choice) => choice.text));
}

export async function check_tools(url) {
  const call = { name: "count_shapes", arguments: '{"color": "red"}' };
  const called = [
    ...greet,
    {
      role: "assistant",
      content: null,
      tool_calls: [{ id: "a", type: "function", function: call }],
    },
    { role: "tool", tool_call_id: "a", content: "1" },
  ];
  const plain = await ask(url, { messages: greet });
  for (const sent of [greet, called]) {
    const options = { tools, parallel_tool_calls: true, tool_choice: "auto" };
    const answer = await ask(url, { messages: sent, max_tokens: 8, ...options });
    assert.ok(answer.usage.prompt_tokens > plain.usage.prompt_tokens);
  }
}

export async function check_responses(url) {
  const { responses } = client(url);
  const image = { type: "input_image", image_url: picture.data_url, detail: "auto" };
  const text = { type: "input_text", text: picture.QUESTION };
  const input = [{ role: "user", content: [text, image] }];
  const answer = await responses.create({ model, input });
  assert.equal(answer.output_text, picture.ANSWER);
  const stream = responses.stream({ model, input });
  const kinds = [];
  for await (const event of stream) {
    kinds.push(event.type);
  }
  const gathered = await stream.finalResponse();
  assert.equal(gathered.output_text, picture.ANSWER);
  assert.equal(kinds[0], "response.created");
  assert.equal(kinds.at(-1), "response.completed");
  input.push(...gathered.output, secondQuestion);
  const second = await responses.create({ model, input });
  assert.equal(second.output_text, picture.SECOND_ANSWER);
}

export async function check_calls_of_responses(url) {
  const { responses } = client(url);
  const functions = [{ type: "function", strict: true, ...tools[0].function }];
  functions[0].parameters = {
    type: "object",
    properties: { color: { enum: ["red", "blue"] } },
    required: ["color"],
  };
  const input = [{ role: "user", content: picture.QUESTION }];
  const options = { model, tools: functions, parallel_tool_calls: false };
  const stream = responses.stream({ ...options, input, tool_choice: "required" });
  const answer = await stream.finalResponse();
  const [call] = answer.output;
  assert.equal(call.type, "function_call");
  assert.match(JSON.parse(call.arguments).color, /^(red|blue)$/);
  const output = { type: "function_call_output", call_id: call.call_id, output: "1" };
  input.push(call, output);
  const last = await responses.create({ ...options, input, tool_choice: "none" });
  assert.equal(last.status, "completed");
}

export async function check_models(url) {
  const ids = [];
  for await (const each of client(url).models.list()) {
    ids.push(each.id);
  }
  assert.equal(ids.length, 1);
  assert.equal((await client(url).models.retrieve(model)).id, ids[0]);
}

export async function check_an_aborted_stream_frees_the_server(url) {
  for (let turn = 0; turn < 6; turn++) {
    const stream = await ask(url, { stream: true, temperature: 2 });
    for await (const chunk of stream) {
      assert.ok(chunk);
      break;
    }
    assert.ok(stream.controller.signal.aborted);
  }
  assert.ok((await ask(url)).choices.length);
}

export async function check_errors(url) {
  for (const stream of [false, true]) {
    await assert.rejects(ask(url, { model: "gpt-4o", stream }), (error) => {
      assert.ok(error instanceof NotFoundError);
      assert.equal(error.code, "model_not_found");
      return true;
    });
  }
  await assert.rejects(ask(url, { color: 1 }), (error) => {
    assert.ok(error instanceof BadRequestError);
    assert.equal(error.param, "color");
    assert.match(error.message, /color/);
    return true;
  });
}
