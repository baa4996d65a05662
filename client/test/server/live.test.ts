import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import express from "express";
import pg from "pg";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import {
  HttpTransport,
  PresenceService,
  RpcTransport,
  type PresenceEvent,
  type PresenceOptions,
} from "../../src/index.js";
import { createPresenceServer, nodeAdapter } from "../../src/server/index.js";
import { sqlOf } from "./documents.js";
import { addHostileOverloads, createDatabase, openSite, type Site } from "./site.js";

// The page's half and the server's half together, over the network, against the real extension.

const FAST: Partial<PresenceOptions> = {
  heartbeatInterval: 300,
  retryBase: 50,
  retryMax: 200,
  silenceLimit: 2000,
  wakeCheckInterval: 100,
};

let db: Awaited<ReturnType<typeof createDatabase>>;
const services: PresenceService[] = [];

beforeAll(async () => {
  db = await createDatabase();
});
afterAll(() => db.drop());
afterEach(() => {
  for (const service of services.splice(0)) service.stop();
});

function launch(service: PresenceService): PresenceService {
  services.push(service);
  service.start();
  return service;
}

const open = (site: Site, userId: string, more: Partial<PresenceOptions> = {}, requestTimeout = 10_000) =>
  launch(
    new PresenceService({
      userId,
      transport: new HttpTransport({ baseUrl: `${site.url}/api`, headers: { "x-user": userId }, requestTimeout }),
      ...FAST,
      ...more,
    }),
  );

const names = (service: PresenceService) => service.state.activeUsers.map((user) => user.user_id).sort();
const truth = async () =>
  (await db.pool.query('SELECT user_id FROM get_active_users() ORDER BY user_id COLLATE "C"')).rows.map(
    (row) => row.user_id,
  );
const soon = (check: () => unknown, timeout = 10_000, interval = 20) => vi.waitFor(check, { timeout, interval });

test("join, tabs, status, leave: others see it at once", async () => {
  const site = await openSite(db.name);
  const ada = open(site, "ada");
  const watcher = open(site, "root", { autoJoin: false });
  await soon(() => expect(names(watcher)).toEqual(["ada"]));
  expect(watcher.state.isConnected).toBe(true);
  const second = open(site, "ada");
  await soon(() => expect(watcher.state.activeUsers[0]?.sessions).toBe(2));
  ada.setStatus("busy");
  await soon(() => expect(watcher.state.activeUsers[0]?.status).toBe("busy"));
  ada.setStatus(null);
  await soon(() => expect(watcher.state.activeUsers[0]?.status).toBe("active"));
  second.stop();
  await soon(() => expect(watcher.state.activeUsers[0]?.sessions).toBe(1));
  const left = Date.now();
  ada.stop();
  await soon(() => expect(names(watcher)).toEqual([]));
  expect(Date.now() - left).toBeLessThan(3000);
  expect(watcher.state.lastSeen.has("ada")).toBe(true);
  expect((await watcher.lookUp(["ada"]))[0]).toMatchObject({ user_id: "ada", online: false });
  expect(await watcher.triggerCleanup()).toMatchObject({ outcome: "done", offline: 0 });
  expect(await ada.triggerCleanup()).toMatchObject({ outcome: "forbidden", error: { status: 403 } });
  await site.close();
});

test("a chosen status is the person's: on all devices, until it is over, and also to be invisible", async () => {
  const site = await openSite(db.name);
  const ada = open(site, "ada");
  const phone = open(site, "ada"); // nothing in common but the user: there is no browser here
  const watcher = open(site, "root", { autoJoin: false });
  await soon(() => expect(names(watcher)).toEqual(["ada"]));
  await soon(() => expect([ada.state.joined, phone.state.joined]).toEqual([true, true]));

  ada.setStatus("busy");
  await soon(() => expect(phone.state.chosenStatus).toBe("busy"));
  const until = new Date(Date.now() + 3600_000);
  ada.setStatus("busy", { until, message: "Écriture" });
  await soon(() => expect(watcher.state.activeUsers[0]?.status).toBe("busy"));
  await soon(() =>
    expect([phone.state.chosenStatus, phone.state.statusUntil, phone.state.statusMessage]).toEqual([
      "busy",
      until.toISOString(),
      "Écriture",
    ]),
  );

  phone.setStatus("invisible");
  await soon(() => expect(names(watcher)).toEqual([]));
  await soon(() => expect(ada.state.chosenStatus).toBe("invisible"));
  const later = open(site, "ada"); // a page that is opened then
  await soon(() => expect([later.state.joined, later.state.chosenStatus]).toEqual([true, "invisible"]));
  expect(names(watcher)).toEqual([]);

  later.setStatus("away", { until: new Date(Date.now() + 1500) });
  await soon(() => expect(watcher.state.activeUsers[0]?.status).toBe("away"));
  await soon(() => expect(watcher.state.activeUsers[0]?.status).toBe("active")); // over
  await soon(() => expect([ada, phone, later].map(({ state }) => state.chosenStatus)).toEqual([null, null, null]));

  ada.setStatus("busy", { message: "x".repeat(2000) }); // more than the database takes
  await soon(() => expect(ada.state.chosenStatus).toBe(null));
  for (const page of [ada, phone, later, watcher]) page.stop();
  await site.close();
});

test("the network is cut and comes back: nothing missed, nothing twice, back by themselves", async () => {
  const site = await openSite(db.name);
  const watcher = open(site, "watcher");
  const seen: PresenceEvent[] = [];
  watcher.on("change", (change) => seen.push(change));
  await soon(() => expect(watcher.state.isConnected).toBe(true));
  const from = watcher.state.stats.seq as number;

  await new Promise<void>((resolve) => {
    site.server.close(() => resolve());
    site.server.closeAllConnections();
  });
  await soon(() => expect(watcher.state.connection).toBe("reconnecting"));
  for (let i = 0; i < 40; i++) {
    await db.pool.query("SELECT update_user_heartbeat($1::text)", [`away${i}`]);
    if (i % 2 === 0) await db.pool.query("SELECT mark_user_offline($1::text)", [`away${i}`]);
  }
  await new Promise<void>((resolve) => site.server.listen(site.port, "127.0.0.1", resolve));
  await soon(() => expect(watcher.state.isConnected).toBe(true));
  const expected = await truth();
  await soon(() => expect(names(watcher)).toEqual(expected));

  const { rows } = await db.pool.query("SELECT seq::int, event FROM presence_changes_since($1)", [from]);
  await soon(() => expect(seen.map((change) => change.seq)).toEqual(rows.map((row) => row.seq)));
  await site.close();
});

test("a hundred pages at once all see each other", async () => {
  const site = await openSite(db.name);
  // All in this process: on a busy machine none of them is as quick as a page of its own.
  const unhurried = { heartbeatInterval: 5000, silenceLimit: 30_000 };
  const pages = [...Array(100).keys()].map((i) => open(site, `page${i}`, unhurried, 30_000));
  const allSee = (number: number) =>
    soon(
      () => {
        for (const page of pages) expect(names(page).filter((name) => name.startsWith("page"))).toHaveLength(number);
      },
      60_000,
      250,
    );
  const problems: string[] = [];
  for (const page of pages) page.on("error", (error) => problems.push(error.message));
  await allSee(100);
  for (const page of pages.splice(0, 50)) page.stop();
  await allSee(50);
  expect(problems).toEqual([]);
  await site.close();
}, 130_000);

describe("Express", () => {
  test.each([
    ["before", true],
    ["after", false],
  ])("the adapter %s a body parser, and other routes keep their bodies", async (_, before) => {
    const presence = createPresenceServer({
      authenticate: (request) => ({ userId: request.headers.get("x-user") ?? "" }),
      database: { database: db.name },
      onError: () => {},
    });
    const app = express();
    if (before) app.use(nodeAdapter(presence));
    app.use(express.json());
    app.use(express.text({ type: "text/plain" }));
    if (!before) app.use(nodeAdapter(presence));
    app.post("/echo", (request, response) => void response.json(request.body));
    const server = await new Promise<Server>((resolve) => {
      const listening = app.listen(0, "127.0.0.1", () => resolve(listening));
    });
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const post = async (path: string, type: string) => {
      const body = JSON.stringify({ session_id: "x" });
      return (
        await fetch(url + path, { method: "POST", body, headers: { "content-type": type, "x-user": "express" } })
      ).json();
    };
    expect(await post("/api/heartbeat", "application/json")).toMatchObject({ online: true });
    expect(await post("/api/user-disconnect", "text/plain")).toEqual({ offline: true });
    expect(await post("/echo", "application/json")).toEqual({ session_id: "x" });
    await db.pool.query("DELETE FROM presence_session WHERE user_id = 'express'"); // with its tombstone
    await presence.close();
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });
});

describe("a JSON-RPC gateway without a backend, as the document sets it up", () => {
  let gateway: Server;
  let url: string;
  let pool: pg.Pool;
  let own: Awaited<ReturnType<typeof createDatabase>>;
  let hijacked: () => Promise<string[]>;

  beforeAll(async () => {
    own = await createDatabase();
    await own.pool.query("DROP ROLE IF EXISTS web_admin, web_user");
    hijacked = await addHostileOverloads(own.pool);
    await own.pool.query(sqlOf("docs/front-end.md", "gateway"));
    pool = new pg.Pool({ database: own.name });
    // Calls functions as PostgREST does: arguments by name from the JSON body, role and claims from the token, data errors as 400.
    gateway = createServer(async (request, response) => {
      let body = "";
      for await (const chunk of request) body += chunk;
      const name = /^\/rpc\/(\w+)$/.exec(request.url ?? "")?.[1] ?? "";
      const user = /^Bearer (\w+)$/.exec(request.headers.authorization ?? "")?.[1];
      const client = await pool.connect();
      try {
        if (user === undefined) throw Object.assign(new Error("no token"), { code: "42501" });
        await client.query("BEGIN");
        await client.query(`SET LOCAL ROLE ${user === "root" ? "web_admin" : "web_user"}`);
        await client.query(
          "SELECT set_config('search_path', 'api', true), set_config('request.jwt.claims', $1, true), set_config('request.headers', $2, true)",
          [JSON.stringify({ sub: user }), JSON.stringify(request.headers)],
        );
        const args = Object.entries(JSON.parse(body));
        const call = `api.${name}(${args.map(([key], i) => `${key} := $${i + 1}`).join(", ")})`;
        const values = args.map(([, value]) =>
          value !== null && typeof value === "object" && !Array.isArray(value) ? JSON.stringify(value) : value,
        );
        const { rows } = await client.query(`SELECT to_jsonb(r) AS r FROM ${call} AS r`, values);
        await client.query("COMMIT");
        const list = ["presence_changes_since", "presence_snapshot", "get_presence"].includes(name); // RETURNS TABLE or SETOF
        response.end(JSON.stringify(list ? rows.map((row) => row.r) : rows[0]?.r));
      } catch (error) {
        await client.query("ROLLBACK");
        const { code = "", message } = error as { code?: string; message: string };
        response
          .writeHead(code === "42501" ? 403 : code === "42883" ? 404 : 400)
          .end(JSON.stringify({ code, message }));
      } finally {
        client.release();
      }
    });
    await new Promise<void>((resolve) => gateway.listen(0, "127.0.0.1", resolve));
    url = `http://127.0.0.1:${(gateway.address() as AddressInfo).port}`;
  });
  afterEach(async () => expect(await hijacked()).toEqual([]));
  afterAll(async () => {
    gateway.closeAllConnections();
    await new Promise((resolve) => gateway.close(resolve));
    await pool.end();
    await own.pool.query("DROP SCHEMA api CASCADE; DROP OWNED BY web_user, web_admin; DROP ROLE web_admin, web_user");
    await own.drop();
  });

  const transportOf = (user: string) =>
    new RpcTransport({ url, pollInterval: 100, headers: () => ({ authorization: `Bearer ${user}` }) });
  const page = (user: string, claims = user) =>
    launch(new PresenceService({ userId: user, transport: transportOf(claims), metadata: { room: "x" }, ...FAST }));

  test("join, see others, leave, clean up", async () => {
    const ada = page("ada");
    const root = page("root");
    for (const each of [ada, root]) await soon(() => expect(names(each)).toEqual(["ada", "root"]));
    expect(root.state.activeUsers[0]?.metadata).toEqual({ room: "x" });
    const { rows } = await own.pool.query(
      "SELECT heartbeat_interval::text AS i FROM presence_sessions WHERE user_id = 'ada'",
    );
    expect(rows[0].i).toBe("00:00:00.3");
    expect((await root.lookUp(["ada", "nobody"])).map((user) => user.online).sort()).toEqual([false, true]);
    ada.stop();
    await soon(() => expect(names(root)).toEqual(["root"]));
    expect(await root.triggerCleanup()).toMatchObject({ outcome: "done", offline: 0 });
    await expect(transportOf("ada").cleanup()).rejects.toMatchObject({ status: 403 });
  });

  test("a chosen status, also to be invisible, and when somebody was last active", async () => {
    const iris = page("iris");
    const phone = page("iris");
    const root = page("root");
    await soon(() => expect(names(root)).toEqual(["iris", "root"]));
    iris.setStatus("busy", { message: "Reading" });
    await soon(() => expect(phone.state.statusMessage).toBe("Reading"));
    phone.setStatus("invisible");
    await soon(() => expect(names(root)).toEqual(["root"]));
    await soon(() => expect(iris.state.chosenStatus).toBe("invisible"));
    phone.setStatus(null);
    await soon(() => expect(names(root)).toEqual(["iris", "root"]));
    await soon(() => expect(iris.state.chosenStatus).toBe(null));
    await expect(
      transportOf("eve").status.choose("iris", { status: "away", until: null, message: null }),
    ).rejects.toMatchObject({
      status: 403,
    });
    const beat = { user_id: "iris", session_id: phone.sessionId, heartbeat_interval: 1, status: "active" as const };
    await transportOf("iris").heartbeat({ ...beat, inactive_for: 90 }, new AbortController().signal);
    const { rows } = await own.pool.query(
      "SELECT now() - last_activity BETWEEN interval '85 s' AND interval '5 min' AS yes FROM presence_sessions WHERE session_id = $1",
      [phone.sessionId],
    );
    expect(rows[0].yes).toBe(true);
    for (const each of [iris, phone, root]) each.stop();
  });

  test("nobody speaks for anybody else, and session ids stay secret", async () => {
    const victim = page("victim");
    await soon(() => expect(victim.state.joined).toBe(true));
    const eve = page("victim", "eve");
    await soon(() => expect(eve.state.stats.heartbeatsFailed).toBeGreaterThan(0));
    transportOf("eve").leave("victim", victim.sessionId);
    const call = (name: string, args: object) =>
      fetch(`${url}/rpc/${name}`, {
        method: "POST",
        body: JSON.stringify(args),
        headers: { authorization: "Bearer eve" },
      });
    expect((await call("handle_user_disconnect", { user_id: "victim", session_id: victim.sessionId })).status).toBe(
      403,
    );
    expect(await (await call("presence_changes_since", { seq: 0 })).text()).not.toContain(victim.sessionId);
    expect((await own.pool.query("SELECT is_user_online('victim') AS yes")).rows[0].yes).toBe(true);
    // Past the gateway's schema, the role may do nothing.
    const client = await pool.connect();
    await client.query("SET ROLE web_user");
    await expect(client.query("SELECT public.mark_user_offline('victim')")).rejects.toMatchObject({
      code: "42501",
    });
    await client.query("RESET ROLE");
    client.release();
  });

  test("a look-up has 500 ids at most, however the array is built", async () => {
    const ids = [...Array(600).keys()].map((i) => `id${i}`);
    expect(await transportOf("ada").lookUp(ids)).toHaveLength(500);
    // One row of 600 in two dimensions, which user_ids[1:500] would leave as it is.
    expect(await transportOf("ada").lookUp([ids] as never)).toHaveLength(500);
    expect(await transportOf("ada").lookUp([])).toEqual([]);
  });

  test("a position the feed no longer has: the list anew", async () => {
    const watcher = page("watcher");
    await soon(() => expect(watcher.state.isConnected).toBe(true));
    watcher.stop(); // and keeps its position
    await own.pool.query("SELECT update_user_heartbeat('later'::presence_id)");
    await own.pool.query("SELECT * FROM presence_snapshot()");
    await own.forgetEvents();
    const lists: number[] = [];
    watcher.on("resync", ({ seq }) => lists.push(seq));
    watcher.start();
    await soon(() => expect(names(watcher)).toContain("later"));
    expect(lists).toHaveLength(1);
  });
});

test("another user signs in, and the cookie changes first: the one before leaves at once, also before he has joined", async () => {
  await db.pool.query("SELECT mark_user_offline(user_id) FROM get_active_users()"); // whom other tests have left
  let cookie = "ada";
  let slow = Promise.resolve();
  const asked: string[] = [];
  const site = await openSite(db.name, {
    async authenticate(request) {
      const userId = request.headers.get("x-user") ?? "";
      asked.push(`${new URL(request.url).pathname} ${userId}`);
      await slow;
      return { userId };
    },
  });
  // Sent by the browser, not by the page: whoever speaks, it is what it is now.
  const page = (userId: string) =>
    launch(
      new PresenceService({
        userId,
        transport: new HttpTransport({ baseUrl: `${site.url}/api`, headers: async () => ({ "x-user": cookie }) }),
        ...FAST,
      }),
    );
  const ada = page("ada");
  await soon(() => expect(ada.state.joined).toBe(true));
  cookie = "bob";
  const bob = page("bob");
  ada.stop();
  await soon(() => expect(names(bob)).toEqual(["bob"]));

  // In a tab that does not know of it yet: the server's answer says so.
  cookie = "carl";
  await soon(() => expect(bob.state.connection).toBe("unauthorized"));
  await soon(async () => expect(await truth()).toEqual([]));
  bob.stop();

  cookie = "dora";
  let release = () => {};
  slow = new Promise((resolve) => (release = resolve));
  const dora = page("dora");
  await soon(() => expect(asked).toContain("/api/heartbeat dora"));
  cookie = "eve";
  dora.stop();
  release();
  const eve = page("eve");
  await soon(() => expect(eve.state.joined).toBe(true));
  await soon(async () => expect(await truth()).toEqual(["eve"]));
  eve.stop();
  await site.close();
});

test("the rights that the document grants are enough for a backend", async () => {
  const own = await createDatabase();
  await own.pool.query("DROP ROLE IF EXISTS web_backend; CREATE ROLE web_backend LOGIN");
  const hijacked = await addHostileOverloads(own.pool);
  await own.pool.query(sqlOf("docs/front-end.md", "grants for a backend"));
  const errors: unknown[] = [];
  const site = await openSite(own.name, {
    database: { database: own.name, user: "web_backend" },
    locate: () => ({ region: "Berlin" }),
    onError: (error) => errors.push(error),
  });
  const ada = open(site, "ada");
  const root = open(site, "root");
  await soon(() => expect(names(root)).toEqual(["ada", "root"]));
  await soon(() => expect(ada.state.stats.heartbeatsSent).toBeGreaterThan(2)); // batched, too
  expect((await own.pool.query("SELECT region, users FROM presence_by_region()")).rows).toEqual([
    { region: "Berlin", users: "2" },
  ]);
  const leave = ada.room("lobby").enter();
  root.room("lobby").enter();
  await soon(() => expect(root.room("lobby").state.count).toBe(2));
  ada.room("lobby").setTyping();
  await soon(() => expect(root.room("lobby").state.typing).toEqual(["ada"]));
  ada.room("lobby").setTyping(false);
  leave();
  await soon(() => expect(root.room("lobby").state.count).toBe(1));
  ada.stop();
  await soon(() => expect(names(root)).toEqual(["root"]));
  expect(await root.triggerCleanup()).toMatchObject({ outcome: "done", offline: 0 });
  expect((await root.lookUp(["ada"]))[0]?.online).toBe(false);
  root.stop();
  await site.close();
  expect(errors).toEqual([]);
  expect(await hijacked()).toEqual([]);
  await own.pool.query("DROP OWNED BY web_backend; DROP ROLE web_backend");
  await own.drop();
});
