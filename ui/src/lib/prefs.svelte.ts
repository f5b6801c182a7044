/** What this reader prefers; kept in this browser. */
type Theme = 'system' | 'light' | 'dark';

function kept(name: string, fallback: string): string {
  try {
    return localStorage.getItem(`floodplain.${name}`) ?? fallback;
  } catch {
    return fallback;
  }
}

export function keep(name: string, value: string) {
  try {
    localStorage.setItem(`floodplain.${name}`, value);
  } catch {
    // A browser that keeps nothing still works, it only forgets.
  }
}

export { kept };

const system = matchMedia('(prefers-color-scheme: dark)');

class Prefs {
  theme = $state(kept('theme', 'system') as Theme);
  utc = $state(kept('time', 'local') === 'utc');
  #systemDark = $state(system.matches);
  dark = $derived(this.theme === 'dark' || (this.theme === 'system' && this.#systemDark));

  constructor() {
    system.addEventListener('change', (event) => (this.#systemDark = event.matches));
  }

  setTheme(theme: Theme) {
    this.theme = theme;
    keep('theme', theme);
  }

  setUtc(utc: boolean) {
    this.utc = utc;
    keep('time', utc ? 'utc' : 'local');
  }
}

export const prefs = new Prefs();
