/** The HTTP contract of Floodplain, `/api/v1`, typed. Nothing else in the console speaks to the server. */

export type Role = 'viewer' | 'editor' | 'admin';
export interface Me { user: string | null; role: Role | null; claimed: boolean; version: string }
export interface User { user: string; role: Role; created: string; last_login: string | null }
export interface Token { id: string; name: string; role: Role; created: string; last_used: string | null; expires: string | null }

interface Rate { messages_per_second: number; bytes_per_second: number }
export interface Overview {
  time: string; uptime_seconds: number; version: string; workers: number; mqtt_address: string;
  ack: { class: 'all' | 'leader' | 'none'; says: string };
  connections: number; sessions: number | null; devices: number | null; topics: number | null; subscriptions: number | null;
  in: Rate; out: Rate; rows_per_second: number;
  messages_total: number; dropped_total: number; dlq_total: number;
  sync: { p50_ms: number | null; p99_ms: number | null }; decode_lag_ms: number;
  disk: { data_dir: string; free_bytes: number; total_bytes: number; log_bytes: number; history_bytes: number };
  log: { poisoned: string | null }; alerts_firing: number | null;
}

export interface DeviceRow {
  device: string; connected: boolean; last_seen: string | null; first_seen: string | null; address: string | null;
  protocol: string | null; messages: number;
}
export interface Latest { table: string; columns: { name: string; type: string; time: string; value: unknown }[] }
export interface Session {
  client_id: string; lasting: boolean; expiry_seconds: number | null;
  subscriptions: { filter: string; qos: number }[]; subscriptions_count?: number;
}
export interface Device extends DeviceRow { tables: string[]; latest: Latest[]; session: Session | null }
export interface DeviceEvent { time: string; kind: string; detail: string }
export interface Message {
  position: string; topic: string; device: string; received: string; qos: number; retain: boolean; content_type: string | null;
  user_properties: [string, string][]; payload: string | null; payload_base64: string | null; size: number;
}
export interface Topic {
  name: string; topic: string; messages: number; children: number; retained: boolean; last_received: string | null;
  last_device: string | null; bytes: number;
}

export interface Column { name: string; type: string }
export interface Answer { columns: Column[]; rows: unknown[][]; warnings: string[]; stats: Record<string, unknown> }
export interface Table {
  table: string; columns: (Column & { role: 'value' | 'key' | 'attribute' | 'system' })[]; rows: number; files: number; bytes: number;
  from: string | null; to: string | null; overwritten_values: number; retention: string | null; retention_source: 'table' | 'config' | 'binding' | null; binding: string;
}

export interface Decoder { format: string; [option: string]: unknown }
export interface BindingDraft {
  name: string; filter: string; stream: string; device_level: number | null; table: { level: number } | { name: string };
  decoder: Decoder; time_field: string | null; key_columns: string[]; class: string | null; retention: string | null;
  dedup: { property?: string; field?: string; window?: string } | null;
}
export interface Binding extends BindingDraft { version: number; matched: number; failed: number; duplicates: number; builtin: boolean; source: 'builtin' | 'config' | 'api' }
/** A message that is not sent, only decoded; one of the two payloads. */
export interface Sample {
  topic: string; device?: string; payload: string | null; payload_base64: string | null; content_type?: string | null;
  user_properties?: [string, string][];
}
/** `column` is the one of the table that takes it; null: it goes to `_rest`. */
export interface Field { name: string; role: string; column: string | null; type: string; value: unknown }
export interface Tested {
  binding: string; device: string; table: string | null;
  rows: { table: string; device: string; time: string | null; id: string | null; fields: Field[]; rest: Record<string, unknown> | null }[];
  failure: { stage: string; reason: string; byte_position: number | null; line: number | null } | null;
}
export interface Job {
  job: string; state: 'running' | 'done' | 'failed'; records: number; total: number; rows: number; failed: number;
  started: string; ended: string | null;
}
export interface DeadLetter {
  id: string; time: string; kind: 'decode' | 'session'; stage: string | null; reason: string; binding: string | null; topic: string | null;
  device: string | null; position: string; byte_position: number | null; decoder_version: string | null;
  payload: string | null; payload_base64: string | null; replayed: string | null;
}

export interface AlertRule {
  name: string; kind: 'silent' | 'above' | 'below'; table: string | null; column: string | null; value: number | null;
  minutes: number | null; devices: string | null; webhook: string | null; enabled: boolean;
}
export interface Alert extends AlertRule {
  origin: 'api' | 'config'; firing_count: number; firing: { device: string; since: string; value: number | null }[]; fired_total: number;
  last_webhook: { time: string; status: number | null; error: string | null } | null;
}
export type Paged<Name extends string, T> = Record<Name, T[]> & { next: string | null; total?: number };

/** An error as the server explains it (RFC 9457). */
export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly position: { line: number; column: number } | null = null,
  ) {
    super(message);
  }
}

/** The console's own folder: it also works under a sub-path. */
export const base = new URL('.', document.baseURI);
const at = (path: string) => new URL(`api/v1/${path}`, base);
const segment = encodeURIComponent;
/** A topic or filter as a path: `/` stays, wildcards are percent-encoded. */
export const topicPath = (topic: string) => topic.split('/').map(encodeURIComponent).join('/');

/** Called when the server wants a login. */
export const onUnauthorized = { call: () => {} };

/** Whole numbers beyond 2^53 keep their digits: they become texts. */
function parse(text: string): unknown {
  if (!/\d{16}/.test(text)) return JSON.parse(text);
  const reviver = (_key: string, value: unknown, context?: { source?: string }) =>
    typeof value === 'number' && Number.isInteger(value) && !Number.isSafeInteger(value) && context?.source ? context.source : value;
  return JSON.parse(text, reviver as (key: string, value: unknown) => unknown);
}

async function call<T>(method: string, path: string, body?: unknown, init: RequestInit = {}): Promise<T> {
  const headers = new Headers(init.headers);
  if (body !== undefined && !headers.has('Content-Type')) {
    headers.set('Content-Type', 'application/json');
    body = JSON.stringify(body);
  }
  let response: Response;
  try {
    response = await fetch(at(path), { ...init, method, headers, body: body as BodyInit, credentials: 'same-origin' });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new Problem(0, 'unreachable', 'The server does not answer.');
  }
  const text = await response.text();
  if (response.ok) return (text ? parse(text) : undefined) as T;
  const isLogin = path === 'login' || path === 'setup';
  if (response.status === 401 && !isLogin) onUnauthorized.call();
  let problem: { code?: string; title?: string; detail?: string; position?: { line: number; column: number } } = {};
  try {
    problem = JSON.parse(text);
  } catch {
    problem.detail = text.slice(0, 300);
  }
  const message = problem.detail || problem.title || `HTTP ${response.status}`;
  throw new Problem(response.status, problem.code ?? `http_${response.status}`, message, problem.position ?? null);
}

function query(values: Record<string, string | number | boolean | null | undefined>): string {
  const set = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== '');
  return set.length ? `?${new URLSearchParams(set.map(([name, value]) => [name, String(value)]))}` : '';
}

/** Runs one SQL query. Rows come as objects by column name; here they become arrays in the order of the columns. */
async function sql(text: string, signal?: AbortSignal): Promise<Answer> {
  type Wire = {
    columns: Column[]; rows: Record<string, unknown>[]; warnings?: string[];
    stats?: Record<string, unknown>; error?: { code: string; detail: string };
  };
  const wire = await call<Wire>('POST', 'sql', { query: text, format: 'json' }, { signal });
  // An error that comes after rows were sent is at the end of the answer: the rows so far are not all.
  if (wire.error) throw new Problem(200, wire.error.code, wire.error.detail);
  const rows = wire.rows.map((row) => wire.columns.map(({ name }) => row[name]));
  return { columns: wire.columns, rows, warnings: wire.warnings ?? [], stats: wire.stats ?? {} };
}

export const api = {
  me: () => call<Me>('GET', 'me'),
  setup: (token: string, user: string, password: string) => call<void>('POST', 'setup', { token, user, password }),
  login: (user: string, password: string) => call<void>('POST', 'login', { user, password }),
  logout: () => call<void>('POST', 'logout'),
  users: () => call<{ users: User[] }>('GET', 'users'),
  addUser: (user: string, password: string, role: Role) => call<void>('POST', 'users', { user, password, role }),
  changeUser: (user: string, change: { role?: Role; password?: string }) => call<void>('PATCH', `users/${segment(user)}`, change),
  deleteUser: (user: string) => call<void>('DELETE', `users/${segment(user)}`),
  tokens: () => call<{ tokens: Token[] }>('GET', 'tokens'),
  addToken: (name: string, role: Role, expires: string | null) =>
    call<{ id: string; token: string }>('POST', 'tokens', expires ? { name, role, expires } : { name, role }),
  deleteToken: (id: string) => call<void>('DELETE', `tokens/${segment(id)}`),

  overview: () => call<Overview>('GET', 'overview'),
  devices: (search: string, connected: string, after: string | null, signal?: AbortSignal) =>
    call<Paged<'devices', DeviceRow>>('GET', `devices${query({ search, connected, after, limit: 500 })}`, undefined, { signal }),
  device: (device: string, signal?: AbortSignal) => call<Device>('GET', `devices/${segment(device)}`, undefined, { signal }),
  deviceMessages: (device: string, signal?: AbortSignal) =>
    call<{ messages: Message[] }>('GET', `devices/${segment(device)}/messages?limit=50`, undefined, { signal }),
  deviceEvents: (device: string, signal?: AbortSignal) =>
    call<{ events: DeviceEvent[] }>('GET', `devices/${segment(device)}/events?limit=100`, undefined, { signal }),

  /** Below `prefix`, which may be the empty topic; without one, the first level. */
  topics: (prefix: string | null, search: string, after: string | null = null, signal?: AbortSignal) =>
    call<Paged<'topics', Topic> & { complete: boolean; unlisted_messages: number }>(
      'GET', `topics${query({ search, after, limit: 500 })}${prefix === null ? '' : `&prefix=${encodeURIComponent(prefix)}`}`, undefined, { signal },
    ),
  publish: (topic: string, payload: string, contentType: string, qos: number, retain: boolean) =>
    call<{ position: string }>('POST', `topics/${topicPath(topic)}?qos=${qos}&retain=${retain}`, payload, {
      headers: { 'Content-Type': contentType },
    }),

  sql,
  tables: () => call<{ tables: Table[] }>('GET', 'tables'),
  bindings: () => call<{ bindings: Binding[] }>('GET', 'bindings'),
  putBinding: (binding: BindingDraft) => call<Binding>('PUT', `bindings/${segment(binding.name)}`, binding),
  deleteBinding: (name: string) => call<void>('DELETE', `bindings/${segment(name)}`),
  /** Without a binding it goes by those of now. */
  testBinding: (binding: BindingDraft | null, sample: Sample, signal?: AbortSignal) =>
    call<Tested>('POST', 'bindings/test', { binding, ...sample }, { signal }),
  /** From all streams: a binding that names one has topics whose earlier messages are in others. */
  replay: (binding: string) => call<{ job: string }>('POST', 'replay', { binding, stream: null, from: null, to: null }),
  jobs: () => call<{ jobs: Job[] }>('GET', 'replay'),
  deadLetters: (reason: string, binding: string, after: string | null) =>
    call<Paged<'entries', DeadLetter> & { counts: { reason: string; count: number }[] }>('GET', `dlq${query({ reason, binding, after })}`),
  replayDeadLetters: (ids: string[] | null, reason?: string) =>
    call<{ job: string }>('POST', 'dlq/replay', reason ? { ids, reason } : { ids }),

  alerts: () => call<{ alerts: Alert[] }>('GET', 'alerts'),
  putAlert: (alert: AlertRule) => call<void>('PUT', `alerts/${segment(alert.name)}`, alert),
  deleteAlert: (name: string) => call<void>('DELETE', `alerts/${segment(name)}`),
  testAlert: (alert: AlertRule) =>
    call<{ would_fire: { device: string; value: number | null; time: string | null }[] }>('POST', 'alerts/test', alert),
};

/** How long after a refused stream the next try comes. */
const RETRY_MS = 2000;

/**
 * Follows server-sent events until the returned function is called. The browser itself reconnects what breaks; what the
 * server refuses (overload, a session that ended) it gives up, so that is tried again here, or leads to the login.
 */
export function follow(path: string, on: Record<string, (data: never) => void>, state: (open: boolean) => void = () => {}): () => void {
  let source: EventSource;
  let timer = 0;
  let gone = false;

  function refused() {
    const again = () => {
      if (!gone) timer = window.setTimeout(open, RETRY_MS);
    };
    api.me().then((me) => (me.claimed && !me.role ? onUnauthorized.call() : again()), again);
  }

  function open() {
    source = new EventSource(at(path));
    source.onopen = () => state(true);
    source.onerror = () => {
      if (gone) return;
      state(false);
      if (source.readyState === EventSource.CLOSED) refused();
    };
    for (const [name, handle] of Object.entries(on)) {
      source.addEventListener(name, (event) => handle(parse((event as MessageEvent<string>).data) as never));
    }
  }
  open();
  return () => {
    gone = true;
    clearTimeout(timer);
    source.close();
  };
}
