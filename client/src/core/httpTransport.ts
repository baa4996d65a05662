import { readEventStream } from "./eventStreamReader.js";
import { formatPosition, type FeedPosition } from "./feedPosition.js";
import {
  fetchJson,
  PresenceError,
  refuseUnlessOk,
  type FeedSink,
  type HeaderSource,
  type PresenceTransport,
} from "./transport.js";
import type { Heartbeat, PresenceEvent, PresenceSnapshot, UserPresence } from "./types.js";

export interface HttpTransportOptions {
  /** Where the endpoints are mounted. */
  baseUrl?: string;
  /** Sent with each request (a bearer token, say). Without any, cookies do. */
  headers?: HeaderSource;
  /** No answer for this long (ms) is a failure. */
  requestTimeout?: number;
}

/** Speaks to the endpoints of `presence-client/server`. */
export class HttpTransport implements PresenceTransport {
  #base: string;
  #timeout: number;

  constructor(private readonly options: HttpTransportOptions = {}) {
    this.#base = (options.baseUrl ?? "/api").replace(/\/$/, "");
    this.#timeout = options.requestTimeout ?? 10_000;
  }

  async heartbeat(beat: Heartbeat, signal: AbortSignal): Promise<boolean> {
    const answer = await this.#json("/heartbeat", { method: "POST", body: JSON.stringify(beat), signal });
    return (answer as { online: boolean }).online;
  }

  leave(user: string, session: string): void {
    const url = `${this.#base}/user-disconnect`;
    const body = JSON.stringify({ user_id: user, session_id: session });
    // A beacon outlives the page but carries no headers of ours, and a plain string needs no preflight anywhere.
    const beacon = this.options.headers === undefined && typeof globalThis.navigator?.sendBeacon === "function";
    if (beacon && navigator.sendBeacon(url, body)) return;
    fetch(url, { method: "POST", body, headers: this.#headers(), credentials: "include", keepalive: true }).catch(
      () => {
        // Nobody is left to tell. The server's timeout does the rest.
      },
    );
  }

  async follow(since: FeedPosition | null, sink: FeedSink, signal: AbortSignal): Promise<void> {
    const headers: Record<string, string> = { ...this.#headers(), accept: "text/event-stream" };
    if (since !== null) headers["last-event-id"] = formatPosition(since);
    const response = await fetch(`${this.#base}/presence/events`, {
      headers,
      credentials: "include",
      cache: "no-store",
      signal,
    });
    const { body } = await refuseUnlessOk(response);
    const type = response.headers.get("content-type") ?? "";
    // A single-page app's server answers every unknown address with its page.
    if (body === null || !type.startsWith("text/event-stream"))
      throw new PresenceError(`not an event stream but ${type || "nothing"}`, response.status);
    await readEventStream(
      body,
      (event) => {
        if (event === null) return;
        const data: unknown = JSON.parse(event.data);
        if (event.event === "snapshot") sink.snapshot(data as PresenceSnapshot);
        else if (event.event === "ready") sink.opened();
        else if (event.event === "lost") sink.lost();
        else if (event.event === "renew") sink.renew();
        else if (event.event === "position") sink.position(data as FeedPosition);
        else if (event.event === "message") sink.change(data as PresenceEvent);
      },
      () => sink.alive(),
    );
  }

  async lookUp(users: readonly string[]): Promise<UserPresence[]> {
    const query = new URLSearchParams(users.map((user) => ["user", user]));
    return ((await this.#json(`/presence?${query}`, {})) as { users: UserPresence[] }).users;
  }

  async cleanup(): Promise<number> {
    return ((await this.#json("/presence/cleanup", { method: "POST" })) as { offline: number }).offline;
  }

  #headers(): Record<string, string> {
    const { headers } = this.options;
    return typeof headers === "function" ? headers() : { ...headers };
  }

  async #json(path: string, init: RequestInit): Promise<unknown> {
    const type: Record<string, string> = init.body === undefined ? {} : { "content-type": "application/json" };
    return fetchJson(this.#base + path, { ...init, headers: { ...this.#headers(), ...type } }, this.#timeout);
  }
}
