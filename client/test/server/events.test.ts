import { connect } from "node:net";
import pg from "pg";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
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
    expect(changes.every((message) => message.id === String(message.data.seq))).toBe(true);
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
    const second = await openStream(site, "viewer", { "last-event-id": String(seen.data.seq) });
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
    await db.pool.query("SELECT * FROM presence_changes_since(0)");
    await db.pool.query("DELETE FROM presence_event WHERE id = (SELECT min(id) FROM presence_event)");
    await db.pool.query("INSERT INTO presence_feed_dropped VALUES (1)");
    for (const since of ["0", "1000000"]) {
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
    stream.close();
  });

  test("a sign-out ends the stream; a fault of the look-up does not", async () => {
    let known = true;
    let broken = true;
    let asked = 0;
    site = await openSite(db.name, {
      recheckInterval: 50,
      authenticate() {
        asked++;
        if (broken && asked > 1) throw new Error("session store away");
        return known ? { userId: "viewer" } : null;
      },
    });
    const stream = await openStream(site, "viewer");
    await stream.next((message) => message.event === "ready");
    await expect.poll(() => asked).toBeGreaterThan(4);
    expect(stream.ended).toBe(false);
    broken = false;
    known = false;
    await expect.poll(() => stream.ended).toBe(true);
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
    expect(await (await site.post("/api/heartbeat", "ada", { session_id: "s" })).json()).toEqual({ online: true });
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
