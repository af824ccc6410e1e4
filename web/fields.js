// Owns turning the values of an order into text and elements: facts, money, dates, nested values.
// It must not know which view they are put in.
import { h } from './dom.js';
import { longDate, number, word, wordFor } from './i18n.js';
import { Num } from './json.js';

/** Elements laid out from one order at most; a megabyte of payload stays readable in the raw JSON. */
const VALUES_MAX = 600;
const TABLE_COLUMNS_MAX = 8;

/** The value at a path of keys, or undefined: an order of a lenient profile may have any shape. */
export const at = (value, ...path) => path.reduce((inner, key) => (inner instanceof Map ? inner.get(key) : undefined), value);

/** A scalar as text; an empty string for everything else. */
export function plain(value) {
  if (value instanceof Num) return value.source;
  if (typeof value === 'string') return value;
  return typeof value === 'boolean' ? String(value) : '';
}

/** Money as the producer counts it, never divided, with the currency code beside it. */
export function money(value, currency) {
  const amount = value instanceof Num ? number(value.source) : plain(value);
  const code = plain(currency);
  return amount && code ? `${amount}\u00a0${code}` : amount;
}

/** RFC 3339 text as a local date; the original is one hover away. */
export function dateNode(value, format = longDate) {
  const source = plain(value);
  const shown = format(new Date(source));
  return shown === undefined ? source : h('time', { datetime: source, title: source }, shown);
}

/** Seconds since 1970 as a date, with the number itself, since it is what the other systems know. */
export function epochNode(value) {
  const source = plain(value);
  const shown = source === '' ? undefined : longDate(new Date(Number(source) * 1000));
  return shown === undefined ? source : [shown, ' ', h('span', { class: 'quiet mono' }, source)];
}

export function statusChip(value) {
  const status = plain(value);
  return h('span', { class: 'chip', 'data-status': status }, wordFor(`status.${status}`) ?? status);
}

/** A definition list of `[label, content]` pairs. */
export function facts(pairs) {
  return h('dl', { class: 'facts' }, pairs.map(([label, content]) =>
    h('div', {}, h('dt', {}, label), h('dd', {}, isBlank(content) ? nothing() : content))));
}

/**
 * The members of an object as pairs for `facts`: known keys first in the order given, unknown keys after them
 * under their own names. `show` maps a key to its own way of drawing the value.
 */
export function members(map, { scope = '', known = [], skip = [], show = {} }) {
  const budget = { left: VALUES_MAX };
  const keys = [...known.filter((key) => map.has(key)), ...[...map.keys()].filter((key) => !known.includes(key))];
  return keys.filter((key) => !skip.includes(key)).map((key) => [
    label(scope, key),
    Object.hasOwn(show, key) ? show[key](map.get(key)) : nested(map.get(key), budget),
  ]);
}

export const label = (scope, key) => wordFor(`field.${scope}${key}`) ?? h('span', { class: 'mono' }, key);

/** Any JSON value as elements: nested lists of facts, and a table where an array holds flat objects. */
export function nested(value, budget = { left: VALUES_MAX }) {
  if (value instanceof Map) return nestedObject(value, budget);
  if (Array.isArray(value)) return nestedArray(value, budget);
  budget.left -= 1;
  if (value === null) return h('span', { class: 'quiet mono' }, 'null');
  return value instanceof Num ? h('span', { class: 'figure' }, value.source) : plain(value);
}

function nestedObject(map, budget) {
  if (map.size === 0) return nothing();
  const { taken, rest } = take([...map], budget);
  return [facts(taken.map(([key, value]) => [h('span', { class: 'mono' }, key), nested(value, budget)])), rest];
}

function nestedArray(array, budget) {
  if (array.length === 0) return nothing();
  const columns = flatColumns(array);
  const { taken, rest } = take(array, budget, columns?.length);
  if (!columns) return [h('ul', { class: 'values' }, taken.map((value) => h('li', {}, nested(value, budget)))), rest];
  const rows = taken.map((map) => columns.map((key) => ({ content: map.has(key) ? nested(map.get(key), budget) : '', figure: map.get(key) instanceof Num })));
  return [cardTable(columns.map((key) => ({ title: key, figure: array.some((map) => map.get(key) instanceof Num) })), rows), rest];
}

function flatColumns(array) {
  if (!array.every((value) => value instanceof Map)) return undefined;
  const keys = new Set(array.flatMap((map) => [...map.keys()]));
  const flat = array.every((map) => [...map.values()].every((value) => typeof value !== 'object' || value === null || value instanceof Num));
  return flat && keys.size > 0 && keys.size <= TABLE_COLUMNS_MAX ? [...keys] : undefined;
}

function take(values, budget, cost = 1) {
  const count = Math.max(0, Math.min(values.length, Math.floor(budget.left / cost)));
  return { taken: values.slice(0, count), rest: more(values.length - count) };
}

/** Says how many values were left out, if any. */
export const more = (count) => (count > 0 ? h('p', { class: 'quiet' }, word('truncated', { count })) : null);

/**
 * A table that becomes cards on a narrow screen. The roles are spelled out because a table laid out as blocks
 * loses them. `columns` are `{ title, figure }`, a cell is `{ content, figure }`.
 */
export function cardTable(columns, rows, name) {
  return h('div', { class: 'scroll' }, h('table', { class: 'cards', role: 'table', 'aria-label': name },
    h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, columns.map(({ title, figure }) =>
      h('th', { role: 'columnheader', scope: 'col', class: figure && 'figure' }, title)))),
    h('tbody', { role: 'rowgroup' }, rows.map((cells) => h('tr', { role: 'row' }, cells.map(({ content, figure }, index) =>
      h('td', { role: 'cell', class: figure && 'figure', 'data-label': columns[index].title }, h('div', {}, isBlank(content) ? nothing() : content))))))));
}

const isBlank = (content) => content === '' || content === undefined || content === null;
const nothing = () => h('span', { class: 'quiet' }, '—', h('span', { class: 'visually-hidden' }, word('missing')));
