// Owns talking to the service over plain requests, and turning every way a request can fail into a Failure.
// It must not know how anything looks.
import { elementTexts, memberText } from './json.js';
import { credentials, refused } from './session.js';

/** Longer than any answer should take; a request without a limit would leave the page waiting for ever. */
const ANSWER_MS_MAX = 15_000;

/** A request that brought no answer (`status` 0) or a refusal; `title`, `detail` and `reason` are the server's words. */
export class Failure extends Error {
  constructor(status, { title = '', detail = '', reason = '', retryAfter = '' } = {}, options) {
    super(detail || title || `status ${status}`, options);
    Object.assign(this, { status, title, detail, reason, retryAfter });
  }
}

/** One order: its exact text, its version from the ETag, and how long the round trip took. */
export async function fetchOrder(id, signal) {
  const started = performance.now();
  const { response, text } = await get(`/api/orders/${encodeURIComponent(id)}`, signal);
  return { text, version: versionOf(response), tripMs: performance.now() - started };
}

/** The texts of the newest orders, newest first. */
export async function fetchNewest(limit) {
  const { text } = await get(`/api/orders?limit=${limit}`);
  return elementTexts(text);
}

/** The number of live orders, as the server spelled it. */
export async function fetchTotal() {
  const { text } = await get('/api/stats');
  return memberText(text, 'total_orders');
}

async function get(url, signal) {
  const limit = AbortSignal.timeout(ANSWER_MS_MAX);
  const answer = { headers: { Accept: 'application/json', ...credentials() }, signal: signal ? AbortSignal.any([signal, limit]) : limit };
  let response, text;
  try {
    response = await fetch(url, answer);
    text = await response.text();
  } catch (cause) {
    if (signal?.aborted) throw cause;
    throw new Failure(0, {}, { cause });
  }
  if (response.status === 401) refused();
  if (!response.ok) throw refusal(response, text);
  return { response, text };
}

// The body may be anything: a proxy in between answers with its own HTML. Only strings are taken from it.
function refusal(response, text) {
  let problem = {};
  try {
    problem = Object(JSON.parse(text));
  } catch { /* not a problem document: the status says enough */ }
  const word = (...names) => names.map((name) => problem[name]).find((value) => typeof value === 'string') ?? '';
  return new Failure(response.status, {
    title: word('title', 'error'),
    detail: word('detail', 'message', 'error'),
    reason: word('reason'),
    retryAfter: response.headers.get('Retry-After') ?? '',
  });
}

// `"7"`, or `"7-gzip"` for the compressed form of the same version.
function versionOf(response) {
  return /^(?:W\/)?"(\d+)/.exec(response.headers.get('ETag') ?? '')?.[1] ?? '';
}
