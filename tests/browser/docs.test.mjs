// Owns the proof that the interface description is shown to people and true of the service.
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { KNOWN, envelope, wbOrder } from './orders.mjs';
import { DESKTOP, PHONE, launch, openPage } from './page.mjs';
import { Server } from './server.mjs';

const SCREENSHOTS = process.env.SCREENSHOTS ?? fileURLToPath(new URL('../../target/screenshots', import.meta.url));
const POLICY = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const METHODS = ['get', 'head', 'post', 'put', 'patch', 'delete', 'options', 'trace'];
const EXTERNAL = 'docs-test';

let server, browser, description;
before(async () => {
  await mkdir(SCREENSHOTS, { recursive: true });
  server = await Server.create();
  browser = await launch();
  for (const order of [wbOrder(KNOWN), envelope({ id: EXTERNAL, amount: 5 })]) {
    const { status, body } = await server.post(order);
    assert.ok([200, 201].includes(status), `${status} ${body}`);
  }
  description = await (await fetch(`${server.origin}/openapi.json`)).json();
}, { timeout: 180_000 });
after(async () => {
  await browser?.close();
  await server?.dispose();
}, { timeout: 180_000 });

/** Runs `body` on the shown description and fails if anything was wrong: errors, policy, other hosts. */
async function onDocs(body, options = DESKTOP) {
  const opened = await openPage(browser, server.origin, 'docs', options);
  await opened.page.locator('.opblock').first().waitFor({ timeout: 90_000 });
  await body(opened.page);
  await opened.close();
}

const operations = () => Object.entries(description.paths)
  .flatMap(([path, item]) => METHODS.filter((method) => item[method]).map((method) => ({ path, method, operation: item[method] })));
const name = ({ method, path }) => `${method.toUpperCase()} ${path}`;

function follow(part) {
  return part.$ref ? follow(part.$ref.slice(2).split('/').reduce((at, key) => at[key.replaceAll('~1', '/').replaceAll('~0', '~')], description)) : part;
}

/** Asks the service what one operation describes, and gives its answer; the answer of an endless stream is cut off. */
async function ask({ path, method, operation }) {
  const values = { id: KNOWN, external: EXTERNAL };
  const query = new URLSearchParams();
  for (const parameter of (operation.parameters ?? []).map(follow)) {
    if (parameter.in === 'query' && parameter.required) query.set(parameter.name, parameter.example);
  }
  const type = operation.requestBody && Object.keys(operation.requestBody.content)[0];
  const body = type && JSON.stringify(follow(Object.values(operation.requestBody.content[type].examples)[0]).value);
  const url = server.origin + path.replace(/\{(\w+)\}/g, (_, key) => values[key]) + (query.size ? `?${query}` : '');
  const abort = new AbortController();
  const answer = await fetch(url, { method: method.toUpperCase(), body, headers: type ? { 'Content-Type': type } : {}, redirect: 'manual', signal: abort.signal });
  const kind = (answer.headers.get('content-type') ?? '').split(';')[0];
  const text = kind === 'text/event-stream' ? '' : await answer.text();
  abort.abort();
  return { status: answer.status, kind, text };
}

describe('shown', () => {
  test('/docs leads to the rendered description, with every operation', () => onDocs(async (page) => {
    assert.equal(page.url(), `${server.origin}/swagger/index.html`);
    await page.getByRole('heading', { name: description.info.title }).waitFor();
    assert.equal(await page.locator('.errors-wrapper').count(), 0);
    const shown = await page.locator('.opblock').evaluateAll((blocks) => blocks.map((block) => [
      block.querySelector('.opblock-summary-method').textContent,
      block.querySelector('[data-path]').dataset.path,
    ].join(' ')));
    assert.deepEqual(shown.sort(), operations().map(name).sort());
    await page.screenshot({ path: join(SCREENSHOTS, 'docs.png'), animations: 'disabled' });
  }));

  test('Try it out asks this service', () => onDocs(async (page) => {
    const block = page.locator('#operations-read-getOrder');
    await block.locator('.opblock-summary-control').click();
    await block.getByRole('button', { name: 'Try it out' }).click();
    assert.equal(await block.locator('tr[data-param-name="id"] input').inputValue(), KNOWN);
    await block.getByRole('button', { name: 'Execute' }).click();
    const answer = block.locator('.live-responses-table');
    await answer.getByText('200', { exact: true }).waitFor();
    assert.ok((await answer.innerText()).includes('"track_number": "WBILMTESTTRACK"'));
  }));

  test('every operation opens without a fault, on a phone too', { timeout: 240_000 }, () => onDocs(async (page) => {
    for (const control of await page.locator('.opblock .opblock-summary-control').all()) await control.click();
    await page.waitForFunction((count) => document.querySelectorAll('.opblock.is-open .opblock-body').length === count, operations().length);
    const text = await page.locator('#swagger-ui').innerText();
    assert.doesNotMatch(text, /Could not render|Could not resolve|Resolver error/);
  }, PHONE));

  test('the page and its parts carry the policy and name no other host', async () => {
    for (const path of ['/swagger/index.html', '/swagger/init.js', '/swagger/swagger-ui-bundle.js', '/swagger/swagger-ui.css']) {
      const response = await fetch(server.origin + path);
      assert.equal(response.status, 200, path);
      assert.equal(response.headers.get('content-security-policy'), POLICY, path);
    }
    const page = await (await fetch(`${server.origin}/swagger/index.html`)).text();
    assert.doesNotMatch(page, /(src|href)="(https?:)?\/\//);
    assert.doesNotMatch(page, /<script(?![^>]* src=)/, 'no inline script');
  });
});

describe('true', () => {
  test('both addresses give the same OpenAPI 3.1 document', async () => {
    const [one, other] = await Promise.all(['/openapi.json', '/swagger.json'].map((path) => fetch(server.origin + path)));
    assert.equal(one.headers.get('content-type'), 'application/json');
    assert.equal(await one.text(), await other.text());
    assert.match(description.openapi, /^3\.1\.\d+$/);
    const ids = operations().map(({ operation }) => operation.operationId);
    assert.equal(new Set(ids).size, ids.length);
  });

  test('every path and method is answered, with a status and a type that are described', async (t) => {
    for (const described of operations()) {
      await t.test(name(described), async () => {
        const { status, kind, text } = await ask(described);
        assert.notEqual(status, 405, text);
        assert.ok(!(status === 404 && (described.method === 'head' || text.includes('no_such_route'))), `${status} ${text}`);
        assert.ok(status < 400, `${status} ${text}`);
        const response = described.operation.responses[status];
        assert.ok(response, `${status} is not described`);
        const kinds = Object.keys(follow(response).content ?? {});
        if (text !== '') assert.ok(kinds.includes(kind), `${kind} is not among ${kinds}`);
      });
    }
  });

  test('every method that is not described is refused with those that are allowed', async () => {
    for (const path of Object.keys(description.paths)) {
      const url = server.origin + path.replace('{id}', KNOWN).replace('{external}', EXTERNAL);
      const response = await fetch(url, { method: 'DELETE' });
      assert.equal(response.status, 405, path);
      const allowed = response.headers.get('allow').split(', ');
      for (const method of METHODS.filter((method) => description.paths[path][method])) assert.ok(allowed.includes(method.toUpperCase()), `${method} ${path}`);
    }
  });
});
