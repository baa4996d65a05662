import { Credentials } from "./credentials.js";
import { readEventStream } from "./eventStreamReader.js";
import { formatPosition, type FeedPosition } from "./feedPosition.js";
import {
  fetchJson,
  PresenceError,
  refuseUnlessOk,
  type FeedSink,
  type FollowedRoom,
  type RequestHeaders,
  type HeaderSource,
  type PresenceTransport,
  type RoomTransport,
  type StatusTransport,
} from "./transport.js";
import type { Heartbeat, PresenceEvent, PresenceSnapshot, RoomSnapshot, StatusChoice, UserPresence } from "./types.js";

export interface HttpTransportOptions {
  /** Where the endpoints are mounted. */
  baseUrl?: string;
  /** Sent with each request (a bearer token, say); may be a function, also an asynchronous one. Without any, cookies do. */
  headers?: HeaderSource;
  /** No answer for this long (ms) is a failure. */
  requestTimeout?: number;
  /**
   * Tabs of one user, in one browser, share one event stream. Not where `headers` say more than who that is (for which of several
   * customers he works in this tab, say).
   */
  sharedStream?: boolean;
}

interface OpenSession {
  /** With this the session can be ended whoever is signed in by then: the cookie may change, or go, before the goodbye is said. */
  goodbye?: string;
  answered: boolean;
  underWay: number;
  left: boolean;
}

/** Speaks to the endpoints of `presence-client/server`. */
export class HttpTransport implements PresenceTransport {
  #base: string;
  #timeout: number;
  #credentials: Credentials;
  #sessions = new Map<string, OpenSession>();
  readonly shared: string | undefined;

  constructor(private readonly options: HttpTransportOptions = {}) {
    this.#base = (options.baseUrl ?? "/api").replace(/\/$/, "");
    // A relative address leads elsewhere from other pages.
    const relative = !/^(\/|\w+:)/.test(this.#base);
    if (options.sharedStream === true)
      this.shared = relative ? `${this.#base} ${globalThis.document?.baseURI}` : this.#base;
    this.#timeout = options.requestTimeout ?? 10_000;
    this.#credentials = new Credentials(options.headers, this.#timeout);
  }

  async heartbeat(beat: Heartbeat, signal: AbortSignal): Promise<boolean> {
    const { user_id: user, session_id: id } = beat;
    const session = this.#sessions.get(id) ?? { answered: false, underWay: 0, left: false };
    this.#sessions.set(id, session);
    session.underWay++;
    try {
      const init: RequestInit = { method: "POST", body: JSON.stringify(beat) };
      // The first one is not broken off. It may begin the session all the same, and only its answer says how to end it.
      if (session.answered) init.signal = signal;
      const answer = (await this.#json("/heartbeat", init)) as { online: boolean; goodbye?: string };
      session.answered = true;
      if (answer.goodbye !== undefined) session.goodbye = answer.goodbye;
      return answer.online;
    } finally {
      session.underWay--;
      // The goodbye went out before we had this. It may have been refused, and twice does no harm.
      if (session.left && session.goodbye !== undefined) this.#sayGoodbye(user, id, session.goodbye);
      if (session.underWay === 0 && (session.left || !session.answered)) this.#sessions.delete(id);
    }
  }

  leave(user: string, id: string): void {
    const session = this.#sessions.get(id);
    if (session?.answered === false) session.left = true;
    else this.#sessions.delete(id);
    this.#sayGoodbye(user, id, session?.goodbye);
  }

  #sayGoodbye(user: string, session: string, goodbye: string | undefined): void {
    const url = `${this.#base}/user-disconnect`;
    const body = JSON.stringify({ user_id: user, session_id: session, goodbye });
    // A beacon outlives the page but carries no headers of ours, and a plain string needs no preflight anywhere.
    const beacon = this.options.headers === undefined && typeof globalThis.navigator?.sendBeacon === "function";
    if (beacon && navigator.sendBeacon(url, body)) return;
    const headers = this.#credentials.atOnce();
    fetch(url, { method: "POST", body, headers, credentials: "include", keepalive: true }).catch(() => {
      // Nobody is left to tell. The server's timeout does the rest.
    });
  }

  renewed(): Promise<boolean | null> {
    return this.#credentials.renewed();
  }

  readonly rooms: RoomTransport = {
    join: async (request) => ((await this.#post("/room-join", request)) as { joined: boolean }).joined,
    leave: async (request) => void (await this.#post("/room-leave", request)),
    setTyping: async (request) => void (await this.#post("/typing", request)),
  };

  readonly status: StatusTransport = {
    read: async (user) =>
      (await this.#json(`/presence/status?${new URLSearchParams({ user_id: user })}`, {})) as StatusChoice & {
        online: boolean;
      },
    choose: async (user, choice) => (await this.#post("/status", { user_id: user, ...choice })) as StatusChoice,
  };

  async follow(
    since: FeedPosition | null,
    sink: FeedSink,
    signal: AbortSignal,
    rooms: readonly FollowedRoom[] = [],
    user?: string,
  ): Promise<void> {
    const { body, type } = await this.#credentials.sign((headers) =>
      this.#openStream(headers, since, signal, rooms, user),
    );
    // A single-page app's server answers every unknown address with its page.
    if (body === null || !type.startsWith("text/event-stream"))
      throw new PresenceError(`not an event stream but ${type || "nothing"}`, 200);
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
        else if (event.event === "room") sink.room(data as RoomSnapshot);
        else if (event.event === "forbidden") sink.forbidden((data as { room: string }).room);
        else if (event.event === "typing") {
          const { room, users } = data as { room: string; users: string[] };
          sink.typing(room, users);
        } else if (event.event === "message") sink.change(data as PresenceEvent);
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

  async #openStream(
    own: RequestHeaders,
    since: FeedPosition | null,
    signal: AbortSignal,
    rooms: readonly FollowedRoom[],
    user: string | undefined,
  ) {
    const headers: RequestHeaders = { ...own, accept: "text/event-stream" };
    if (since !== null) headers["last-event-id"] = formatPosition(since);
    const init: RequestInit = { headers, credentials: "include", cache: "no-store", signal };
    const query = new URLSearchParams(
      rooms.map(({ room, known }) => [known && since !== null ? "known_room" : "room", room]),
    );
    if (user) query.append("user_id", user);
    const text = query.toString();
    const url = `${this.#base}/presence/events${text && `?${text}`}`;
    const response = await refuseUnlessOk(await fetch(url, init));
    return { body: response.body, type: response.headers.get("content-type") ?? "" };
  }

  #post(path: string, body: object): Promise<unknown> {
    return this.#json(path, { method: "POST", body: JSON.stringify(body) });
  }

  #json(path: string, init: RequestInit): Promise<unknown> {
    const type: RequestHeaders = init.body === undefined ? {} : { "content-type": "application/json" };
    return this.#credentials.sign((headers) =>
      fetchJson(this.#base + path, { ...init, headers: { ...headers, ...type } }, this.#timeout),
    );
  }
}
