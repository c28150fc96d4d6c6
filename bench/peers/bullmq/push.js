// BullMQ doing Lovage's work: add jobs, let a worker post each to an HTTP server, keep the answer as the result.
// Prints one line of JSON. Instants are CLOCK_MONOTONIC nanoseconds, which process.hrtime reads on Linux.
import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { Queue, QueueEvents } from 'bullmq';
import { Redis } from 'ioredis';
import { QUEUE, connection, cpuSeconds, options, startWorker } from './common.js';

const now = () => Number(process.hrtime.bigint());
const tasks = Number(options.tasks);
const data = JSON.parse(options.payload);
const jobOptions = { removeOnComplete: options.remove, attempts: 10, backoff: { type: 'exponential', delay: 1000 } };
const acks = [];
const results = [];

setTimeout(() => {
  console.error('push.js: not done within 5 minutes');
  process.exit(1);
}, 300_000).unref();

const worker = await (options.inline ? startWorker() : forkedWorker());
const queue = new Queue(QUEUE, { connection });
await queue.waitUntilReady();
await array(Number(options['warm-up']));
const warm = await worker.warm;
acks.length = 0;

const cpuBefore = cpuSeconds();
const firstSubmitNs = now();
if (options.mode === 'array') await array(tasks);
else if (options.mode === 'single') await single();
else if (options.mode === 'rate') await rate();
else throw new Error(`unknown mode ${options.mode}`);
const ackedNs = now();
const done = await worker.done;
const producerCpu = options.inline ? 0 : cpuSeconds() - cpuBefore; // inline: the worker's figure has it all
await worker.stop();
await queue.close();

console.log(JSON.stringify({
  first_submit_ns: firstSubmitNs,
  acked_ns: ackedNs,
  completed_ns: done.ns,
  cpu_seconds: producerCpu + done.cpuSeconds - warm.cpuSeconds,
  ack: percentiles(acks),
  result: percentiles(results),
}));

async function array(count) {
  const batch = Number(options.batch);
  let left = count;
  await inParallel(Number(options['in-flight'] ?? 4), async () => {
    while (left > 0) {
      const length = Math.min(left, batch);
      left -= length;
      const jobs = Array.from({ length }, () => ({ name: 'push', data, opts: jobOptions }));
      await timed(acks, () => queue.addBulk(jobs));
    }
  });
}

async function single() {
  let left = tasks;
  await inParallel(Number(options['in-flight'] ?? 16), async () => {
    while (left > 0) {
      left -= 1;
      await timed(acks, () => queue.add('push', data, jobOptions));
    }
  });
}

// Latency counts from the call, not from the planned instant: Node's timers are a millisecond coarse, and that is the
// generator's fault, not BullMQ's. One listener for all jobs is cheaper than BullMQ's waitUntilFinished for each.
async function rate() {
  // From the last event so far: "from now on", the default, begins with the first read and misses what came before it.
  const client = new Redis(connection);
  const [[lastEventId]] = await client.xrevrange(queue.toKey('events'), '+', '-', 'COUNT', 1);
  client.disconnect();
  const events = new QueueEvents(QUEUE, { connection, lastEventId });
  await events.waitUntilReady();
  const sent = new Map(); // instant of the call by job id, until the result is here
  const early = new Map(); // instant of a result that came before the answer to its add
  events.on('completed', ({ jobId }) => {
    if (sent.has(jobId)) finish(jobId, now());
    else early.set(jobId, now());
  });
  let finished = 0;
  let allFinished;
  const all = new Promise((resolve) => {
    allFinished = resolve;
  });
  const finish = (jobId, at) => {
    results.push(at - sent.get(jobId));
    sent.delete(jobId);
    finished += 1;
    if (finished === tasks) allFinished();
  };

  const interval = 1e9 / Number(options.rate);
  const start = now();
  const add = async () => {
    const called = now();
    const job = await queue.add('push', data, jobOptions);
    acks.push(now() - called);
    sent.set(job.id, called);
    if (early.has(job.id)) finish(job.id, early.get(job.id));
  };
  const adds = [];
  for (let index = 0; index < tasks; index += 1) {
    const wait = (start + index * interval - now()) / 1e6;
    if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
    adds.push(add());
  }
  await Promise.all(adds);
  await all;
  await events.close();
}

async function inParallel(count, run) {
  await Promise.all(Array.from({ length: count }, run));
}

async function timed(samples, run) {
  const start = now();
  await run();
  samples.push(now() - start);
}

function percentiles(samples) {
  samples.sort((a, b) => a - b);
  const at = (share) => (samples[Math.max(0, Math.ceil(share * samples.length) - 1)] ?? 0) / 1e6;
  return [at(0.5), at(0.9), at(0.99), at(1)];
}

// The worker in a process of its own, seen through the same promises as in this one.
async function forkedWorker() {
  const child = fork(fileURLToPath(new URL('./worker.js', import.meta.url)), process.argv.slice(2), { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
  const exited = new Promise((resolve) => child.once('exit', resolve));
  const told = (name) => new Promise((resolve, reject) => {
    child.on('message', (message) => message.name === name && resolve(message));
    exited.then((code) => reject(new Error(`the worker process ended with ${code}`)));
  });
  const [ready, warm, done] = ['ready', 'warm', 'done'].map(told);
  await ready;
  return {
    warm,
    done,
    stop: async () => {
      child.send('stop');
      await exited;
    },
  };
}
