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
    // The end is that of what has come so far; the next page is asked for there.
    const last = list.getByRole('option', { name });
    for (let tries = 0; tries < 600 && !(await last.isVisible()); tries += 1) {
      await page.keyboard.press('End');
      await page.waitForTimeout(50);
    }
    await last.waitFor();
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

test('topics: the first topic appears, and is followed when it is chosen', async (t) => {
  const { page, faults, publish } = await visit(t, '#/topics', { empty: true });
  await page.getByText('No messages yet.').waitFor();
  await publish('devices/truck-1/engine');
  await page.getByRole('treeitem', { name: 'engine' }).click();
  await page.waitForURL(/follow=devices%2Ftruck-1%2Fengine/);
  assert.deepEqual(faults, []);
});

test('topics: open levels move, and what is open, chosen and in focus stays', async (t) => {
  const { page, publish } = await visit(t, '#/topics');
  const truck = page.getByRole('treeitem', { name: /^truck-001/ });
  await truck.focus();
  await page.keyboard.press('ArrowRight');
  const engine = page.getByRole('treeitem', { name: 'engine' });
  await engine.waitFor();
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('Enter');
  await page.waitForURL(/follow=devices%2Ftruck-001%2Fengine/);
  const y = (await engine.boundingBox()).y;
  await publish('devices/a-first-one/engine');
  await publish('devices/truck-001/tyres');
  await page.getByRole('treeitem', { name: 'a-first-one' }).waitFor();
  await page.getByRole('treeitem', { name: 'tyres' }).waitFor();
  assert.equal(await engine.getAttribute('aria-selected'), 'true');
  assert.equal(await engine.getAttribute('tabindex'), '0');
  assert.ok(await engine.evaluate((row) => row === document.activeElement));
  assert.equal((await engine.boundingBox()).y, y);
  // What is closed stays so.
  await page.keyboard.press('ArrowUp');
  await page.keyboard.press('ArrowLeft');
  await engine.waitFor({ state: 'detached' });
  await publish('devices/another/engine');
  await page.getByRole('treeitem', { name: 'another' }).waitFor();
  assert.equal(await engine.count(), 0);
});

/** Pages of topics are shorter than they are asked for. */
const short = (page, limit) =>
  page.route('**/api/v1/topics?*', (route) => route.continue({ url: route.request().url().replace('limit=500', `limit=${limit}`) }));

test('topics: what is found is shown page by page, all of it, and moves', async (t) => {
  const { page, faults, publish } = await visit(t, '#/topics');
  await short(page, 100);
  await page.getByRole('searchbox', { name: 'Search topics' }).fill('/track');
  const items = page.getByRole('treeitem');
  const more = page.getByRole('treeitem', { name: 'Show more' });
  await page.getByRole('treeitem', { name: 'devices/trailer-006/track' }).waitFor();
  assert.equal(await items.count(), 101);
  await more.focus();
  await page.keyboard.press('Enter');
  await items.nth(200).waitFor();
  assert.equal(await items.count(), 201);
  // The first that has come has the focus.
  await items.nth(100).and(page.locator(':focus')).waitFor();
  await more.click();
  await more.waitFor({ state: 'detached' });
  assert.equal(await items.count(), 240);
  await publish('devices/a-first-one/track');
  await page.getByRole('treeitem', { name: 'devices/a-first-one/track' }).waitFor();
  assert.equal(await items.count(), 241);
  await page.getByRole('searchbox', { name: 'Search topics' }).fill('no such topic');
  await page.getByText('No topic matches.').waitFor();
  await page.getByRole('searchbox', { name: 'Search topics' }).fill('');
  await page.getByRole('treeitem', { name: 'a-first-one', exact: false }).waitFor();
  assert.deepEqual(faults, []);
});

test('topics: a level is shown page by page', async (t) => {
  const { page } = await visit(t, '#/nowhere');
  await short(page, 100);
  await page.goto(`${page.url().split('#')[0]}#/topics`);
  for (const name of ['truck-100', 'truck-239']) {
    const more = page.getByRole('treeitem', { name: 'Show more' });
    await more.waitFor();
    assert.equal(await page.getByRole('treeitem', { name }).count(), 0);
    await more.press('Enter');
    await page.getByRole('treeitem', { name }).waitFor();
  }
  await page.getByRole('treeitem', { name: 'Show more' }).waitFor({ state: 'detached' });
  // The one above and all below it.
  assert.equal(await page.getByRole('treeitem').count(), 241);
});

test('topics: what is found while the log is still being read is not all', async (t) => {
  const { page, faults } = await visit(t, '#/nowhere');
  let asked = 0;
  await page.route('**/api/v1/topics?*', (route) =>
    asked++ < 3 ? route.fulfill({ json: { topics: [], next: null, complete: false, unlisted_messages: 0 } }) : route.continue());
  await page.goto(`${page.url().split('#')[0]}#/topics?search=truck-017`);
  await page.getByText('The log is still being read').waitFor();
  assert.equal(await page.getByText('No topic matches.').count(), 0);
  await page.getByRole('treeitem', { name: 'devices/truck-017/engine' }).waitFor();
  await page.getByText('The log is still being read').waitFor({ state: 'detached' });
  assert.deepEqual(faults, []);
});

test('topics: what has no place in the list is said', async (t) => {
  const { page } = await visit(t, '#/nowhere');
  await page.route('**/api/v1/topics?*', async (route) => {
    const answer = await route.fetch();
    return route.fulfill({ json: { ...(await answer.json()), unlisted_messages: 1234 } });
  });
  await page.goto(`${page.url().split('#')[0]}#/topics`);
  await page.getByText('1,234 messages are on topics that have no place in this list.').waitFor();
});

for (const [path, request, shown] of [
  ['#/devices', '/api/v1/devices?', 'listbox'],
  ['#/topics', '/api/v1/topics?', 'tree'],
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
