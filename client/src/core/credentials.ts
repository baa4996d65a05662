import { PresenceError, type HeaderSource, type RequestHeaders } from "./transport.js";

/** The headers that say who sends a request, from wherever the application has them. */
export class Credentials {
  #last: RequestHeaders = {};
  #refused: string | null = null;

  constructor(
    private readonly source: HeaderSource | undefined,
    /** Milliseconds that an asynchronous source may take. */
    private readonly patience: number,
  ) {}

  /** Sends a request with them. */
  async sign<Answer>(send: (headers: RequestHeaders) => Promise<Answer>): Promise<Answer> {
    const headers = await this.#ask();
    try {
      return await send(headers);
    } catch (error) {
      if (error instanceof PresenceError && error.unauthorized) this.#refused = JSON.stringify(headers);
      throw error;
    }
  }

  /** For a page that is being torn down and cannot wait: of an asynchronous source, what it said last. */
  atOnce(): RequestHeaders {
    try {
      const headers = typeof this.source === "function" ? this.source() : this.source;
      if (!(headers instanceof Promise)) return { ...headers };
      headers.catch(() => {});
    } catch {
      // Then what it said last, too.
    }
    return this.#last;
  }

  /** Whether they differ from those that were refused. Null: nobody can tell but the server, as with cookies. */
  async renewed(): Promise<boolean | null> {
    if (typeof this.source !== "function") return null;
    return JSON.stringify(await this.#ask()) !== this.#refused;
  }

  async #ask(): Promise<RequestHeaders> {
    const headers = typeof this.source === "function" ? this.source() : this.source;
    this.#last = { ...(headers instanceof Promise ? await this.#inTime(headers) : headers) };
    return this.#last;
  }

  async #inTime(headers: Promise<RequestHeaders>): Promise<RequestHeaders> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<never>((_, reject) => {
      const say = () => reject(new PresenceError(`no headers within ${this.patience} ms`, 0));
      timer = setTimeout(say, this.patience);
    });
    try {
      return await Promise.race([headers, late]);
    } finally {
      clearTimeout(timer);
    }
  }
}
