import { maybeSameFeed, type FeedPosition } from "./feedPosition.js";
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
/** Who missed more changes than this reads the list instead. */
const MOST_MISSED = 5000;

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

  async follow(since: FeedPosition | null, sink: FeedSink, signal: AbortSignal): Promise<void> {
    let position = since;
    for (let opened = false; !signal.aborted;) {
      const end = (await this.#call("presence_feed_position", {}, signal)) as FeedPosition;
      sink.alive();
      // Of another feed nothing is known, and one that is behind us is no longer what it was: restored from a backup, say.
      const missed = position !== null && maybeSameFeed(position, end) ? end.seq - position.seq : -1;
      if (position === null || missed < 0 || missed > MOST_MISSED) {
        const snapshot = await this.#snapshot(signal);
        position = { seq: snapshot.seq, epoch: snapshot.epoch ?? null };
        sink.snapshot(snapshot);
      } else if (missed > 0) {
        const changes = await this.#changes(position.seq, signal);
        for (const change of changes ?? []) sink.change({ ...change, details: change.details ?? {} });
        // None of them, where a gateway shows not all: the position moves all the same.
        position = changes && { seq: changes.at(-1)?.seq ?? end.seq, epoch: end.epoch ?? null };
        if (position !== null) sink.position(position);
        continue; // until a look finds us at the end
      }
      if (!opened) sink.opened();
      opened = true;
      await pause(this.#poll, signal);
    }
  }

  /** Null: the feed no longer goes back that far (SQLSTATE 22023, which gateways answer with 400). */
  async #changes(seq: number, signal: AbortSignal): Promise<PresenceEvent[] | null> {
    try {
      return (await this.#call("presence_changes_since", { seq, max_rows: PAGE }, signal)) as PresenceEvent[];
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
    const rows = (await this.#call("presence_snapshot", {}, signal)) as (PresenceUser & FeedPosition)[];
    const users = rows.filter((row) => row.user_id !== null).map(({ seq, epoch, ...user }) => user);
    return { seq: rows[0]?.seq ?? 0, epoch: rows[0]?.epoch ?? null, users };
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
