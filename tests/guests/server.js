// An HTTP server that counts its answers, and a worker thread that counts without end.
const http = require("http");
const { Worker, isMainThread, workerData } = require("worker_threads");

if (!isMainThread) {
  const seen = new Int32Array(workerData);
  for (;;) {
    Atomics.add(seen, 0, 1);
    Atomics.wait(seen, 1, 0, 1);
  }
}

const shared = new SharedArrayBuffer(8);
const seen = new Int32Array(shared);
new Worker(__filename, { workerData: shared });
let answers = 0;
let last = 0;
const server = http.createServer((request, response) => {
  const now = Atomics.load(seen, 0);
  const body = now < last ? "BAD worker\n" : `${++answers}\n`;
  last = now;
  response.setHeader("Content-Length", body.length);
  response.end(body);
});
server.keepAliveTimeout = 0;
server.listen(Number(process.argv[2]), "127.0.0.1", () => console.log("ready"));
