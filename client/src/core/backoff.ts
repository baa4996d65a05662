/**
 * How long to wait before try number `attempt` (1, 2, 3 …): doubles up to `max`, and a random half of it is
 * taken off, so that ten thousand pages cut off by the same fault do not return in the same instant.
 */
export function backoff(attempt: number, base: number, max: number): number {
  const ceiling = Math.min(max, base * 2 ** Math.min(attempt - 1, 30));
  return ceiling / 2 + (ceiling / 2) * Math.random();
}
