// A binding is written, tried and applied; against the mock, whose bindings these tests know.
import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { open, start } from './browser.mjs';

let it;
before(async () => {
  delete process.env.FLOODPLAIN_URL;
  it = await start();
});
after(() => it.stop());

const visit = (t, path) => open(t, it.browser, it.url, path);

test('bindings: the test shows rows, then the failure at its byte', async (t) => {
  const { page } = await visit(t, '#/bindings?edit=cooling-units');
  const payload = page.getByRole('textbox', { name: 'Payload' });
  await payload.fill('{"ts": "2026-11-26T11:05:07Z", "ü": -18.2}');
  await page.getByText('1 row', { exact: true }).waitFor();
  await page.getByRole('cell', { name: '-18.2' }).waitFor();
  await payload.fill('{"device": "x", "door": {"open": true}, "cargo": 7}');
  for (const row of ['device_field of device x Utf8 value', '_rest of door {"open":true} Utf8 value', 'cargo 7 Float64 value']) await page.getByRole('row', { name: row }).waitFor();
  await payload.fill('{"cargo": }');
  await page.getByText(/expected a value/).waitFor();
  assert.equal(await page.locator('mark').textContent(), '}');
});

test('bindings: a new one is saved by keyboard', async (t) => {
  const { page } = await visit(t, '#/bindings?edit=%2B');
  await page.getByText('It needs a topic filter and a table.').waitFor();
  await page.getByRole('textbox', { name: 'Name', exact: true }).focus();
  await page.keyboard.type('pumps');
  await page.keyboard.press('Tab');
  await page.keyboard.type('pumps/+/+');
  await page.keyboard.press('Enter');
  await page.getByRole('button', { name: 'pumps' }).waitFor();
  await page.getByRole('cell', { name: 'pumps/+/+' }).waitFor();
});

test('bindings: what is being typed stays when the list is loaded again', async (t) => {
  const { page } = await visit(t, '#/bindings?edit=cooling-units');
  const field = page.locator('form.form').getByLabel('Time field');
  await field.fill('seen');
  const listed = page.waitForResponse((response) => response.request().method() === 'GET' && response.url().endsWith('/api/v1/bindings'));
  await page.getByRole('button', { name: 'Apply to the whole log' }).click();
  await listed;
  await page.getByText('Replay started.').waitFor();
  assert.equal(await field.inputValue(), 'seen');
});

test('bindings: all that one says is sent', async (t) => {
  const { page, faults } = await visit(t, '#/bindings?edit=%2B');
  const form = page.locator('form.form');
  // What the server takes as a name, and this form did not.
  await form.getByLabel('Name', { exact: true }).fill('Frames.v2');
  await form.getByLabel('Topic filter').fill('frames/+');
  await form.getByRole('combobox', { name: 'Table', exact: true }).selectOption('name');
  await form.getByLabel('Name of the table').fill('frame');
  await form.getByRole('combobox', { name: 'Decoder', exact: true }).selectOption('json');
  await form.getByLabel('Time field').fill('at');
  await form.getByLabel('Key columns').fill('n, channel');
  await form.getByLabel('Options of the decoder').fill('{"types": {"n": "int64"}}');
  await page.getByText('Stream, durability, retention, repeats').press('Enter');
  await form.getByLabel('Stream').fill('raw');
  await form.getByLabel('Durability').selectOption('leader');
  await form.getByLabel('Keep rows for').fill('30d');
  await form.getByLabel('Repeats').selectOption('field');
  await page.getByText('and what repeats are known by').waitFor();
  await form.getByLabel('Name of the field').fill('seq');
  await form.getByLabel('Ids are known for').fill('5m');
  await page.getByRole('textbox', { name: 'Payload' }).fill('{"n": 1, "seq": 41}');
  await page.getByText('Repeats of it are known by 41.').waitFor();
  const put = page.waitForRequest((request) => request.method() === 'PUT');
  await page.getByRole('button', { name: 'Save' }).press('Enter');
  const request = await put;
  assert.ok(request.url().endsWith('/api/v1/bindings/Frames.v2'));
  assert.deepEqual(request.postDataJSON(), {
    name: 'Frames.v2', filter: 'frames/+', stream: 'raw', device_level: 2, table: { name: 'frame' }, decoder: { types: { n: 'int64' }, format: 'json' },
    time_field: 'at', key_columns: ['n', 'channel'], class: 'leader', retention: '30d', dedup: { field: 'seq', window: '5m' },
  });
  await page.getByText('Saved; new messages take it from now on.').waitFor();
  // What is stored is what the form shows.
  await page.reload();
  await page.getByText('Stream, durability, retention, repeats').click();
  const shown = ['Stream', 'Durability', 'Keep rows for', 'Repeats', 'Name of the field', 'Ids are known for', 'Time field', 'Key columns'];
  const values = await Promise.all(shown.map((label) => form.getByLabel(label).inputValue()));
  assert.deepEqual(values, ['raw', 'leader', '30d', 'field', 'seq', '5m', 'at', 'n, channel']);
  assert.deepEqual(faults, []);
});

test('bindings: each format has its options', async (t) => {
  const { page } = await visit(t, '#/bindings?edit=%2B');
  const form = page.locator('form.form');
  const options = form.getByLabel('Options of the decoder');
  await options.waitFor();
  const formats = await form.getByRole('combobox', { name: 'Decoder', exact: true }).locator('option').allTextContents();
  assert.deepEqual(formats, ['auto', 'json', 'number', 'text', 'cbor', 'line protocol', 'struct']);
  for (const format of formats) {
    await form.getByRole('combobox', { name: 'Decoder', exact: true }).selectOption({ label: format });
    assert.equal(typeof JSON.parse(await options.getAttribute('placeholder')), 'object', format);
  }
  await form.getByLabel('Topic filter').fill('notes/+');
  await form.getByRole('combobox', { name: 'Table', exact: true }).selectOption('name');
  await form.getByLabel('Name of the table').fill('notes');
  await form.getByRole('combobox', { name: 'Decoder', exact: true }).selectOption('text');
  await options.fill('{"column": "note"}');
  await options.blur();
  await page.getByRole('row', { name: /^note .* Utf8 value$/ }).waitFor();
  for (const wrong of ['{"column": ', '[1]']) {
    await options.fill(wrong);
    await options.blur();
    await page.getByText(/^Not JSON: /).waitFor();
  }
});

test('bindings: applied to the log means to all its streams', async (t) => {
  const { page } = await visit(t, '#/bindings?edit=cooling-units');
  const asked = page.waitForRequest((request) => request.method() === 'POST' && request.url().endsWith('/replay'));
  await page.getByRole('button', { name: 'Apply to the whole log' }).press('Enter');
  assert.deepEqual((await asked).postDataJSON(), { binding: 'cooling-units', stream: null, from: null, to: null });
  await page.getByText('Replay started.').waitFor();
});

test('bindings: the test takes text or bytes', async (t) => {
  const { page, faults } = await visit(t, '#/bindings?edit=cooling-units');
  const payload = page.getByRole('textbox', { name: 'Payload' });
  await payload.fill('{"n": 7}');
  await page.getByRole('button', { name: 'Hex', exact: true }).press('Enter');
  assert.equal(await payload.inputValue(), '7b 22 6e 22 3a 20 37 7d');
  const asked = page.waitForRequest((request) => request.url().endsWith('bindings/test') && request.postDataJSON().payload_base64 !== null);
  await payload.fill('7B226E223A20 387d');
  await page.getByRole('cell', { name: '8', exact: true }).waitFor();
  assert.equal((await asked).postDataJSON().payload, null);
  await payload.fill('7b ff');
  await page.getByText('the payload is no text').waitFor();
  assert.equal(await page.locator('mark').textContent(), 'ff');
  await page.getByRole('button', { name: 'Text', exact: true }).press('Enter');
  await page.getByText('These bytes are no text.').waitFor();
  for (const wrong of ['7b f', '7g']) {
    await payload.fill(wrong);
    await page.getByText('It is not hex: two digits are a byte.').waitFor();
  }
  await payload.fill('7b 22 6e 22 3a 20 39 7d');
  await page.getByRole('button', { name: 'Text', exact: true }).press('Enter');
  assert.equal(await payload.inputValue(), '{"n": 9}');
  await page.getByRole('cell', { name: '9', exact: true }).waitFor();
  assert.deepEqual(faults, []);
});
