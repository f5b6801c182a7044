/** Where the console is: `#/page/rest?state`. All state of a view lives here, so that a link shows the same view. */
export interface Route {
  page: string;
  /** What follows the page, decoded: a device, a topic, a name. */
  rest: string;
  query: URLSearchParams;
}

function parse(): Route {
  // The one-time link of the server is `/setup#<token>`; it is the only page with a path of its own.
  if (location.pathname.endsWith('/setup') && !location.hash.startsWith('#/')) {
    return { page: 'setup', rest: '', query: new URLSearchParams({ token: location.hash.slice(1) }) };
  }
  const [path, query] = location.hash.replace(/^#\/?/, '').split('?', 2);
  const [page, ...rest] = path.split('/');
  return { page: page || 'overview', rest: rest.map(decode).join('/'), query: new URLSearchParams(query ?? '') };
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

class Router {
  now = $state.raw(parse());

  constructor() {
    addEventListener('hashchange', () => (this.now = parse()));
  }

  /** Changes parts of the state in place: no entry in the browser's history. Empty values go. */
  set(change: Record<string, string | null>) {
    const query = new URLSearchParams(this.now.query);
    for (const [name, value] of Object.entries(change)) {
      if (value) query.set(name, value);
      else query.delete(name);
    }
    history.replaceState(null, '', link(this.now.page, this.now.rest, Object.fromEntries(query)));
    this.now = parse();
  }

  go(to: string) {
    location.hash = to.slice(1);
  }
}

export const router = new Router();

export function link(page: string, rest = '', query: Record<string, string> = {}): string {
  const state = new URLSearchParams(query).toString();
  const path = rest ? `/${rest.split('/').map(encodeURIComponent).join('/')}` : '';
  return `#/${page}${path}${state ? `?${state}` : ''}`;
}
