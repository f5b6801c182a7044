// What changes by itself changes on the page, and what the reader does there stays; against the mock.
import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { DIST, open, start } from './browser.mjs';
import { serve } from '../dev/mock.mjs';

let it;
before(async () => {
  delete process.env.FLOODPLAIN_URL;
  it = await start();
});
after(() => it.stop());

/** A server of this test alone, since it changes the fleet. */
async function visit(t, path, options) {
  const server = await serve(DIST, options);
  t.after(() => server.close());
  const { page, faults } = await open(t, it.browser, server.url, path);
  const publish = async (topic) => assert.equal((await page.request.post(`${server.url}api/v1/topics/${topic}`, { data: '{"rpm": 1}' })).status(), 200);
  return { page, faults, publish };
}

/** Counts requests below a path. */
function counted(page, path) {
  const count = { begun: 0 };
  page.on('request', (request) => request.url().includes(path) && (count.begun += 1));
  return count;
}

/** Says that the page is seen, or is not. */
const see = (page, seen) =>
  page.evaluate((hidden) => {
    Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden });
    document.dispatchEvent(new Event('visibilitychange'));
  }, !seen);

test('devices: the first device appears with its first message', async (t) => {
  const { page, faults, publish } = await visit(t, '#/devices', { empty: true });
  await page.getByText('No device has been seen yet.').waitFor();
  await publish('devices/truck-1/engine');
  await page.getByRole('option', { name: /truck-1/ }).waitFor();
  await page.getByText('1 device', { exact: true }).waitFor();
  assert.deepEqual(faults, []);
});

test('devices: numbers move, and who comes moves neither the chosen row nor the view', async (t) => {
  const { page, publish } = await visit(t, '#/devices');
  const list = page.getByRole('listbox', { name: 'Devices' });
  await page.getByText('240 devices').waitFor();
  await list.focus();
  await page.keyboard.press('End');
  const last = list.getByRole('option', { name: /truck-239/ });
  await last.waitFor();
  // Half a row is scrolled away.
  await list.evaluate((view) => (view.scrollTop -= 18));
  const before = await last.boundingBox();
  await publish('devices/a-first-one/engine');
  await page.getByText('241 devices').waitFor();
  assert.deepEqual(await last.boundingBox(), before);
  assert.equal(await last.getAttribute('aria-selected'), 'true');
  const messages = last.locator('.num');
  const sent = await messages.textContent();
  for (let n = 0; n < 100; n += 1) await publish('devices/truck-239/engine');
  await messages.filter({ hasNotText: sent }).waitFor();
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'truck-239' }).waitFor();
});

test('devices: of many pages the one in view is asked for again', async (t) => {
  const { page, publish } = await visit(t, '#/devices', { pumps: 1000 });
  const list = page.getByRole('listbox', { name: 'Devices' });
  await page.getByText('1,240 devices').waitFor();
  await list.focus();
  for (const name of [/pump-0499/, /pump-0999/, /truck-239/]) {
    await page.keyboard.press('End');
    await list.getByRole('option', { name }).waitFor();
  }
  await publish('devices/truck-000/engine');
  await publish('devices/truck-2390/engine');
  await list.getByRole('option', { name: /truck-2390/ }).waitFor();
  assert.equal(await list.getByRole('option').first().getAttribute('aria-setsize'), '1241');
  // Between two that are there already; what is in view stays.
  const neighbour = list.getByRole('option', { name: /truck-001/ });
  await list.evaluate((view) => (view.scrollTop = 1041 * 36));
  await neighbour.waitFor();
  await list.locator('[aria-setsize="1242"]').first().waitFor();
  await page.keyboard.press('Home');
  await page.getByText('1,242 devices').waitFor();
  assert.equal(await list.getByRole('option').first().getAttribute('aria-setsize'), '1242');
});

test('devices: a search that finds nothing for many pages goes on', async (t) => {
  const { page } = await visit(t, '#/overview');
  let asked = 0;
  await page.route('**/api/v1/devices?*', (route) => {
    asked += 1;
    if (asked > 3) return route.continue();
    const after = new URL(route.request().url()).searchParams.get('after');
    assert.equal(after, asked > 1 ? `a-${asked - 1}` : null);
    return route.fulfill({ json: { devices: [], next: `a-${asked}`, total: null } });
  });
  await page.goto(`${page.url().split('#')[0]}#/devices?search=truck-017`);
  await page.getByRole('option', { name: /truck-017/ }).waitFor();
  assert.ok(asked >= 4);
});

for (const [path, request, shown] of [
  ['#/devices', '/api/v1/devices?', 'listbox'],
]) {
  test(`${path}: nobody is asked while the page is not seen, or an answer is not there`, async (t) => {
    const { page } = await visit(t, '#/nowhere');
    await page.clock.install();
    await page.goto(`${page.url().split('#')[0]}${path}`);
    await page.reload();
    await page.getByRole(shown).waitFor();
    const count = counted(page, request);
    await see(page, false);
    await page.clock.runFor(60_000);
    assert.equal(count.begun, 0);
    let answer;
    const held = new Promise((resolve) => (answer = resolve));
    await page.route(`**${request.replace('?', '\\?')}*`, async (route) => { await held; await route.continue(); });
    const begun = page.waitForRequest((one) => one.url().includes(request));
    await see(page, true);
    await begun;
    await page.clock.runFor(60_000);
    assert.equal(count.begun, 1);
    const answered = page.waitForResponse((one) => one.url().includes(request));
    answer();
    await answered;
  });
}
