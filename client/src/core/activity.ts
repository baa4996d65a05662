import type { PresenceStatus } from "./types.js";
import { Listeners } from "./listeners.js";
import { WallTimer } from "./wallTimer.js";

const INPUT_EVENTS = ["pointerdown", "pointermove", "keydown", "wheel", "touchstart", "scroll"] as const;

export interface ActivityOptions {
  /** Without input for this long (ms): `idle`. */
  idleAfter: number;
  /** Without input for this long (ms): `away`. */
  awayAfter: number;
}

/** Tells whether someone sits in front of the page, from input alone. */
export class Activity {
  status: PresenceStatus = "active";
  #lastInput = Date.now();
  #timer: WallTimer;
  #listeners = new Listeners();

  constructor(
    private readonly options: ActivityOptions,
    private readonly changed: (status: PresenceStatus) => void,
    hop: number,
  ) {
    this.#timer = new WallTimer(() => this.#judge(), hop);
  }

  /** Milliseconds since the last input. */
  get quiet(): number {
    return Math.max(0, Date.now() - this.#lastInput);
  }

  start(): void {
    for (const name of INPUT_EVENTS)
      this.#listeners.add(globalThis.window, name, this.#input, { passive: true, capture: true });
    this.#lastInput = Date.now();
    this.#judge();
  }

  stop(): void {
    this.#listeners.removeAll();
    this.#timer.clear();
  }

  /** A sign of somebody that is no input event: the page was switched to. */
  touch(): void {
    this.#input();
  }

  // A pointer sends hundreds of these a second: remember the time, and do more only on return from a pause.
  #input = (): void => {
    this.#lastInput = Date.now();
    if (this.status !== "active") this.#judge();
  };

  #judge(): void {
    const { idleAfter, awayAfter } = this.options;
    const { quiet } = this;
    const status = quiet >= awayAfter ? "away" : quiet >= idleAfter ? "idle" : "active";
    if (status !== "away") this.#timer.set((status === "active" ? Math.min(idleAfter, awayAfter) : awayAfter) - quiet);
    if (status === this.status) return;
    this.status = status;
    this.changed(status);
  }
}
