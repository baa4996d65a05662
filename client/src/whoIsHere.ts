import { HttpTransport } from "./core/httpTransport.js";
import { colourOf, initialsOf } from "./core/person.js";
import { EMPTY_STATE } from "./core/state.js";
import type { ConnectionStatus, PresenceStatus } from "./core/types.js";
import type { PresenceRoom, PresenceService } from "./presenceService.js";
import { acquirePresence } from "./sharedService.js";

/** One of those who are drawn. */
export interface ShownUser {
  user_id: string;
  /** From `metadata.name`, else the id. */
  name: string;
  status: PresenceStatus;
}

/** What the element shows from now on. */
export interface PresenceChange {
  /** Those who are drawn: at most `max`. */
  users: readonly ShownUser[];
  /** All of them. */
  count: number;
  /** Unless it is `online`, the others are the last that was known. */
  connection: ConnectionStatus;
}

/** What the element says; in English, where it is told nothing else. */
export interface WhoIsHereTexts {
  /** What the list is called. */
  list: string;
  count: (count: number, room: string | null) => string;
  more: (count: number) => string;
  status: Record<PresenceStatus, string>;
  /** In place of the count, which may not be true. */
  connection: Record<Exclude<ConnectionStatus, "online">, string>;
  /** The user may not enter the room. */
  forbidden: string;
}

declare global {
  interface HTMLElementTagNameMap {
    "who-is-here": WhoIsHere;
  }
  interface HTMLElementEventMap {
    "presence-change": CustomEvent<PresenceChange>;
  }
}

const ENGLISH: WhoIsHereTexts = {
  list: "Who is here",
  count: (count, room) => `${count.toLocaleString("en")} ${room === null ? "online" : "here"}`,
  more: (count) => `+${count.toLocaleString("en")} more`,
  status: { active: "active", busy: "busy", idle: "idle", away: "away" },
  connection: {
    stopped: "Not connected",
    connecting: "Connecting…",
    reconnecting: "Connection lost, trying again…",
    unauthorized: "Not signed in",
    offline: "No network",
  },
  forbidden: "Not open to you",
};

// Told apart by shape, so that colour is not needed: full, barred, half, crescent.
const RING = "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2Zm0 2a4 4 0 1 1 0 8 4 4 0 0 1 0-8Z";
const SHAPES: Record<PresenceStatus, string> = {
  active: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2Z",
  busy: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2ZM4.5 6.8h7v2.4h-7Z",
  idle: `${RING}M8 4a4 4 0 0 0 0 8Z`,
  away: "M9.5 2.2A6 6 0 1 0 13.9 9.4 5.3 5.3 0 0 1 9.5 2.2Z",
};

// Text has the page's colours. Those of the marks have enough contrast on white and on black, whatever the page's scheme is.
// What is dimmed waits a moment, so that a short interruption does not blink.
const STYLE = `
:host { display: block; --size: var(--who-is-here-size, 2rem); }
:host([hidden]) { display: none; }
.count { margin: 0 0 0.4em; }
.list { display: flex; flex-wrap: wrap; gap: var(--who-is-here-gap, 0.4em 0.9em); margin: 0; padding: 0; list-style: none; }
.list:empty { display: none; }
.person, .more { position: relative; display: flex; align-items: center; gap: 0.45em; min-width: 0; max-width: 100%; min-height: var(--size); }
.avatar { position: relative; flex: none; display: grid; place-items: center; width: var(--size); height: var(--size); border-radius: 50%;
  background: var(--who-is-here-avatar, var(--own)); color: var(--who-is-here-avatar-text, #fff); }
.initials { font-size: calc(var(--size) * 0.38); font-weight: 600; line-height: 1; }
.mark { position: absolute; inset-inline-end: -12%; bottom: -6%; width: 46%; height: 46%; border-radius: 50%; background: var(--who-is-here-ground, Canvas); }
.active { fill: var(--who-is-here-active, #16a34a); }
.busy { fill: var(--who-is-here-busy, #dc2626); }
.idle { fill: var(--who-is-here-idle, #c2740a); }
.away { fill: var(--who-is-here-away, #8b5cf6); }
.name { max-width: 14em; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.status, :host([compact]) .name { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
:host([compact]) .list { gap: var(--who-is-here-gap, 0.2em); }
:host(:not([connection="online"])) .list { opacity: var(--who-is-here-dimmed, 0.45); filter: grayscale(1); transition: opacity 0s 0.3s, filter 0s 0.3s; }
@media (forced-colors: active) { .avatar { border: 1px solid; } }
@media (prefers-reduced-motion: no-preference) {
  .person { animation: come 0.2s; }
  @keyframes come { from { opacity: 0; } }
}
`;

let sheet: CSSStyleSheet | undefined;

/** Shared by all elements; not as a <style>, which a page's Content-Security-Policy may refuse. */
function addStyle(root: ShadowRoot): void {
  if (sheet === undefined) {
    sheet = new CSSStyleSheet();
    sheet.replaceSync(STYLE);
  }
  root.adoptedStyleSheets = [sheet];
}

function make(name: string, part: string, more: Record<string, string> = {}, parent?: Node): HTMLElement {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries({ class: part, part, ...more })) node.setAttribute(key, value);
  parent?.appendChild(node);
  return node;
}

/** Only what is new: a text that is written again would be read out again. */
function say(node: Element, text: string): void {
  if (node.textContent !== text) node.textContent = text;
}

function set(node: Element, name: string, value: string): void {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

/** Somebody's place in the list: made when he comes, and the same until he goes. */
class Place {
  readonly item = make("li", "person");
  readonly #initials: HTMLElement;
  readonly #mark: SVGElement;
  readonly #name: HTMLElement;
  readonly #status: HTMLElement;

  constructor(id: string) {
    this.item.style.setProperty("--own", colourOf(id));
    // Decoration: what it says stands beside it as text.
    const avatar = make("span", "avatar", { "aria-hidden": "true" }, this.item);
    this.#initials = make("span", "initials", {}, avatar);
    this.#mark = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.#mark.setAttribute("viewBox", "0 0 16 16");
    this.#mark.append(document.createElementNS("http://www.w3.org/2000/svg", "path"));
    this.#mark.firstElementChild?.setAttribute("fill-rule", "evenodd");
    avatar.append(this.#mark);
    this.#name = make("bdi", "name", {}, this.item);
    this.#status = make("span", "status", {}, this.item);
  }

  show({ name, status }: ShownUser, me: boolean, statusText: string): void {
    set(this.item, "part", `person ${status}${me ? " me" : ""}`);
    set(this.item, "title", `${name}, ${statusText}`);
    set(this.#mark, "class", `mark ${status}`);
    set(this.#mark, "part", `mark ${status}`);
    set(this.#mark.firstElementChild as Element, "d", SHAPES[status]);
    say(this.#name, name);
    say(this.#initials, initialsOf(name));
    say(this.#status, `, ${statusText}`);
  }
}

/** Where the element has its people from. */
interface Source {
  given: PresenceService | null;
  user: string;
  server: string | null;
  room: string | null;
}

interface Running {
  service: PresenceService;
  room: PresenceRoom | null;
  end: () => void;
}

const ATTRIBUTES = ["user", "room", "base-url", "max"] as const;
const PROPERTIES = ["user", "room", "baseUrl", "max", "service", "texts"] as const;
const MAX = 8;
/** A screen reader is told of a new number only this long (ms) after the last one: where thousands come and go, it would say nothing else. */
const SAID_AGAIN = 10_000;

// On a server there is none, and nobody makes an element.
const Base = globalThis.HTMLElement ?? (class {} as typeof HTMLElement);

/**
 * Who is online, or in a room:
 *
 *     <who-is-here user="ada" room="hall" base-url="/api" max="8"></who-is-here>
 *
 * With `user`, that user counts as online, and as in the room, as long as the element is in the page. Elements with the same
 * settings, and hooks of that user, share one service.
 */
export class WhoIsHere extends Base {
  static readonly observedAttributes: readonly string[] = ATTRIBUTES;

  readonly #count: HTMLElement;
  readonly #list: HTMLElement;
  readonly #more = make("li", "more");
  readonly #places = new Map<string, Place>();
  #given: PresenceService | null = null;
  #texts = ENGLISH;
  #source: Source | null = null;
  #running: Running | null = null;
  #due = false;
  #shown = "";
  #saidAt = -Infinity;

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    addStyle(root);
    this.#count = make("p", "count", { role: "status" }, root);
    this.#list = make("ul", "list", { role: "list" }, root); // Safari takes an unstyled list for none
    // Given before this class was: they hide ours.
    for (const name of PROPERTIES) {
      if (!Object.hasOwn(this, name)) continue;
      const value: unknown = this[name];
      Reflect.deleteProperty(this, name);
      Reflect.set(this, name, value);
    }
  }

  get user(): string | null {
    return this.getAttribute("user");
  }
  set user(user: string | null | undefined) {
    this.#reflect("user", user);
  }

  get room(): string | null {
    return this.getAttribute("room");
  }
  set room(room: string | null | undefined) {
    this.#reflect("room", room);
  }

  get baseUrl(): string | null {
    return this.getAttribute("base-url");
  }
  set baseUrl(url: string | null | undefined) {
    this.#reflect("base-url", url);
  }

  get max(): number {
    const text = this.getAttribute("max") ?? "";
    return /^\d+$/.test(text) ? Number(text) : MAX;
  }
  set max(max: number) {
    this.#reflect("max", String(max));
  }

  /** The one that it shows. One that is given is not started or stopped; `user` and `base-url` are then its own. */
  get service(): PresenceService | null {
    return this.#given ?? this.#running?.service ?? null;
  }
  set service(service: PresenceService | null | undefined) {
    this.#given = service ?? null;
    this.#changed();
  }

  get texts(): WhoIsHereTexts {
    return this.#texts;
  }
  set texts(texts: Partial<WhoIsHereTexts>) {
    this.#texts = { ...ENGLISH, ...texts };
    this.#changed();
  }

  connectedCallback(): void {
    this.#changed();
  }

  disconnectedCallback(): void {
    this.#changed();
  }

  attributeChangedCallback(): void {
    this.#changed();
  }

  #reflect(name: string, value: string | null | undefined): void {
    if (value == null) this.removeAttribute(name);
    else this.setAttribute(name, value);
  }

  /** Once per turn, however much happens in it: an element that is moved has never been away. */
  #changed(): void {
    if (this.#due) return;
    this.#due = true;
    queueMicrotask(() => {
      this.#due = false;
      try {
        this.#follow();
      } finally {
        this.#render();
      }
    });
  }

  #follow(): void {
    const given = this.#given;
    const source = this.isConnected
      ? {
          given,
          user: given === null ? (this.user ?? "") : "",
          server: given === null ? this.baseUrl : null,
          room: this.room || null,
        }
      : null;
    const old = this.#source;
    if (source !== null && old !== null) {
      const keys = Object.keys(source) as (keyof Source)[];
      if (keys.every((key) => source[key] === old[key])) return;
    }
    const ended = this.#running;
    this.#source = source;
    this.#running = null;
    try {
      if (source !== null) this.#running = this.#run(source);
    } finally {
      ended?.end(); // after the new one has begun: they may share a room
    }
  }

  #run({ given, user, server, room: name }: Source): Running {
    const lease =
      given === null
        ? acquirePresence(
            {
              userId: user,
              autoJoin: user !== "",
              ...(server !== null && { transport: new HttpTransport({ baseUrl: server }) }),
            },
            server ?? undefined,
          )
        : { service: given, release: () => {} };
    const { service } = lease;
    try {
      const room = name === null ? null : service.room(name); // throws where there are none
      const leave = room?.enter();
      const forget = service.on("state", () => this.#render());
      return {
        service,
        room,
        end() {
          forget();
          leave?.();
          lease.release();
        },
      };
    } catch (error) {
      lease.release();
      throw error;
    }
  }

  #render(): void {
    const { service = null, room = null } = this.#running ?? {};
    const state = service?.state ?? EMPTY_STATE;
    const here = room?.state ?? null;
    const texts = this.#texts;
    const max = this.max;
    const count = here?.count ?? state.stats.online;
    // A list that has not come yet is not an empty one.
    const waiting = state.connection === "online" && here !== null && !here.loaded && !here.forbidden;
    const connection = waiting ? "connecting" : state.connection;

    const me = service?.userId;
    const users: ShownUser[] = [];
    const add = ({ user_id, status }: { user_id: string; status: PresenceStatus }) =>
      users.push({ user_id, name: nameOf(user_id, service?.user(user_id)?.metadata), status });
    // Oneself, then whoever has been here longest: who comes later moves nobody.
    const all = here?.users ?? state.activeUsers;
    const own = here === null ? service?.user(me ?? "") : here.users.find(({ user_id }) => user_id === me);
    if (own !== undefined && max > 0) add(own);
    for (let index = all.length - 1; index >= 0 && users.length < max; index--) {
      const user = all[index];
      if (user !== undefined && user.user_id !== me) add(user);
    }

    set(this, "connection", connection);
    set(this.#list, "aria-label", texts.list);
    this.#draw(users, me, count - users.length);
    const text = here?.forbidden === true ? texts.forbidden : texts.count(count, room?.name ?? null);
    this.#tell(connection === "online" ? text : texts.connection[connection], connection === "online");

    const detail: PresenceChange = { users, count, connection };
    const shown = JSON.stringify(detail);
    if (shown === this.#shown) return;
    this.#shown = shown;
    this.dispatchEvent(new CustomEvent("presence-change", { detail, bubbles: true, composed: true }));
  }

  #draw(users: readonly ShownUser[], me: string | undefined, more: number): void {
    const staying = new Set(users.map(({ user_id }) => user_id));
    for (const [id, { item }] of this.#places) {
      if (staying.has(id)) continue;
      item.remove();
      this.#places.delete(id);
    }
    let next = this.#list.firstChild;
    for (const user of users) {
      const id = user.user_id;
      const place = this.#places.get(id) ?? new Place(id);
      this.#places.set(id, place);
      place.show(user, id === me, this.#texts.status[user.status]);
      // Whoever is in his place stays untouched.
      if (place.item === next) next = next.nextSibling;
      else this.#list.insertBefore(place.item, next);
    }
    if (more > 0) {
      say(this.#more, this.#texts.more(more));
      if (this.#more.parentNode === null) this.#list.append(this.#more);
    } else this.#more.remove();
  }

  #tell(text: string, isCount: boolean): void {
    if (this.#count.textContent === text) return;
    const now = Date.now();
    const aloud = !isCount || now - this.#saidAt >= SAID_AGAIN;
    if (aloud) this.#saidAt = isCount ? now : -Infinity;
    set(this.#count, "aria-live", aloud ? "polite" : "off");
    this.#count.textContent = text;
  }
}

/** Whatever is in the metadata. A name in which there is nothing to see is none. */
function nameOf(id: string, metadata: { name?: unknown } | null | undefined): string {
  const name = metadata?.name;
  return typeof name === "string" && /[^\p{Cc}\p{Cf}\p{Cs}\p{Z}\p{M}]/u.test(name) ? name.trim() : id;
}

// Another copy of this package may be in the page.
if (globalThis.customElements !== undefined && customElements.get("who-is-here") === undefined)
  customElements.define("who-is-here", WhoIsHere);
