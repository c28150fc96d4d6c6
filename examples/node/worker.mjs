#!/usr/bin/env node
// A Lovage worker in plain Node (18 or newer): one handler for each kind of answer.
//
// It registers itself at LOVAGE_URL as "node" for the tasks "ex.*", listens on PORT, and takes only calls that Lovage signed.

import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const lovage = process.env.LOVAGE_URL ?? "http://127.0.0.1:8275";
const port = Number(process.env.PORT ?? 8000);
// A secret of our own. Several processes behind one worker would share it: then set SIGNING.
const signing = process.env.SIGNING ?? "whsec_" + randomBytes(32).toString("base64");

async function send(method, url, value, headers = {}) {
  const body = JSON.stringify(value);
  const answer = await fetch(url, { method, body, headers: { "content-type": "application/json", ...headers } });
  if (!answer.ok) throw new Error(`${method} ${url}: ${answer.status} ${await answer.text()}`);
}

/** Whether Lovage sent this within the last five minutes (Standard Webhooks). */
function isGenuine(headers, body) {
  const stamp = headers["webhook-timestamp"] ?? "0";
  const hmac = createHmac("sha256", Buffer.from(signing.slice(6), "base64"));
  const ours = Buffer.from("v1," + hmac.update(`${headers["webhook-id"]}.${stamp}.`).update(body).digest("base64"));
  const given = (headers["webhook-signature"] ?? "").split(" ").map((one) => Buffer.from(one));
  const fresh = Math.abs(Date.now() / 1000 - Number(stamp)) < 300;
  return fresh && given.some((one) => one.length === ours.length && timingSafeEqual(one, ours));
}

function answer(response, status, value, headers = {}) {
  response.writeHead(status, { "content-type": "application/json", ...headers });
  response.end(value === undefined ? "" : JSON.stringify(value));
}

const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);

const tasks = {
  // The answer is the result.
  "ex.add"(call, request, response) {
    answer(response, 200, sum(call.args));
  },

  // 202: the connection is done with, the result is reported to the URL of the attempt.
  async "ex.later"(call, request, response) {
    answer(response, 202, undefined, { "lovage-lease": "1m" });
    // A report that gets no answer may be sent again, and a heartbeat now and then renews the lease.
    await send("POST", `${request.headers["lovage-attempt-url"]}/complete`, sum(call.args));
  },

  // A stream of lines: progress, and at the end the result.
  "ex.steps"(call, request, response) {
    response.writeHead(200, { "content-type": "application/x-ndjson" });
    for (let step = 1; step <= call.args[0]; step++) {
      response.write(JSON.stringify({ progress: { step } }) + "\n");
    }
    response.end(JSON.stringify({ result: call.args[0] }) + "\n");
  },

  // 422: it would fail again, so it is not tried again.
  "ex.refuse"(call, request, response) {
    answer(response, 422, { type: "Refused", message: `cannot work with ${JSON.stringify(call.args)}` });
  },

  // Starts a task for each pair and is called again when all of them are final.
  "ex.total"(call, request, response) {
    if (request.headers["lovage-resume"] === "1") {
      return answer(response, 200, sum(call.children.map((child) => child.result)));
    }
    const children = call.args.map((pair) => ({ task: "ex.add", args: pair }));
    const document = { outcome: "spawn", tasks: children, then: "wait" };
    answer(response, 200, document, { "content-type": "application/vnd.lovage.outcome+json" });
  },
};

const server = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks);
  if (!isGenuine(request.headers, body)) return answer(response, 401);
  try {
    const call = JSON.parse(body);
    await tasks[call.task](call, request, response);
  } catch (error) {
    console.error(error);
    // 500: the attempt failed, the retry policy decides.
    if (!response.headersSent) answer(response, 500, { type: error.name, message: error.message, stack: error.stack });
  }
});

server.listen(port, "127.0.0.1", async () => {
  const worker = { url: `http://127.0.0.1:${port}/`, tasks: ["ex.*"], signing };
  const key = process.env.LOVAGE_KEY;
  await send("PUT", `${lovage}/v1/workers/node`, worker, key ? { authorization: `Bearer ${key}` } : {});
  console.log(`serving ${Object.keys(tasks).join(", ")} on port ${port}`);
});
