// Owns the view of one order: fetching it, laying it out, following its changes while it is open.
import { fetchOrder } from './api.js';
import { copyButton } from './copy.js';
import { announce, byId, h, perFrame } from './dom.js';
import { failurePanel, failureTitle } from './failure.js';
import { at, cardTable, dateNode, epochNode, facts, members, money, more, nested, plain, statusChip } from './fields.js';
import { milliseconds, onLanguage, word } from './i18n.js';
import { Num, memberText, read } from './json.js';
import { rawPanel } from './raw.js';

/** A fast answer must not flicker through a "loading" line. */
const LOADING_AFTER_MS = 150;
const ITEMS_MAX = 200;

export function createOrderView() {
  const view = byId('order-view');
  let request; // the AbortController of the look-up under way
  let state = {}; // what is shown: { id, loading } or { id, failure } or { id, text, order, version, tripMs, deleted }

  /** Shows the order `id` and moves the focus to its title. */
  async function open(id) {
    close();
    const controller = request = new AbortController();
    view.replaceChildren();
    const slow = setTimeout(() => set({ id, loading: true }), LOADING_AFTER_MS);
    let next;
    try {
      next = shown(id, await fetchOrder(id, controller.signal));
    } catch (failure) {
      next = { id, failure };
    }
    clearTimeout(slow);
    if (controller.signal.aborted) return;
    set(next);
    focus('title');
    announce(next.failure ? failureTitle(next.failure) : word('shown', { id: uidOf(next), version: next.version }));
  }

  function close() {
    request?.abort();
    state = {};
  }

  /** Reads the order shown once more: changes to it may have been missed. */
  async function refresh() {
    if (!state.order) return;
    const { signal } = request;
    let next;
    try {
      next = shown(state.id, await fetchOrder(state.id, signal));
    } catch ({ status }) {
      if (!signal.aborted && status === 410) set({ ...state, deleted: true });
      return;
    }
    if (signal.aborted || Number(next.version) <= Number(state.version)) return;
    set({ ...next, deleted: isEnvelope(next.order) && plain(at(next.order, 'status')) === 'deleted' });
    announce(word('orderUpdated', { version: next.version }));
  }

  function set(next) {
    state = next;
    draw();
  }

  // The focus and the opened JSON survive a redraw: it may come from an event, not from the reader.
  function draw() {
    if (state.id === undefined) return;
    const focused = view.contains(document.activeElement) ? document.activeElement.dataset.focus : undefined;
    const wasOpen = view.querySelector('details')?.open ?? false;
    document.title = `${state.failure ? failureTitle(state.failure) : uidOf(state)} · order-service`;
    view.replaceChildren(backLink(), ...content(wasOpen));
    if (focused) focus(focused);
  }

  function content(wasOpen) {
    if (state.loading) return [h('p', { class: 'note' }, word('loading'))];
    if (state.failure) return [failurePanel(state.failure, { asked: state.id, onRetry: () => open(state.id) })];
    return [
      titleBar(state),
      state.deleted ? h('p', { class: 'warning', role: 'alert' }, word('orderDeletedNow')) : null,
      ...(isEnvelope(state.order) ? envelopeSections(state.order) : wbSections(state.order)),
      rawPanel(state.text, wasOpen),
    ].filter(Boolean);
  }

  const focus = (name) => view.querySelector(`[data-focus="${name}"]`)?.focus({ preventScroll: true });

  // A busy order may change many times between two frames; only the last state is read and drawn.
  let pending;
  const drawChange = perFrame(() => {
    const change = pending;
    pending = undefined;
    if (!change || change.id !== uidOf(state)) return;
    const text = memberText(change.data, 'order');
    const version = String(change.version);
    const next = text?.startsWith('{') ? shown(state.id, { text, version }) : { ...state, version };
    set({ ...next, deleted: change.kind === 'deleted' });
    if (change.kind !== 'deleted') announce(word('orderUpdated', { version }));
  });

  onLanguage(draw);
  return {
    open,
    close,
    refresh,
    /** Takes a committed change; ignored unless it is newer and of the order shown. */
    apply(change) {
      if (!state.order || change.id !== uidOf(state) || Number(change.version) <= Number(state.version)) return;
      pending = change;
      drawChange();
    },
  };
}

function shown(id, { text, version, tripMs }) {
  return { id, text, version, tripMs, order: read(text) };
}

// The id of the address may be another spelling of it.
const uidOf = ({ id, order }) => plain(at(order, 'order_uid')) || plain(at(order, 'order_id')) || id;
const isEnvelope = (order) => at(order, 'order_id') !== undefined && at(order, 'user_id') !== undefined;

const backLink = () => h('p', { class: 'back' }, h('a', { href: '#/', 'data-focus': 'back' }, h('span', { 'aria-hidden': 'true' }, '← '), word('backToList')));

function titleBar(state) {
  const uid = uidOf(state);
  const bytes = new TextEncoder().encode(state.text).length;
  return h('header', { class: 'order-title' },
    h('div', { class: 'order-id' },
      h('h1', { class: 'mono', tabindex: '-1', 'data-focus': 'title' }, uid),
      copyButton('copyId', uid, 'copy-id')),
    h('p', { class: 'chips' },
      h('span', { class: 'chip' }, word(isEnvelope(state.order) ? 'kindEnvelope' : 'kindWb')),
      state.version ? h('span', { class: 'chip', id: 'order-version' }, word('version', { version: state.version })) : null,
      isEnvelope(state.order) ? statusChip(at(state.order, 'status')) : null,
      h('span', { class: 'measure' }, word('bytes', { count: bytes })),
      state.tripMs === undefined ? null : h('span', { class: 'measure' }, word('roundTrip', { time: milliseconds(state.tripMs) }))));
}

function panel(title, className, ...content) {
  return h('section', { class: `panel ${className}` }, h('h2', {}, title), content);
}

function wbSections(order) {
  const { delivery, payment, items } = Object.fromEntries(['delivery', 'payment', 'items'].map((key) => [key, at(order, key)]));
  const currency = at(payment, 'currency');
  return [
    h('div', { class: 'columns' },
      panel(word('sectionOrder'), 'order-facts', facts(members(order, {
        known: ['track_number', 'date_created', 'customer_id', 'delivery_service', 'entry', 'locale', 'internal_signature', 'shardkey', 'sm_id', 'oof_shard'],
        skip: ['order_uid', ...[['delivery', delivery], ['payment', payment]].filter(([, value]) => value instanceof Map).map(([key]) => key), ...(Array.isArray(items) ? ['items'] : [])],
        show: { date_created: dateNode },
      }))),
      delivery instanceof Map ? panel(word('sectionDelivery'), 'delivery', facts(members(delivery, {
        scope: 'delivery.',
        known: ['name', 'phone', 'email', 'address', 'city', 'region', 'zip'],
      }))) : null,
      payment instanceof Map ? paymentPanel(payment, currency) : null),
    Array.isArray(items) ? panel([word('sectionItems'), ' ', h('span', { class: 'count' }, String(items.length))], 'items', itemsTable(items), more(items.length - ITEMS_MAX)) : null,
  ];
}

function paymentPanel(payment, currency) {
  const inMoney = (value) => money(value, currency);
  return panel(word('sectionPayment'), 'payment',
    h('p', { class: 'amount' }, inMoney(payment.get('amount'))),
    facts(members(payment, {
      scope: 'payment.',
      known: ['goods_total', 'delivery_cost', 'custom_fee', 'provider', 'bank', 'payment_dt', 'transaction', 'request_id'],
      skip: payment.get('amount') instanceof Num ? ['amount', 'currency'] : [],
      show: { goods_total: inMoney, delivery_cost: inMoney, custom_fee: inMoney, payment_dt: epochNode },
    })));
}

const ITEM_FIGURES = ['nm_id', 'chrt_id', 'price', 'sale', 'total_price', 'status'];
const ITEM_KEYS = new Set(['name', 'brand', 'size', 'rid', 'track_number', ...ITEM_FIGURES]);

function itemsTable(items) {
  const columns = [
    { title: word('field.item.name') },
    { title: word('field.item.rid') },
    ...ITEM_FIGURES.map((key) => ({ title: word(`field.item.${key}`), figure: true })),
  ];
  const rows = items.slice(0, ITEMS_MAX).map((item) => [
    { content: item instanceof Map ? itemName(item) : nested(item) },
    { content: [h('span', { class: 'mono' }, plain(at(item, 'rid'))), h('span', { class: 'sub mono' }, plain(at(item, 'track_number')))] },
    ...ITEM_FIGURES.map((key) => ({ content: itemFigure(key, at(item, key)), figure: true })),
  ]);
  return cardTable(columns, rows, word('sectionItems'));
}

function itemName(item) {
  const size = plain(item.get('size'));
  const unknown = new Map([...item].filter(([key]) => !ITEM_KEYS.has(key)));
  return [
    h('strong', {}, plain(item.get('name'))),
    h('span', { class: 'sub' }, [plain(item.get('brand')), size && word('field.item.size', { size })].filter(Boolean).join(' · ')),
    unknown.size > 0 ? nested(unknown) : null,
  ];
}

// Ids are shown digit for digit; only money gets the spaces between its thousands.
const itemFigure = (key, value) => {
  if (value !== undefined && !(value instanceof Num)) return nested(value);
  return key === 'price' || key === 'total_price' ? money(value) : plain(value);
};

function envelopeSections(order) {
  const payload = at(order, 'payload');
  return [
    h('div', { class: 'columns' },
      panel(word('sectionOrder'), 'order-facts',
        h('p', { class: 'amount' }, money(at(order, 'amount'), at(payload, 'currency'))),
        facts(members(order, {
          known: ['order_id', 'user_id', 'status', 'created_at', 'updated_at', 'bucket'],
          skip: ['order_uid', 'amount', 'payload'],
          show: { status: statusChip, created_at: dateNode, updated_at: dateNode },
        }))),
      panel(word('sectionPayload'), 'payload', nested(payload))),
  ];
}
