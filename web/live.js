// Owns one stream of committed changes: opening it, reopening it where it broke off, and saying
// whether it is up. It must not know who holds it or what is done with a change.

import { KeyedSource } from './keyed.js';
import { credentials, isSignedIn, refused } from './session.js';

const RETRY_MS_MIN = 1_000;
const RETRY_MS_MAX = 15_000;

/**
 * Reads `/events` from the position `from` on. `onEvent` gets `{ type, after, id, data }`: `type` is
 * order or reset, `after` and `id` are the positions before and behind it, `data` is its exact text.
 * `onState` gets live or reconnecting. An empty `from` is a position the server does not know: it
 * says `reset` at once, and with that where it is.
 */
export function openStream(from, { onEvent, onState }) {
  const stream = { at: from, state: undefined, close };
  const closed = new AbortController();
  let source;
  let retryMs = RETRY_MS_MIN;
  let retry = 0;

  function open() {
    clearTimeout(retry);
    source?.close();
    const url = `/events?include=body&lastEventId=${encodeURIComponent(stream.at)}`;
    source = isSignedIn() ? new KeyedSource(url, credentials(), refused) : new EventSource(url);
    source.addEventListener('open', () => {
      retryMs = RETRY_MS_MIN;
      tell('live');
    });
    for (const type of ['order', 'reset']) {
      source.addEventListener(type, ({ lastEventId, data }) => {
        const after = stream.at;
        stream.at = lastEventId;
        onEvent({ type, after, id: lastEventId, data });
      });
    }
    source.addEventListener('error', () => {
      tell('reconnecting');
      if (source.readyState === EventSource.CLOSED) retryLater();
    });
  }

  function tell(state) {
    stream.state = state;
    onState(state);
  }

  // The browser reconnects by itself after a lost connection, but gives up for good after an answer that is
  // not a stream, such as a 503 while the server starts.
  function retryLater() {
    clearTimeout(retry);
    retry = setTimeout(open, retryMs * (0.75 + Math.random() / 2));
    retryMs = Math.min(retryMs * 2, RETRY_MS_MAX);
  }

  function close() {
    closed.abort();
    clearTimeout(retry);
    source.close();
  }

  addEventListener('online', () => {
    if (source.readyState !== EventSource.OPEN) open();
  }, { signal: closed.signal });

  open();
  return stream;
}
