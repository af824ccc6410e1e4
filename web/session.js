// Owns who is signed in on this tab: the key, where it is kept, what the service says of it, and the
// form and mark that show it. It must not know what is asked for with the key.
//
// The key is kept for this tab only (sessionStorage): other tabs, later visits and other sites never
// have it. Signing in or out loads the page afresh, so nothing of one caller is left for the next.
import { byId } from './dom.js';
import { onLanguage, word } from './i18n.js';

const KEPT = 'order-service.key';
/** Longer than any answer should take. */
const ANSWER_MS_MAX = 15_000;

let key = kept();
let caller; // what the service says: { authentication, name, by, owner, scopes, read, write, events }

/** The header fields that say who asks. */
export const credentials = () => (key ? { Authorization: `Bearer ${key}` } : {});

/** Whether requests are sent with a key. */
export const isSignedIn = () => Boolean(key);

/** A name for what this tab may hear, which is the same in tabs of the same caller and in no other. */
export const audience = () => (caller?.name ? `${caller.by}.${caller.name}.${caller.events}` : '');

/** Whether the stream of changes may be read. */
export const mayFollow = () => !caller || caller.authentication === false || Boolean(caller.events);

/**
 * Asks who this is. Gives whether the page may go on: no key is needed, or a good one is there.
 * A service that does not answer is not asked for a key: the page says that by itself.
 */
export async function begin() {
  byId('sign-in').addEventListener('submit', signIn);
  byId('sign-out').addEventListener('click', signOut);
  onLanguage(draw);
  try {
    const response = await ask(key);
    if (response.status === 401) {
      if (key) forget();
      show(key ? 'signInStale' : '');
      key = '';
      return false;
    }
    if (response.ok) caller = await response.json();
  } catch { /* the list says that the service does not answer */ }
  draw();
  return true;
}

/** A request was refused for its key, which was good before: it has been taken back or has expired. */
export function refused() {
  if (!key) return;
  forget();
  location.reload();
}

async function signIn(event) {
  event.preventDefault();
  const field = byId('key');
  const given = field.value.trim();
  if (given === '') return show('signInEmpty');
  byId('sign-in-go').disabled = true;
  try {
    const { status, ok } = await ask(given);
    if (ok) {
      sessionStorage.setItem(KEPT, given);
      location.reload();
      return undefined;
    }
    field.select();
    return show(status === 429 ? 'signInWait' : 'signInWrong');
  } catch {
    return show('fail.0');
  } finally {
    byId('sign-in-go').disabled = false;
  }
}

function signOut() {
  forget();
  location.reload();
}

function ask(withKey) {
  const headers = { Accept: 'application/json', ...(withKey ? { Authorization: `Bearer ${withKey}` } : {}) };
  return fetch('/api/whoami', { headers, cache: 'no-store', signal: AbortSignal.timeout(ANSWER_MS_MAX) });
}

function show(note) {
  byId('sign-in-view').hidden = false;
  for (const id of ['list-view', 'order-view', 'search', 'connection']) byId(id).hidden = true;
  byId('sign-in-note').dataset.word = note;
  byId('sign-in-note').textContent = note ? word(note) : '';
  byId('key').focus();
}

function draw() {
  const isKnown = Boolean(caller?.name);
  byId('caller').hidden = !isKnown;
  if (!isKnown) return;
  byId('caller-name').textContent = caller.name;
  const rights = ['read', 'write', 'events'].filter((right) => caller[right]).map((right) =>
    `${word(`right.${right}`)}: ${word(`right.${caller[right]}`)}`);
  byId('caller-rights').textContent = rights.length > 0 ? rights.join(', ') : word('right.none');
}

function kept() {
  try {
    return sessionStorage.getItem(KEPT) ?? '';
  } catch {
    return ''; // storage is switched off: the key is asked for again
  }
}

function forget() {
  try {
    sessionStorage.removeItem(KEPT);
  } catch { /* it was never kept */ }
}
