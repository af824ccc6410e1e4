// Owns the wiring of the page: which view the address asks for, the search, the keys, the live stream.
import { announce, byId } from './dom.js';
import { currentLanguage, onLanguage, setLanguage, translatePage, word } from './i18n.js';
import { createList, orderHref } from './list.js';
import { createOrderView } from './order.js';
import { begin, mayFollow } from './session.js';
import { follow } from './tabs.js';
import { createTotals } from './totals.js';

translatePage();
const totals = createTotals();
const list = createList();
const order = createOrderView();

languages();
if (await begin()) {
  const { openAgain } = routes();
  search(openAgain);
  keys();
  if (mayFollow()) stream();
  else byId('connection').hidden = true;
  totals.ask();
  list.load(0);
}

/** The address is the only place that says which view is open, so Back, Forward and links need nothing else. */
function routes() {
  let openId;
  let listScroll = 0;

  // The two views share one page; each scroll position is put back here, not guessed by the browser.
  history.scrollRestoration = 'manual';
  addEventListener('hashchange', route);
  route();

  function route() {
    if (location.hash !== '' && !location.hash.startsWith('#/')) return;
    const id = idInAddress();
    if (id === undefined) showList();
    else showOrder(id);
  }

  function showOrder(id) {
    if (openId === undefined) listScroll = scrollY;
    openId = id;
    byId('query').value = id;
    swap('order-view', 'list-view');
    scrollTo(0, 0);
    order.open(id);
  }

  function showList() {
    const cameFrom = openId;
    openId = undefined;
    order.close();
    swap('list-view', 'order-view');
    document.title = `${word('title')} · order-service`;
    if (cameFrom === undefined) return;
    scrollTo(0, listScroll);
    if (!list.focus(cameFrom)) byId('newest').focus({ preventScroll: true });
  }

  function swap(shown, other) {
    byId(shown).hidden = false;
    byId(other).hidden = true;
    list.setHidden(shown !== 'list-view');
  }

  onLanguage(() => {
    if (openId === undefined) document.title = `${word('title')} · order-service`;
  });
  return { openAgain: () => order.open(openId) };
}

/** The id in `#/order/<id>`, or undefined for the list. A broken escape is passed on for the server to refuse. */
function idInAddress() {
  const [, escaped] = /^#\/order\/(.+)$/.exec(location.hash) ?? [];
  try {
    return escaped && decodeURIComponent(escaped);
  } catch {
    return escaped;
  }
}

function search(openAgain) {
  const query = byId('query');
  byId('search').addEventListener('submit', (event) => {
    event.preventDefault();
    const id = query.value.trim();
    byId('search-note').textContent = id === '' ? word('searchEmpty') : '';
    if (id === '') {
      query.focus();
      return;
    }
    // The same address again is no navigation, but asking again is what was meant.
    if (location.hash === orderHref(id)) openAgain();
    else location.hash = orderHref(id);
  });
  query.addEventListener('input', () => { byId('search-note').textContent = ''; });
}

function keys() {
  const query = byId('query');
  addEventListener('keydown', (event) => {
    if (event.defaultPrevented || event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (isSlash(event) && !isTyping(event.target)) {
      event.preventDefault();
      query.focus();
      query.select();
    } else if (event.key === 'Escape') {
      event.preventDefault();
      query.blur();
      if (idInAddress() !== undefined) location.hash = '#/';
    }
  });
  // Following the link would change the address, which belongs to the views.
  byId('skip').addEventListener('click', (event) => {
    event.preventDefault();
    byId('main').focus();
  });
}

// On the Russian layout the same key types a full stop.
const isSlash = ({ key, code }) => key === '/' || (key === '.' && code === 'Slash');
const isTyping = (target) => target.closest('input, textarea, select, [contenteditable]') !== null;

function languages() {
  byId('language').addEventListener('click', () => setLanguage(currentLanguage() === 'en' ? 'ru' : 'en'));
}

function stream() {
  const mark = byId('connection');
  const show = (state) => {
    if (mark.dataset.state === state) return;
    mark.dataset.state = state;
    byId('connection-word').dataset.word = state;
    byId('connection-word').textContent = word(state);
    announce(word(state));
  };
  const reload = () => {
    list.load();
    totals.askSoon();
    order.refresh();
  };
  follow({
    onState(state) {
      // No event is missed, but a request may have failed while the server was unreachable.
      if (state === 'live' && mark.dataset.state === 'reconnecting') reload();
      show(state);
    },
    onReset: reload,
    onChange(change) {
      totals.count(change.kind);
      list.apply(change);
      order.apply(change);
    },
  });
}
