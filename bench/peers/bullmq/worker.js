// The worker process. Tells its parent when it is ready, warm and done, and ends when told to.
import { startWorker } from './common.js';

const worker = await startWorker();
process.on('message', async (message) => {
  if (message !== 'stop') return;
  await worker.stop();
  process.disconnect();
});
process.on('disconnect', () => process.exit()); // also when the parent has died
process.send({ name: 'ready' });
process.send({ name: 'warm', ...(await worker.warm) });
process.send({ name: 'done', ...(await worker.done) });
