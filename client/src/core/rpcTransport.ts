import { maybeSameFeed, type FeedPosition } from "./feedPosition.js";
import { Credentials } from "./credentials.js";
import {
  fetchJson,
  PresenceError,
  type FeedSink,
  type HeaderSource,
  type RequestHeaders,
  type PresenceTransport,
  type StatusTransport,
} from "./transport.js";
import type { Heartbeat, PresenceEvent, PresenceSnapshot, PresenceUser, StatusChoice, UserPresence } from "./types.js";

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
  #credentials: Credentials;
  /** What the last heartbeat of each session was signed with. */
  #signed = new Map<string, RequestHeaders>();

  constructor(private readonly options: RpcTransportOptions) {
    this.#timeout = options.requestTimeout ?? 10_000;
    this.#poll = options.pollInterval ?? 5_000;
    this.#credentials = new Credentials(options.headers, this.#timeout);
  }

  async heartbeat(
    { heartbeat_interval, inactive_for, metadata, ...beat }: Heartbeat,
    signal: AbortSignal,
  ): Promise<boolean> {
    const seconds = (number: number) => `${number} seconds`;
    const details = {
      heartbeat_interval: seconds(heartbeat_interval),
      ...(inactive_for !== undefined && { inactive_for: seconds(inactive_for) }),
      ...(metadata && { metadata }),
    };
    const remember = (headers: RequestHeaders) => void this.#signed.set(beat.session_id, headers);
    return (await this.#call("update_user_heartbeat", { ...beat, ...details }, signal, remember)) as boolean;
  }

  leave(user: string, session: string): void {
    // Not sendBeacon(): the gateway wants a content type and mostly a token, and a beacon can carry neither.
    const body = JSON.stringify({ user_id: user, session_id: session });
    const now = this.#credentials.atOnce();
    const before = this.#signed.get(session) ?? now;
    this.#signed.delete(session);
    const same = JSON.stringify(now) === JSON.stringify(before);
    // By now somebody else may be signed in, who may not end it; or the same user with a newer token, the old one being void.
    for (const headers of same ? [now] : [before, now]) {
      fetch(this.#url("handle_user_disconnect"), { ...initOf(body, headers), keepalive: true }).catch(() => {});
    }
  }

  renewed(): Promise<boolean | null> {
    return this.#credentials.renewed();
  }

  readonly status: StatusTransport = {
    read: async (user_id) => {
      const row = (await this.#call("get_user_status", { user_id })) as StatusChoice & {
        chosen: StatusChoice["status"];
      };
      return { status: row.chosen, until: row.until, message: row.message };
    },
    choose: async (user_id, choice) => {
      await this.#call("set_user_status", { user_id, ...choice });
      return this.status.read(user_id);
    },
  };

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

  #call(
    name: string,
    args: object,
    signal?: AbortSignal,
    signed?: (headers: RequestHeaders) => void,
  ): Promise<unknown> {
    return this.#credentials.sign((headers) => {
      signed?.(headers);
      const init = initOf(JSON.stringify(args), headers);
      if (signal !== undefined) init.signal = signal;
      return fetchJson(this.#url(name), init, this.#timeout);
    });
  }
}

function initOf(body: string, headers: RequestHeaders): RequestInit {
  return {
    method: "POST",
    body,
    headers: { "content-type": "application/json", ...headers },
    credentials: "same-origin",
  };
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
