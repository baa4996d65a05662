/**
 * A timer for a point of the wall clock. setTimeout() stands still while the machine sleeps, so a heartbeat due
 * "in 30 s" would come 30 s after waking up. This one looks at the clock in short hops and is late by one hop at most.
 */
export class WallTimer {
  #due = 0;
  #longest = 0;
  #handle: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly action: () => void,
    private readonly hop: number,
  ) {}

  /** Calls the action once, `delay` ms from now, instead of at any time set before. */
  set(delay: number): void {
    this.#due = Date.now() + delay;
    this.#longest = delay;
    this.#arm();
  }

  clear(): void {
    clearTimeout(this.#handle);
    this.#handle = undefined;
  }

  #arm(): void {
    clearTimeout(this.#handle);
    // A clock that was set back must not push the action into the far future.
    const left = Math.min(this.#due - Date.now(), this.#longest);
    this.#due = Date.now() + left;
    this.#handle = setTimeout(() => this.#look(), Math.max(0, Math.min(left, this.hop)));
    // In Node (simulated clients, tests) a waiting heartbeat is no reason to keep the process alive.
    (this.#handle as { unref?: () => void }).unref?.();
  }

  #look(): void {
    this.#handle = undefined;
    if (Date.now() < this.#due) this.#arm();
    else this.action();
  }
}
