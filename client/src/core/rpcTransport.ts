import { fetchJson, PresenceError, type FeedSink, type HeaderSource, type PresenceTransport } from "./transport.js";
import type { Heartbeat, PresenceEvent, PresenceSnapshot, PresenceUser, UserPresence } from "./types.js";

export interface RpcTransportOptions {
  /** Root of the gateway: functions are called at `<url>/rpc/<name>`. */
  url: string;
  headers?: HeaderSource;
  /** How often to ask for changes (ms): a gateway has no notifications. */
  pollInterval?: number;
  requestTimeout?: number;
}

const PAGE = 1000;

/** Calls the SQL functions through a JSON-RPC gateway such as PostgREST: no backend of your own. */
export class RpcTransport implements PresenceTransport {
  #timeout: number;
  #poll: number;

  constructor(private readonly options: RpcTransportOptions) {
    this.#timeout = options.requestTimeout ?? 10_000;
    this.#poll = options.pollInterval ?? 5_000;
  }

  async heartbeat({ heartbeat_interval, metadata, ...beat }: Heartbeat, signal: AbortSignal): Promise<boolean> {
    const details = { heartbeat_interval: `${heartbeat_interval} seconds`, ...(metadata && { metadata }) };
    return (await this.#call("update_user_heartbeat", { ...beat, ...details }, signal)) as boolean;
  }

  leave(user: string, session: string): void {
    // Not sendBeacon(): the gateway wants a content type and mostly a token, and a beacon can carry neither.
    const body = JSON.stringify({ user_id: user, session_id: session });
    fetch(this.#url("handle_user_disconnect"), {
      method: "POST",
      body,
      headers: this.#headers(),
      keepalive: true,
    }).catch(() => {});
  }

  async follow(seq: number | null, sink: FeedSink, signal: AbortSignal): Promise<void> {
    // Where the feed does not show the very event we stopped at, the server is another one than it was (restored from a backup, say).
    let position = seq !== null && (await this.#knows(seq, signal)) ? seq : await this.#start(sink, signal);
    for (let opened = false; !signal.aborted;) {
      const changes = await this.#changes(position, PAGE, signal);
      if (changes === null) {
        position = await this.#start(sink, signal);
        continue;
      }
      sink.alive();
      for (const change of changes) sink.change({ ...change, details: change.details ?? {} });
      position = changes.at(-1)?.seq ?? position;
      if (changes.length === PAGE) continue;
      if (!opened) sink.opened();
      opened = true;
      await pause(this.#poll, signal);
    }
  }

  async #start(sink: FeedSink, signal: AbortSignal): Promise<number> {
    const snapshot = await this.#snapshot(signal);
    sink.snapshot(snapshot);
    return snapshot.seq;
  }

  async #knows(seq: number, signal: AbortSignal): Promise<boolean> {
    return seq === 0 || (await this.#changes(seq - 1, 1, signal))?.[0]?.seq === seq;
  }

  /** Null: the feed no longer goes back that far (SQLSTATE 22023, which gateways answer with 400). */
  async #changes(seq: number, most: number, signal: AbortSignal): Promise<PresenceEvent[] | null> {
    try {
      return (await this.#call("presence_changes_since", { seq, max_rows: most }, signal)) as PresenceEvent[];
    } catch (error) {
      if (error instanceof PresenceError && error.status === 400) return null;
      throw error;
    }
  }

  async lookUp(users: readonly string[]): Promise<UserPresence[]> {
    return (await this.#call("get_presence", { user_ids: users })) as UserPresence[];
  }

  async cleanup(): Promise<number> {
    return (await this.#call("cleanup_stale_presence", {})) as number;
  }

  async #snapshot(signal: AbortSignal): Promise<PresenceSnapshot> {
    const rows = (await this.#call("presence_snapshot", {}, signal)) as (PresenceUser & { seq: number })[];
    const users = rows.filter((row) => row.user_id !== null).map(({ seq, ...user }) => user);
    return { seq: rows[0]?.seq ?? 0, users };
  }

  #url(name: string): string {
    return `${this.options.url.replace(/\/$/, "")}/rpc/${name}`;
  }

  #headers(): Record<string, string> {
    const { headers } = this.options;
    return { "content-type": "application/json", ...(typeof headers === "function" ? headers() : headers) };
  }

  #call(name: string, args: object, signal?: AbortSignal): Promise<unknown> {
    const init: RequestInit = {
      method: "POST",
      body: JSON.stringify(args),
      headers: this.#headers(),
      credentials: "same-origin",
    };
    if (signal !== undefined) init.signal = signal;
    return fetchJson(this.#url(name), init, this.#timeout);
  }
}

function pause(time: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, time);
    signal.addEventListener("abort", done);
    if (signal.aborted) done();
  });
}
