// Every page in dark and light, on a wide and a narrow screen: it shows, axe finds nothing, no error, nothing leaves the origin.
import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { REAL, accessible, reader, start } from './browser.mjs';

const device = process.env.FLOODPLAIN_DEVICE ?? 'truck-001';
const PAGES = [
  ['overview', '#/overview', 'role=img[name=/Messages per second/] >> canvas'],
  ['palette', '#/overview', 'role=heading[name="Overview"]', async (page) => {
    await page.keyboard.press('Control+k');
    await page.getByRole('combobox').fill(device.slice(0, 3));
    await page.getByRole('option').filter({ hasText: 'Device' }).first().waitFor();
  }],
  ['devices', '#/devices', 'role=listbox >> role=option >> nth=3'],
  ['device', `#/device/${device}?range=5m`, 'role=img >> canvas'],
  ['topics', '#/topics?follow=devices/%23', 'role=listbox >> role=option >> nth=5', async (page) => {
    // What stands still is examined sooner.
    await page.getByRole('button', { name: 'Pause' }).click();
    await page.getByRole('option').first().click();
    await page.getByText(/\d+ rows? of device/).waitFor();
  }],
  ['sql', '#/sql?q=SELECT%20device,%20time,%20rpm,%20oil%20FROM%20engine%20WHERE%20device%20%3D%20%27truck-001%27%20ORDER%20BY%20time', '.cm-content', async (page) => {
    await page.getByRole('button', { name: 'Run' }).click();
    await page.getByRole('columnheader', { name: /rpm/ }).waitFor();
  }],
  ['bindings', '#/bindings?edit=default', 'text=/\\d+ rows? of device/', async (page) => {
    await page.getByText('Stream, durability, retention, repeats').click();
    await page.getByRole('button', { name: 'Hex', exact: true }).click();
  }],
  ['alerts', '#/alerts?edit=oil-too-hot', 'role=heading[name="oil-too-hot"][level=2]'],
  ['dead-letters', '#/dead-letters', 'summary', async (page) => page.locator('summary').first().click()],
  ['dead-letters-of-one', '#/dead-letters?binding=cooling-units', 'text="Only those of binding"'],
  ['users', '#/users', 'role=heading[name="API tokens"]'],
  ['login', '#/login', 'role=button[name="Log in"]'],
  ['setup', '#/setup?token=one-time', 'role=button[name="Create user"]'],
  ['not-found', '#/nowhere', 'role=heading[name="Not found"]'],
];
// The real server has what its fleet sent, and no page of this list that the mock's own objects fill.
const HERE = REAL ? PAGES.filter(([name]) => !['sql', 'alerts', 'dead-letters', 'dead-letters-of-one'].includes(name)) : PAGES;

let it;
before(async () => (it = await start()));
after(() => it.stop());

// Both schemes and both sizes are in two of the four; pictures are taken of all.
const WIDE = [1280, 800];
const NARROW = [390, 844];
const LOOKS = { light: [WIDE, ...(process.env.SHOTS ? [NARROW] : [])], dark: [NARROW, ...(process.env.SHOTS ? [WIDE] : [])] };

for (const [scheme, sizes] of Object.entries(LOOKS)) {
  for (const [width, height] of sizes) {
    test(`${scheme}, ${width} x ${height}`, async (t) => {
      const { context, page, faults } = await reader(it.browser, it.url, { colorScheme: scheme, viewport: { width, height } });
      for (const [name, path, shows, then] of HERE) {
        await t.test(name, async () => {
          await page.goto('about:blank');
          await page.goto(it.url + path);
          await page.locator(shows).first().waitFor();
          await then?.(page);
          assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), scheme);
          const beyond = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
          assert.ok(beyond <= 0, `${beyond} pixels wider than the screen`);
          if (process.env.SHOTS) {
            mkdirSync(process.env.SHOTS, { recursive: true });
            // Live charts need a few seconds of data to be worth a look.
            if (name === 'overview') await page.waitForFunction(() => performance.now() > 8000);
            await page.screenshot({ path: `${process.env.SHOTS}/${name}-${scheme}-${width}.png` });
          }
          await accessible(page, `${name} in ${scheme}`);
          assert.deepEqual(faults.splice(0), []);
        });
      }
      await context.close();
    });
  }
}
