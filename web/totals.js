// Owns the row of totals: live orders as the server counts them, and the changes this page has seen.
import { fetchTotal } from './api.js';
import { byId, perFrame } from './dom.js';
import { number, onLanguage } from './i18n.js';

/** At most one question a second, however many events arrive. */
const ASK_EVERY_MS = 1_000;
/** Counts may trail a write by 50 ms, so the question waits longer than that after an event. */
const SETTLE_MS = 150;

export function createTotals() {
  const seen = { created: 0, updated: 0, deleted: 0 };
  let total;
  let askedAt = -ASK_EVERY_MS;
  let due = 0;

  const draw = perFrame(() => {
    if (total !== undefined) byId('total').textContent = number(total);
    for (const kind of Object.keys(seen)) byId(`seen-${kind}`).textContent = number(String(seen[kind]));
  });

  async function ask() {
    due = 0;
    askedAt = performance.now();
    try {
      total = await fetchTotal();
      draw();
    } catch { /* the old total stays; the connection mark already says that the server is unavailable */ }
  }

  // Driven by events: with no event there is no timer and no question.
  function askSoon() {
    if (due) return;
    due = setTimeout(ask, Math.max(SETTLE_MS, askedAt + ASK_EVERY_MS - performance.now()));
  }

  onLanguage(draw);
  return {
    ask,
    askSoon,
    count(kind) {
      if (!(kind in seen)) return;
      seen[kind] += 1;
      draw();
      askSoon();
    },
  };
}
