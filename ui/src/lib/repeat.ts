import { untrack } from 'svelte';

/** Between two looks at what changes by itself. */
const EVERY_MS = 2000;
/** A server that is slow is left alone for so many times what its answer took. */
const REST = 5;

/**
 * Calls `load` now, and again a while after it has ended, as long as the page is seen; until the returned function is called, which
 * also aborts the signal. What `load` reads does not make an effect run anew; it may answer how long the next pause is.
 */
export function repeat(load: (stop: AbortSignal) => Promise<number | void>, failed: (reason: unknown) => void, every = EVERY_MS): () => void {
  const stop = new AbortController();
  let timer = 0;

  async function run() {
    const begin = performance.now();
    let pause: number | void = undefined;
    try {
      pause = await load(stop.signal);
    } catch (reason) {
      if (!stop.signal.aborted) failed(reason);
    }
    const rest = REST * (performance.now() - begin);
    if (!stop.signal.aborted) timer = window.setTimeout(next, Math.max(pause ?? every, rest));
  }
  function next() {
    if (document.hidden) document.addEventListener('visibilitychange', next, { once: true, signal: stop.signal });
    else void run();
  }
  void untrack(run);
  return () => {
    stop.abort();
    clearTimeout(timer);
  };
}
