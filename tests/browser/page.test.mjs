// Owns the proof that the page works: the real binary, a real browser, and what a person would see and press.
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import {
  KNOWN, MARKUP, acceptedMarkupOrder, deepObject, envelope, freshId, markupEnvelope, markupOrder, wbOrder,
} from './orders.mjs';
import {
  DESKTOP, PHONE, PLAIN_HOST, focused, isLive, launch, misnamed, newContext, openPage, openTab, rowIds, seen, setVisible, sideways,
} from './page.mjs';
import { Server, until } from './server.mjs';

const SCREENSHOTS = process.env.SCREENSHOTS ?? fileURLToPath(new URL('../../target/screenshots', import.meta.url));
const POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

let server, browser;
before(async () => {
  await mkdir(SCREENSHOTS, { recursive: true });
  server = await Server.create();
  browser = await launch();
  const { status, body } = await server.post(wbOrder(KNOWN, { items: 2 }));
  assert.ok([200, 201].includes(status), `${status} ${body}`);
}, { timeout: 180_000 });
after(async () => {
  await browser?.close();
  await server?.dispose();
}, { timeout: 180_000 });

/** Runs `body` on a fresh page and fails if anything was wrong on it: errors, dialogs, policy, other hosts. */
async function onPage({ hash = '', options = DESKTOP } = {}, body) {
  const opened = await openPage(browser, server.origin, hash, options);
  try {
    await body(opened.page, opened.faults);
    await opened.close();
  } finally {
    await opened.page.context().close(); // with its stream, which later tests would count
  }
}
const orderPath = (id) => `#/order/${encodeURIComponent(id)}`;
const title = (page) => page.locator('#order-view h1');
const screenshot = (page, name, fullPage = false) => page.screenshot({ path: join(SCREENSHOTS, `${name}.png`), fullPage, animations: 'disabled' });
async function shows(page, heading) {
  await title(page).getByText(heading, { exact: true }).waitFor();
}

/** The text of the raw JSON, once opened: it is filled by an event that comes a little after the click. */
async function openRaw(page) {
  await page.locator('summary').click();
  return until(() => page.locator('.raw code').innerText(), 'the raw JSON is there');
}
// Laid out and raw are counted apart: together, one could hide what the other leaves out.
async function showsEveryMarkup(page, order) {
  const count = (text) => text.split(MARKUP).length - 1;
  const sent = count(JSON.stringify(order));
  const laidOut = count(await page.locator('#order-view').innerText());
  assert.ok(laidOut >= sent, `${sent} sent, ${laidOut} laid out`);
  assert.equal(count(await openRaw(page)), sent, 'in the raw JSON');
  assert.equal(await page.locator('main img').count(), 0);
}

// First, so that the pictures show the sample orders and not what later tests leave behind.
describe('looks', () => {
  test('a phone of 360 px needs no sideways scrolling', () => onPage({ options: PHONE }, async (page) => {
    await isLive(page);
    await page.locator('#rows tr').first().waitFor();
    assert.equal(await sideways(page), 0);
    await screenshot(page, 'phone-list');
    await page.locator('#search button').tap();
    await shows(page, KNOWN);
    assert.equal(await sideways(page), 0);
    await screenshot(page, 'phone-order', true);
    await page.locator('summary').tap();
    assert.equal(await sideways(page), 0);
    await page.evaluate((hash) => { location.hash = hash; }, orderPath('x'.repeat(400)));
    await shows(page, 'This is not an order id');
    assert.equal(await sideways(page), 0);
  }));

  for (const colorScheme of ['light', 'dark']) {
    test(`the ${colorScheme} theme of the system is followed`, () => onPage({ options: { ...DESKTOP, colorScheme } }, async (page) => {
      await isLive(page);
      await page.locator('#rows tr').first().waitFor();
      assert.equal(await isDark(page), colorScheme === 'dark');
      await screenshot(page, `list-${colorScheme}`);
      await page.click('#search button');
      await shows(page, KNOWN);
      await screenshot(page, `order-${colorScheme}`, true);
    }));
  }

  test('Russian by the language of the browser: words, numbers, titles', () => onPage({ options: { ...DESKTOP, locale: 'ru-RU' } }, async (page) => {
    await isLive(page);
    await page.getByRole('heading', { name: 'Новые заказы' }).waitFor();
    assert.equal(await page.evaluate(() => document.documentElement.lang), 'ru');
    await page.locator('#rows tr').first().waitFor();
    await screenshot(page, 'russian');
    const id = freshId();
    await server.post(wbOrder(id));
    await page.fill('#query', id);
    await page.keyboard.press('Enter');
    await shows(page, id);
    const text = await page.locator('#order-view').innerText();
    for (const words of ['Доставка', 'Получатель', '1\u00a0817\u00a0RUB', 'Версия']) assert.ok(text.includes(words), words);
  }));

  // Labels beside values took their width at each level: from the second level on they left a
  // phone.
  for (const width of [320, 360, 1280]) {
    test(`an order nested ten levels deep fits ${width} px`, () => onPage({ options: { ...(width < 600 ? PHONE : DESKTOP), viewport: { width, height: 800 } } }, async (page) => {
      const { order_id: id } = JSON.parse((await server.post(envelope({ ...deepObject(10), items: [deepObject(10)], list: [[[['y'.repeat(200)]]]] }))).body);
      const wb = freshId();
      const order = { ...wbOrder(wb), extra: deepObject(10) };
      order.items[0].extra = deepObject(10);
      assert.equal((await server.post(order)).status, 201);
      for (const shown of [id, wb]) {
        await page.evaluate((hash) => { location.hash = hash; }, orderPath(shown));
        await shows(page, shown);
        // Not innerWidth: a phone widens it to what does not fit.
        const { pageWidth, scrolled, cut } = await page.evaluate(() => ({
          pageWidth: document.documentElement.scrollWidth,
          scrolled: [...document.querySelectorAll('.scroll')].filter((box) => box.scrollWidth > box.clientWidth).length,
          cut: [...document.querySelectorAll('#order-view :is(dt, dd)')].filter((box) => box.scrollWidth > box.clientWidth || box.clientWidth < 60).length,
        }));
        assert.deepEqual({ pageWidth, scrolled, cut }, { pageWidth: width, scrolled: 0, cut: 0 });
        await screenshot(page, `deep-${shown === wb ? 'wb' : 'envelope'}-${width}`, true);
      }
      await page.evaluate(() => { location.hash = '#/'; });
      await page.locator('#rows tr').first().waitFor();
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), width);
    }));
  }

  test('a label stands beside its value where there is room, and above it where there is not', async () => {
    const { order_id: id } = JSON.parse((await server.post(envelope({ flat: 'value', deep: { deeper: 'value' } }))).body);
    for (const [options, isAbove] of [[DESKTOP, [false, true, false]], [PHONE, [false, true, true]], [{ ...PHONE, viewport: { width: 320, height: 740 } }, [true, true, true]]]) {
      await onPage({ hash: orderPath(id), options }, async (page) => {
        await shows(page, id);
        assert.deepEqual(await page.locator('.payload .facts > div').evaluateAll((rows) =>
          rows.map(({ firstElementChild: label, lastElementChild: value }) => label.getBoundingClientRect().bottom <= value.getBoundingClientRect().top)), isAbove);
      });
    }
  });
});

describe('search and address', () => {
  test('the prefilled id and Enter show the order, its version and every field', () => onPage({}, async (page) => {
    assert.equal(await page.inputValue('#query'), KNOWN);
    await page.focus('#query');
    await page.keyboard.press('Enter');
    await shows(page, KNOWN);
    assert.equal(await page.evaluate(() => location.hash), orderPath(KNOWN));
    assert.match(await page.locator('#order-version').textContent(), /^Version [1-9]/);
    assert.match(await focused(page), /^h1/);
    const text = await page.locator('#order-view').innerText();
    const answer = await (await fetch(`${server.origin}/api/orders/${KNOWN}`)).json();
    for (const value of [answer.track_number, answer.delivery.name, answer.delivery.address, answer.payment.provider,
      answer.payment.currency, ...answer.items.flatMap((item) => [item.name, String(item.chrt_id), String(item.nm_id), item.rid])]) {
      assert.ok(text.includes(value), value);
    }
  }));

  test('an unknown id and an illegal id say what is wrong, in the words of the service too', () => onPage({}, async (page) => {
    await page.fill('#query', 'no-such-order');
    await page.click('#search button');
    await shows(page, 'Order not found');
    assert.ok((await page.locator('#order-view').innerText()).includes('no-such-order'));
    assert.ok(await page.locator('#order-view').getByText('Answer of the service').isVisible());
    await page.fill('#query', 'not an id/at all?');
    await page.keyboard.press('Enter');
    await shows(page, 'This is not an order id');
    await page.fill('#query', '  ');
    await page.keyboard.press('Enter');
    assert.equal(await page.locator('#search-note').textContent(), 'Type an order id first.');
  }));

  test('deleted, busy and unreachable are told apart, and a second try works', () => onPage({}, async (page) => {
    let answer = { status: 410, json: { title: 'Gone', detail: `it was ${MARKUP}`, code: 410, reason: 'deleted' }, contentType: 'application/problem+json' };
    await page.route('**/api/orders/changing', (route) => (answer ? route.fulfill(answer) : route.abort()));
    await page.evaluate(() => { location.hash = '#/order/changing'; });
    await shows(page, 'This order was deleted');
    assert.ok((await page.locator('#order-view').innerText()).includes(`it was ${MARKUP} (deleted)`));
    answer = { status: 503, headers: { 'Retry-After': '2' }, body: '<html>busy</html>', contentType: 'text/html' };
    await page.click('#search button');
    await shows(page, 'The service is busy or starting');
    assert.ok((await page.locator('#order-view').innerText()).includes('wait 2 s'));
    answer = undefined;
    await page.getByRole('button', { name: 'Try again' }).click();
    await shows(page, 'No answer from the service');
    answer = { json: wbOrder('changing'), headers: { ETag: '"41-gzip"' } };
    await page.getByRole('button', { name: 'Try again' }).click();
    await shows(page, 'changing');
    assert.equal(await page.locator('#order-version').textContent(), 'Version 41');
  }));

  test('a deep link opens the order; Back, Forward, the link and Esc move between order and list', () => onPage({ hash: orderPath(KNOWN) }, async (page) => {
    await shows(page, KNOWN);
    await page.locator('.back a').click();
    await page.locator('#rows tr').first().waitFor();
    assert.ok(await page.locator('#order-view').isHidden());
    await page.goBack();
    await shows(page, KNOWN);
    await page.goForward();
    await page.locator('#list-view').waitFor();
    await page.locator('#rows tr td.cell-customer').nth(1).click();
    await title(page).waitFor();
    const opened = await title(page).textContent();
    await page.keyboard.press('Escape');
    await page.locator('#list-view').waitFor();
    assert.equal(await focused(page), `a ${opened}`.slice(0, 42), 'the focus returns to the row');
  }));

  test('digits that JSON numbers lose are shown exactly, laid out and raw', () => onPage({}, async (page) => {
    const id = freshId();
    const text = JSON.stringify(wbOrder(id)).replace('"chrt_id":9934930', '"chrt_id":9223372036854775807')
      .replace('"nm_id":2389212', '"nm_id":9007199254740993').replace('"amount":1817', '"amount":1234567890123456789')
      .replace('"sm_id":99', '"sm_id":99,"rate":1.50,"__proto__":{"10":1,"9":2}');
    assert.equal((await server.post(text)).status, 201);
    await page.evaluate((hash) => { location.hash = hash; }, orderPath(id));
    await shows(page, id);
    const laidOut = await page.locator('#order-view').innerText();
    for (const digits of ['9223372036854775807', '9007199254740993', '1,234,567,890,123,456,789', '1.50']) assert.ok(laidOut.includes(digits), digits);
    const raw = await openRaw(page);
    const answer = await (await fetch(`${server.origin}/api/orders/${id}`)).text();
    assert.equal(raw.replace(/\n */g, '').replaceAll('": ', '":'), answer);
    await page.context().grantPermissions(['clipboard-read', 'clipboard-write']);
    await page.getByRole('button', { name: 'Copy JSON' }).click();
    await page.getByRole('button', { name: 'Copied' }).waitFor();
    assert.equal(await page.evaluate(() => navigator.clipboard.readText()), answer);
  }));

  test('an envelope order is laid out: its payload as facts and a table', () => onPage({}, async (page) => {
    const { body } = await server.post(envelope({ id: 'ext-77', currency: 'EUR', items: [{ sku: 'A-1', price: 250, qty: 2 }], note: { gift: true } }));
    const { order_id: id } = JSON.parse(body);
    await page.evaluate((hash) => { location.hash = hash; }, orderPath(id));
    await shows(page, id);
    assert.equal(await page.locator('.order-facts .amount').innerText(), '500\u00a0EUR');
    assert.deepEqual(await page.locator('.payload table td').allInnerTexts(), ['A-1', '250', '2']);
    assert.ok((await page.locator('#order-view').innerText()).includes('ext-77'));
  }));
});

describe('live', () => {
  test('an order arrives on top, changes in place and goes, with its totals', () => onPage({}, async (page) => {
    await isLive(page);
    const total = async () => Number((await page.locator('#total').textContent()).replace(/\D/g, ''));
    await until(async () => (await total()) > 0, 'the total is there');
    const totalBefore = await total();
    const { body } = await server.post(envelope({ amount: 1200, currency: 'RUB' }, { status: 'new' }));
    const { order_id: id } = JSON.parse(body);
    await until(async () => (await rowIds(page))[0] === id, 'the order is on top');
    assert.equal(await page.locator('#rows tr').first().getAttribute('data-flash'), 'created-1');
    const second = freshId();
    await server.post(wbOrder(second));
    await until(async () => (await rowIds(page)).slice(0, 2).join() === [second, id].join(), 'the next order is above it');
    assert.ok((await rowIds(page)).length <= 50);

    await server.post(envelope({ amount: 1300, currency: 'RUB' }, { order_id: id, status: 'done' }));
    const row = page.locator('#rows tr', { hasText: id });
    await row.getByText('1,300\u00a0RUB').waitFor();
    assert.equal(await row.locator('.chip').textContent(), 'Done');
    assert.equal((await rowIds(page))[1], id, 'an update moves nothing');

    await server.post(envelope({ amount: 1300 }, { order_id: id, status: 'deleted' }));
    await row.waitFor({ state: 'detached' });
    await until(async () => (await seen(page, 'deleted')) === 1, 'the deletion is counted');
    assert.deepEqual([await seen(page, 'created'), await seen(page, 'updated'), await seen(page, 'deleted')], [2, 1, 1]);
    await until(async () => (await total()) === totalBefore + 1, 'the total follows');
  }));

  test('the open order follows its changes', () => onPage({}, async (page) => {
    const { order_id: id } = JSON.parse((await server.post(envelope({ amount: 5 }))).body);
    await isLive(page);
    await page.evaluate((hash) => { location.hash = hash; }, orderPath(id));
    await shows(page, id);
    await page.locator('summary').click();
    await server.post(envelope({ amount: 7 }, { order_id: id, status: 'processing' }));
    await page.getByText('Version 2', { exact: true }).waitFor();
    assert.equal(await page.locator('.order-facts .amount').innerText(), '7');
    assert.ok(await page.locator('details').evaluate((details) => details.open), 'the opened JSON stays open');
    await server.post(envelope({ amount: 7 }, { order_id: id, status: 'deleted' }));
    await page.getByText('This order has just been deleted.').waitFor();
  }));

  test('Pause holds the list and says what waits; Resume catches up', () => onPage({}, async (page) => {
    await isLive(page);
    await page.locator('#rows tr').first().waitFor();
    await page.click('#pause');
    const held = await rowIds(page);
    const id = freshId();
    await server.post(wbOrder(id));
    await page.getByText('1 change waiting').waitFor();
    assert.deepEqual(await rowIds(page), held);
    await page.click('#pause');
    await until(async () => (await rowIds(page))[0] === id, 'the list has caught up');
  }));

  test('500 orders at once keep the page responsive, at most 50 rows, none lost', { timeout: 180_000 }, () => onPage({}, async (page) => {
    await isLive(page);
    await page.locator('#rows tr').first().waitFor();
    await page.evaluate(() => {
      window.frameCount = 0;
      window.renders = 0;
      requestAnimationFrame(function frame() {
        window.frameCount += 1;
        requestAnimationFrame(frame);
      });
      new MutationObserver(() => { window.renders += 1; }).observe(document.getElementById('rows'), { childList: true });
    });
    const ids = Array.from({ length: 500 }, freshId);
    const { status } = await server.post(ids.map((id) => JSON.stringify(wbOrder(id))).join('\n'), 'application/x-ndjson');
    assert.equal(status, 200);
    await until(async () => (await rowIds(page))[0] === ids.at(-1), 'the last order is on top');
    assert.deepEqual(await rowIds(page), ids.slice(-50).reverse());
    await until(async () => (await seen(page, 'created')) === 500, 'all are counted');
    // How long a frame takes is the machine's affair; that the list is drawn once a frame at most is the page's.
    const { renders, frames } = await page.evaluate(() => ({ renders: window.renders, frames: window.frameCount }));
    assert.ok(renders > 0 && renders <= frames + 1, `${renders} renders in ${frames} frames`);
    await page.keyboard.press('/');
    assert.match(await focused(page), /^input#query/);
  }));

  test('a stopped server shows as reconnecting, and the page is live again by itself', { timeout: 240_000 }, () => onPage({}, async (page) => {
    await isLive(page);
    await server.stop();
    await page.locator('#connection[data-state="reconnecting"]').waitFor();
    await page.fill('#query', 'anything');
    await page.keyboard.press('Enter');
    await shows(page, 'No answer from the service');
    await page.keyboard.press('Escape');
    await server.start();
    await page.locator('#connection[data-state="live"]').waitFor({ timeout: 90_000 });
    const id = freshId();
    await server.post(wbOrder(id));
    await until(async () => (await rowIds(page))[0] === id, 'orders arrive again');
  }));
});

describe('tabs', () => {
  /**
   * Runs `body` with a way to open tabs of one browser, and fails if anything was wrong on one of
   * them.
   */
  async function withTabs({ origin = server.origin } = {}, body) {
    // Streams of tests before this one end when the server notices.
    await until(async () => (await server.streams()) === 0, 'no stream is open');
    const context = await newContext(browser, DESKTOP);
    const opened = [];
    try {
      await body(async (options) => {
        opened.push(await openTab(context, origin, options));
        return opened.at(-1).page;
      });
    } finally {
      await context.close();
    }
    assert.deepEqual(opened.flatMap(({ faults }) => faults), []);
  }
  const streamsAre = (count) => until(async () => (await server.streams()) === count, `${count} streams are open`);
  async function post() {
    const id = freshId();
    assert.equal((await server.post(wbOrder(id))).status, 201);
    return id;
  }
  const isOnTop = (page, id) => until(async () => (await rowIds(page))[0] === id, `${id} is on top`);
  async function hasSeen(page, ids) {
    await isOnTop(page, ids.at(-1));
    assert.deepEqual((await rowIds(page)).slice(0, ids.length), ids.slice().reverse());
    await until(async () => (await seen(page, 'created')) >= ids.length, 'all are counted');
    assert.equal(await seen(page, 'created'), ids.length, 'each is counted once');
  }

  // A browser opens six HTTP/1.1 connections to a host: with a stream for each tab the seventh did
  // not load.
  test('eight tabs load, hold one stream and show a new order', () => withTabs({}, async (open) => {
    const pages = [];
    for (let count = 0; count < 8; count += 1) {
      pages.push(await open());
      await isLive(pages.at(-1));
    }
    assert.equal(await server.streams(), 1);
    const id = await post();
    for (const page of pages) await hasSeen(page, [id]);
    assert.equal(await server.streams(), 1);
  }));

  test('a hidden tab holds no stream; a visible one has it, and reads what it missed once', () => withTabs({}, async (open) => {
    const [first, second] = [await open(), await open()];
    await isLive(first);
    await isLive(second);
    const ids = [await post()];
    await hasSeen(first, ids);
    await hasSeen(second, ids);

    await setVisible(first, false);
    ids.push(await post());
    await hasSeen(second, ids);
    assert.equal(await seen(first, 'created'), 1, 'a hidden tab is told nothing');
    await streamsAre(1);

    await setVisible(second, false);
    await streamsAre(0);
    ids.push(await post());

    await setVisible(first, true);
    await hasSeen(first, ids);
    await streamsAre(1);
    await setVisible(second, true);
    await hasSeen(second, ids);
    ids.push(await post());
    await hasSeen(first, ids);
    await hasSeen(second, ids);
    await streamsAre(1);
  }));

  test('a tab hidden before anything happened reads what it missed', () => withTabs({}, async (open) => {
    const page = await open();
    await isLive(page);
    await page.locator('#rows tr').first().waitFor();
    await setVisible(page, false);
    await streamsAre(0);
    const ids = [await post(), await post()];
    await setVisible(page, true);
    await hasSeen(page, ids);
  }));

  test('a tab opened in the background has its list, and a stream only once it is looked at', () => withTabs({}, async (open) => {
    const page = await open({ visible: false });
    await page.locator('#rows tr').first().waitFor();
    assert.equal(await server.streams(), 0);
    const id = await post();
    await setVisible(page, true);
    await isLive(page);
    await isOnTop(page, id);
    assert.equal(await server.streams(), 1);
  }));

  test('the leading tab is closed amid orders: none is lost, none is counted twice', () => withTabs({}, async (open) => {
    const pages = [await open(), await open(), await open()];
    for (const page of pages) await isLive(page);
    assert.equal(await server.streams(), 1);
    const ids = [];
    for (const leader of pages.slice(0, 2)) { // each has the lock in the order in which they came
      for (let count = 0; count < 5; count += 1) ids.push(await post());
      const closing = leader.close();
      for (let count = 0; count < 10; count += 1) ids.push(await post());
      await closing;
    }
    await hasSeen(pages[2], ids);
    await streamsAre(1);
  }));

  // A tab that led has told something that arrives when another one leads: it once took that for
  // its own stream's word, found itself behind, and waited for ever.
  test('what a former leader told arrives late and out of order, and does no harm', () => withTabs({}, async (open) => {
    const pages = [await open()];
    const stranger = await pages[0].context().newPage();
    await stranger.goto(`${server.origin}/health`);
    await stranger.evaluate(() => {
      window.channel = new BroadcastChannel('order-service.events');
      window.channel.onmessage = ({ data }) => { window.lastId = data.event?.id ?? window.lastId; };
    });
    const ids = [];
    async function storeAndSee() {
      ids.push(await post());
      for (const page of pages) await hasSeen(page, ids);
    }
    async function disturb() {
      await stranger.waitForFunction(() => window.lastId);
      await stranger.evaluate(() => {
        const [, process, last] = /^(.+)-(\d+)$/.exec(window.lastId);
        const position = (ahead) => `${process}-${Number(last) + ahead}`;
        window.channel.postMessage({ start: position(100) });
        const data = JSON.stringify({ order_uid: 'early', version: 1, change: 'created' });
        window.channel.postMessage({ event: { type: 'order', after: position(100), id: position(101), data } });
      });
    }
    await isLive(pages[0]);
    await storeAndSee();
    await disturb();
    await storeAndSee();
    ids.length = 0;
    await pages[0].reload();
    pages.push(await open());
    for (const page of pages) await isLive(page);
    await storeAndSee();
    await disturb();
    await storeAndSee();
    await storeAndSee();
    await streamsAre(1);
  }));

  test('a change that the server no longer knows of is read afresh, in the list and in the open order', { timeout: 240_000 }, () => withTabs({}, async (open) => {
    const { order_id: id } = JSON.parse((await server.post(envelope({ amount: 5 }))).body);
    const [list, order] = [await open(), await open({ hash: orderPath(id) })];
    await isLive(list);
    await shows(order, id);
    await setVisible(list, false);
    await setVisible(order, false);
    await server.stop();
    await server.start();
    const newest = await post();
    await server.post(envelope({ amount: 7 }, { order_id: id, status: 'processing' }));
    await setVisible(order, true);
    await order.getByText('Version 2', { exact: true }).waitFor();
    await setVisible(list, true);
    await isOnTop(list, newest);
    await list.getByText('Processing').first().waitFor();
    await streamsAre(1);
  }));

  // Over plain HTTP from another host there are no locks.
  test('where tabs cannot share, each visible one holds a stream and a hidden one holds none', () => withTabs({ origin: `http://${PLAIN_HOST}:${server.port}` }, async (open) => {
    const [first, second] = [await open(), await open()];
    assert.deepEqual(await first.evaluate(() => [isSecureContext, typeof navigator.locks]), [false, 'undefined']);
    await isLive(first);
    await isLive(second);
    await streamsAre(2);
    const ids = [await post()];
    await hasSeen(first, ids);
    await hasSeen(second, ids);
    await setVisible(first, false);
    await streamsAre(1);
    ids.push(await post());
    await hasSeen(second, ids);
    await setVisible(second, false);
    await streamsAre(0);
    ids.push(await post());
    await setVisible(first, true);
    await hasSeen(first, ids);
    await streamsAre(1);
  }));
});

describe('safety', () => {
  test('the policy header is sent, and nothing is fetched from elsewhere', async () => {
    const response = await fetch(`${server.origin}/`);
    assert.equal(response.headers.get('content-security-policy'), POLICY);
    assert.match(response.headers.get('content-type'), /^text\/html/);
    assert.doesNotMatch(await response.text(), /(src|href)="(https?:)?\/\//);
  });

  test('markup in an order that the service accepts is shown as text', () => onPage({}, async (page) => {
    await isLive(page);
    const id = freshId();
    const { status, body } = await server.post(acceptedMarkupOrder(id));
    assert.equal(status, 201, body);
    await until(async () => (await rowIds(page))[0] === id, 'it arrives');
    assert.equal(await page.locator('#rows tr').first().locator('.cell-customer .main').textContent(), MARKUP);
    await page.locator('#rows tr a').first().click();
    await shows(page, id);
    await showsEveryMarkup(page, acceptedMarkupOrder(id));
  }));

  for (const [name, make] of [['a WB order', markupOrder], ['an envelope', markupEnvelope]]) {
    test(`markup in every field of ${name} is shown as text, even if a server let it through`, () => onPage({}, async (page) => {
      const order = make('evil');
      await page.route('**/api/orders/evil', (route) => route.fulfill({ json: order }));
      await page.route('**/api/orders?limit=50', (route) => route.fulfill({ json: [order, { ...order, order_uid: MARKUP }] }));
      await page.reload();
      await page.getByText(MARKUP).first().waitFor();
      await page.evaluate(() => { location.hash = '#/order/evil'; });
      await shows(page, 'evil');
      await showsEveryMarkup(page, order);
    }));
  }

  test('a hash of markup is an id like any other', () => onPage({ hash: orderPath(MARKUP) }, async (page) => {
    await shows(page, 'This is not an order id');
    assert.ok((await page.locator('#order-view').innerText()).includes(MARKUP));
  }));
});

describe('reach', () => {
  test('everything works from the keyboard alone', () => onPage({}, async (page) => {
    await isLive(page);
    await page.locator('#rows tr').nth(2).waitFor();
    await page.keyboard.press('Tab');
    assert.match(await focused(page), /^a#skip/);
    await page.keyboard.press('Enter');
    assert.match(await focused(page), /^main#main/);
    assert.equal(await page.evaluate(() => location.hash), '');
    await page.keyboard.press('Tab');
    assert.match(await focused(page), /^button#pause/);
    const ids = await rowIds(page);
    await page.keyboard.press('Tab');
    assert.equal(await focused(page), `a ${ids[0]}`);
    assert.equal(await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle), 'solid');
    await page.keyboard.press('ArrowDown');
    await page.keyboard.press('ArrowDown');
    assert.equal(await focused(page), `a ${ids[2]}`);
    const arrived = freshId();
    await server.post(wbOrder(arrived));
    await until(async () => (await rowIds(page))[0] === arrived, 'an order arrives');
    assert.equal(await focused(page), `a ${ids[2]}`, 'an arrival does not take the focus');
    await page.keyboard.press('Enter');
    await shows(page, ids[2]);
    assert.match(await focused(page), /^h1/);
    assert.match(await page.locator('#announcer').textContent(), new RegExp(`Order ${ids[2]} shown`));
    await page.keyboard.press('Escape');
    await page.locator('#list-view').waitFor();
    assert.equal(await focused(page), `a ${ids[2]}`, 'the focus returns to the row');
    await page.keyboard.press('/');
    assert.match(await focused(page), /^input#query/);
    await page.keyboard.type(KNOWN);
    await page.keyboard.press('Enter');
    await shows(page, KNOWN);
  }));

  // Who says to a computer what is to be read on a button must be understood.
  for (const locale of ['en-US', 'ru-RU']) {
    test(`the name of each link and button contains its visible text (${locale})`, () => onPage({ options: { ...DESKTOP, locale } }, async (page) => {
      await isLive(page);
      await page.locator('#rows tr').first().waitFor();
      assert.ok(await page.locator('a[aria-label], button[aria-label]').count() >= 3);
      assert.deepEqual(await misnamed(page), []);
      for (const hash of [orderPath(KNOWN), orderPath('not an id')]) {
        await page.evaluate((to) => { location.hash = to; }, hash);
        await title(page).waitFor();
        assert.deepEqual(await misnamed(page), []);
      }
    }));
  }

  test('the theme can be switched, and stays after a reload', () => onPage({}, async (page) => {
    await page.getByRole('button', { name: 'Dark theme' }).click();
    assert.ok(await isDark(page));
    await page.reload();
    assert.ok(await isDark(page));
  }));

  test('the language can be switched in an open order, and stays after a reload', () => onPage({ hash: orderPath(KNOWN) }, async (page) => {
    await shows(page, KNOWN);
    await page.getByRole('button', { name: 'Русский язык' }).click();
    await page.getByRole('heading', { name: 'Оплата' }).waitFor();
    await page.reload();
    await page.getByRole('heading', { name: 'Оплата' }).waitFor();
    await page.getByRole('button', { name: 'English language' }).click();
    await page.getByRole('heading', { name: 'Payment' }).waitFor();
  }));

  test('with reduced motion nothing is animated', () => onPage({ options: { ...DESKTOP, reducedMotion: 'reduce' } }, async (page) => {
    await isLive(page);
    const id = freshId();
    await server.post(wbOrder(id));
    await until(async () => (await rowIds(page))[0] === id, 'it arrives');
    assert.equal(await page.evaluate(() => document.getAnimations().length), 0);
  }));

  test('the footer leads to the docs, the metrics and the health', () => onPage({}, async (page) => {
    const links = await page.locator('footer a').evaluateAll((all) => all.map((link) => link.getAttribute('href')));
    assert.deepEqual(links, ['/docs', '/metrics', '/health']);
    for (const link of links) assert.equal((await fetch(server.origin + link)).status, 200, link);
  }));
});

const isDark = (page) => page.evaluate(() => getComputedStyle(document.body).backgroundColor.match(/\d+/g).every((part) => Number(part) < 60));
