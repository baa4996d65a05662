/**
 * A JSON value in the browser's storage. A browser may have none, refuse it, or be full: then the page itself is the only one to
 * remember.
 */
export class Stored {
  #memory: string | null = null; // where the browser keeps nothing

  constructor(
    private readonly area: "localStorage" | "sessionStorage",
    private readonly key: string,
  ) {}

  /** Null: nothing there, or nothing that can be read. */
  read(): unknown {
    try {
      return JSON.parse(this.#memory ?? this.#area?.getItem(this.key) ?? "null");
    } catch {
      return null;
    }
  }

  write(value: unknown): void {
    this.#memory = null;
    const text = JSON.stringify(value);
    try {
      if (this.#area === undefined) this.#memory = text;
      else if (value === null) this.#area.removeItem(this.key);
      else this.#area.setItem(this.key, text);
    } catch {
      this.#memory = text;
    }
  }

  // Not globalThis.localStorage: newer versions of Node have something of that name.
  get #area(): Storage | undefined {
    return globalThis.window?.[this.area];
  }
}
