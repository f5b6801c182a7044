// What each page is for, done by keyboard alone; against the mock, whose fleet these tests know.
import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { DIST, open, reader, start, tabTo } from './browser.mjs';
import { serve } from '../dev/mock.mjs';

let it;
before(async () => {
  delete process.env.FLOODPLAIN_URL;
  it = await start();
});
after(() => it.stop());

const visit = (t, path, url = it.url) => open(t, it.browser, url, path);

/** Waits for points of the first colour, #0b6478, one per column of pixels at least over most of the width. */
const drawn = (page) =>
  page.waitForFunction(() => {
    const canvas = document.querySelector('canvas');
    if (!canvas) return false;
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    const columns = new Set();
    for (let n = 0; n < data.length; n += 4) if (data[n + 3] > 200 && data[n] < 40 && data[n + 1] > 80 && data[n + 2] > 100 && data[n + 1] < 130) columns.add((n / 4) % canvas.width);
    return columns.size > canvas.width / 2;
  });

test('the palette finds a device and opens it', async (t) => {
  const { page } = await visit(t, '#/overview');
  await page.getByRole('heading', { name: 'Overview' }).waitFor();
  await page.keyboard.press('Control+k');
  await page.keyboard.type('truck-017');
  await page.getByRole('option', { name: 'truck-017' }).waitFor();
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'truck-017' }).waitFor();
  assert.ok(page.url().endsWith('#/device/truck-017'));
});

test('the palette closes with Escape and opens again', async (t) => {
  const { page } = await visit(t, '#/devices');
  await page.getByRole('heading', { name: 'Devices' }).waitFor();
  for (let n = 0; n < 2; n += 1) {
    await page.keyboard.press('Control+k');
    await page.getByRole('dialog').waitFor();
    await page.keyboard.press('Escape');
    await page.getByRole('dialog').waitFor({ state: 'detached' });
  }
});

test('devices: search, then arrows and Enter; the link keeps the search', async (t) => {
  const { page } = await visit(t, '#/devices');
  await page.getByText('240 devices').waitFor();
  await tabTo(page, 'Search devices');
  await page.keyboard.type('trailer');
  await page.getByText('40 devices').waitFor();
  assert.ok(page.url().endsWith('#/devices?search=trailer'));
  await tabTo(page, 'Devices');
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'trailer-012' }).waitFor();
  await page.goBack();
  await page.getByText('40 devices').waitFor();
});

test('devices: of a long list only what is in view is in the document', async (t) => {
  const { page } = await visit(t, '#/devices');
  await page.getByText('240 devices').waitFor();
  const list = page.getByRole('listbox', { name: 'Devices' });
  assert.ok((await list.getByRole('option').count()) < 60);
  await list.focus();
  await page.keyboard.press('End');
  await list.getByRole('option', { name: /truck-239/ }).waitFor();
  assert.ok((await list.getByRole('option').count()) < 60);
});

test('device: what is called like a counter is not what is shown first', async (t) => {
  const { page } = await visit(t, '#/device/trailer-006');
  await page.getByRole('button', { name: 'cargo_c', exact: true, pressed: true }).waitFor();
  await page.getByRole('button', { name: 'n', exact: true, pressed: false }).waitFor();
});

test('device: another column joins the chart, and the link says so', async (t) => {
  const { page } = await visit(t, '#/device/truck-001');
  await page.locator('canvas').waitFor();
  await page.getByRole('button', { name: 'oil', exact: true }).focus();
  await page.keyboard.press('Enter');
  await page.waitForURL(/columns=rpm%2Coil/);
  await page.getByRole('button', { name: 'Table of Values of truck-001' }).focus();
  await page.keyboard.press('Enter');
  await page.getByRole('columnheader', { name: 'oil' }).waitFor();
  assert.ok((await page.getByRole('region', { name: /as a table/ }).getByRole('row').count()) > 100);
});

test('topics: the tree opens by arrows and follows by Enter; skipped messages are said; pause counts', async (t) => {
  const { page } = await visit(t, '#/topics');
  const first = page.getByRole('treeitem', { name: 'truck-001' });
  await first.waitFor();
  await tabTo(page, 'devices');
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('ArrowRight');
  await page.getByRole('treeitem', { name: 'cooling' }).waitFor();
  await page.keyboard.press('Home');
  await page.keyboard.press('Enter');
  await page.waitForURL(/follow=devices%2F%23/);
  await page.getByText('17 skipped').waitFor();
  await page.getByRole('button', { name: 'Pause' }).focus();
  await page.keyboard.press('Enter');
  await page.getByText(/skipped while paused/).waitFor();
  await page.keyboard.press('Enter');
  await page.getByText('Live', { exact: true }).waitFor();
});

test('topics: an opened message shows the rows that it becomes', async (t) => {
  const { page, faults } = await visit(t, '#/topics?follow=devices/truck-001/engine');
  const list = page.getByRole('listbox', { name: /Messages of/ });
  await list.getByRole('option').first().waitFor();
  await page.getByRole('button', { name: 'Pause' }).press('Enter');
  const asked = page.waitForRequest(/bindings\/test$/);
  await list.focus();
  await page.keyboard.press('Home');
  await page.keyboard.press('Enter');
  await page.getByText('1 row of device truck-001 into table engine').waitFor();
  await page.getByRole('row', { name: /^rpm \d+.* Float64 value$/ }).waitFor();
  await page.getByRole('link', { name: 'default', exact: true }).waitFor();
  const sent = (await asked).postDataJSON();
  assert.equal(sent.binding, null);
  assert.deepEqual([sent.topic, sent.device], ['devices/truck-001/engine', 'truck-001']);
  assert.deepEqual(faults, []);
});

const MESSAGE = {
  position: 'telemetry/3/0/182', topic: 'devices/box/frame', device: 'box', received: '2026-11-26T11:05:07Z', qos: 1, retain: false, content_type: null,
  user_properties: [], payload: null, payload_base64: null, size: 0,
};
/** Sends these messages to whoever follows. */
const sends = (page, ...messages) =>
  page.route('**/api/v1/topics/**', (route) => {
    const events = messages.map((message) => `event: message\ndata: ${JSON.stringify({ ...MESSAGE, ...message })}\n\n`);
    return route.fulfill({ contentType: 'text/event-stream', body: `retry: 600000\n${events.join('')}` });
  });

test('topics: bytes are hex in the line, and marked where the decoder stopped', async (t) => {
  const { page } = await visit(t, '#/topics');
  await sends(page, { payload_base64: 'ZVP/AA==', size: 4 });
  await page.getByRole('textbox', { name: 'Topic filter' }).fill('devices/box/frame');
  await page.keyboard.press('Enter');
  await page.getByRole('option', { name: /4 bytes: 65 53 ff 00/ }).click();
  await page.getByText('the payload is no text').waitFor();
  assert.equal(await page.locator('mark').textContent(), 'ff');
});

test('topics: what is retained is marked, as the server sends it', async (t) => {
  const { page } = await visit(t, '#/topics');
  await sends(page, { topic: 'devices/box/a', retain: true }, { topic: 'devices/box/b' });
  await page.getByRole('textbox', { name: 'Topic filter' }).fill('devices/box/#');
  await page.keyboard.press('Enter');
  await page.getByRole('option', { name: 'devices/box/a' }).getByText('retained', { exact: true }).waitFor();
  await page.getByRole('option', { name: 'devices/box/b' }).waitFor();
  assert.equal(await page.getByRole('option').getByText('retained').count(), 1);
});

for (const [device, topics, follow] of [
  ['truck-001', ['devices/truck-001/engine', 'devices/truck-001/track'], 'devices/truck-001/#'],
  // A binding may take a device from any level, or from the sender.
  ['truck-002', ['roads/truck-002'], 'roads/truck-002/#'],
  ['truck-003', ['plants/ulm/truck-003/pump', 'plants/bonn/truck-003'], 'plants/+/truck-003/#'],
  ['truck-004', ['home/kitchen', 'home/bath'], 'home/+'],
  ['truck-005', ['home/kitchen', 'home/bath/light'], 'home/+/#'],
]) {
  test(`device: live messages of ${topics.join(' and ')} follow ${follow}`, async (t) => {
    const { page, faults } = await visit(t, '#/overview');
    await page.route('**/messages?limit=50', (route) => route.fulfill({ json: { messages: topics.map((topic, n) => ({ ...MESSAGE, position: `telemetry/3/0/${n}`, topic, device })) } }));
    await sends(page, { topic: topics[0], device }, { topic: topics[0], device: 'another', payload: 'of another', size: 10 });
    await page.goto(`${it.url}#/device/${device}`);
    const asked = page.waitForRequest(/topics\/.*follow$/);
    await page.getByRole('link', { name: 'Live messages' }).press('Enter');
    assert.ok((await asked).url().endsWith(`topics/${follow.split('/').map(encodeURIComponent).join('/')}?follow`));
    await page.getByRole('option', { name: topics[0] }).waitFor();
    await page.getByText('1 received').waitFor();
    assert.equal(await page.getByText('of another').count(), 0);
    // Another choice is one of all devices.
    await page.getByRole('textbox', { name: 'Topic filter' }).press('Enter');
    await page.getByRole('option').getByText('of another').waitFor();
    assert.deepEqual(faults, []);
  });
}

test('device: of one that sent nothing there is nothing to follow', async (t) => {
  const { page } = await visit(t, '#/overview');
  await page.route('**/messages?limit=50', (route) => route.fulfill({ json: { messages: [] } }));
  await page.goto(`${it.url}#/device/truck-001`);
  await page.getByRole('link', { name: 'Query' }).waitFor();
  assert.equal(await page.getByRole('link', { name: 'Live messages' }).count(), 0);
});

test('topics: publish says where the message is', async (t) => {
  const { page } = await visit(t, '#/topics?topic=devices/truck-001/engine');
  const sent = page.waitForRequest((request) => request.method() === 'POST');
  await tabTo(page, 'Topic');
  await page.getByRole('textbox', { name: 'Payload' }).focus();
  await page.keyboard.press('Control+a');
  await page.keyboard.type('{"rpm": 1}');
  await tabTo(page, 'Publish');
  await page.keyboard.press('Enter');
  await page.getByText('Committed at telemetry/3/0/182').waitFor();
  const request = await sent;
  assert.equal(request.postData(), '{"rpm": 1}');
  assert.ok(request.url().endsWith('/topics/devices/truck-001/engine?qos=1&retain=false'));
});

test('SQL: Ctrl+Enter runs; the query is in the link and the history; CSV is what the table shows', async (t) => {
  const { page, faults } = await visit(t, '#/sql?q=SELECT%201');
  await page.getByRole('textbox', { name: 'SQL query' }).focus();
  await page.keyboard.press('Control+a');
  await page.keyboard.type('SELECT device, count(*) AS n FROM engine GROUP BY device');
  await page.keyboard.press('Escape');
  await page.keyboard.press('Control+Enter');
  await page.getByRole('heading', { name: /12 rows/ }).waitFor();
  assert.match(page.url(), /q=SELECT\+device/);
  const saved = page.waitForEvent('download');
  await page.getByRole('button', { name: 'CSV' }).focus();
  await page.keyboard.press('Enter');
  const lines = readFileSync(await (await saved).path(), 'utf8').split('\r\n');
  assert.equal(lines[0], 'device,n');
  assert.equal(lines[1], 'truck-001,300');
  assert.equal(lines.length, 14);
  await page.reload();
  await page.getByRole('region', { name: 'History' }).getByText('SELECT device, count(*)').waitFor();
  assert.deepEqual(faults, []);
});

test('SQL: a link to another query is followed while the page is open', async (t) => {
  const { page } = await visit(t, '#/sql?q=SELECT%201');
  const editor = page.getByRole('textbox', { name: 'SQL query' });
  await editor.getByText('SELECT 1').waitFor();
  await page.goto(`${it.url}#/sql?q=SELECT%202`);
  await editor.getByText('SELECT 2').waitFor();
  // What is typed and not yet run stays when the link says something else anew.
  await editor.focus();
  await page.keyboard.press('Control+a');
  await page.keyboard.type('SELECT 3');
  await page.evaluate(() => { location.hash = `${location.hash}&view=chart`; });
  await page.waitForURL(/view=chart/);
  await editor.getByText('SELECT 3').waitFor();
});

test('SQL: a chart is drawn of times and numbers, and the link says so', async (t) => {
  const { page, faults } = await visit(t, `#/sql?q=${encodeURIComponent("SELECT time, rpm FROM engine WHERE device = 'truck-001' ORDER BY time")}`);
  await page.getByRole('button', { name: 'Run' }).click();
  await page.getByRole('button', { name: 'Chart', exact: true }).press('Enter');
  await page.waitForURL(/view=chart/);
  await drawn(page);
  await page.getByRole('button', { name: 'Table of Result' }).press('Enter');
  await page.getByRole('region', { name: 'Result, as a table' }).getByRole('columnheader', { name: 'rpm' }).waitFor();
  assert.deepEqual(faults, []);
});

test('SQL: an error is marked at its place', async (t) => {
  const { page } = await visit(t, '#/sql?q=SELECT%20rpm,%0A%20%20wrong%20FROM%20engine');
  await page.getByRole('textbox', { name: 'SQL query' }).focus();
  await page.keyboard.press('Control+Enter');
  await page.getByRole('alert').getByText(/no field named 'wrong'/).waitFor();
  assert.equal(await page.locator('.cm-lintRange-error').textContent(), 'wrong');
});

test('SQL: the editor completes tables from the schema', async (t) => {
  const { page } = await visit(t, '#/sql?q=SELECT%201');
  await page.getByRole('region', { name: 'Tables' }).getByText('cooling').first().waitFor();
  await page.getByRole('region', { name: 'Of the server' }).getByText('devices').first().waitFor();
  await page.getByRole('textbox', { name: 'SQL query' }).focus();
  await page.keyboard.press('Control+a');
  await page.keyboard.type('SELECT * FROM coo');
  await page.getByRole('option', { name: 'cooling' }).waitFor();
});

test('alerts: a new one is tested, then saved', async (t) => {
  const { page } = await visit(t, '#/alerts?edit=%2B');
  await page.getByRole('textbox', { name: 'Name', exact: true }).fill('quiet');
  await page.getByRole('button', { name: 'Test on current values' }).press('Enter');
  await page.getByText(/Would fire now for \d+ devices/).waitFor();
  await page.getByRole('button', { name: 'Save' }).press('Enter');
  await page.getByRole('region', { name: 'Alert quiet' }).getByText(/silent for more than 5 min/).waitFor();
});

test('dead letters: by reason, the byte is marked, replay is said', async (t) => {
  const { page } = await visit(t, '#/dead-letters');
  await page.getByRole('button', { name: /checksum differs/ }).press('Enter');
  await page.waitForURL(/reason=checksum/);
  await page.locator('summary', { hasText: 'expected a value' }).first().waitFor({ state: 'detached' });
  await page.locator('summary').first().press('Enter');
  assert.equal(await page.locator('mark').first().textContent(), '07');
  await page.getByRole('button', { name: 'Replay this one' }).first().press('Enter');
  await page.getByText(/Replay r-\d+ started/).waitFor();
  await page.getByText('replayed', { exact: true }).first().waitFor();
});

test('dead letters: of more reasons than are counted the sum is not called that of all', async (t) => {
  const { page, faults } = await visit(t, '#/dead-letters');
  await page.getByRole('button', { name: 'All 42', exact: true }).waitFor();
  const counts = Array.from({ length: 100 }, (_, n) => ({ reason: `reason ${n}`, count: 200 - n }));
  await page.route('**/api/v1/dlq*', (route) => route.fulfill({ json: { entries: [], next: null, counts } }));
  await page.reload();
  await page.getByRole('button', { name: 'All 15,050 or more', exact: true }).waitFor();
  await page.getByText('These are the 100 most frequent reasons; there may be more.').waitFor();
  await page.getByText('None of these.').waitFor();
  assert.deepEqual(faults, []);
});

test('dead letters: a binding leads to its own, which can be left; what would replay others is not offered', async (t) => {
  const { page } = await visit(t, '#/bindings');
  await page.getByRole('link', { name: '17 dead letters of cooling-units' }).press('Enter');
  await page.getByText('Only those of binding cooling-units.').waitFor();
  const all = page.getByRole('button', { name: 'Replay all' });
  assert.equal(await all.count(), 0);
  await page.getByRole('button', { name: 'Show those of all' }).press('Enter');
  await all.waitFor();
  assert.ok(page.url().endsWith('#/dead-letters'));
});

test('times and theme: what the reader chose is there after a reload', async (t) => {
  const { page } = await visit(t, '#/overview');
  await page.getByRole('button', { name: 'Dark theme' }).press('Enter');
  await page.getByRole('button', { name: 'Times: Local' }).press('Enter');
  await page.reload();
  await page.getByRole('button', { name: 'Times: UTC' }).waitFor();
  assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), 'dark');
});

test('an empty server says what to paste, with the addresses that it has', async (t) => {
  const server = await serve(DIST, { empty: true });
  t.after(() => server.close());
  const { page, faults } = await visit(t, '#/overview', server.url);
  for (const place of ['Overview', 'Devices']) {
    await page.getByRole('link', { name: place, exact: true }).click();
    await page.getByRole('heading', { name: place, level: 1 }).waitFor();
    await page.getByText('mosquitto_pub -h 127.0.0.1 -p 18830 ').waitFor();
    await page.getByText('floodplain sim --address 127.0.0.1:18830').waitFor();
    const curl = await page.getByRole('region', { name: 'Publish by HTTP' }).textContent();
    assert.ok(curl.startsWith(`curl -s '${server.url}api/v1/topics/devices/truck-1/engine?qos=1' -H 'Content-Type`), curl);
  }
  assert.deepEqual(faults, []);
});

test('an empty server that asks who it is says that HTTP wants a token', async (t) => {
  const server = await serve(DIST, { empty: true, claimed: true });
  t.after(() => server.close());
  const { page } = await visit(t, '#/overview', server.url);
  await page.getByRole('textbox', { name: 'User' }).fill('anna');
  await page.getByRole('textbox', { name: 'Password' }).fill('correct horse battery');
  await page.keyboard.press('Enter');
  const curl = page.getByRole('region', { name: 'Publish by HTTP' });
  await curl.getByText('-H "Authorization: Bearer $FLOODPLAIN_TOKEN"').waitFor();
  await page.getByRole('link', { name: 'create one' }).press('Enter');
  await page.getByRole('heading', { name: 'API tokens' }).waitFor();
});

test('setup by the one-time link under a sub-path, log out, log in, back to where one was', async (t) => {
  const server = await serve(DIST, { path: '/plant/floodplain/' });
  t.after(() => server.close());
  const { page } = await visit(t, 'setup#one-time', server.url);
  await page.getByRole('textbox', { name: 'User' }).fill('anna');
  await page.getByRole('textbox', { name: 'Password', exact: true }).fill('correct horse');
  await page.getByRole('textbox', { name: 'Password again' }).fill('correct horse');
  await page.keyboard.press('Enter');
  await page.getByRole('button', { name: 'anna: log out' }).waitFor();
  assert.equal(page.url(), `${server.url}#/overview`);
  await page.goto(`${server.url}#/alerts`);
  await page.getByRole('button', { name: 'anna: log out' }).press('Enter');
  await page.getByRole('heading', { name: /Log in/ }).waitFor();
  await page.goto('about:blank');
  await page.goto(`${server.url}#/devices?search=truck-01`);
  await page.getByRole('textbox', { name: 'User' }).fill('anna');
  await page.getByRole('textbox', { name: 'Password' }).fill('wrong');
  await page.keyboard.press('Enter');
  await page.getByText('User or password is wrong.').waitFor();
  await page.getByRole('textbox', { name: 'Password' }).fill('correct horse');
  await page.keyboard.press('Enter');
  await page.getByText('8 devices', { exact: true }).waitFor();
  assert.equal(page.url(), `${server.url}#/devices?search=truck-01`);
});

test('a login link leads nowhere but into the console', async (t) => {
  const server = await serve(DIST, { claimed: true });
  t.after(() => server.close());
  const { page } = await visit(t, `#/login?then=${encodeURIComponent('https://example.com/')}`, server.url);
  await page.getByRole('textbox', { name: 'User' }).fill('anna');
  await page.getByRole('textbox', { name: 'Password' }).fill('correct horse battery');
  await page.keyboard.press('Enter');
  await page.waitForURL(`${server.url}#/overview`);
});

/** Answers the next queries with `body` instead of the mock. */
const answers = (page, body) => page.route('**/api/v1/sql', (route) => route.fulfill({ contentType: 'application/json', body }));

test('SQL: whole numbers beyond 2^53 keep all their digits', async (t) => {
  const { page } = await visit(t, '#/sql?q=SELECT%201');
  await answers(page, '{"columns":[{"name":"n","type":"Int64"}],"rows":[{"n":9007199254740993},{"n":-9223372036854775808},{"n":7}]}');
  await page.getByRole('button', { name: 'Run' }).click();
  await page.getByRole('cell', { name: '9007199254740993' }).waitFor();
  assert.deepEqual(await page.getByRole('cell').allTextContents(), ['9007199254740993', '-9223372036854775808', '7']);
});

test('SQL: rows before an error at the end of the answer are not taken for all', async (t) => {
  const { page } = await visit(t, '#/sql?q=SELECT%201');
  await answers(page, '{"columns":[{"name":"n","type":"Int64"}],"rows":[{"n":1}],"error":{"code":"sql_limit_time","detail":"the query took too long"}}');
  await page.getByRole('button', { name: 'Run' }).click();
  await page.getByRole('alert').getByText('the query took too long').waitFor();
  assert.equal(await page.getByRole('cell').count(), 0);
});

test('SQL: a warning of damage is shown with the rows', async (t) => {
  const { page } = await visit(t, '#/sql?q=SELECT%201');
  await answers(page, '{"columns":[{"name":"n","type":"Int64"}],"rows":[{"n":1}],"warnings":["12 records are missing"]}');
  await page.getByRole('button', { name: 'Run' }).click();
  await page.getByText('12 records are missing').waitFor();
});

test('what a device or a payload is called is text, never markup', async (t) => {
  const { page, faults } = await visit(t, '#/sql?q=SELECT%201');
  const evil = '<img src=x onerror=alert(1)>';
  await answers(page, JSON.stringify({ columns: [{ name: evil, type: 'Utf8' }], rows: [{ [evil]: evil }] }));
  await page.getByRole('button', { name: 'Run' }).click();
  await page.getByRole('cell', { name: evil }).waitFor();
  assert.equal(await page.locator('td img, th img').count(), 0);
  assert.deepEqual(faults, []);
});

test('device: the chart draws what the query gave', async (t) => {
  const { page } = await visit(t, '#/device/truck-001');
  await page.locator('canvas').waitFor();
  await drawn(page);
});

test('a live view that the server refused comes back by itself', async (t) => {
  const { context, page } = await reader(it.browser, it.url);
  t.after(() => context.close());
  let refused = 0;
  await page.route('**/api/v1/overview?follow', (route) => (refused++ ? route.continue() : route.fulfill({ status: 503, body: '' })));
  await page.goto(`${it.url}#/overview`);
  await page.getByText('Reconnecting').waitFor();
  await page.getByText('Live', { exact: true }).waitFor();
});

test('a session that ends leads to the login, and back', async (t) => {
  const server = await serve(DIST, { claimed: true });
  t.after(() => server.close());
  const { page } = await visit(t, '#/alerts', server.url);
  await page.getByRole('heading', { name: /Log in/ }).waitFor();
  assert.ok(page.url().endsWith('#/login?then=%23%2Falerts'));
});
