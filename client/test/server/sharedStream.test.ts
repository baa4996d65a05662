import { afterAll, afterEach, beforeAll, expect, test, vi } from "vitest";
import { sharedFollow } from "../../src/core/sharedStream.js";
import {
  HttpTransport,
  PresenceService,
  type FeedPosition,
  type HttpTransportOptions,
  type PresenceEvent,
  type PresenceOptions,
} from "../../src/index.js";
import type { PresenceServerOptions } from "../../src/server/index.js";
import { randomNumbers } from "../random.js";
import { Locks } from "./locks.js";
import { createDatabase, openSite, type Site } from "./site.js";

// Tabs of one browser, as far as they share a stream, are services of one process here: with real endpoints, the real extension and Node's
// BroadcastChannel. In a real browser: ../../../test/web/sharedStream.test.mjs.

let db: Awaited<ReturnType<typeof createDatabase>>;
let site: Site;
const tabs: Tab[] = [];
/** Streams that were opened and have not ended. */
const streams = new Set<string>();
let opened = 0;

/** One tab's channel. The next that passes on what the server says hangs: what it says stays under way until it wakes. */
class Channel extends BroadcastChannel {
  static #hung: Channel | "next" | null = null;
  static #late: { kind: string }[] = [];

  static hang(): void {
    Channel.#hung = "next";
  }

  static wake(): void {
    const hung = Channel.#hung as Channel;
    Channel.#hung = null;
    for (const message of Channel.#late.splice(0)) hung.postMessage(message);
  }

  override postMessage(message: { kind: string }): void {
    if (Channel.#hung === "next" && message.kind === "words") Channel.#hung = this;
    if (Channel.#hung === this) Channel.#late.push(message);
    else super.postMessage(message);
  }
}

beforeAll(async () => {
  db = await createDatabase();
  vi.stubGlobal("document", {});
  vi.stubGlobal("BroadcastChannel", Channel);
  vi.stubGlobal("navigator", { locks: new Locks() });
  const { fetch } = globalThis;
  vi.stubGlobal("fetch", (url: string, init: RequestInit) => {
    if (url.includes("/presence/events")) {
      const stream = `${++opened} ${new Headers(init.headers).get("x-user")} ${new URL(url).search}`;
      streams.add(stream);
      init.signal?.addEventListener("abort", () => streams.delete(stream));
    }
    return fetch(url, init);
  });
});
afterAll(async () => {
  vi.unstubAllGlobals();
  await db.drop();
});
afterEach(async () => {
  for (const { service } of tabs.splice(0)) service.stop();
  await site.close();
  streams.clear();
});

const soon = (check: () => unknown) => vi.waitFor(check, { timeout: 15_000, interval: 20 });
const start = async (options: Partial<PresenceServerOptions> = {}) => (site = await openSite(db.name, options));

/** Entered for a moment, so that the stream is opened anew. */
const ASIDE = "aside";

interface Tab {
  userId: string;
  service: PresenceService;
  rooms: string[];
  /** What was told as changes, after the list with that number. */
  since: number;
  seen: number[];
  resyncs: number;
  errors: string[];
}

function open(
  userId: string,
  rooms: string[] = [],
  more: Partial<HttpTransportOptions> = {},
  timing: Partial<PresenceOptions> = {},
): Tab {
  const transport = new HttpTransport({
    baseUrl: `${site.url}/api`,
    headers: { "x-user": userId },
    sharedStream: true,
    ...more,
  });
  const service = new PresenceService({ userId, transport, retryBase: 20, retryMax: 100, ...timing });
  const tab: Tab = { userId, service, rooms, since: -1, seen: [], resyncs: 0, errors: [] };
  service.on("snapshot", ({ seq }) => {
    tab.since = seq;
    tab.seen = [];
  });
  service.on("resync", () => tab.resyncs++);
  service.on("change", ({ seq, room }) => void (room !== ASIDE && tab.seen.push(seq)));
  service.on("error", (error) => tab.errors.push(error.message));
  for (const room of rooms) service.room(room).enter();
  service.start();
  tabs.push(tab);
  return tab;
}

function close(tab: Tab): void {
  tabs.splice(tabs.indexOf(tab), 1);
  tab.service.stop();
}

const online = (tab: Tab) =>
  soon(() => expect(tab.service.state).toMatchObject({ connection: "online", joined: true }));
const sql = async (text: string, values: unknown[] = []) => (await db.pool.query(text, values)).rows;
const names = (list: readonly { user_id: string }[]) => list.map(({ user_id }) => user_id).sort();

/** Every tab shows what the database knows, and was told of every change once, in order. */
async function expectTruth(): Promise<void> {
  const feed = (await sql("SELECT seq::integer, room FROM presence_changes_since(0, 100000)")) as {
    seq: number;
    room: string | null;
  }[];
  for (const tab of tabs) {
    const expected = feed.filter(({ seq, room }) => seq > tab.since && (room === null || tab.rooms.includes(room)));
    await soon(() => expect(tab.seen.at(-1) ?? tab.since).toBeGreaterThanOrEqual(expected.at(-1)?.seq ?? 0));
    const end = feed.at(-1)?.seq ?? 0;
    expect(tab.seen.filter((seq) => seq <= end)).toEqual(expected.map(({ seq }) => seq));
    const users = () => sql("SELECT user_id FROM get_active_users()");
    await soon(async () => expect(names(tab.service.state.activeUsers)).toEqual(names(await users())));
    for (const room of tab.rooms) {
      const members = () => sql("SELECT user_id FROM get_room($1)", [room]);
      await soon(async () => expect(names(tab.service.room(room).state.users)).toEqual(names(await members())));
    }
  }
}

test("all tabs of a user share one stream; the next takes over where the one that had it is closed", async () => {
  await start();
  for (let i = 0; i < 5; i++) open("ada");
  for (const tab of tabs) await online(tab);
  await soon(() => expect(streams.size).toBe(1));
  for (let i = 0; i < 4; i++) {
    await sql("SELECT update_user_heartbeat($1, 's')", [`guest ${i}`]);
    await expectTruth();
    const [leader] = tabs;
    close(leader!);
    await sql("SELECT handle_user_disconnect($1, 's')", [`guest ${i}`]);
    await soon(() => expect(streams.size).toBe(1));
    await expectTruth();
  }
  expect(tabs.map(({ errors, resyncs }) => [...errors, resyncs])).toEqual([[0]]);
});

test("who comes back has a stream of his own until he has caught up, and none if he missed nothing", async () => {
  await start();
  const leader = open("ada");
  await online(leader);
  const transport = new HttpTransport({ baseUrl: `${site.url}/api`, headers: { "x-user": "ada" }, sharedStream: true });
  const come = async (since: FeedPosition) => {
    const seen: number[] = [];
    const nothing = () => {};
    const sink = {
      alive: nothing,
      lost: nothing,
      renew: nothing,
      snapshot: nothing,
      room: nothing,
      forbidden: nothing,
    };
    const abort = new AbortController();
    const before = opened;
    await new Promise<void>((resolve) => {
      const told = { typing: nothing, position: nothing, opened: resolve };
      const change = ({ seq }: PresenceEvent) => void seen.push(seq);
      void sharedFollow(transport, "ada", 40_000)(since, { ...sink, ...told, change }, abort.signal).catch(nothing);
    });
    return { seen, streams: opened - before, leave: () => abort.abort() };
  };
  const epoch = (await sql("SELECT epoch FROM presence_feed_position()"))[0].epoch as string;
  const here = () => ({ epoch, seq: leader.service.state.stats.seq! });
  const missed = here();
  await sql("SELECT update_user_heartbeat('dan', 'b'), handle_user_disconnect('dan', 'b')");
  await expectTruth();
  const late = await come(missed);
  const current = here();
  const same = await come(current);
  expect([late.streams, same.streams]).toEqual([1, 0]);
  await sql("SELECT update_user_heartbeat('dan', 'c'), handle_user_disconnect('dan', 'c')");
  await expectTruth();
  const all = leader.seen.filter((seq) => seq > missed.seq);
  await soon(() => expect(late.seen).toEqual(all));
  await soon(() => expect(same.seen).toEqual(all.filter((seq) => seq > current.seq)));
  expect(same.seen).not.toEqual([]);
  late.leave();
  same.leave();
});

test("another user has his own, and so has who does not want to share", async () => {
  await start({ canSee: (viewer, user) => viewer.userId === "eve" || user !== "secret" });
  await sql("SELECT update_user_heartbeat('secret', 's')");
  const [ada, too, eve] = [open("ada"), open("ada"), open("eve")];
  for (const tab of [ada, too, eve]) await online(tab);
  await soon(() => expect([...streams].map((text) => text.split(" ")[1]).sort()).toEqual(["ada", "eve"]));
  await sql("SELECT update_user_heartbeat('secret', 't')");
  await soon(() => expect(names(eve.service.state.activeUsers)).toContain("secret"));
  for (const tab of [ada, too]) expect(names(tab.service.state.activeUsers)).toEqual(["ada", "eve"]);

  const own = open("ada", [], { sharedStream: false });
  await online(own);
  expect(streams.size).toBe(3);
  // Who watches without saying for whom shares with nobody.
  const watchers = ["ada", "eve"].map((user) => open("", [], { headers: { "x-user": user } }, { autoJoin: false }));
  for (const { service } of watchers) await soon(() => expect(service.state.connection).toBe("online"));
  expect(streams.size).toBe(5);
  // A page that says who it is not gets nothing, also where the stream of that user stands.
  const liar = open("ada", [], { headers: { "x-user": "eve" } });
  await soon(() => expect(liar.service.state.connection).toBe("unauthorized"));
  expect(liar.service.state.activeUsers).toEqual([]);
  await sql("SELECT handle_user_disconnect('secret', 's'), handle_user_disconnect('secret', 't')");
});

test("tabs in different rooms are told of theirs, and of no other", async () => {
  await start({ mayEnter: (_viewer, room) => room !== "closed" });
  const plain = open("ada");
  await online(plain);
  const [lobby, both, closed] = [open("ada", ["lobby"]), open("ada", ["lobby", "den"]), open("ada", ["closed"])];
  for (const tab of tabs) await online(tab);
  await soon(() => expect(streams.size).toBe(1));
  const joined = (room: string) => sql("SELECT join_room('bob', 'b', $1)", [room]);
  await sql("SELECT update_user_heartbeat('bob', 'b')");
  for (const room of ["lobby", "den", "elsewhere"]) await joined(room);
  await soon(() => expect(names(both.service.room("den").state.users)).toEqual(["ada", "bob"]));
  await soon(() => expect(closed.service.room("closed").state.forbidden).toBe(true));
  await sql("SELECT set_typing('bob', 'b', 'lobby')");
  for (const tab of [lobby, both]) await soon(() => expect(tab.service.room("lobby").state.typing).toEqual(["bob"]));
  closed.rooms.pop();
  await expectTruth();
  const late = open("ada", ["lobby"]); // the stream has that room already
  await online(late);
  await soon(() => expect(late.service.room("lobby").state.typing).toEqual(["bob"]));
  await soon(() => expect(streams.size).toBe(1));
  await sql("SELECT handle_user_disconnect('bob', 'b')");
  await expectTruth();
});

test("more rooms than a stream may have: the tab that is too many has its own", async () => {
  await start({ limits: { roomsPerStream: 3 } });
  const first = open("ada", ["r1", "r2"]);
  await online(first);
  const second = open("ada", ["r3", "r4"]);
  await online(second);
  await soon(() => expect(streams.size).toBe(2));
  await sql("SELECT update_user_heartbeat('bob', 'b'), join_room('bob', 'b', 'r1'), join_room('bob', 'b', 'r4')");
  await expectTruth();
  await sql("SELECT handle_user_disconnect('bob', 'b')");
});

test("what the leader is refused, all are", async () => {
  let known = true;
  await start({
    authenticate: (request) => (known ? { userId: request.headers.get("x-user")! } : null),
    recheckInterval: 300,
  });
  for (let i = 0; i < 3; i++) open("ada", [], {}, { heartbeatInterval: 60_000 });
  for (const tab of tabs) await online(tab);
  await soon(() => expect(streams.size).toBe(1));
  const before = opened;
  known = false;
  for (const { service } of tabs) await soon(() => expect(service.state.connection).toBe("unauthorized"));
  expect(opened - before).toBeLessThanOrEqual(2); // one stream asked, for all
});

test("a leader that hangs: the others take its lock, and nobody listens to what it says later", async () => {
  await start({ keepAlive: 100 });
  const first = open("ada");
  await online(first);
  const others = [open("ada", [], {}, { silenceLimit: 500 }), open("ada", [], {}, { silenceLimit: 500 })];
  for (const tab of others) await online(tab);
  await soon(() => expect(streams.size).toBe(1));
  Channel.hang();
  await sql("SELECT update_user_heartbeat('bob', 'b')");
  for (const { service } of others) await soon(() => expect(service.state.connection).toBe("reconnecting"));
  for (const tab of others) await online(tab);
  Channel.wake();
  await sql("SELECT handle_user_disconnect('bob', 'b')");
  await expectTruth();
  await soon(() => expect(streams.size).toBe(1));
});

test("tabs that come and go, look away, lose leader and stream at any moment: nobody misses anything", async () => {
  await start({
    recheckInterval: 400,
    keepAlive: 50,
    limits: { requestsPerSecond: 1000, sessionsPerSecond: 1000 },
  });
  const random = randomNumbers(42);
  const users = ["ada", "bob"];
  const rooms = ["lobby", "den", "attic"];
  const { locks } = navigator;
  const openOne = () => open(users[random(2)]!, rooms.filter(() => random(2) === 0).slice(0, random(4)));
  for (let i = 0; i < 6; i++) openOne();
  for (let step = 0; step < 400; step++) {
    const guest = `guest ${random(5)}`;
    const choice = random(20);
    if (choice < 8)
      await sql("SELECT update_user_heartbeat($1, 'g'), join_room($1, 'g', $2)", [guest, rooms[random(3)]]);
    else if (choice < 12) await sql("SELECT handle_user_disconnect($1, 'g')", [guest]);
    else if (choice < 14) {
      close(tabs[random(tabs.length)]!);
      openOne();
    } else if (choice < 16) void tabs[random(tabs.length)]!.service.room(ASIDE).enter()();
    else if (choice === 16) {
      for (const name of users) {
        const lock = JSON.stringify(["presence-client stream 1", `${site.url}/api`, name]);
        locks.request(lock, { steal: true }, () => new Promise((resolve) => setTimeout(resolve, 5))).catch(() => {});
      }
    } else if (choice === 17) site.server.closeAllConnections();
    else await new Promise((resolve) => setTimeout(resolve, random(40)));
  }
  for (const tab of tabs) await online(tab);
  for (let i = 0; i < 5; i++) await sql("SELECT handle_user_disconnect($1, 'g')", [`guest ${i}`]);
  await expectTruth();
  await soon(() => expect(streams.size).toBe(new Set(tabs.map(({ userId }) => userId)).size));
  expect(tabs.map(({ resyncs }) => resyncs)).toEqual(tabs.map(() => 0));
});
