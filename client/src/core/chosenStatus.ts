import { Listeners } from "./listeners.js";
import { Stored } from "./storage.js";
import type { PresenceStatus } from "./types.js";

const STATUSES: readonly unknown[] = ["active", "busy", "idle", "away"] satisfies PresenceStatus[];

/** The status that a person chose: his in all tabs of this browser, whichever he used for it, and after a reload. */
export class ChosenStatus {
  status: PresenceStatus | null = null;
  #stored: Stored;
  #listeners = new Listeners();

  constructor(
    userId: string,
    private readonly changed: () => void,
  ) {
    this.#stored = new Stored("localStorage", `presence status of ${userId}`);
    this.status = this.#read();
  }

  start(): void {
    // Other tabs are told by the browser. The one that wrote is not.
    if (globalThis.window !== undefined) this.#listeners.add(window, "storage", () => this.look());
    this.look();
  }

  stop(): void {
    this.#listeners.removeAll();
  }

  choose(status: PresenceStatus | null): void {
    this.#stored.write(status);
    this.#set(status);
  }

  /** Takes over what another tab has chosen. */
  look(): void {
    this.#set(this.#read());
  }

  #read(): PresenceStatus | null {
    const status = this.#stored.read();
    return STATUSES.includes(status) ? (status as PresenceStatus) : null;
  }

  #set(status: PresenceStatus | null): void {
    if (status === this.status) return;
    this.status = status;
    this.changed();
  }
}
