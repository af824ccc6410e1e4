// Owns the list of the newest orders on the page: loading it, drawing it once a frame, pausing it.
import { fetchNewest } from './api.js';
import { announce, byId, h, perFrame } from './dom.js';
import { failurePanel } from './failure.js';
import { at, dateNode, money, plain, statusChip } from './fields.js';
import { day, onLanguage, timeOfDay, word } from './i18n.js';
import { read } from './json.js';
import { Newest, ROWS_MAX, textOf } from './newest.js';

/** A list may trail a write by 50 ms, so it is asked for longer than that after the changes are kept. */
const SETTLE_MS = 150;
/** Changes kept while a list is on its way; more than the list can show is of no use, updates are the spare. */
const HELD_MAX = 4_000;

export const orderHref = (id) => `#/order/${encodeURIComponent(id)}`;

export function createList() {
  const body = byId('rows');
  const newest = new Newest();
  let held; // changes seen since the load under way began, or undefined
  let isDue = false; // asked for again meanwhile
  let failure;
  let loaded = false;
  let paused = false;
  let pressed = false;
  let hidden = false;
  let waiting = 0;

  const draw = perFrame(() => {
    byId('waiting').textContent = waiting > 0 ? word('waiting', { count: waiting }) : '';
    if (paused || pressed || hidden) return;
    const focused = rowIndex(document.activeElement);
    drawRows(body, newest);
    if (focused >= 0 && document.activeElement === document.body) focusRow(focused);
    drawNote();
  });

  function drawNote() {
    const note = byId('list-note');
    if (failure && newest.rows.length === 0) note.replaceChildren(failurePanel(failure, { onRetry: () => load(0), heading: 'h3' }));
    else note.replaceChildren(newest.rows.length > 0 ? '' : word(loaded ? 'empty' : 'loading'));
  }

  /** Loads the list afresh. Changes that arrive meanwhile are applied again on top of it. */
  async function load(settleMs = SETTLE_MS) {
    // What is on its way may have been read before the change that this is about, so it is read
    // once more.
    isDue = held !== undefined;
    if (isDue) return;
    held = [];
    try {
      if (settleMs > 0) await new Promise((resolve) => setTimeout(resolve, settleMs));
      newest.replace(await fetchNewest(ROWS_MAX));
      held.forEach((change) => newest.apply(change));
      failure = undefined;
      loaded = true;
    } catch (error) {
      failure = error;
    }
    held = undefined;
    draw();
    if (isDue) load();
  }

  function apply(change) {
    newest.apply(change);
    if (held && held.push(change) > HELD_MAX) held.shift();
    if (paused) waiting += 1;
    if (newest.isThin) load();
    draw();
  }

  const rowIndex = (element) => (element && body.contains(element) ? [...body.rows].indexOf(element.closest('tr')) : -1);
  const focusRow = (index) => body.rows[Math.max(0, Math.min(index, body.rows.length - 1))]?.querySelector('a').focus();

  function setPaused(next) {
    paused = next;
    waiting = 0;
    drawPause();
    announce(word(paused ? 'paused' : 'resumed'));
    draw();
  }

  function drawPause() {
    byId('pause').setAttribute('aria-pressed', String(paused));
    byId('pause-word').textContent = word(paused ? 'resume' : 'pause');
    byId('list').classList.toggle('is-paused', paused);
  }

  // Rows must not move between the press and the release, or a click would open the neighbour.
  body.addEventListener('pointerdown', () => { pressed = true; });
  for (const type of ['pointerup', 'pointercancel', 'blur']) {
    addEventListener(type, () => setTimeout(() => { if (pressed) { pressed = false; draw(); } }));
  }
  body.addEventListener('click', ({ target, ctrlKey, metaKey }) => {
    const link = target.closest('tr')?.querySelector('a');
    if (!link || target.closest('a') || getSelection().toString() !== '') return;
    if (ctrlKey || metaKey) window.open(link.href);
    else location.hash = link.hash;
  });
  body.addEventListener('keydown', (event) => {
    const index = rowIndex(event.target);
    const target = { ArrowDown: index + 1, ArrowUp: index - 1, Home: 0, End: body.rows.length - 1 }[event.key];
    if (target === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    focusRow(target);
  });
  byId('pause').addEventListener('click', () => setPaused(!paused));
  onLanguage(() => {
    for (const row of newest.rows) row.drawn = undefined;
    drawPause();
    if (paused) drawRows(body, newest, [...body.rows].map((tr) => tr.row));
    draw();
  });
  drawPause();
  drawNote();

  return {
    load,
    apply,
    /** While hidden the list is kept up to date but not drawn. */
    setHidden(next) {
      hidden = next;
      if (!hidden) draw();
    },
    /** Puts the focus on the row of an order; false when it has left the list. */
    focus(id) {
      const link = [...body.querySelectorAll('a')].find(({ hash }) => hash === orderHref(id));
      link?.focus({ preventScroll: true });
      return link !== undefined;
    },
  };
}

// Elements are kept and moved as little as possible: a row that holds the focus must not leave the page.
function drawRows(body, newest, rows = newest.rows) {
  for (const tr of [...body.rows]) if (!rows.includes(tr.row)) tr.remove();
  let next = body.firstElementChild;
  for (const row of rows) {
    row.tr ??= Object.assign(h('tr', { role: 'row' }), { row });
    if (row.drawn !== textOf(row)) drawRow(row);
    if (row.beat !== row.beaten) flash(row);
    if (row.tr === next) next = next.nextElementSibling;
    else body.insertBefore(row.tr, next);
  }
}

// Two names for one animation: it starts again only when the name changes.
function flash(row) {
  row.beaten = row.beat;
  row.tr.dataset.flash = `${row.flash}-${row.beat % 2}`;
}

function drawRow(row) {
  row.drawn = textOf(row);
  const order = summary(row);
  const cells = [
    cell('customer', order.who, order.where),
    cell('contents', order.first, order.more > 0 ? word('andMore', { count: order.more }) : ''),
    cell('status', order.status, ''),
    cell('amount', order.amount, ''),
    cell('created', dateNode(order.created, day), timeOfDay(new Date(plain(order.created)))),
  ];
  const link = row.tr.querySelector('a') ?? h('a', { href: orderHref(row.id), class: 'mono' }, row.id);
  const first = row.tr.firstElementChild ?? h('td', { role: 'cell', class: 'cell-order' }, link, h('span', { class: 'sub mono' }));
  first.lastElementChild.textContent = order.sub;
  while (row.tr.childElementCount > 1) row.tr.lastElementChild.remove();
  row.tr.append(...(row.tr.firstElementChild ? [] : [first]), ...cells);
}

const cell = (name, main, sub) =>
  h('td', { role: 'cell', class: `cell-${name}` }, h('span', { class: 'main' }, main), sub ? h('span', { class: 'sub' }, sub) : null);

function summary({ text }) {
  let order;
  try {
    order = read(text);
  } catch { /* an event without a body: the row still leads to the order */ }
  return at(order, 'order_id') !== undefined && at(order, 'payload') !== undefined ? envelopeSummary(order) : wbSummary(order);
}

function wbSummary(order) {
  return {
    sub: plain(at(order, 'track_number')),
    who: plain(at(order, 'delivery', 'name')),
    where: plain(at(order, 'delivery', 'city')),
    ...contents(at(order, 'items')),
    status: plain(at(order, 'delivery_service')),
    amount: money(at(order, 'payment', 'amount'), at(order, 'payment', 'currency')),
    created: at(order, 'date_created'),
  };
}

function envelopeSummary(order) {
  const payload = at(order, 'payload');
  return {
    sub: plain(at(payload, 'id')),
    who: h('span', { class: 'mono' }, plain(at(order, 'user_id'))),
    where: '',
    ...contents(at(payload, 'items')),
    status: statusChip(at(order, 'status')),
    amount: money(at(order, 'amount'), at(payload, 'currency')),
    created: at(order, 'created_at'),
  };
}

function contents(items) {
  const list = Array.isArray(items) ? items : [];
  const first = ['name', 'title', 'sku', 'id'].map((key) => plain(at(list[0], key))).find(Boolean);
  return { first: first ?? (list.length > 0 ? word('itemCount', { count: list.length }) : ''), more: list.length - 1 };
}
