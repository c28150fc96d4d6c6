// Shared by producer and worker: options and the worker itself.
import { parseArgs } from 'node:util';
import { Worker } from 'bullmq';
import { Pool } from 'undici';

export const QUEUE = 'bench';

export const options = parseArgs({
  options: {
    'redis-port': { type: 'string' },
    target: { type: 'string' }, // URL that every job is posted to
    mode: { type: 'string', default: 'array' }, // array | single | rate
    tasks: { type: 'string', default: '20000' },
    'warm-up': { type: 'string', default: '5000' }, // jobs before the clock starts, for V8 to compile what is hot
    batch: { type: 'string', default: '100' }, // jobs per addBulk
    'in-flight': { type: 'string' }, // adds in flight; 4 for array, 16 for single
    rate: { type: 'string', default: '200' },
    concurrency: { type: 'string', default: '256' },
    payload: { type: 'string', default: '{"text":"0123456789"}' }, // JSON
    inline: { type: 'boolean', default: false }, // producer and worker in one process
    remove: { type: 'boolean', default: false }, // remove jobs when done, instead of keeping them
  },
}).values;

export const connection = {
  host: '127.0.0.1',
  port: Number(options['redis-port']),
  maxRetriesPerRequest: null,
};

export const cpuSeconds = () => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
};

// Starts BullMQ's worker. `warm` and `done` are kept when the jobs of the warm-up, and all jobs, have been moved to their
// end, with the instant and the processor seconds of this process at that moment.
export async function startWorker() {
  const concurrency = Number(options.concurrency);
  const target = new URL(options.target);
  const pool = new Pool(target.origin, { connections: concurrency, pipelining: 1 });
  const push = async (job) => {
    const { statusCode, body } = await pool.request({
      path: target.pathname,
      method: 'POST',
      headers: { 'content-type': 'application/json', 'webhook-id': job.id },
      body: JSON.stringify(job.data),
    });
    const result = await body.json();
    if (statusCode >= 300) throw new Error(`HTTP ${statusCode}`);
    return result;
  };
  const worker = new Worker(QUEUE, push, { connection, concurrency });
  let completed = 0;
  const reached = (count) => new Promise((resolve, reject) => {
    const check = () => {
      if (completed === count) resolve({ ns: Number(process.hrtime.bigint()), cpuSeconds: cpuSeconds() });
    };
    check();
    worker.on('completed', check);
    worker.on('failed', (_job, error) => reject(error));
    worker.on('error', reject);
  });
  worker.on('completed', () => {
    completed += 1;
  });
  const warm = reached(Number(options['warm-up']));
  const done = reached(Number(options['warm-up']) + Number(options.tasks));
  await worker.waitUntilReady();
  return {
    warm,
    done,
    stop: async () => {
      await worker.close();
      await pool.close();
    },
  };
}
