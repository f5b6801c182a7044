// The page that server and console agree on has what the server has.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';

const read = (path) => readFileSync(new URL(path, import.meta.url), 'utf8');
const shape = (path) => path.replace(/\{[^}]*\}/g, '{}');
const page = read('../api.md');
const openapi = JSON.parse(read('../../crates/floodplain-api/openapi.json'));

test('the contract names each kind of event, and no other', () => {
  const [, said] = page.match(/"kind":"([^"]*)","detail"/);
  assert.deepEqual(said.split('|').sort(), [...openapi.components.schemas.DeviceEvent.properties.kind.enum].sort());
});

test('the contract names each request of the served OpenAPI, and no other', () => {
  const said = [...page.matchAll(/`(GET|POST|PUT|PATCH|DELETE)\s+([\w./{}-]+)/g)].map(([, method, path]) => `${method} ${shape(path)}`);
  const served = Object.entries(openapi.paths)
    .filter(([path]) => path.startsWith('/api/v1/'))
    .flatMap(([path, methods]) => Object.keys(methods).map((method) => `${method.toUpperCase()} ${shape(path.slice('/api/v1/'.length))}`))
    .filter((request) => /^(GET|POST|PUT|PATCH|DELETE) /.test(request));
  assert.deepEqual([...new Set(said)].sort(), served.sort());
});
