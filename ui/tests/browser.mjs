// One Chromium and one server for the tests. FLOODPLAIN_URL: a running server, instead of the mock.
import { chromium } from 'playwright-core';
import { AxeBuilder } from '@axe-core/playwright';
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { serve } from '../dev/mock.mjs';

export const DIST = fileURLToPath(new URL('../dist', import.meta.url));
export const REAL = process.env.FLOODPLAIN_URL?.replace(/\/?$/, '/');

export async function start(options) {
  const executablePath = process.env.CHROMIUM ?? execFileSync('which', ['chromium'], { encoding: 'utf8' }).trim();
  const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
  const server = REAL ? { url: REAL, close: async () => {} } : await serve(DIST, options);
  return { browser, url: server.url, stop: async () => { await browser.close(); await server.close(); } };
}

/** A fresh reader. `faults` collects console errors, exceptions and requests that leave the origin (which are refused). */
export async function reader(browser, url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, reducedMotion: 'reduce', ...options });
  context.setDefaultTimeout(30_000);
  const page = await context.newPage();
  const faults = [];
  const { origin } = new URL(url);
  await context.route((to) => to.origin !== origin && to.protocol !== 'blob:', (route) => {
    faults.push(`request to ${route.request().url()}`);
    return route.abort();
  });
  page.on('console', (message) => message.type() === 'error' && faults.push(message.text()));
  page.on('pageerror', (error) => faults.push(String(error)));
  return { context, page, faults };
}

/** A page of a fresh reader who leaves after the test. */
export async function open(t, browser, url, path) {
  const { context, page, faults } = await reader(browser, url, { acceptDownloads: true });
  t.after(async () => {
    // The page asks on; what answers it in the test's place may be in the middle of it.
    await page.unrouteAll({ behavior: 'ignoreErrors' });
    await context.close();
  });
  await page.goto(url + path);
  return { page, faults };
}

/** Presses Tab until what has the focus is called `name`. */
export async function tabTo(page, name) {
  for (let n = 0; n < 60; n += 1) {
    await page.keyboard.press('Tab');
    const focused = await page.evaluate(() => {
      const at = document.activeElement;
      return at?.getAttribute('aria-label') ?? (at?.closest('label') ?? at)?.textContent?.trim() ?? '';
    });
    if (focused.includes(name)) return;
  }
  assert.fail(`Tab never comes to ${name}`);
}

/** No violation of axe's rules, which hold WCAG 2.2 AA and more. */
export async function accessible(page, where) {
  const { violations } = await new AxeBuilder({ page }).setLegacyMode().analyze();
  const said = violations.map(({ id, help, nodes }) => `${id}: ${help}\n${nodes.slice(0, 4).map(({ html, failureSummary }) => `    ${html.slice(0, 160)}\n    ${failureSummary.split('\n')[1]}`).join('\n')}`);
  assert.deepEqual(said, [], where);
}
