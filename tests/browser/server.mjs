// Owns running the real binary for a test: a free port, a fresh data directory, start, stop, start again.
import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/** Limits of waits cost nothing where all is well, and a machine that does much else stops a process for seconds. */
const READY_MS_MAX = 90_000;
const EXIT_MS_MAX = 60_000;

export class Server {
  #child;

  /** `flags` is given the data directory, and gives further flags. */
  static async create(flags = async () => []) {
    const server = new Server();
    server.port = await freePort();
    server.origin = `http://127.0.0.1:${server.port}`;
    server.data = await mkdtemp(join(tmpdir(), 'order-service-browser-'));
    server.flags = await flags(server.data);
    await server.start();
    return server;
  }

  async start() {
    const binary = process.env.ORDER_SERVICE_BIN;
    if (!binary) throw new Error('ORDER_SERVICE_BIN must name the order-service binary');
    const args = ['serve', '--listen', `127.0.0.1:${this.port}`, '--data', this.data, '--sample', '200', ...this.flags];
    const child = this.#child = spawn(binary, args, { stdio: ['ignore', 'ignore', 'pipe'] });
    let said = '';
    child.stderr.on('data', (chunk) => { said = (said + chunk).slice(-4_000); });
    child.on('error', (error) => { said += error; });
    await until(async () => {
      if (child.exitCode !== null) throw new Error(`the server exited with ${child.exitCode}: ${said}`);
      return (await fetch(`${this.origin}/readyz`).catch(() => undefined))?.status === 200;
    }, 'the server is ready', READY_MS_MAX);
  }

  async stop() {
    const child = this.#child;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const exited = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGTERM');
    const late = setTimeout(() => child.kill('SIGKILL'), EXIT_MS_MAX);
    await exited;
    clearTimeout(late);
  }

  async dispose() {
    await this.stop();
    if (this.data) await rm(this.data, { recursive: true, force: true });
  }

  /** Posts one order, or text with many under `type`, and gives `{ status, body }`. */
  async post(order, type = 'application/json', key = undefined) {
    const body = typeof order === 'string' ? order : JSON.stringify(order);
    const response = await fetch(`${this.origin}/orders`, { method: 'POST', headers: { 'Content-Type': type, ...(key ? { Authorization: `Bearer ${key}` } : {}) }, body });
    return { status: response.status, body: await response.text() };
  }

  /** How many event streams are open. */
  async streams() {
    const text = await (await fetch(`${this.origin}/metrics`)).text();
    return Number(/^http_event_streams (\d+)$/m.exec(text)[1]);
  }
}

/** Waits until `check` gives something true, and gives it. */
export async function until(check, what, limitMs = 60_000) {
  const end = Date.now() + limitMs;
  for (;;) {
    const result = await check();
    if (result) return result;
    if (Date.now() > end) throw new Error(`waited ${limitMs} ms until ${what}`);
    await sleep(25);
  }
}

/** Below the ports that the system gives out, so that it is still free when a server takes it, also once more after a stop. */
async function freePort() {
  for (;;) {
    const port = 10_100 + Math.floor(Math.random() * 900);
    const isFree = await new Promise((resolve) => {
      const probe = createServer().once('error', () => resolve(false)).listen(port, '127.0.0.1', () => probe.close(() => resolve(true)));
    });
    if (isFree) return port;
  }
}
