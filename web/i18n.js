// Owns the language of the page: which one it is, finding its words, and how numbers and dates are spelled.
import en from './words-en.js';
import ru from './words-ru.js';

const WORDS = { en, ru };
const KEY = 'order-service.language';
const listeners = new Set();
let language = initialLanguage();
let formats = formatsOf(language);

export const currentLanguage = () => language;

/** Runs `listener` after each change of language. */
export function onLanguage(listener) {
  listeners.add(listener);
}

export function setLanguage(next) {
  language = next;
  formats = formatsOf(next);
  try { localStorage.setItem(KEY, next); } catch { /* storage is off: the choice lasts as long as the page */ }
  translatePage();
  for (const listener of listeners) listener();
}

/** The words for `key`, with `{name}` replaced from `values`. `values.count` chooses a plural form. */
export function word(key, values = {}) {
  let entry = WORDS[language][key] ?? WORDS.en[key] ?? key;
  if (typeof entry === 'object') entry = entry[formats.plural.select(values.count)] ?? entry.other;
  return entry.replace(/\{(\w+)\}/g, (_, name) => (typeof values[name] === 'number' ? number(String(values[name])) : values[name]));
}

/** Like `word`, for keys that come from data: undefined when there are no words for it. */
export const wordFor = (key) => (Object.hasOwn(WORDS.en, key) ? word(key) : undefined);

/** Puts words into the elements of the page itself: data-word fills the text, data-word-label the label. */
export function translatePage() {
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll('[data-word]')) element.textContent = word(element.dataset.word);
  for (const element of document.querySelectorAll('[data-word-label]')) {
    element.setAttribute('aria-label', word(element.dataset.wordLabel));
    if (element.matches('button')) element.title = word(element.dataset.wordLabel);
  }
}

/**
 * A number in local spelling with no digit lost: the whole part goes through BigInt, the rest is kept.
 * Anything but plain digits (an exponent, say) is shown as it was sent.
 */
export function number(source) {
  const parts = /^(-?)(\d+)(?:\.(\d+))?$/.exec(source);
  if (!parts) return source;
  const [, sign, whole, fraction] = parts;
  const digits = formats.number.format(BigInt(whole));
  return (sign ? '\u2212' : '') + digits + (fraction === undefined ? '' : formats.point + fraction);
}

/** A date and time with its zone, or undefined when `date` is no date. */
export const longDate = (date) => (Number.isNaN(date.getTime()) ? undefined : formats.long.format(date));

/** The day alone, and the time of day alone: a row has little room, so Russian loses its "г." too. */
export const day = (date) => (Number.isNaN(date.getTime()) ? undefined : formats.day.format(date).replace(/\s?г\.$/, ''));
export const timeOfDay = (date) => (Number.isNaN(date.getTime()) ? '' : formats.time.format(date));

export const milliseconds = (ms) => formats.milliseconds.format(ms);

function initialLanguage() {
  let stored = null;
  try { stored = localStorage.getItem(KEY); } catch { /* storage is off */ }
  if (stored === 'en' || stored === 'ru') return stored;
  return navigator.language.toLowerCase().startsWith('ru') ? 'ru' : 'en';
}

function formatsOf(tag) {
  const day = { year: 'numeric', month: 'short', day: 'numeric' };
  const time = { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' };
  const format = new Intl.NumberFormat(tag);
  return {
    number: format,
    point: new Intl.NumberFormat(tag).formatToParts(0.5).find(({ type }) => type === 'decimal').value,
    plural: new Intl.PluralRules(tag),
    long: new Intl.DateTimeFormat(tag, { ...day, ...time, timeZoneName: 'short' }),
    day: new Intl.DateTimeFormat(tag, day),
    time: new Intl.DateTimeFormat(tag, time),
    milliseconds: new Intl.NumberFormat(tag, { style: 'unit', unit: 'millisecond', maximumFractionDigits: 1 }),
  };
}
