// Answers the HTTP contract of Floodplain with a fleet that moves, so that the console can be written and tested without the server.
import { createServer } from 'node:http';
import { readFileSync, existsSync, statSync } from 'node:fs';
import { extname, join, normalize } from 'node:path';
import { TABLES, at, devices, message, query, value } from './fleet.mjs';

const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml', '.txt': 'text/plain; charset=utf-8' };
const DEFAULT = {
  name: 'default', filter: 'devices/+/+', stream: 'telemetry', device_level: 2, table: { level: 3 }, decoder: { format: 'auto' }, time_field: null,
  key_columns: [], class: null, retention: null, dedup: null, version: 1, matched: 184_233, failed: 3, duplicates: 0, builtin: true, source: 'builtin',
};

export function mock({ claimed = false, empty = false, pumps = 0 } = {}) {
  const open = new Set();
  const hour = (n) => at(Date.now() - n * 3_600_000);
  const users = claimed ? [{ user: 'anna', password: 'correct horse battery', role: 'admin', created: hour(400), last_login: hour(2) }] : [];
  let tokens = [{ id: 't-1', name: 'grafana', role: 'viewer', created: hour(300), last_used: hour(0.1), expires: null }];
  let signedIn = null;
  const bindings = [DEFAULT, {
    ...DEFAULT, name: 'cooling-units', filter: 'plants/+/cooling/+', device_level: 4, table: { name: 'cooling' }, decoder: { format: 'json' },
    time_field: 'ts', version: 3, matched: 20_412, failed: 17, duplicates: 41, retention: '90d', builtin: false, source: 'api',
  }];
  const alerts = empty ? [] : [
    { name: 'oil-too-hot', kind: 'above', table: 'engine', column: 'oil', value: 102, minutes: null, devices: 'truck-*', webhook: 'http://127.0.0.1:9000/hook', enabled: true },
    { name: 'truck-silent', kind: 'silent', table: null, column: null, value: null, minutes: 5, devices: null, webhook: null, enabled: true },
  ];
  const jobs = [];
  const letters = empty ? [] : Array.from({ length: 42 }, (_, n) => {
    const reason = ['expected a value', 'unknown escape', 'checksum differs'][n % 3];
    const payload = ['{"ts":"2026-11-26T11:05:07Z","cargo_c":}', '{"driver":"Jo\\xnas"}', null][n % 3];
    return {
      id: `d-${n}`, time: at(Date.now() - n * 71_000), kind: 'decode', stage: n % 3 === 2 ? 'struct' : 'json', reason, binding: 'cooling-units',
      topic: `plants/ulm/cooling/trailer-${String(6 * (n + 1)).padStart(3, '0')}`, device: `trailer-${String(6 * (n + 1)).padStart(3, '0')}`,
      position: `telemetry/${n % 8}/0/${9000 + n}`, byte_position: [39, 13, 6][n % 3], decoder_version: 3, payload,
      payload_base64: payload ? null : 'AQIDBAUGBwg=', replayed: null,
    };
  });
  // As the server lists them: by name.
  const by = (name) => (one, other) => (one[name] < other[name] ? -1 : 1);
  const fleet = empty ? [] : devices.map((d) => ({ ...d })).sort(by('device'));
  const seen = (d) => ({
    device: d.device, connected: d.connected, last_seen: at(d.last ?? Date.now() - (d.connected ? 400 : 5_400_000)), first_seen: d.first ? at(d.first) : hour(700), address: d.address,
    protocol: d.connected ? d.protocol : null, messages: d.messages,
  });
  const started = Date.now();
  const overview = () => {
    const t = Date.now();
    const live = empty ? 0 : 1;
    const messages = live * (812 + 140 * Math.sin(t / 9000) + 60 * Math.sin(t / 1700));
    return {
      time: at(t), uptime_seconds: Math.round((t - started) / 1000) + 262_000, version: '0.1.0', workers: 2, mqtt_address: '127.0.0.1:18830',
      ack: { class: 'all', says: 'A PUBACK is sent after fdatasync: the message survives a power cut.' },
      connections: fleet.filter((d) => d.connected).length, sessions: fleet.length, devices: fleet.length, topics: fleet.length * 2, subscriptions: live * 33,
      in: { messages_per_second: messages, bytes_per_second: messages * 148 },
      out: { messages_per_second: messages * 0.42, bytes_per_second: messages * 62 }, rows_per_second: messages * 0.98,
      messages_total: live * 18_422_912, dropped_total: 0, dlq_total: letters.length, sync: { p50_ms: 1.2 + 0.2 * Math.sin(t / 4000), p99_ms: 4.1 },
      decode_lag_ms: live * 3, disk: { data_dir: '/var/lib/floodplain', free_bytes: 182e9, total_bytes: 256e9, log_bytes: 9.4e9, history_bytes: 3.1e9 },
      log: { poisoned: null }, alerts_firing: firing(alerts[0] ?? {}).length,
    };
  };
  /** A message makes its device known, as in the server. */
  function publish(topic) {
    const [, device = 'http', table = 'messages'] = topic.split('/');
    let found = fleet.find((d) => d.device === device);
    if (!found) fleet.push(found = { device, connected: false, address: null, protocol: null, messages: 0, tables: [], n: fleet.length, first: Date.now() });
    found.messages += 1;
    found.last = Date.now();
    if (!found.tables.includes(table)) found.tables.push(table);
    fleet.sort(by('device'));
  }
  for (let n = 0; n < pumps; n += 1) publish(`devices/pump-${String(n).padStart(4, '0')}/engine`);
  const matches = (pattern, device) => !pattern || new RegExp(`^${pattern.replaceAll('*', '.*')}$`).test(device);
  const current = (alert) => fleet.filter((d) => matches(alert.devices, d.device) && d.tables.includes(alert.table))
    .map((d) => ({ device: d.device, value: value(d.n, alert.column, Date.now()), time: at(Date.now()) }));
  const firing = (alert) => {
    if (alert.kind === 'silent') return fleet.filter((d) => !d.connected && matches(alert.devices, d.device)).map((d) => ({ device: d.device, value: null, time: seen(d).last_seen }));
    return current(alert).filter((d) => (alert.kind === 'above' ? d.value > alert.value : d.value < alert.value));
  };

  /** Text and JSON; of bytes that are no text it says so, as a decoder does. */
  function test({ binding, topic, payload, payload_base64 }) {
    const used = binding ?? bindings.find(({ filter }) => filterMatches(filter, topic)) ?? DEFAULT;
    const levels = topic.split('/');
    const bytes = payload_base64 ? Buffer.from(payload_base64, 'base64') : Buffer.from(payload ?? '');
    payload = bytes.toString();
    const device = levels[(used.device_level ?? 2) - 1] ?? 'unknown';
    const table = used.table.name ?? levels[used.table.level - 1] ?? 'messages';
    const answer = { binding: used.name, device, table, rows: [], failure: null };
    if (!Buffer.from(payload).equals(bytes)) {
      const byte_position = bytes.findIndex((byte) => byte > 0x7f);
      return { ...answer, failure: { stage: used.decoder.format, reason: 'the payload is no text', byte_position, line: null } };
    }
    if (used.decoder.format === 'text') {
      const name = used.decoder.column ?? 'value';
      const fields = [{ name, column: name, role: 'value', type: 'Utf8', value: payload }];
      return { ...answer, rows: [{ table, device, time: null, id: null, fields, rest: null }] };
    }
    try {
      const parsed = JSON.parse(payload);
      for (const item of Array.isArray(parsed) ? parsed : [parsed]) {
        const fields = typeof item === 'object' && item ? Object.entries(item) : [['value', item]];
        const others = fields.filter(([, v]) => typeof v === 'object');
        answer.rows.push({
          table, device, time: item?.[used.time_field ?? 'ts'] ?? null, id: used.dedup?.field ? String(item?.[used.dedup.field]) : null,
          fields: fields.filter(([name]) => name !== (used.time_field ?? 'ts')).map(([name, v]) => ({
            name, column: typeof v === 'object' ? null : name === 'device' ? 'device_field' : name, role: used.key_columns.includes(name) ? 'key' : 'value', type: { number: 'Float64', boolean: 'Boolean' }[typeof v] ?? 'Utf8',
            value: typeof v === 'object' ? JSON.stringify(v) : v,
          })),
          rest: others.length ? Object.fromEntries(others) : null,
        });
      }
    } catch (error) {
      // The engine names the place or the letter, depending on its version and on the mistake.
      const token = String(error.message).match(/token '?(.)'?[ ,]/u)?.[1];
      const position = Number(String(error.message).match(/position (\d+)/)?.[1] ?? (token ? payload.indexOf(token) : payload.length));
      const reason = payload ? 'expected a value' : 'the payload is empty';
      answer.failure = { stage: 'json', reason, byte_position: Buffer.byteLength(payload.slice(0, position)), line: null };
    }
    return answer;
  }

  function topics(prefix, search) {
    const all = fleet.flatMap((d) => d.tables.map((table) => ({ topic: `devices/${d.device}/${table}`, d }))).sort(by('topic'));
    const entry = (topic, name, list, children) => ({
      name, topic, messages: list.reduce((sum, { d }) => sum + Math.floor(d.messages / 2), 0), children, retained: children === 0 && list[0].d.n % 5 === 0,
      last_received: seen(list[0].d).last_seen, last_device: list[0].d.device, bytes: list.reduce((sum, { d }) => sum + d.messages * 74, 0),
    });
    if (search) return all.filter(({ topic }) => topic.includes(search)).map((one) => entry(one.topic, one.topic, [one], 0));
    const start = prefix ? `${prefix}/` : '';
    const level = new Map();
    for (const one of all.filter(({ topic }) => topic.startsWith(start))) {
      const name = one.topic.slice(start.length).split('/')[0];
      level.set(name, [...(level.get(name) ?? []), one]);
    }
    return [...level].map(([name, list]) => {
      const topic = start + name;
      return entry(topic, name, list, list[0].topic === topic ? 0 : new Set(list.map((one) => one.topic.slice(topic.length + 1).split('/')[0])).size);
    });
  }

  function events(response, every, write) {
    response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' });
    write();
    const timer = setInterval(write, every);
    open.add(timer);
    response.on('close', () => { clearInterval(timer); open.delete(timer); });
  }

  const filterMatches = (filter, topic) => {
    const [f, t] = [filter.split('/'), topic.split('/')];
    for (let i = 0; i < f.length; i += 1) {
      if (f[i] === '#') return true;
      if (i >= t.length || (f[i] !== '+' && f[i] !== t[i])) return false;
    }
    return f.length === t.length;
  };

  async function answer(request, response) {
    const url = new URL(request.url, 'http://localhost');
    const path = url.pathname.slice(url.pathname.indexOf('/api/v1/') + 8).split('/').map(decodeURIComponent);
    const ask = (name) => url.searchParams.get(name) ?? '';
    let raw = '';
    for await (const part of request) raw += part;
    const body = () => JSON.parse(raw);
    const send = (status, value) => {
      response.writeHead(status, { 'Content-Type': status < 400 ? 'application/json' : 'application/problem+json', 'Cache-Control': 'no-store' });
      response.end(value === undefined ? undefined : JSON.stringify(value));
    };
    const fail = (status, code, detail, more) => send(status, { type: `urn:floodplain:problem:${code}`, title: code, status, detail, code, ...more });
    const done = () => { response.writeHead(204); response.end(); };
    const limit = Number(ask('limit') || 100);
    const page = (name, list, more) => {
      const from = Number(ask('after') || 0);
      send(200, { [name]: list.slice(from, from + limit), next: from + limit < list.length ? String(from + limit) : null, ...more });
    };
    /** What is listed by name goes on behind a name. */
    const pageByName = (name, list, key, more) => {
      const rest = list.filter((item) => !ask('after') || item[key] > ask('after'));
      send(200, { [name]: rest.slice(0, limit), next: rest.length > limit ? rest[limit - 1][key] : null, ...more });
    };
    const [one, two, three] = path;
    const route = `${request.method} ${one}${two === undefined ? '' : '/'}`;
    const role = users.length ? (signedIn?.role ?? null) : 'admin';
    const free = ['me', 'login', 'setup'].includes(one);
    if (!role && !free) return fail(401, 'login_needed', 'Log in first.');
    const index = (list) => list.findIndex((item) => item.name === two);
    const put = (list, item) => { if (index(list) < 0) list.push(item); else list[index(list)] = item; };
    switch (route) {
      case 'GET me': return send(200, { user: signedIn?.user ?? null, role, claimed: users.length > 0, version: '0.1.0' });
      case 'POST login': {
        signedIn = users.find((user) => user.user === body().user && user.password === body().password) ?? null;
        return signedIn ? done() : fail(401, 'login_failed', 'User or password is wrong.');
      }
      case 'POST logout': signedIn = null; return done();
      case 'POST setup': {
        const { token, user, password } = body();
        if (users.length) return fail(409, 'setup_done', 'A first user exists already: log in.');
        if (token !== 'one-time') return fail(403, 'setup_token_wrong', 'The setup link is not valid; the server prints a new one when it starts.');
        if (password.length < 10) return fail(422, 'password_weak', 'The password needs at least 10 characters.');
        users.push(signedIn = { user, password, role: 'admin', created: at(Date.now()), last_login: at(Date.now()) });
        return done();
      }
      case 'GET users': return send(200, { users: users.map(({ password, ...user }) => user) });
      case 'POST users': users.push({ ...body(), created: at(Date.now()), last_login: null }); return send(201, {});
      case 'PATCH users/': Object.assign(users.find((user) => user.user === two), body()); return done();
      case 'DELETE users/': users.splice(users.findIndex((user) => user.user === two), 1); return done();
      case 'GET tokens': return send(200, { tokens });
      case 'POST tokens': {
        const id = `t-${tokens.length + 1}`;
        tokens.push({ id, expires: null, ...body(), created: at(Date.now()), last_used: null });
        return send(201, { id, token: 'fp_3kQv9ZtX0aYw71dLmR2sUe' });
      }
      case 'DELETE tokens/': tokens = tokens.filter(({ id }) => id !== two); return done();
      case 'GET overview':
        if (!url.searchParams.has('follow')) return send(200, overview());
        return events(response, 1000, () => response.write(`data: ${JSON.stringify(overview())}\n\n`));
      case 'GET devices': {
        const list = fleet.filter((d) => d.device.includes(ask('search')) && (!ask('connected') || String(d.connected) === ask('connected')));
        return pageByName('devices', list.map(seen), 'device', { total: ask('after') ? null : list.length });
      }
      case 'GET devices/': {
        const d = fleet.find(({ device }) => device === two);
        if (!d) return fail(404, 'device_unknown', `No device ${two} has been seen.`);
        const now = Date.now();
        if (three === 'messages') return send(200, { messages: Array.from({ length: 20 }, (_, n) => message(d, d.tables[n % 2], now - n * 900)) });
        if (three === 'events') {
          const kinds = [['subscribed', 'commands/# at QoS 1'], ['connected', `${d.protocol} from ${d.address}, session resumed`], ['disconnected', 'keep-alive timed out after 90 s'], ['connected', `${d.protocol}, new session`]];
          return send(200, { events: kinds.map(([kind, detail], n) => ({ time: at(now - (n + 1) * 1_700_000), kind, detail })) });
        }
        return send(200, {
          ...seen(d),
          tables: d.tables, latest: d.tables.map((table) => ({ table, columns: Object.entries(TABLES[table] ?? {}).map(([name, type]) => ({ name, type, time: at(now - 500), value: value(d.n, name, now) })) })),
          session: { client_id: d.device, lasting: true, expiry_seconds: 3600, subscriptions: [{ filter: `commands/${d.device}/#`, qos: 1 }] },
        });
      }
      case 'GET topics': return pageByName('topics', topics(ask('prefix'), ask('search')), 'name', { complete: true, unlisted_messages: 0 });
      case 'GET topics/': {
        const filter = path.slice(1).join('/');
        let n = 0;
        return events(response, 250, () => {
          const d = fleet.find((one) => one.n === (n * 7) % fleet.length);
          for (const table of d?.tables ?? []) {
            const item = message(d, table);
            if (filterMatches(filter, item.topic)) response.write(`event: message\ndata: ${JSON.stringify(item)}\n\n`);
          }
          n += 1;
          if (n === 9) response.write('event: skipped\ndata: {"count": 17}\n\n');
        });
      }
      case 'POST topics/': publish(path.slice(1).join('/')); return send(200, { position: 'telemetry/3/0/182' });
      case 'POST sql': {
        const result = query(body().query);
        if (result.problem) return fail(400, result.problem.code, result.problem.detail, { position: result.problem.position });
        return send(200, { ...result, row_count: result.rows.length, warnings: [], stats: { elapsed_ms: 12, bytes_read: 48_213 } });
      }
      case 'GET tables': return send(200, {
        tables: Object.entries(empty ? {} : TABLES).map(([table, columns]) => ({
          table, columns: [{ name: 'device', type: 'Utf8', role: 'key' }, { name: 'time', type: 'Timestamp', role: 'key' }, ...Object.entries(columns).map(([name, type]) => ({ name, type, role: 'value' }))],
          rows: 6_140_000, files: 12, bytes: 96e6, from: hour(700), to: at(Date.now()), overwritten_values: 0, retention: null, binding: 'default',
        })),
      });
      case 'GET bindings': return send(200, { bindings });
      case 'PUT bindings/': {
        if (!body().filter) return fail(422, 'binding_invalid', 'filter: a topic filter must not be empty');
        put(bindings, { ...body(), version: (bindings[index(bindings)]?.version ?? 0) + 1, matched: 0, failed: 0, duplicates: 0, builtin: false, source: 'api' });
        return send(200, bindings[index(bindings)]);
      }
      case 'DELETE bindings/': bindings.splice(index(bindings), 1); return done();
      case 'POST bindings/': return send(200, test(body()));
      case 'POST replay': case 'POST dlq/': {
        if (one === 'dlq') for (const letter of letters) if (!body().ids || body().ids.includes(letter.id)) letter.replayed = at(Date.now());
        jobs.unshift({ job: `r-${jobs.length + 1}`, state: 'done', records: 42, total: 42, rows: 41, failed: 1, started: at(Date.now()), ended: at(Date.now()) });
        return send(202, { job: jobs[0].job });
      }
      case 'GET replay': return send(200, { jobs });
      case 'GET dlq': {
        const counts = Object.entries(Object.groupBy?.(letters, ({ reason }) => reason) ?? letters.reduce((all, l) => ({ ...all, [l.reason]: [...(all[l.reason] ?? []), l] }), {}));
        const list = letters.filter((l) => (!ask('reason') || l.reason === ask('reason')) && (!ask('binding') || l.binding === ask('binding')));
        return page('entries', list, { counts: counts.map(([reason, { length }]) => ({ reason, count: length })) });
      }
      case 'GET alerts': return send(200, {
        alerts: alerts.map((alert) => ({
          ...alert, origin: 'api', firing_count: alert.enabled ? firing(alert).length : 0, firing: alert.enabled ? firing(alert).map(({ device, value, time }) => ({ device, since: time, value })) : [], fired_total: 41,
          last_webhook: alert.webhook ? { time: hour(0.2), status: 200, error: null } : null,
        })),
      });
      case 'PUT alerts/': put(alerts, body()); return send(200, body());
      case 'DELETE alerts/': alerts.splice(index(alerts), 1); return done();
      case 'POST alerts/': return send(200, { would_fire: firing(body()) });
      default: return fail(404, 'not_found', `${request.method} ${url.pathname}`);
    }
  }

  return {
    answer: (request, response) => answer(request, response).catch((error) => { response.statusCode = 500; response.end(String(error.stack)); }),
    close: () => open.forEach(clearInterval),
  };
}

/** Serves the built console and the mock as the server does: strict content policy, under `path`, on a free port by default. */
export async function serve(folder, { port = 0, path = '/', ...options } = {}) {
  const fleet = mock(options);
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url, 'http://localhost');
    if (!pathname.startsWith(path)) { response.statusCode = 404; return response.end(); }
    if (pathname.startsWith(`${path}api/v1/`)) return fleet.answer(request, response);
    const wanted = normalize(decodeURIComponent(pathname.slice(path.length))) || '.';
    let file = join(folder, wanted);
    if (!file.startsWith(folder) || !existsSync(file) || statSync(file).isDirectory()) file = join(folder, 'index.html');
    response.writeHead(200, {
      'Content-Type': TYPES[extname(file)] ?? 'application/octet-stream', 'X-Content-Type-Options': 'nosniff', 'Referrer-Policy': 'no-referrer',
      'Content-Security-Policy': "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    });
    response.end(readFileSync(file));
  });
  await new Promise((listening) => server.listen(port, '127.0.0.1', listening));
  return {
    url: `http://127.0.0.1:${server.address().port}${path}`,
    close: () => new Promise((closed) => { fleet.close(); server.close(closed); server.closeAllConnections(); }),
  };
}
