import { backoff } from "./backoff.js";
import { PresenceError } from "./transport.js";
import { WallTimer } from "./wallTimer.js";

export interface HeartbeatLoopOptions {
  /** Milliseconds until the next heartbeat, asked after each success. */
  interval: () => number;
  send: (signal: AbortSignal) => Promise<boolean>;
  done: (result: BeatResult) => void;
  retryBase: number;
  retryMax: number;
  hop: number;
}

export type BeatResult = { ok: true; online: boolean; latency: number } | { ok: false; error: PresenceError };

/** One heartbeat at a time, the next one after the interval, after a failure sooner and then ever more slowly. */
export class HeartbeatLoop {
  #timer: WallTimer;
  #flight: AbortController | undefined;
  #again = false;
  #failures = 0;

  constructor(private readonly options: HeartbeatLoopOptions) {
    this.#timer = new WallTimer(() => this.beatNow(), options.hop);
  }

  /** Beats at once. While one is under way, another follows it, because what it says may be out of date. */
  beatNow(): void {
    if (this.#flight !== undefined) this.#again = true;
    else void this.#beat();
  }

  /** The network is back or the machine woke up: an old request may hang for ever, don't wait for it. */
  restart(): void {
    this.stop();
    this.beatNow();
  }

  stop(): void {
    this.#timer.clear();
    this.#flight?.abort();
    this.#flight = undefined;
    this.#again = false;
    this.#failures = 0;
  }

  async #beat(): Promise<void> {
    const { interval, send, done, retryBase, retryMax } = this.options;
    const flight = (this.#flight = new AbortController());
    const started = Date.now();
    let result: BeatResult;
    try {
      result = { ok: true, online: await send(flight.signal), latency: Date.now() - started };
    } catch (error) {
      result = { ok: false, error: PresenceError.of(error) };
    }
    if (this.#flight !== flight) return; // stopped or restarted meanwhile
    this.#flight = undefined;

    this.#failures = result.ok ? 0 : this.#failures + 1;
    const again = this.#again && result.ok;
    this.#again = false;
    // Before done(), which may stop us.
    if (again) void this.#beat();
    else
      this.#timer.set(
        result.ok ? interval() : Math.max(backoff(this.#failures, retryBase, retryMax), result.error.retryAfter ?? 0),
      );
    done(result);
  }
}
