import { prefs } from './prefs.svelte';

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat('en', { maximumFractionDigits: 1, notation: 'compact' });

export const count = (value: number | null) => (value === null ? '–' : whole.format(value));
export const compact = (value: number) => (Math.abs(value) < 10_000 ? whole.format(value) : short.format(value));
export const rate = (value: number) => (value > 0 && value < 10 ? value.toFixed(1) : compact(value));

export function bytes(value: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${value < 10 && unit > 0 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

const pad = (value: number, digits = 2) => String(value).padStart(digits, '0');

/** A time as the reader wants it: UTC or local, with milliseconds; the date only where it is not today's. */
export function time(text: string | number | null | undefined, full = false): string {
  if (text === null || text === undefined) return '–';
  const date = new Date(text);
  if (Number.isNaN(date.getTime())) return String(text);
  const get = prefs.utc
    ? [date.getUTCFullYear(), date.getUTCMonth() + 1, date.getUTCDate(), date.getUTCHours(), date.getUTCMinutes(), date.getUTCSeconds()]
    : [date.getFullYear(), date.getMonth() + 1, date.getDate(), date.getHours(), date.getMinutes(), date.getSeconds()];
  const [year, month, day, hour, minute, second] = get;
  const today = new Date();
  const isToday = prefs.utc
    ? today.toISOString().slice(0, 10) === date.toISOString().slice(0, 10)
    : today.toDateString() === date.toDateString();
  const clock = `${pad(hour)}:${pad(minute)}:${pad(second)}.${pad(date.getMilliseconds(), 3)}`;
  const zone = full ? (prefs.utc ? ' UTC' : '') : '';
  return (full || !isToday ? `${year}-${pad(month)}-${pad(day)} ` : '') + clock + zone;
}

/** The day of a time, as the reader wants it. */
export const day = (text: string) => time(text, true).slice(0, 10);

export function ago(text: string | null, now = Date.now()): string {
  if (!text) return 'never';
  const seconds = (now - new Date(text).getTime()) / 1000;
  return seconds < 1.5 ? 'just now' : `${duration(seconds)} ago`;
}

export function duration(seconds: number): string {
  seconds = Math.max(0, Math.round(seconds));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  const minutes = Math.floor((seconds % 3600) / 60);
  if (seconds < 172_800) return `${Math.floor(seconds / 3600)} h${minutes ? ` ${minutes} min` : ''}`;
  return `${Math.floor(seconds / 86_400)} d`;
}

/** A cell of a table as text. */
export function cell(value: unknown): string {
  if (value === null || value === undefined) return '';
  if (typeof value === 'object') return JSON.stringify(value);
  return String(value);
}

/** RFC 4180; NULL is an empty field, an empty text is `""`. */
export function csv(columns: string[], rows: unknown[][]): string {
  const field = (value: unknown) => {
    if (value === null || value === undefined) return '';
    const text = cell(value);
    return text === '' || /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [columns, ...rows].map((row) => row.map(field).join(',')).join('\r\n') + '\r\n';
}

export function download(name: string, type: string, text: string) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const anchor = document.createElement('a');
  anchor.href = url;
  anchor.download = name;
  anchor.click();
  URL.revokeObjectURL(url);
}

/** Whether a name comes after another where the server sorts them: by code points, not by units of UTF-16. */
export function isAfter(one: string, other: string): boolean {
  let n = 0;
  while (n < one.length && one[n] === other[n]) n += 1;
  return (one.codePointAt(n) ?? -1) > (other.codePointAt(n) ?? -1);
}

/**
 * A filter that takes these topics, of which there is at least one: what comes behind the level that is called like the device is open,
 * and so is where they differ.
 */
export function filterOf(device: string, topics: string[]): string {
  const all = topics.map((topic) => topic.split('/'));
  const length = Math.min(...all.map((levels) => levels.length));
  const common = all[0].slice(0, length).map((level, n) => (all.every((levels) => levels[n] === level) ? level : '+'));
  const own = common.indexOf(device);
  if (own >= 0) return [...common.slice(0, own + 1), '#'].join('/');
  return (all.every((levels) => levels.length === length) ? common : [...common, '#']).join('/');
}

export const quote = (name: string) => `"${name.replaceAll('"', '""')}"`;
export const text = (value: string) => `'${value.replaceAll("'", "''")}'`;
