// Owns telling a person what went wrong and what can be done about it.
import { h } from './dom.js';
import { word } from './i18n.js';

const EXPLAINED = new Set([0, 400, 403, 404, 410, 429, 503]);
/** Asking again can only help when the server, not the question, was at fault. */
const canRetry = (status) => status === 0 || status === 429 || status >= 500;

export const failureTitle = ({ status }) => word(`fail.${EXPLAINED.has(status) ? status : 'other'}`);

/** A panel for a Failure. `asked` is the id that was looked for, if any; `onRetry` asks again. */
export function failurePanel(failure, { asked, onRetry, heading = 'h1' }) {
  const { status } = failure;
  const key = `fail.${EXPLAINED.has(status) ? status : 'other'}`;
  return h('section', { class: 'panel failure', 'data-fault': canRetry(status) ? 'server' : 'request' },
    h('p', { class: 'failure-code mono', 'aria-hidden': 'true' }, status === 0 ? '···' : String(status)),
    h(heading, { tabindex: '-1', 'data-focus': 'title' }, word(key)),
    h('p', {}, word(`${key}.help`, { status: String(status) })),
    waitHint(failure),
    details(failure, asked),
    canRetry(status) ? h('button', { type: 'button', class: 'primary', 'data-focus': 'retry', click: onRetry }, word('retry')) : null);
}

// Retry-After may also be a date; only seconds are worth repeating.
function waitHint({ retryAfter }) {
  return /^\d+$/.test(retryAfter) ? h('p', {}, word('retryAfter', { time: retryAfter })) : null;
}

function details({ title, detail, reason }, asked) {
  const says = [title, detail].filter((text, index, all) => text && all.indexOf(text) === index).join(': ');
  const pairs = [
    asked === undefined ? null : [word('requestedId'), asked],
    says || reason ? [word('serverSays'), reason && says ? `${says} (${reason})` : says || reason] : null,
  ].filter(Boolean);
  if (pairs.length === 0) return null;
  return h('dl', { class: 'facts failure-facts' }, pairs.map(([term, text]) =>
    h('div', {}, h('dt', {}, term), h('dd', { class: 'mono' }, text))));
}
