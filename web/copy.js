// Owns copying text, and the button that does it.
import { announce, h } from './dom.js';
import { word } from './i18n.js';

/** A button that copies `text` and says for a moment whether it did. */
export function copyButton(key, text, name) {
  const button = h('button', { type: 'button', class: 'small', 'data-focus': name, click: async () => {
    const said = word((await copy(text)) ? 'copied' : 'copyFailed');
    button.textContent = said;
    announce(said);
    setTimeout(() => { button.textContent = word(key); }, 1_500);
  } }, word(key));
  return button;
}

/** Copies text. The clipboard API needs a secure origin, and this page is often opened over plain HTTP. */
async function copy(text) {
  if (navigator.clipboard && window.isSecureContext) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch { /* refused by permission: the older way may still work */ }
  }
  const focused = document.activeElement;
  const area = h('textarea', { class: 'visually-hidden', 'aria-hidden': 'true' });
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand('copy');
  area.remove();
  focused?.focus();
  return done;
}
