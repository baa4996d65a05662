/** Svelte's contract of a store, in version 4 as in 5. */
export interface Readable<Value> {
  subscribe(run: (value: Value) => void): () => void;
}

/**
 * A store that begins with its first subscriber and ends with its last; on the server it never begins. Svelte's own readable() is an
 * ES module only, and this package is CommonJS, too.
 */
export function storeOf<Value>(
  unknown: Value,
  begin: (tell: (value: Value) => void) => (() => void) | undefined,
): Readable<Value> {
  const subscribers = new Set<{ run: (value: Value) => void }>();
  let value = unknown;
  let end: (() => void) | undefined;
  const tell = (now: Value) => {
    if (Object.is(now, value)) return;
    value = now;
    for (const { run } of [...subscribers]) run(value);
  };
  return {
    subscribe(run) {
      if (subscribers.size === 0 && typeof window !== "undefined") end = begin(tell);
      const subscriber = { run };
      subscribers.add(subscriber);
      run(value);
      return () => {
        if (!subscribers.delete(subscriber) || subscribers.size > 0) return;
        end?.();
        end = undefined;
        value = unknown;
      };
    },
  };
}
