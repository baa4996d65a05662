import { connect } from "node:net";
import pg from "pg";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import type { FeedPosition } from "../../src/core/feedPosition.js";
import { createDatabase, openSite, openStream, type Message, type Site } from "./site.js";

const KEEP_ALIVE = 50;

// With the worker a notification carries its number, without it has none: the stream must not differ.
describe.each([
  ["with the worker's settings as they are", {}],
  ["without a worker", { "presence.worker": "off" }],
  ["without notifications", { "presence.notify_level": "none" }],
  ["with notifications of sessions", { "presence.notify_level": "session" }],
])("%s", (_, settings: Record<string, string>) => {
  let db: Awaited<ReturnType<typeof createDatabase>>;
  let site: Site;

  beforeAll(async () => {
    db = await createDatabase(settings);
  });
  afterAll(() => db.drop());
  beforeEach(async () => {
    site = await openSite(db.name, { keepAlive: KEEP_ALIVE });
  });
  afterEach(() => site.close());

  const beat = (user: string, session = "s") =>
    db.pool.query("SELECT update_user_heartbeat($1::text, $2::text)", [user, session]);
  const leave = (user: string, session = "s") =>
    db.pool.query("SELECT handle_user_disconnect($1::text, $2::text)", [user, session]);
  const is = (event: string, user: string) => (message: Message) =>
    message.data.event === event && message.data.user_id === user;

  test("first the list, then ready, then what happens, each once and in order", async () => {
    await beat("here");
    const stream = await openStream(site, "viewer");
    expect(stream.response.headers.get("content-type")).toBe("text/event-stream");
    const snapshot = await stream.next((message) => message.event === "snapshot");
    expect(snapshot.data.users.map((user: { user_id: string }) => user.user_id)).toContain("here");
    await stream.next((message) => message.event === "ready");
    for (let i = 0; i < 30; i++) await beat(`n${i}`);
    for (let i = 0; i < 30; i++) await leave(`n${i}`);
    await stream.next(is("user_offline", "n29"));
    const changes = stream.messages.filter((message) => message.event === "message");
    const numbers = changes.map((message) => message.data.seq);
    expect(numbers).toEqual([...new Set(numbers)].sort((a, b) => a - b));
    expect(numbers[0]).toBe(snapshot.data.seq + 1);
    expect(numbers.at(-1)! - numbers[0]!).toBe(numbers.length - 1); // none left out
    const { epoch } = snapshot.data;
    expect(epoch).toMatch(/./);
    expect(changes.every((message) => message.id === `${message.data.seq}@${epoch}`)).toBe(true);
    const words = changes.map((message) => JSON.stringify(message.data)).join();
    expect(words).not.toMatch(/session_id|ip_address|user_agent/);
    stream.close();
  });

  test("Last-Event-ID continues where the client stopped, and keep-alives are comments", async () => {
    const first = await openStream(site, "viewer");
    await first.next((message) => message.event === "ready");
    await beat("seen");
    const seen = await first.next(is("user_online", "seen"));
    first.close();
    await leave("seen");
    await beat("missed");
    const second = await openStream(site, "viewer", { "last-event-id": seen.id! });
    await second.next((message) => message.event === "ready");
    // Complete before "ready", and without the list.
    expect(
      second.messages
        .map((message) => message.event === "message" && `${message.data.event} ${message.data.user_id}`)
        .filter((word) => String(word).startsWith("user")),
    ).toEqual(["user_offline seen", "user_online missed"]);
    expect(second.messages.every((message) => message.event !== "snapshot")).toBe(true);
    await expect.poll(() => second.comments).toBeGreaterThan(3);
    second.close();
  });

  test("a position that the feed no longer has, or never had: the list anew", async () => {
    await beat("a");
    await db.pool.query("SELECT * FROM presence_snapshot()"); // all of it has numbers then
    await db.forgetEvents();
    for (const since of ["0", "1000000", "2@of-another-feed"]) {
      const stream = await openStream(site, "viewer", { "last-event-id": since });
      await stream.next((message) => message.event === "ready");
      expect(stream.messages[0]?.event).toBe("snapshot");
      stream.close();
    }
  });
});

describe("one database", () => {
  let db: Awaited<ReturnType<typeof createDatabase>>;
  let site: Site;

  beforeAll(async () => {
    db = await createDatabase();
  });
  afterAll(() => db.drop());
  afterEach(() => site.close());

  const listeners = async () =>
    (
      await db.admin.query(
        "SELECT count(*)::int AS n FROM pg_stat_activity WHERE datname = $1 AND query LIKE '%presence_changes_since%'",
        [db.name],
      )
    ).rows[0].n;

  test("one connection listens for all clients", async () => {
    site = await openSite(db.name);
    const streams = await Promise.all([...Array(25).keys()].map(() => openStream(site, "viewer")));
    for (const stream of streams) await stream.next((message) => message.event === "ready");
    const { rows } = await db.admin.query("SELECT count(*)::int AS n FROM pg_stat_activity WHERE datname = $1", [
      db.name,
    ]);
    // The listener, the endpoints' pool of four, the test's own four, and the extension's worker.
    expect(rows[0].n).toBeLessThanOrEqual(10);
    expect(await listeners()).toBeGreaterThanOrEqual(1);
    await db.pool.query("SELECT update_user_heartbeat('all'::text)");
    for (const stream of streams) await stream.next((message) => message.data.user_id === "all");
    for (const stream of streams) stream.close();
  });

  test("the database connection is cut: streams say so, come back by themselves, and miss nothing", async () => {
    site = await openSite(db.name);
    const stream = await openStream(site, "viewer");
    await stream.next((message) => message.event === "ready");
    // No connection is let in for a while, as in a restart.
    await db.admin.query(`ALTER DATABASE ${db.name} ALLOW_CONNECTIONS false`);
    await db.admin.query(
      "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND backend_type = 'client backend'",
      [db.name],
    );
    await stream.next((message) => message.event === "lost");
    expect((await site.get("/api/presence/events", "late")).status).toBe(503);
    await db.admin.query(`ALTER DATABASE ${db.name} ALLOW_CONNECTIONS true`);
    await db.pool.query("SELECT update_user_heartbeat('meanwhile'::text)");
    await stream.next((message) => message.data.user_id === "meanwhile" && message.data.event === "user_online");
    await vi.waitFor(() => expect(stream.messages.filter((message) => message.event === "ready").length).toBe(2), {
      timeout: 10_000,
    });
    expect(stream.ended).toBe(false);
    stream.close();
  });

  test("a reader that takes nothing is dropped, the others go on", async () => {
    site = await openSite(db.name, { limits: { unreadBytes: 16 * 1024 } });
    const stalled = connect(site.port, "127.0.0.1");
    stalled.on("error", () => {});
    stalled.pause();
    stalled.write("GET /api/presence/events HTTP/1.1\r\nHost: x\r\nx-user: slow\r\n\r\n");
    const good = await openStream(site, "viewer");
    await good.next((message) => message.event === "ready");
    const serverSockets = () =>
      new Promise<number>((resolve) => site.server.getConnections((_, count) => resolve(count)));
    await expect.poll(serverSockets).toBeGreaterThanOrEqual(2);
    const before = await serverSockets();
    // Enough to fill the socket buffers of both ends, too.
    const text = "x".repeat(3500);
    let round = 0;
    while ((await serverSockets()) >= before && round < 60) {
      await db.pool.query(
        "SELECT update_user_heartbeat('loud' || i, metadata => jsonb_build_object('text', $1::text, 'round', $2::int)) FROM generate_series(1, 200) AS i",
        [text, round++],
      );
      await good.next(
        (message) => message.data.user_id === "loud200" && message.data.details.metadata.round === round - 1,
      );
    }
    expect(await serverSockets()).toBeLessThan(before);
    expect(good.ended).toBe(false);
    stalled.destroy();
    good.close();
  }, 60_000);

  test("a list larger than the limit arrives whole", async () => {
    site = await openSite(db.name, { limits: { unreadBytes: 1024 } });
    await db.pool.query("SELECT update_user_heartbeat('big' || i) FROM generate_series(1, 300) AS i");
    const stream = await openStream(site, "viewer");
    await stream.next((message) => message.event === "ready");
    expect(stream.messages[0]?.data.users.length).toBeGreaterThanOrEqual(300);
    // And as a plain answer to somebody who reads it slowly.
    await db.pool.query(
      "SELECT update_user_heartbeat('big' || i, metadata => jsonb_build_object('text', repeat('x', 3500))) FROM generate_series(1, 300) AS i",
    );
    const list = await site.get("/api/presence", "viewer");
    let text = "";
    const decoder = new TextDecoder();
    for await (const chunk of list.body as unknown as AsyncIterable<Uint8Array>) {
      text += decoder.decode(chunk, { stream: true });
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    expect(JSON.parse(text).users.length).toBeGreaterThanOrEqual(300);
    stream.close();
  });

  test("what a viewer may not see is not in his stream", async () => {
    site = await openSite(db.name, { canSee: (viewer, user) => user.startsWith(viewer.userId) });
    const stream = await openStream(site, "team1");
    await stream.next((message) => message.event === "ready");
    await db.pool.query("SELECT update_user_heartbeat('team2-x'::text)");
    await db.pool.query("SELECT update_user_heartbeat('team1-x'::text)");
    await stream.next((message) => message.data.user_id === "team1-x");
    expect(JSON.stringify(stream.messages)).not.toContain("team2");
    expect(stream.messages[0]?.data.users).toEqual([]);
    // The position moves all the same, so that he does not ask for it again.
    await db.pool.query("SELECT update_user_heartbeat('team2-y'::text)");
    const position = await stream.next((message) => message.event === "position");
    expect(position.id).toBe(`${position.data.seq}@${position.data.epoch}`);
    stream.close();
  });

  test("a notification is a hint: what it says is not believed", async () => {
    site = await openSite(db.name, { pollInterval: 60_000 });
    const stream = await openStream(site, "viewer");
    const { data } = await stream.next((message) => message.event === "snapshot");
    await stream.next((message) => message.event === "ready");
    for (const forged of [
      { seq: data.seq + 1, event: "user_online", user_id: "forged", details: {} },
      { seq: data.seq + 1000, event: "user_offline", user_id: "forged", epoch: "forged" },
      { event: "storm", from: data.seq + 1, to: data.seq + 100_000, online: 99, offline: 0, epoch: "forged" },
      "no object",
    ]) {
      await db.pool.query("SELECT pg_notify('presence', $1)", [JSON.stringify(forged)]);
    }
    await db.pool.query("SELECT update_user_heartbeat('genuine'::text)");
    await stream.next((message) => message.data.user_id === "genuine");
    expect(JSON.stringify(stream.messages)).not.toContain("forged");
    expect(stream.messages.filter(({ event }) => event === "snapshot")).toHaveLength(1);
    stream.close();
  });

  test("more changes at once than a list is worth: the list, for those who listen and those who come back", async () => {
    site = await openSite(db.name, { limits: { missedChanges: 50 } });
    const stream = await openStream(site, "viewer");
    const ready = await stream.next((message) => message.event === "ready");
    const since = stream.messages[0]?.id ?? "";
    await db.pool.query("SELECT update_user_heartbeat('storm' || i) FROM generate_series(1, 60) AS i");
    await stream.next(({ event, data }) => event === "snapshot" && JSON.stringify(data.users).includes("storm60"));
    await db.pool.query("SELECT update_user_heartbeat('after'::text)");
    await stream.next((message) => message.data.user_id === "after");
    const between = stream.messages.slice(stream.messages.indexOf(ready) + 1);
    expect(between.map(({ event, data }) => [event, data.user_id])).toEqual([
      ["snapshot", undefined],
      ["message", "after"],
      ["message", "after"], // and the start of the session
    ]);
    const back = await openStream(site, "viewer", { "last-event-id": since });
    await back.next((message) => message.event === "ready");
    expect(back.messages.map(({ event }) => event)).toEqual(["snapshot", "ready"]);
    stream.close();
    back.close();
  });

  test("who missed more bytes than a list is worth gets the list", async () => {
    site = await openSite(db.name, { limits: { missedBytes: 1 } });
    const first = await openStream(site, "viewer");
    await first.next((message) => message.event === "ready");
    first.close();
    await db.pool.query("SELECT update_user_heartbeat('many' || i) FROM generate_series(1, 600) AS i"); // two pages
    const back = await openStream(site, "viewer", { "last-event-id": first.messages[0]?.id ?? "" });
    await back.next((message) => message.event === "ready");
    expect(back.messages.at(-2)?.event).toBe("snapshot");
    back.close();
  });

  test("the extension is made anew and has caught up: the list, and no change is left out after it", async () => {
    site = await openSite(db.name, { pollInterval: 60_000 });
    const stream = await openStream(site, "viewer");
    await stream.next((message) => message.event === "ready");
    const since = stream.messages[0]?.id ?? "";
    const old = stream.messages[0]?.data as FeedPosition;
    await db.pool.query("DROP EXTENSION presence; CREATE EXTENSION presence");
    await db.pool.query("SELECT update_user_heartbeat('anew' || i) FROM generate_series(1, $1::int) AS i", [old.seq]);
    const { data } = await stream.next(({ event, data }) => event === "snapshot" && data.epoch !== old.epoch);
    expect(data.seq).toBeGreaterThan(old.seq);
    await db.pool.query("SELECT update_user_heartbeat('later'::text)");
    const later = await stream.next((message) => message.data.user_id === "later");
    expect(later.data.seq).toBe(data.seq + 1);
    const back = await openStream(site, "viewer", { "last-event-id": since });
    await back.next((message) => message.event === "ready");
    expect(back.messages[0]?.event).toBe("snapshot");
    stream.close();
    back.close();
  });

  test("a stream asks to be opened anew, and authenticate is asked within requests only", async () => {
    let known = true;
    let requests = 0;
    const asked: number[] = [];
    site = await openSite(db.name, {
      recheckInterval: 100,
      authenticate() {
        asked.push(requests);
        return known ? { userId: "viewer" } : null;
      },
    });
    for (requests = 1; requests <= 3; requests++) {
      const stream = await openStream(site, "viewer");
      await stream.next((message) => message.event === "renew");
      await expect.poll(() => stream.ended).toBe(true);
      expect(stream.messages.at(-1)?.event).toBe("renew");
    }
    expect(asked).toEqual([1, 2, 3]);
    known = false;
    expect((await site.get("/api/presence/events", "viewer")).status).toBe(401);
  });

  test("viewers who leave before the first byte hold no place", async () => {
    let release = () => {};
    const slow = new Promise<void>((resolve) => (release = resolve));
    let asked = 0;
    let first = true;
    site = await openSite(db.name, {
      limits: { streamsPerUser: 2 },
      async authenticate() {
        asked++;
        if (first) await slow;
        return { userId: "hasty" };
      },
    });
    const sockets = [1, 2].map(() => {
      const socket = connect(site.port, "127.0.0.1");
      socket.write("GET /api/presence/events HTTP/1.1\r\nHost: x\r\n\r\n");
      return socket;
    });
    await expect.poll(() => asked).toBe(2);
    for (const socket of sockets) socket.destroy();
    const open = () => new Promise<number>((resolve) => site.server.getConnections((_, count) => resolve(count)));
    await expect.poll(open).toBe(0);
    first = false;
    release();
    await expect
      .poll(async () => {
        const stream = await openStream(site, "hasty");
        stream.close();
        return stream.response.status;
      })
      .toBe(200);
  });

  test("close() ends open streams, so that the process can", async () => {
    site = await openSite(db.name);
    const stream = await openStream(site, "viewer");
    await stream.next((message) => message.event === "ready");
    await site.presence.close();
    await expect.poll(() => stream.ended).toBe(true);
    site = await openSite(db.name); // for afterEach
  });

  test("the extension in a schema of its own, with rights on the functions only", async () => {
    const client = new pg.Client({ database: db.name });
    await client.connect();
    await client.query(
      'DROP EXTENSION presence; CREATE SCHEMA "Other Place"; CREATE EXTENSION presence SCHEMA "Other Place"',
    );
    const role = `gateway_${process.pid}`;
    await client.query(
      `CREATE ROLE ${role} LOGIN; GRANT USAGE ON SCHEMA "Other Place" TO ${role}; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA "Other Place" TO ${role}`,
    );
    site = await openSite(db.name, { database: { database: db.name, user: role } });
    expect(await (await site.post("/api/heartbeat", "ada", { session_id: "s" })).json()).toMatchObject({
      online: true,
    });
    expect(await (await site.post("/api/heartbeat", "ada", { session_id: "s" })).json()).toEqual({ online: true }); // batched
    const stream = await openStream(site, "viewer");
    await stream.next((message) => message.event === "ready");
    expect((await (await site.get("/api/presence?user=ada", "x")).json()).users[0].online).toBe(true);
    expect(await (await site.post("/api/user-disconnect", "ada", { session_id: "s" })).json()).toEqual({
      offline: true,
    });
    await stream.next((message) => message.data.event === "user_offline");
    expect((await site.post("/api/presence/cleanup", "root", "")).status).toBe(200);
    stream.close();
    await site.close();
    await client.query(`DROP OWNED BY ${role}; DROP ROLE ${role}`);
    await client.end();
    site = await openSite(db.name);
  });
});
