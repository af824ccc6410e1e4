// Owns the raw JSON of an order: indented and coloured for reading, copied as it was sent.
import { copyButton } from './copy.js';
import { h } from './dom.js';
import { word } from './i18n.js';
import { pretty } from './json.js';

/** Above this a colour for each token would cost more elements than a phone can hold. */
const COLOURED_CHARS_MAX = 100_000;
const COLOURED = new Set(['key', 'string', 'number', 'word']);

export function rawPanel(text, isOpen) {
  const code = h('code', {});
  const details = h('details', { class: 'panel raw', open: isOpen, toggle: fill },
    h('summary', { 'data-focus': 'raw' }, word('raw')),
    h('div', { class: 'raw-bar' }, h('p', { class: 'quiet' }, word('rawNote')), copyButton('copyRaw', text, 'copy-raw')),
    h('pre', { tabindex: '0', 'data-focus': 'raw-text' }, code));
  // Most readers never open it, so it is built when they do.
  function fill() {
    if (details.open && !code.hasChildNodes()) code.append(...tokens(text));
  }
  fill();
  return details;
}

function tokens(text) {
  const pieces = pretty(text);
  if (text.length > COLOURED_CHARS_MAX) return [pieces.map(([, source]) => source).join('')];
  return pieces.map(([kind, source]) => (COLOURED.has(kind) ? h('span', { class: `json-${kind}` }, source) : source));
}
