// Owns which tab holds the stream of changes, and that each tab takes every change once.
// It must not know what is done with a change.
//
// The rule: one stream per browser, held by a visible tab; none while no tab is visible. A browser
// opens only six HTTP/1.1 connections to a host, so with a stream for each tab the seventh tab
// could not even load.
//
//   hidden      holds nothing, hears nothing, and remembers the position up to which it knows all
//   following   visible, in the queue for the lock that another tab holds; hears what that tab tells
//   leading     visible, holds the lock and the stream, and tells all visible tabs what the stream says
//
//   hidden -> following    the tab becomes visible
//   following -> leading   the lock is granted: the leader was hidden, was closed or crashed
//   following -> hidden    the tab is hidden: it leaves the queue
//   leading -> hidden      the tab is hidden: it closes the stream and gives up the lock
//
// Who leads next goes on from its own position, so what came while no tab led is not missed. A tab
// that follows goes on from its position too: it says `hello` with it, and the leader goes back
// that far, for all tabs. A tab takes a change only if it is the next one from its own position on:
// one that it knows it leaves out, and where one is missing it says `hello` again. So it does not
// matter in which order messages of two leaders arrive. A tab without a position, or with one of
// another server process, cannot go on from it: it reads everything afresh.
//
// Without locks or channels (plain HTTP from another host is no secure context) each visible tab
// leads itself.
import { openStream } from './live.js';
import { audience } from './session.js';

// Tabs of one caller share a stream; those of another have a channel and a lock of their own.
const name = () => `order-service.events${audience() && `.${audience()}`}`;

/**
 * Follows the changes while the page is visible. `onState` gets connecting, live or reconnecting;
 * `onReset` says that changes may have been missed; `onChange` gets `{ id, version, kind, data }`,
 * where `data` is the text of the event.
 */
export function follow({ onChange, onReset, onState }) {
  const channel = openChannel();
  let at = ''; // the position up to which this tab knows all changes
  let asked; // the position for which this tab has said `hello`
  let stream; // while leading
  let leave; // gives up the lock or the place in its queue; undefined while hidden

  function show() {
    if (leave) return;
    const hidden = new AbortController();
    leave = () => hidden.abort();
    ask();
    holdTurn(hidden.signal, lead);
  }

  function hide() {
    leave?.();
    leave = undefined;
  }

  function lead(signal) {
    return new Promise((resolve) => {
      startFrom(at);
      signal.addEventListener('abort', () => {
        stream.close();
        stream = undefined;
        resolve();
      });
    });
  }

  function startFrom(position) {
    stream?.close();
    stream = openStream(position, { onEvent: (event) => tell({ event }), onState: (state) => tell({ state }) });
    tell({ start: position });
  }

  // The leader is a tab like the others: it hears what it tells.
  function tell(message) {
    channel?.postMessage(message);
    hear(message);
  }

  function hear({ hello, start, state, event }) {
    if (hello !== undefined && stream) answer(hello);
    if (start !== undefined) begin(start);
    if (state !== undefined) onState(state);
    if (event !== undefined) take(event);
  }

  function answer(position) {
    if (changesBetween(position, stream.at) > 0) startFrom(position);
    else tell({ start: stream.at, state: stream.state });
  }

  function ask() {
    asked = at;
    channel?.postMessage({ hello: at });
  }

  // What the leader tells from now on goes on from `start`. One that knows no position is about to
  // tell a reset.
  function begin(start) {
    const missed = changesBetween(at, start);
    if (missed > 0) ask();
    else if (missed === undefined && start !== '') reset(start);
  }

  function take({ type, after, id, data }) {
    if (changesBetween(at, id) <= 0) return;
    if (type === 'reset') {
      reset(id);
    } else if (changesBetween(at, after) <= 0) {
      at = id;
      const change = changeOf(data);
      if (change) onChange(change);
    } else if (asked !== at) {
      ask();
    }
  }

  function reset(position) {
    at = position;
    onReset();
  }

  channel?.addEventListener('message', ({ data }) => {
    // What another leader told before it left is of no use to this one.
    if (leave) hear(stream ? { hello: data.hello } : data);
  });
  // A page kept by the browser for its Back button is hidden too, though not every browser says so.
  const look = () => (document.visibilityState === 'visible' ? show() : hide());
  document.addEventListener('visibilitychange', look);
  addEventListener('pagehide', hide);
  addEventListener('pageshow', look);

  onState('connecting');
  look();
}

function openChannel() {
  if (!navigator.locks || !window.BroadcastChannel) return undefined;
  try {
    return new BroadcastChannel(name());
  } catch {
    return undefined; // storage is switched off, and with it all that tabs share
  }
}

/** Runs `lead` when it is this tab's turn, unless `signal` says first that the tab is hidden. */
async function holdTurn(signal, lead) {
  try {
    await navigator.locks.request(name(), { signal }, () => (signal.aborted ? undefined : lead(signal)));
  } catch { // hidden while in the queue, or there are no locks
    if (!signal.aborted) lead(signal);
  }
}

// A position is `process-number`, and the number grows with each change. Undefined where one is not
// known or they are of different processes.
function changesBetween(from, to) {
  const [start, end] = [from, to].map((position) => /^(.+)-(\d+)$/.exec(position));
  return start && end && start[1] === end[1] ? Number(end[2]) - Number(start[2]) : undefined;
}

// JSON.parse is right here and nowhere else: it is several times faster than the exact reader,
// every event passes here, and only the id and the kind are taken. What is shown is read again from
// `data`.
function changeOf(data) {
  try {
    const { order_uid: id, version, change: kind } = JSON.parse(data);
    return typeof id === 'string' ? { id, version, kind, data } : undefined;
  } catch {
    return undefined;
  }
}
