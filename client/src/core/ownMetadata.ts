import { Stored } from "./storage.js";
import type { Metadata } from "./types.js";

/** What the server takes. It would refuse each heartbeat with more, and the user would not be online. */
const MOST_BYTES = 4096;

/** What this tab says of its user: what it started with, and what setMetadata() made of it, which a reload of the tab keeps. */
export class OwnMetadata {
  value: Metadata | undefined;
  #changes: Metadata;
  #stored: Stored;

  constructor(
    userId: string,
    private readonly first: Metadata | undefined,
  ) {
    this.#stored = new Stored("sessionStorage", `presence metadata of ${userId}`);
    const stored = this.#stored.read();
    this.#changes = typeof stored === "object" && !Array.isArray(stored) ? ((stored as Metadata | null) ?? {}) : {};
    this.value = this.#merged(this.#changes);
    if (sizeOf(this.value) > MOST_BYTES) {
      this.#changes = {};
      this.value = first;
    }
  }

  /** False: it says nothing new. */
  merge(patch: Metadata): boolean {
    const changes = { ...this.#changes, ...patch };
    const value = this.#merged(changes);
    if (JSON.stringify(value) === JSON.stringify(this.value)) return false;
    if (sizeOf(value) > MOST_BYTES) throw new RangeError(`presence: metadata is longer than ${MOST_BYTES} bytes`);
    this.#changes = changes;
    this.value = value;
    this.#stored.write(changes);
    return true;
  }

  #merged(changes: Metadata): Metadata | undefined {
    if (Object.keys(changes).length === 0) return this.first;
    // Null removes a key here, and undefined is none.
    const entries = Object.entries({ ...this.first, ...changes }).filter(([, value]) => value != null);
    return Object.fromEntries(entries);
  }
}

function sizeOf(value: Metadata | undefined): number {
  return new TextEncoder().encode(JSON.stringify(value ?? null)).byteLength;
}
