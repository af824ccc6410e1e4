// Owns opening the page in Chromium and watching everything that must not happen on it.
import assert from 'node:assert/strict';
import { chromium } from 'playwright-core';

/**
 * A host that leads to this machine and, unlike a loopback address, is no secure context over plain
 * HTTP.
 */
export const PLAIN_HOST = 'orders.test';
const FLAGS = [`--host-resolver-rules=MAP ${PLAIN_HOST} 127.0.0.1`, '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync'];

/** Starts Chromium; playwright gives each start a user data directory of its own and removes it. */
export const launch = () => chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: FLAGS, timeout: 120_000 });

export const DESKTOP = { viewport: { width: 1280, height: 900 }, locale: 'en-US', colorScheme: 'light', timezoneId: 'UTC' };
export const PHONE = { ...DESKTOP, viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };

/** A context whose pages wait for as long as a busy machine may take. */
export async function newContext(browser, options = {}) {
  const context = await browser.newContext(options);
  context.setDefaultTimeout(60_000);
  return context;
}

/** A page in a context of its own, and `faults`: what was wrong on it so far. */
export async function openPage(browser, origin, hash = '', options = DESKTOP) {
  const context = await newContext(browser, options);
  const { page, faults } = await openTab(context, origin, { hash });
  return {
    page,
    faults,
    /** Closes the page after checking that nothing was wrong. */
    async close() {
      faults.push(...await page.evaluate(() => window.violations ?? []));
      await context.close();
      assert.deepEqual(faults, []);
    },
  };
}

/**
 * A tab of a context, which is one browser to the page: its tabs share storage, channels and locks.
 */
export async function openTab(context, origin, { hash = '', visible = true } = {}) {
  const page = await context.newPage();
  const faults = await watch(page, origin);
  // Chromium without a window takes every tab for visible.
  await page.addInitScript((state) => {
    window.visibility = state;
    Object.defineProperty(document, 'visibilityState', { get: () => window.visibility });
  }, visible ? 'visible' : 'hidden');
  await page.goto(`${origin}/${hash}`);
  return { page, faults };
}

/** Hides a tab or shows it again, as choosing another tab or this one would. */
export const setVisible = (page, visible) => page.evaluate((state) => {
  window.visibility = state;
  document.dispatchEvent(new Event('visibilitychange'));
}, visible ? 'visible' : 'hidden');

async function watch(page, origin) {
  const faults = [];
  await page.addInitScript(() => {
    window.violations = [];
    addEventListener('securitypolicyviolation', (event) => window.violations.push(`policy: ${event.violatedDirective} ${event.blockedURI}`));
  });
  page.on('dialog', (dialog) => {
    faults.push(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on('pageerror', (error) => faults.push(`error: ${error.stack}`));
  page.on('console', (message) => {
    // The browser itself reports each refused or lost request, which the tests check by what the
    // page says, and that a page over plain HTTP cannot be isolated.
    const isExpected = /^Failed to load resource|net::ERR_|^The Cross-Origin-Opener-Policy header/.test(message.text());
    if (['error', 'warning'].includes(message.type()) && !isExpected) faults.push(`console: ${message.text()}`);
  });
  page.on('request', (request) => {
    if (new URL(request.url()).origin !== origin) faults.push(`request: ${request.url()}`);
  });
  return faults;
}

export const rowIds = (page) => page.locator('#rows tr a').allTextContents();
export const isLive = (page) => page.locator('#connection[data-state="live"]').waitFor();
export const seen = async (page, kind) => Number((await page.locator(`#seen-${kind}`).textContent()).replace(/\D/g, ''));
/** Links and buttons whose accessible name leaves out what is to be read on them. */
export const misnamed = (page) => page.evaluate(() => {
  const words = (text) => text.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, ' ').trim();
  const shownText = (node) => {
    if (node.nodeType === Node.TEXT_NODE) return node.data;
    if (node.nodeType !== Node.ELEMENT_NODE || node.matches('[aria-hidden="true"], .visually-hidden')) return '';
    return node.checkVisibility() ? [...node.childNodes].map(shownText).join('') : '';
  };
  return [...document.querySelectorAll('a, button, summary, input, [role="button"], [role="link"]')]
    .filter((element) => element.hasAttribute('aria-label') || element.hasAttribute('aria-labelledby'))
    .map((element) => [words(shownText(element)), words(element.ariaLabel
      ?? element.getAttribute('aria-labelledby').split(/\s+/).map((id) => document.getElementById(id).textContent).join(' '))])
    .filter(([shown, name]) => shown !== '' && !` ${name} `.includes(` ${shown} `));
});
/** How far the page can be scrolled sideways. */
export const sideways = (page) => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
/** A few words about the focused element. */
export const focused = (page) => page.evaluate(() => {
  const { tagName, id, textContent } = document.activeElement;
  return `${tagName.toLowerCase()}${id && `#${id}`} ${textContent.trim().slice(0, 40)}`.trim();
});
