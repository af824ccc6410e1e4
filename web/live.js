// Owns the stream of committed changes: opening it, reopening it, and saying whether it is up.
// It must not know what is done with a change.

const RETRY_MS_MIN = 1_000;
const RETRY_MS_MAX = 15_000;

/**
 * Follows `/events`. `onState` gets connecting, live or reconnecting; `onOpen` runs at every (re)connection;
 * `onChange` gets `{ id, version, kind, data }`, where `data` is the exact text of the event.
 */
export function follow({ onChange, onReset, onOpen, onState }) {
  let source;
  let retryMs = RETRY_MS_MIN;
  let retry = 0;

  function open() {
    clearTimeout(retry);
    source?.close();
    source = new EventSource('/events?include=body');
    source.addEventListener('open', () => {
      retryMs = RETRY_MS_MIN;
      onState('live');
      onOpen();
    });
    source.addEventListener('order', ({ data }) => {
      const change = changeOf(data);
      if (change) onChange(change);
    });
    source.addEventListener('reset', () => onReset());
    source.addEventListener('error', () => {
      onState('reconnecting');
      if (source.readyState === EventSource.CLOSED) retryLater();
    });
  }

  // The browser reconnects by itself after a lost connection, but gives up for good after an answer that is
  // not a stream, such as a 503 while the server starts.
  function retryLater() {
    clearTimeout(retry);
    retry = setTimeout(open, retryMs * (0.75 + Math.random() / 2));
    retryMs = Math.min(retryMs * 2, RETRY_MS_MAX);
  }

  addEventListener('online', () => {
    if (source.readyState !== EventSource.OPEN) open();
  });
  // A page kept by the browser for its Back button must not hold a connection, and needs one when it returns.
  addEventListener('pagehide', () => source.close());
  addEventListener('pageshow', ({ persisted }) => {
    if (persisted) open();
  });

  onState('connecting');
  open();
}

// JSON.parse is right here and nowhere else: it is several times faster than the exact reader, every event
// passes here, and only the id and the kind are taken. What is shown is read again from `data`.
function changeOf(data) {
  try {
    const { order_uid: id, version, change: kind } = JSON.parse(data);
    return typeof id === 'string' ? { id, version, kind, data } : undefined;
  } catch {
    return undefined;
  }
}
