// A fleet that moves: what the mock server knows about devices, topics, tables and values. Values are functions of device and time,
// so that a chart, a table and a live message of one moment agree.

export const TABLES = {
  engine: { rpm: 'Float64', oil: 'Float64', load: 'Float64', gear: 'Int64' },
  track: { lat: 'Float64', lon: 'Float64', speed: 'Float64', driver: 'Utf8' },
  cooling: { n: 'Int64', cargo_c: 'Float64', setpoint_c: 'Float64', door_open: 'Boolean' },
};

export const devices = Array.from({ length: 240 }, (_, n) => {
  const kind = n % 6 === 5 ? 'trailer' : 'truck';
  return {
    device: `${kind}-${String(n + 1).padStart(3, '0')}`,
    connected: n % 11 !== 7,
    address: n % 11 === 7 ? null : `10.20.${n % 7}.${(n * 37) % 250}:${40000 + n * 13}`,
    protocol: n % 4 ? 'MQTT 5.0' : 'MQTT 3.1.1',
    messages: 1200 + ((n * 7919) % 90000),
    tables: kind === 'trailer' ? ['cooling', 'track'] : ['engine', 'track'],
    n,
  };
});

const wave = (t, period, phase) => Math.sin((2 * Math.PI * t) / period + phase);

/** The value of a column of a device at `t` milliseconds. */
export function value(n, column, t) {
  const s = t / 1000;
  switch (column) {
    case 'rpm': return Math.round(1500 + 420 * wave(s, 95, n) + 130 * wave(s, 17, n * 3) + 25 * wave(s, 3.1, n));
    case 'oil': return +(92 + 11 * wave(s, 600, n) + 1.5 * wave(s, 23, n)).toFixed(1);
    case 'load': return +(0.55 + 0.35 * wave(s, 140, n * 2)).toFixed(3);
    case 'gear': return 1 + Math.round(4 + 3.4 * wave(s, 95, n));
    case 'lat': return +(48.1 + (n % 40) * 0.07 + 0.05 * wave(s, 1800, n)).toFixed(5);
    case 'lon': return +(11.5 + (n % 23) * 0.09 + 0.05 * wave(s, 1500, n)).toFixed(5);
    case 'speed': return +Math.max(0, 62 + 27 * wave(s, 210, n) + 4 * wave(s, 13, n)).toFixed(1);
    case 'driver': return ['Anna Reiter', 'Jonas Wolf', 'Mira Kaya', 'Piotr Nowak'][n % 4];
    case 'n': return Math.floor(s) % 1e6;
    case 'cargo_c': return +(-18 + 1.2 * wave(s, 900, n) + 0.2 * wave(s, 31, n)).toFixed(2);
    case 'setpoint_c': return -18;
    case 'door_open': return wave(s, 1200, n) > 0.97;
    default: return null;
  }
}

export const at = (t) => new Date(t).toISOString().replace('Z', '000Z');

let offset = 182_000;
export function message(device, table, t = Date.now()) {
  const fields = Object.keys(TABLES[table] ?? {}).map((column) => [column, value(device.n, column, t)]);
  const payload = JSON.stringify({ ts: at(t), ...Object.fromEntries(fields) });
  offset += 1;
  return {
    position: `telemetry/${device.n % 8}/0/${offset}`, topic: `devices/${device.device}/${table}`, device: device.device, received: at(t + 4),
    qos: 1, retain: false, content_type: 'application/json', user_properties: [['firmware', '4.2.1']], payload, payload_base64: null,
    size: payload.length,
  };
}

/** Rows for the shapes of queries that the console and its reader ask in development. No SQL engine. */
export function query(sql) {
  const text = sql.trim().replace(/;$/, '');
  const fail = (code, word, detail) => {
    const before = sql.slice(0, Math.max(0, sql.indexOf(word))).split('\n');
    return { problem: { code, detail, position: { line: before.length, column: before.at(-1).length + 1 } } };
  };
  const first = text.split(/\s+/)[0];
  if (!/^(select|with|explain|show|describe)$/i.test(first)) {
    return fail('sql_syntax', first, `Expected a statement, found: ${first}`);
  }
  const from = text.match(/\bfrom\s+(latest\(')?"?([a-z_]+)"?/i);
  if (!from) return { columns: [{ name: 'answer', type: 'Int64' }], rows: [{ answer: 42 }] };
  const table = from[2];
  if (table === 'information_schema') {
    const all = { ...TABLES, devices: { device: 'Utf8', connected: 'Boolean', messages: 'Int64' }, records: { topic: 'Utf8', payload: 'Binary' } };
    const rows = Object.entries(all).flatMap(([table_name, columns]) =>
      Object.entries(columns).map(([column_name, data_type]) => ({ table_name, column_name, data_type })));
    return { columns: ['table_name', 'column_name', 'data_type'].map((name) => ({ name, type: 'Utf8' })), rows };
  }
  if (table === 'devices') {
    const columns = ['device', 'connected', 'messages'].map((name, i) => ({ name, type: ['Utf8', 'Boolean', 'Int64'][i] }));
    return { columns, rows: devices.map(({ device, connected, messages }) => ({ device, connected, messages })) };
  }
  if (!TABLES[table]) return fail('sql_invalid', table, `table '${table}' not found; there are: ${Object.keys(TABLES).join(', ')}`);
  const named = text.match(/device\s*=\s*'([^']*)'/i)?.[1];
  const which = named ? devices.filter(({ device }) => device === named) : devices.filter((d) => d.tables.includes(table)).slice(0, 12);
  const list = text.slice(6, from.index).replace(/^\s*distinct\s/i, '').split(/,(?![^(]*\))/).map((part) => part.trim());
  const outs = list.flatMap((item) => {
    if (item === '*') return ['device', 'time', ...Object.keys(TABLES[table])].map((name) => ({ name, column: name }));
    const [expression, alias] = item.split(/\s+as\s+/i);
    const plain = (alias ?? expression).replaceAll('"', '');
    if (/^count\(/i.test(expression)) return [{ name: plain, column: '#' }];
    if (/^(date_bin|time_bucket|date_trunc)\(/i.test(expression)) return [{ name: plain, column: 'time' }];
    const inside = expression.match(/\(\s*"?([a-z_]+)"?\s*\)/i)?.[1] ?? expression.replaceAll('"', '');
    return [{ name: plain, column: inside }];
  });
  const wrong = outs.find(({ column }) => !['#', 'device', 'time', ...Object.keys(TABLES[table])].includes(column));
  if (wrong) return fail('sql_invalid', wrong.column, `no field named '${wrong.column}' in table '${table}'`);
  const unit = { second: 1, minute: 60, hour: 3600, day: 86400 };
  const span = (pattern, fallback) => {
    const found = text.match(pattern);
    return found ? Number(found[1]) * unit[found[2].toLowerCase()] : fallback;
  };
  const window = span(/now\(\)\s*-\s*interval\s*'(\d+)\s+(second|minute|hour|day)s?'/i, 300);
  const since = text.match(/time\s*>=?\s*'([^']+)'/i)?.[1];
  const step = span(/(?:date_bin|time_bucket)\(interval\s*'(\d+)\s+(second|minute|hour|day)s?'/i, 1);
  const limit = Number(text.match(/limit\s+(\d+)/i)?.[1] ?? 5000);
  const groups = /^select\s+device\b/i.test(text) && /group by\s+device/i.test(text);
  const now = Math.floor(Date.now() / 1000 / step) * step;
  const begin = since ? Date.parse(since) / 1000 : now - window;
  const rows = [];
  const type = (column) => ({ '#': 'Int64', time: 'Timestamp', device: 'Utf8' })[column] ?? TABLES[table][column];
  const row = (device, t) =>
    Object.fromEntries(outs.map(({ name, column }) => [name, column === '#' ? 300 + ((device.n * 31) % 90) : column === 'time' ? at(t * 1000) : column === 'device' ? device.device : value(device.n, column, t * 1000)]));
  if (groups) for (const device of which) rows.push(row(device, now));
  else {
    for (let t = Math.ceil(begin / step) * step; t <= now && rows.length < 20_000; t += step) for (const device of which) rows.push(row(device, t));
    if (/order by\s+\S+\s+desc/i.test(text)) rows.reverse();
  }
  return { columns: outs.map(({ name, column }) => ({ name, type: type(column) })), rows: rows.slice(0, limit) };
}
