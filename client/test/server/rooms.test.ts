import { afterAll, afterEach, beforeAll, expect, test, vi } from "vitest";
import { HttpTransport, PresenceService, type PresenceOptions } from "../../src/index.js";
import { createDatabase, openSite, openStream, type Site } from "./site.js";

// Rooms from page to page, over the network, against the real extension.

let db: Awaited<ReturnType<typeof createDatabase>>;
let site: Site;
const services: PresenceService[] = [];

beforeAll(async () => {
  db = await createDatabase();
});
afterAll(() => db.drop());
afterEach(async () => {
  for (const service of services.splice(0)) service.stop();
  await site.close();
});

const open = (userId: string, more: Partial<PresenceOptions> = {}) => {
  const transport = new HttpTransport({ baseUrl: `${site.url}/api`, headers: { "x-user": userId } });
  const service = new PresenceService({ userId, transport, retryBase: 50, retryMax: 200, ...more });
  services.push(service);
  service.start();
  return service;
};
const soon = (check: () => unknown) => vi.waitFor(check, { timeout: 15_000, interval: 20 });
const names = (service: PresenceService, room: string) =>
  service
    .room(room)
    .state.users.map(({ user_id }) => user_id)
    .sort();
const members = async (room: string) =>
  (await db.pool.query("SELECT user_id FROM get_room($1::text) ORDER BY 1", [room])).rows.map(({ user_id }) => user_id);

test("people meet in a room, say something there, and leave it", async () => {
  site = await openSite(db.name);
  const ada = open("ada");
  const bob = open("bob");
  const leave = ada.room("lobby").enter({ cursor: 1 });
  await soon(() => expect(names(ada, "lobby")).toEqual(["ada"]));
  bob.room("lobby").enter();
  await soon(() =>
    expect([names(ada, "lobby"), names(bob, "lobby")]).toEqual([
      ["ada", "bob"],
      ["ada", "bob"],
    ]),
  );
  expect(await members("lobby")).toEqual(["ada", "bob"]);
  expect(bob.room("lobby").state.users.find(({ user_id }) => user_id === "ada")?.metadata).toEqual({ cursor: 1 });

  const still = ada.room("lobby").enter({ cursor: 2 });
  const cursor = () => bob.room("lobby").state.users.find(({ user_id }) => user_id === "ada")?.metadata;
  await soon(() => expect(cursor()).toEqual({ cursor: 2 }));
  ada.setStatus("busy");
  await soon(() => expect(bob.room("lobby").state.users.some(({ status }) => status === "busy")).toBe(true));

  leave();
  still();
  await soon(() => expect(names(bob, "lobby")).toEqual(["bob"]));
  await soon(async () => expect(await members("lobby")).toEqual(["bob"]));
  bob.stop(); // the end of the session leaves the room
  await soon(async () => expect(await members("lobby")).toEqual([]));
});

test("the list comes again where the feed cannot continue", async () => {
  site = await openSite(db.name);
  const ada = open("ada");
  ada.room("hall").enter();
  await soon(() => expect(names(ada, "hall")).toEqual(["ada"]));
  let resyncs = 0;
  ada.on("resync", () => resyncs++);
  await new Promise<void>((resolve) => {
    site.server.close(() => resolve());
    site.server.closeAllConnections();
  });
  await db.pool.query("SELECT join_room('carl', 'tab', 'hall')");
  await db.forgetEvents();
  await new Promise<void>((resolve) => site.server.listen(site.port, "127.0.0.1", resolve));
  await soon(() => expect([names(ada, "hall"), resyncs]).toEqual([["ada", "carl"], 1]));
  await db.pool.query("SELECT leave_room('carl', 'tab', 'hall')");
  await soon(() => expect(names(ada, "hall")).toEqual(["ada"]));
});

test("who is typing, until it ends by itself", async () => {
  site = await openSite(db.name);
  const ada = open("ada");
  const bob = open("bob");
  for (const service of [ada, bob]) service.room("lobby").enter();
  await soon(() => expect([ada, bob].every((service) => service.room("lobby").state.joined)).toBe(true));
  ada.room("lobby").setTyping();
  await soon(() => expect(bob.room("lobby").state.typing).toEqual(["ada"]));
  expect(ada.room("lobby").state.typing).toEqual([]);
  ada.room("lobby").setTyping(false);
  await soon(() => expect(bob.room("lobby").state.typing).toEqual([]));
  ada.room("lobby").setTyping();
  await soon(() => expect(bob.room("lobby").state.typing).toEqual(["ada"]));
  await soon(() => expect(bob.room("lobby").state.typing).toEqual([]));
  // Somebody who comes later is told as well.
  await db.pool.query(
    "SELECT set_typing('bob', (SELECT session_id FROM presence WHERE user_id = 'bob'), 'lobby', '30s')",
  );
  const late = open("late");
  late.room("lobby").enter();
  await soon(() => expect(late.room("lobby").state.typing).toEqual(["bob"]));
});

test("closed rooms: not joined, not listed, not told of", async () => {
  site = await openSite(db.name, {
    mayEnter: async ({ userId }, room) => room !== "board" || userId === "boss",
    canSee: ({ userId }, other) => userId === other || other !== "ghost",
  });
  const boss = open("boss");
  const ada = open("ada");
  for (const service of [boss, ada]) {
    service.room("board").enter();
    service.room("open").enter();
  }
  await soon(() => expect(names(boss, "open")).toEqual(["ada", "boss"]));
  await soon(() => expect(ada.room("board").state).toMatchObject({ forbidden: true, joined: false, count: 0 }));
  await soon(() => expect(names(boss, "board")).toEqual(["boss"]));
  expect(await members("board")).toEqual(["boss"]);
  expect((await site.get("/api/presence/room?room=board", "ada")).status).toBe(403);
  expect(await (await site.get("/api/presence/room?room=board", "boss")).json()).toMatchObject({
    room: "board",
    users: [{ user_id: "boss" }],
  });
  const typing = { session_id: "x", room: "board", typing: true };
  expect((await site.post("/api/typing", "ada", typing)).status).toBe(403);
  expect((await site.post("/api/room-join", "ada", { session_id: "x", room: "open", user_id: "boss" })).status).toBe(
    403,
  );
  for (const room of [undefined, "", 7, "a\nb"])
    expect((await site.post("/api/room-join", "ada", { session_id: "x", room })).status).toBe(400);

  // A stream is told of its rooms only, and of nobody who is hidden from it; its position moves all the same.
  const stream = await openStream(site, "ada");
  await stream.next(({ event }) => event === "ready");
  await db.pool.query("SELECT join_room('ghost', 'tab', 'open'), join_room('carl', 'tab', 'elsewhere')");
  const position = Number((await db.pool.query("SELECT seq FROM presence_feed_position()")).rows[0].seq);
  await stream.next(({ id }) => Number(id?.split("@")[0]) >= position);
  expect(stream.messages.filter(({ data }) => data.room !== undefined || data.user_id === "ghost")).toEqual([]);
  expect(names(ada, "open")).toEqual(["ada", "boss"]);
  stream.close();
});

test("whoever appears offline is in no room, and at once in it again when that is over", async () => {
  site = await openSite(db.name);
  const carl = open("carl");
  const bob = open("bob");
  carl.room("balcony").enter();
  bob.room("balcony").enter();
  await soon(() => expect(names(bob, "balcony")).toEqual(["bob", "carl"]));
  carl.setStatus("invisible");
  await soon(() => expect(names(bob, "balcony")).toEqual(["bob"]));
  await soon(() => expect(carl.room("balcony").state.joined).toBe(false));
  carl.setStatus(null);
  // Long before the next heartbeat.
  await soon(() => expect([names(bob, "balcony"), carl.room("balcony").state.joined]).toEqual([["bob", "carl"], true]));
});
