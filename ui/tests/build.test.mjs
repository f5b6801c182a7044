// What is committed is what the sources give, each time the same; and the first page is small.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { build } from 'vite';
import { DIST } from './browser.mjs';

const files = (folder) => readdirSync(folder, { recursive: true, withFileTypes: true }).filter((one) => one.isFile()).map((one) => join(one.parentPath, one.name).slice(folder.length)).sort();

test('a build gives the committed files, byte by byte', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'console-'));
  t.after(() => rmSync(folder, { recursive: true }));
  await build({ root: join(DIST, '..'), logLevel: 'error', build: { outDir: folder, emptyOutDir: true } });
  assert.deepEqual(files(folder), files(DIST));
  for (const name of files(DIST)) assert.ok(readFileSync(folder + name).equals(readFileSync(DIST + name)), `${name} differs: run npm run build`);
});

test('the overview with its charts loads at most 60 kB', () => {
  const seen = new Set();
  const load = (name) => {
    if (seen.has(name)) return;
    seen.add(name);
    if (!name.endsWith('.js')) return;
    for (const [, other] of readFileSync(join(DIST, 'a', name), 'utf8').matchAll(/from\s*["`']\.\/([\w.-]+\.js)["`']/g)) load(other);
  };
  for (const name of ['index.js', 'Overview.js', 'uPlot.esm.js', 'style.css']) load(name);
  const sum = [...seen].reduce((total, name) => total + gzipSync(readFileSync(join(DIST, 'a', name))).length, 0);
  assert.ok(seen.size > 4 && !seen.has('editor.js'), [...seen].join());
  assert.ok(sum <= 60_000, `${sum} bytes: ${[...seen].join(', ')}`);
});

test('no script or style is inline, as the content policy demands', () => {
  const page = readFileSync(join(DIST, 'index.html'), 'utf8');
  assert.doesNotMatch(page, /<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=|https?:/);
});
