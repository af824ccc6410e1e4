// Owns the proof that the page asks for a key where one is needed, keeps it for its tab, and shows no caller another's orders.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import { freshId, wbOrder } from './orders.mjs';
import { isLive, launch, newContext, openTab, rowIds } from './page.mjs';
import { Server, until } from './server.mjs';

const run = promisify(execFile);
const keys = {};
let server, browser;

async function makeKey(name, scopes, owner) {
  const args = ['keys', 'new', name, ...scopes.flatMap((scope) => ['--scope', scope]), ...(owner ? ['--owner', owner] : [])];
  const { stdout, stderr } = await run(process.env.ORDER_SERVICE_BIN, args);
  keys[name] = stderr.trim().split(' ').at(-1);
  return stdout;
}

before(async () => {
  const entries = [
    await makeKey('ops', ['orders:read', 'orders:write', 'events:read', 'metrics:read']),
    await makeKey('shop-a', ['orders:read:own', 'events:read'], 'a'),
    await makeKey('shop-b', ['orders:read:own', 'events:read'], 'b'),
  ];
  server = await Server.create(async (data) => {
    const file = join(data, 'keys.toml');
    await writeFile(file, entries.join('\n'));
    return ['--auth-keys', file];
  });
  browser = await launch();
}, { timeout: 180_000 });
after(async () => {
  await browser?.close();
  await server?.dispose();
}, { timeout: 180_000 });

const write = (id, customer) => server.post({ ...wbOrder(id), customer_id: customer }, 'application/json', keys.ops);

async function signIn(page, name) {
  await page.locator('#key').fill(keys[name] ?? name);
  await page.locator('#sign-in-go').click();
}

describe('keys on the page', () => {
  test('the page asks for a key, refuses a wrong one, and shows who is signed in', { timeout: 180_000 }, async () => {
    const context = await newContext(browser);
    const { page } = await openTab(context, server.origin);
    await page.locator('#sign-in-view').waitFor();
    assert.equal(await page.locator('#list-view').isVisible(), false);
    await signIn(page, 'osk_wrong');
    await page.locator('#sign-in-note').getByText('does not know this key').waitFor();
    await signIn(page, 'ops');
    await page.locator('#caller-name').getByText('ops', { exact: true }).waitFor();
    await isLive(page);
    assert.match(await page.locator('#caller-rights').innerText(), /all orders/);
    assert.deepEqual(await page.evaluate(() => [localStorage.length, document.cookie]), [0, '']);
    const id = freshId();
    await write(id, 'a');
    await until(async () => (await rowIds(page)).includes(id), 'the order arrives live');
    const other = await openTab(context, server.origin);
    await other.page.locator('#sign-in-view').waitFor(); // the key is the tab's
    await page.locator('#sign-out').click();
    await page.locator('#sign-in-view').waitFor();
    assert.equal(await page.evaluate(() => sessionStorage.length), 0);
    await context.close();
  });

  test('of two callers in one browser neither hears of the other\'s orders', { timeout: 180_000 }, async () => {
    const context = await newContext(browser);
    const [a, b] = [await openTab(context, server.origin), await openTab(context, server.origin)].map(({ page }) => page);
    await signIn(a, 'shop-a');
    await signIn(b, 'shop-b');
    for (const page of [a, b]) await isLive(page);
    const [ofA, ofB] = [freshId(), freshId()];
    await write(ofA, 'a');
    await write(ofB, 'b');
    await until(async () => (await rowIds(a)).includes(ofA), 'a sees its own');
    await until(async () => (await rowIds(b)).includes(ofB), 'b sees its own');
    assert.ok(!(await rowIds(a)).includes(ofB) && !(await rowIds(b)).includes(ofA));
    await a.goto(`${server.origin}/#/order/${ofB}`);
    await a.locator('#order-view h1').getByText('Order not found', { exact: true }).waitFor();
    await context.close();
  });

  test('Authorize in the description lets its requests in', { timeout: 180_000 }, async () => {
    const context = await newContext(browser);
    const page = await context.newPage();
    await page.goto(`${server.origin}/docs`);
    await page.locator('.auth-wrapper .authorize').first().click();
    const dialog = page.locator('.dialog-ux');
    await dialog.locator('input').first().fill(keys.ops);
    await dialog.locator('button.authorize').first().click();
    await dialog.locator('button.btn-done').first().click();
    const operation = page.locator('.opblock', { hasText: '/api/stats' }).first();
    await operation.locator('.opblock-summary').click();
    await operation.locator('.try-out__btn').click();
    await operation.locator('.execute').click();
    await operation.locator('.live-responses-table .response-col_status').getByText('200').first().waitFor();
    await context.close();
  });
});
