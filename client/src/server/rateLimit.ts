/** Token buckets by key: `burst` at once, `perSecond` in the long run. Full buckets are forgotten, so memory follows who is active. */
export class RateLimit {
  #buckets = new Map<string, { tokens: number; at: number }>();
  #swept = Date.now();

  constructor(
    private readonly perSecond: number,
    private readonly burst: number,
  ) {}

  /** Milliseconds to wait; 0: go ahead. */
  take(key: string): number {
    const now = Date.now();
    this.#sweep(now);
    const bucket = this.#buckets.get(key) ?? { tokens: this.burst, at: now };
    this.#buckets.set(key, bucket);
    bucket.tokens = Math.min(this.burst, bucket.tokens + ((now - bucket.at) / 1000) * this.perSecond);
    bucket.at = now;
    if (bucket.tokens < 1) return Math.ceil(((1 - bucket.tokens) / this.perSecond) * 1000);
    bucket.tokens--;
    return 0;
  }

  #sweep(now: number): void {
    const full = (this.burst / this.perSecond) * 1000;
    if (now - this.#swept < full) return;
    this.#swept = now;
    for (const [key, bucket] of this.#buckets) if (now - bucket.at > full) this.#buckets.delete(key);
  }
}
