import { connect as connectHttp2, createServer as createHttp2Server } from "node:http2";
import { connect, type AddressInfo } from "node:net";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { nodeAdapter } from "../../src/server/index.js";
import { Database } from "../../src/server/database.js";
import { createDatabase, openSite, openStream, type Site } from "./site.js";

let db: Awaited<ReturnType<typeof createDatabase>>;
let site: Site;

beforeAll(async () => {
  db = await createDatabase({ track_functions: "all" });
});
afterAll(() => db.drop());
beforeEach(async () => {
  site = await openSite(db.name);
});
afterEach(() => site.close());

const online = async (user: string) =>
  (await db.pool.query("SELECT is_user_online($1::text) AS yes", [user])).rows[0].yes;
const sessionRow = async (user: string) =>
  (await db.pool.query("SELECT * FROM presence_sessions WHERE user_id = $1", [user])).rows[0];

/** Bytes as they stand, for what fetch() refuses to send. */
function raw(port: number, text: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, "127.0.0.1", () => socket.write(text));
    let answer = "";
    socket.on("data", (chunk) => {
      answer += chunk.toString();
      if (answer.includes("\r\n\r\n")) socket.destroy();
    });
    socket.on("close", () => resolve(answer));
    socket.on("error", reject);
  });
}

describe("heartbeat", () => {
  test("begins a session with all that is known of the request", async () => {
    const body = {
      user_id: "ada",
      session_id: "tab1",
      heartbeat_interval: 120,
      status: "idle",
      metadata: { room: "blue" },
    };
    const answer = await site.post("/api/heartbeat", "ada", body, { "user-agent": "Test/1" });
    expect([answer.status, await answer.json()]).toMatchObject([200, { online: true }]);
    const row = await sessionRow("ada");
    expect(row).toMatchObject({
      session_id: "tab1",
      online: true,
      status: "idle",
      user_agent: "Test/1",
      ip_address: "127.0.0.1",
      metadata: { room: "blue" },
    });
    expect(row.heartbeat_interval.minutes).toBe(2);
  });

  test.each([true, false])("says when somebody was last active, by our clock (batched: %s)", async (batched) => {
    const body = { session_id: `tab-${batched}`, status: "active" };
    if (batched) await site.post("/api/heartbeat", "ina", body);
    expect((await site.post("/api/heartbeat", "ina", { ...body, inactive_for: 90 })).status).toBe(200);
    const { rows } = await db.pool.query(
      "SELECT extract(epoch FROM now() - last_activity)::float8 AS age FROM presence_sessions WHERE user_id = 'ina' AND session_id = $1",
      [body.session_id],
    );
    expect(rows[0].age).toBeGreaterThan(85);
    expect(rows[0].age).toBeLessThan(300);
  });

  test("a user beats and leaves for himself only", async () => {
    await site.post("/api/heartbeat", "bob", { session_id: "b1" });
    for (const path of ["/api/heartbeat", "/api/user-disconnect", "/api/status"]) {
      expect((await site.post(path, "eve", { user_id: "bob", session_id: "b1" })).status).toBe(403);
    }
    expect(await online("bob")).toBe(true);
    // Without a name in the body he speaks of his own session of that id, whoever else has one.
    expect((await site.post("/api/user-disconnect", "eve", { session_id: "b1" })).status).toBe(200);
    expect(await online("bob")).toBe(true);
    expect(await online("eve")).toBe(false);
  });

  test("nobody known: 401, on every endpoint", async () => {
    for (const path of ["/api/heartbeat", "/api/user-disconnect", "/api/presence/cleanup", "/api/status"]) {
      expect((await site.post(path, null, { session_id: "x" })).status, path).toBe(401);
    }
    for (const path of ["/api/presence", "/api/presence/events", "/api/presence/status"])
      expect((await site.get(path, null)).status, path).toBe(401);
  });

  test.each([
    ["no JSON", "hello"],
    ["an array", "[]"],
    ["no session", {}],
    ["an empty session", { session_id: "" }],
    ["a session that is no text", { session_id: 7 }],
    ["a session that is too long", { session_id: "s".repeat(256) }],
    ["a control character", { session_id: "a\u0007" }],
    ["a zero byte", { session_id: "a\u0000" }],
    ["an unknown status", { session_id: "s", status: "asleep" }],
    ["a status that is no text", { session_id: "s", status: 1 }],
    ["a negative interval", { session_id: "s", heartbeat_interval: -1 }],
    ["an absurd interval", { session_id: "s", heartbeat_interval: 1e9 }],
    ["an interval that is no number", { session_id: "s", heartbeat_interval: "1 day" }],
    ["an inactivity that is no number", { session_id: "s", inactive_for: "1" }],
    ["a negative inactivity", { session_id: "s", inactive_for: -1 }],
    ["an absurd inactivity", { session_id: "s", inactive_for: 1e9 }],
    ["metadata that is a list", { session_id: "s", metadata: [1] }],
    ["metadata that is too long", { session_id: "s", metadata: { text: "x".repeat(5000) } }],
  ])("%s: 400 and nothing written", async (_, body) => {
    expect((await site.post("/api/heartbeat", "carl", body)).status).toBe(400);
    expect(await sessionRow("carl")).toBeUndefined();
  });

  test.each([
    ["an unknown status", { status: "asleep" }],
    ["one that is not for choosing", { status: "idle" }],
    ["an end that is no time", { status: "busy", until: "soon" }],
    ["an end that is no text", { status: "busy", until: 7 }],
    ["a message that is no text", { status: "busy", message: {} }],
    ["a message that is too long", { status: "busy", message: "x".repeat(2000) }],
    ["a zero byte", { status: "busy", message: "\u0000" }],
  ])("a choice with %s: 400 and nothing chosen", async (_, body) => {
    expect((await site.post("/api/status", "dan", body)).status).toBe(400);
    const answer = await site.get("/api/presence/status", "dan");
    expect(await answer.json()).toEqual({ status: null, until: null, message: null, online: false });
  });

  test("nobody asks for another's choice", async () => {
    await site.post("/api/status", "bob", { status: "busy", message: "In a call" });
    expect((await site.get("/api/presence/status?user_id=bob", "eve")).status).toBe(403);
    expect(await (await site.get("/api/presence/status?user_id=bob", "bob")).json()).toMatchObject({
      status: "busy",
      message: "In a call",
    });
  });

  test("a session is where the server says it is, from its first heartbeat on", async () => {
    await site.close();
    const asked: string[] = [];
    const errors: string[] = [];
    site = await openSite(db.name, {
      onError: (error) => errors.push((error as Error).message),
      locate: (request, { userId }) => {
        asked.push(userId);
        if (userId === "lost") throw new Error("no table of addresses");
        if (userId === "far") return { region: "Mars", latitude: 1000, longitude: 0 };
        return userId === "home" ? null : { region: request.headers.get("x-region") ?? "nowhere" };
      },
    });
    const regions = async () => (await db.pool.query("SELECT region, users FROM presence_by_region()")).rows;
    const beat = (user: string, session = "s") =>
      site.post("/api/heartbeat", user, { session_id: session }, { "x-region": "Berlin" });
    for (const user of ["ada", "ada", "home", "lost", "far"]) expect((await beat(user)).status).toBe(200);
    expect((await beat("ada", "t")).status).toBe(200);
    expect(asked).toEqual(["ada", "home", "lost", "far", "ada"]);
    expect(await regions()).toEqual([{ region: "Berlin", users: "1" }]);
    expect(errors).toEqual(["no table of addresses", "latitude 1000, longitude 0 is not on the earth"]);
  });

  test("the server's metadata goes over the page's", async () => {
    await site.close();
    site = await openSite(db.name, { authenticate: () => ({ userId: "dora", metadata: { name: "Dora" } }) });
    await site.post("/api/heartbeat", null, { session_id: "s", metadata: { name: "The Boss", room: "red" } });
    expect((await sessionRow("dora")).metadata).toEqual({ name: "Dora", room: "red" });
  });

  test("metadata whose last key is removed is empty; none at all keeps what is known", async () => {
    const beat = (metadata?: object) => site.post("/api/heartbeat", "mona", { session_id: "s", metadata });
    const kept = async () => (await sessionRow("mona")).metadata;
    await beat({ room: "blue" });
    await beat();
    expect(await kept()).toEqual({ room: "blue" });
    await beat({});
    expect(await kept()).toEqual({});
  });

  test("a number as id, and undefined for nobody, as plain JavaScript has it", async () => {
    await site.close();
    let user: unknown = 42;
    site = await openSite(db.name, {
      authenticate: () => (user === undefined ? undefined : { userId: user as string }),
    });
    expect((await site.post("/api/heartbeat", null, { user_id: 42, session_id: "s" })).status).toBe(200);
    user = undefined;
    expect((await site.post("/api/heartbeat", null, { session_id: "s" })).status).toBe(401);
  });

  test.each([undefined, null, ""])("a viewer whose id is %j is nobody", async (userId) => {
    await site.close();
    site = await openSite(db.name, { authenticate: () => ({ userId: userId as string }) });
    expect((await site.post("/api/heartbeat", null, { session_id: "s" })).status).toBe(401);
  });

  test("many heartbeats of a tick are one call", async () => {
    await site.close();
    site = await openSite(db.name, { tick: 50, limits: { requestBurst: 1000, sessionBurst: 1000 } });
    const beat = (i: number) => site.post("/api/heartbeat", `many${i}`, { session_id: "s" });
    const all = [...Array(50).keys()];
    await Promise.all(all.map(beat)); // each begins its session
    const answers = await Promise.all(all.map(beat).map(async (answer) => (await answer).json()));
    expect(answers).toEqual(all.map(() => ({ online: true })));
    // By the database server's own count. A request may be late for the tick, but not fifty.
    await site.close();
    const calls = async (name: string) => {
      const { rows } = await db.pool.query(
        "SELECT sum(calls)::int AS n FROM pg_stat_user_functions WHERE funcname = $1",
        [name],
      );
      return rows[0].n ?? 0;
    };
    await expect.poll(() => calls("update_user_heartbeats"), { timeout: 10_000 }).toBeGreaterThan(0);
    expect(await calls("update_user_heartbeats")).toBeLessThan(5);
    site = await openSite(db.name);
  });

  test("an ended session in the batch: it alone is told so, and later comes back", async () => {
    await site.close();
    site = await openSite(db.name, { tick: 200 });
    const beat = async (i: number) => (await site.post("/api/heartbeat", `half${i}`, { session_id: "s" })).json();
    const all = [...Array(20).keys()];
    await Promise.all(all.map(beat));
    await db.pool.query("SELECT mark_user_offline('half13')"); // another gateway, or an admin
    expect(await Promise.all(all.map(beat))).toEqual(all.map((i) => ({ online: i !== 13 })));
    expect(await online("half13")).toBe(false);
  });
});

test.each([true, false])("statements are prepared by name only where that is asked for (%s)", async (prepare) => {
  const client = await db.pool.connect();
  const database = new Database(prepare);
  for (let i = 0; i < 2; i++) expect(await database.lookUp(client, ["ada"])).toHaveLength(1);
  const { rows } = await client.query("SELECT name FROM pg_prepared_statements");
  expect(rows).toHaveLength(prepare ? 1 : 0);
  client.release(true);
  await site.close();
  site = await openSite(db.name, { preparedStatements: prepare });
  for (let i = 0; i < 2; i++) expect((await site.post("/api/heartbeat", "ada", { session_id: "s" })).status).toBe(200);
});

describe("goodbye", () => {
  test.each([
    ["text, as sendBeacon(url, string) sends it", "text/plain;charset=UTF-8"],
    ["a blob without a type", undefined],
    ["JSON", "application/json"],
    ["a form's type", "application/x-www-form-urlencoded"],
  ])("%s", async (_, type) => {
    await site.post("/api/heartbeat", "gone", { session_id: "g" });
    const bytes = new TextEncoder().encode(JSON.stringify({ user_id: "gone", session_id: "g" }));
    const answer = await site.post(
      "/api/user-disconnect",
      "gone",
      bytes,
      type === undefined ? {} : { "content-type": type },
    );
    expect([answer.status, await answer.json()]).toEqual([200, { offline: true }]);
    expect(await online("gone")).toBe(false);
    await db.pool.query("DELETE FROM presence_session WHERE user_id = 'gone'"); // and its tombstone, for the next round
  });

  test("a heartbeat that waits in the batch does not follow it", async () => {
    await site.close();
    site = await openSite(db.name, { tick: 300 });
    await site.post("/api/heartbeat", "late", { session_id: "s" });
    const late = site.post("/api/heartbeat", "late", { session_id: "s" });
    await new Promise((resolve) => setTimeout(resolve, 50)); // it has to reach the batch first; the tick is six times that
    expect(await (await site.post("/api/user-disconnect", "late", { session_id: "s" })).json()).toEqual({
      offline: true,
    });
    expect(await (await late).json()).toEqual({ online: false });
  });

  test("what the first heartbeat's answer says ends that session, whoever is signed in by now, and no other", async () => {
    const begin = async (session: string) =>
      (await (await site.post("/api/heartbeat", "mover", { session_id: session })).json()) as { goodbye?: string };
    const end = (viewer: string | null, body: object) => site.post("/api/user-disconnect", viewer, body);
    const { goodbye } = await begin("m1");
    expect(goodbye).toMatch(/^[\w-]{22}$/);
    expect(await begin("m1")).toEqual({ online: true }); // once is enough
    await begin("m2");
    for (const [user_id, session_id] of [
      ["mover", "m2"],
      ["bob", "m1"],
    ]) {
      expect((await end(null, { user_id, session_id, goodbye })).status).toBe(401);
      expect((await end("eve", { user_id, session_id, goodbye })).status).toBe(403);
    }
    const mine = { user_id: "mover", session_id: "m1" };
    for (const wrong of ["", "x", `${goodbye?.slice(0, -1)}`, 7])
      expect((await end(null, { ...mine, goodbye: wrong })).status).toBe(401);
    const refusal = await end("eve", mine);
    expect([refusal.status, await refusal.json()]).toMatchObject([403, { code: "other_user" }]);
    const { rows } = await db.pool.query(
      "SELECT count(*)::int AS n FROM presence_sessions WHERE online AND user_id = 'mover'",
    );
    expect(rows[0].n).toBe(2);
    expect((await end("eve", { ...mine, goodbye })).status).toBe(200);
    const other = (await begin("m3")).goodbye;
    expect((await end(null, { user_id: "mover", session_id: "m3", goodbye: other })).status).toBe(200);
    expect(await online("mover")).toBe(true); // by m2
  });

  test("processes with one secret know each other's goodbyes", async () => {
    await site.close();
    site = await openSite(db.name, { secret: "of both" });
    const { goodbye } = (await (await site.post("/api/heartbeat", "two", { session_id: "t" })).json()) as {
      goodbye: string;
    };
    const other = await openSite(db.name, { secret: "of both" });
    const stranger = await openSite(db.name);
    const body = { user_id: "two", session_id: "t", goodbye };
    expect((await stranger.post("/api/user-disconnect", null, body)).status).toBe(401);
    expect(await (await other.post("/api/user-disconnect", null, body)).json()).toEqual({ offline: true });
    await other.close();
    await stranger.close();
  });

  test("of a session nobody knows: no error", async () => {
    expect(await (await site.post("/api/user-disconnect", "ghost", { session_id: "never" })).json()).toEqual({
      offline: false,
    });
  });
});

describe("limits", () => {
  test("a user whose row is locked keeps nobody else from anything, and fails in time", async () => {
    await site.close();
    site = await openSite(db.name, { limits: { lockWait: 1000 } });
    const beat = (user: string, session: string) => site.post("/api/heartbeat", user, { session_id: session });
    await beat("held", "0");
    const holder = await db.pool.connect();
    await holder.query("BEGIN");
    await holder.query("SELECT FROM presence_user WHERE user_id = 'held' FOR UPDATE");
    const held = [...Array(8).keys()].map((i) => beat("held", `${i + 1}`)); // more than there are connections
    expect((await beat("free", "1")).status).toBe(200);
    expect((await site.post("/api/user-disconnect", "free", { session_id: "1" })).status).toBe(200);
    expect((await held[0])?.status).toBe(503);
    await holder.query("ROLLBACK");
    holder.release();
    expect((await held[7])?.status).toBe(200);
  });

  test("a body too long is refused, with and without a Content-Length, and the answer arrives", async () => {
    const long = "x".repeat(200_000);
    expect((await site.post("/api/heartbeat", "ada", long)).status).toBe(413);
    const chunked = await raw(
      site.port,
      `POST /api/heartbeat HTTP/1.1\r\nHost: x\r\nx-user: ada\r\nTransfer-Encoding: chunked\r\n\r\n4000\r\n${"x".repeat(0x4000)}\r\n`,
    );
    expect(chunked).toMatch(/^HTTP\/1.1 413 /);
    expect(chunked.toLowerCase()).toContain("connection: close");
  });

  test("too many requests of one user: 429 with the time to wait, and goodbyes still pass", async () => {
    await site.close();
    site = await openSite(db.name, { limits: { requestBurst: 3, requestsPerSecond: 0.1 } });
    const answers = [];
    for (let i = 0; i < 4; i++) answers.push(await site.post("/api/heartbeat", "fast", { session_id: "s" }));
    expect(answers.map((answer) => answer.status)).toEqual([200, 200, 200, 429]);
    expect(Number(answers[3]?.headers.get("retry-after"))).toBeGreaterThan(5);
    expect((await site.post("/api/heartbeat", "other", { session_id: "s" })).status).toBe(200);
    expect((await site.post("/api/user-disconnect", "fast", { session_id: "s" })).status).toBe(200);
  });

  test("made-up sessions of one user run out; his known ones go on", async () => {
    await site.close();
    site = await openSite(db.name, { limits: { sessionBurst: 3, sessionsPerSecond: 0.01 } });
    const beat = async (session: string) =>
      (await site.post("/api/heartbeat", "maker", { session_id: session })).status;
    expect([await beat("1"), await beat("2"), await beat("3"), await beat("4"), await beat("1")]).toEqual([
      200, 200, 200, 429, 200,
    ]);
  });

  test("streams that begin within a moment share one look at the list", async () => {
    await site.close();
    site = await openSite(db.name, { limits: { listAge: 60_000 } });
    const calls = async () => {
      await db.pool.query("SELECT pg_stat_force_next_flush()");
      const { rows } = await db.pool.query(
        "SELECT coalesce(sum(calls), 0)::int AS n FROM pg_stat_user_functions WHERE funcname = 'presence_snapshot'",
      );
      return rows[0].n as number;
    };
    const before = await calls();
    for (let i = 0; i < 10; i++) {
      await site.post("/api/heartbeat", `sharer${i}`, { session_id: "s" });
      const stream = await openStream(site, "viewer");
      await stream.next((message) => message.event === "ready");
      // The list of before, and what happened since.
      const text = JSON.stringify(stream.messages);
      for (let j = 0; j <= i; j++) expect(text).toContain(`"sharer${j}"`);
      stream.close();
    }
    await site.close(); // the sessions' counts are complete when they have ended
    const own = { hub: 1, streams: 1 };
    await expect.poll(calls, { timeout: 10_000 }).toBe(before + own.hub + own.streams);
    site = await openSite(db.name);
  });

  test("too many streams of one user", async () => {
    await site.close();
    site = await openSite(db.name, { limits: { streamsPerUser: 1 } });
    const first = await site.get("/api/presence/events", "ada");
    expect(first.status).toBe(200);
    expect((await site.get("/api/presence/events", "ada")).status).toBe(429);
    await first.body?.cancel();
    await expect
      .poll(async () => {
        const again = await site.get("/api/presence/events", "ada");
        await again.body?.cancel();
        return again.status;
      })
      .toBe(200);
  });
});

describe("foreign pages", () => {
  const status = async (headers: Record<string, string>) =>
    (await site.post("/api/user-disconnect", "ada", { session_id: "s" }, headers)).status;

  test("what a browser says about where a beacon comes from decides", async () => {
    expect(await status({ "sec-fetch-site": "same-origin", origin: site.url })).toBe(200);
    expect(await status({ "sec-fetch-site": "cross-site", origin: "https://evil.example" })).toBe(403);
    expect(await status({ "sec-fetch-site": "same-site", origin: "https://blog.here.example" })).toBe(403);
    expect(await status({ origin: site.url })).toBe(200);
    expect(await status({ origin: "https://evil.example" })).toBe(403);
    expect(await status({ origin: "null" })).toBe(403);
    expect(await status({ origin: "nonsense" })).toBe(403);
    expect(await status({})).toBe(200); // not a browser
  });

  test("a foreign page opens no stream and asks for no list", async () => {
    const foreign = { "sec-fetch-site": "cross-site", origin: "https://evil.example" };
    expect((await site.get("/api/presence/events", "ada", foreign)).status).toBe(403);
    expect((await site.get("/api/presence", "ada", foreign)).status).toBe(403);
    expect((await site.get("/api/presence", "ada", { "sec-fetch-site": "none" })).status).toBe(200);
  });

  test("HTTP/2: the host that the origin is compared with is in :authority", async () => {
    const adapter = nodeAdapter(site.presence);
    const server = createHttp2Server((request, response) => void adapter(request as never, response as never));
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const client = connectHttp2(url);
    const post = (origin: string) =>
      new Promise<number>((resolve) => {
        const request = client.request({ ":method": "POST", ":path": "/api/user-disconnect", origin, "x-user": "ada" });
        request.on("response", (headers) => resolve(Number(headers[":status"])));
        request.resume();
        request.end(JSON.stringify({ session_id: "s" }));
      });
    expect(await post(url)).toBe(200);
    expect(await post("https://evil.example")).toBe(403);
    client.close();
    await new Promise((resolve) => server.close(resolve));
  });

  test("allowed origins may call and read", async () => {
    await site.close();
    site = await openSite(db.name, { allowedOrigins: ["https://app.example"] });
    const headers = { "sec-fetch-site": "cross-site", origin: "https://app.example" };
    const answer = await site.post("/api/heartbeat", "ada", { session_id: "s" }, headers);
    expect(answer.status).toBe(200);
    expect(answer.headers.get("access-control-allow-origin")).toBe("https://app.example");
    const preflight = await fetch(`${site.url}/api/heartbeat`, {
      method: "OPTIONS",
      headers: { origin: "https://app.example" },
    });
    expect(preflight.headers.get("access-control-max-age")).toBe("7200");
    expect([preflight.status, preflight.headers.get("access-control-allow-credentials")]).toEqual([204, "true"]);
    expect(
      (await site.get("/api/presence", "ada", { origin: "https://evil.example" })).headers.has(
        "access-control-allow-origin",
      ),
    ).toBe(false);
  });
});

describe("address", () => {
  const addressWith = async (trustedProxies: string[], forwarded: string, user: string) => {
    const other = await openSite(db.name, { trustedProxies });
    await other.post("/api/heartbeat", user, { session_id: "s" }, { "x-forwarded-for": forwarded });
    await other.close();
    return (await sessionRow(user)).ip_address;
  };

  test("X-Forwarded-For counts only as far as trusted proxies wrote it", async () => {
    expect(await addressWith([], "203.0.113.9", "a1")).toBe("127.0.0.1");
    expect(await addressWith(["127.0.0.1"], "203.0.113.9", "a2")).toBe("203.0.113.9");
    expect(await addressWith(["127.0.0.1"], "1.1.1.1, 203.0.113.9", "a3")).toBe("203.0.113.9");
    expect(await addressWith(["127.0.0.0/8", "10.0.0.0/8"], "1.1.1.1, 203.0.113.9:4711, 10.2.3.4", "a4")).toBe(
      "203.0.113.9",
    );
    expect(await addressWith(["127.0.0.1", "2001:db8::/32"], "[2001:db9::1]:99, 2001:db8::5", "a5")).toBe(
      "2001:db9::1",
    );
    expect(await addressWith(["127.0.0.1"], "'; DROP TABLE x", "a6")).toBe("127.0.0.1");
  });

  test("a mistyped proxy is told at the start", async () => {
    await expect(openSite(db.name, { trustedProxies: ["proxy.local"] })).rejects.toThrow(
      /neither an address nor a network/,
    );
  });
});

describe("list and cleanup", () => {
  test("the list with its position, and single users", async () => {
    await site.post("/api/heartbeat", "lena", { session_id: "1", status: "busy" });
    await site.post("/api/heartbeat", "lena", { session_id: "2" });
    const list = await (await site.get("/api/presence", "bob")).json();
    expect(list.seq).toBeGreaterThan(0);
    expect(list.users.find((user: { user_id: string }) => user.user_id === "lena")).toMatchObject({
      status: "active",
      sessions: 2,
    });
    expect(JSON.stringify(list)).not.toContain("ip_address");
    const asked = await (await site.get("/api/presence?user=lena&user=nobody", "bob")).json();
    const byId = Object.fromEntries(
      asked.users.map((user: { user_id: string; online: boolean }) => [user.user_id, user.online]),
    );
    expect(byId).toEqual({ lena: true, nobody: false });
  });

  test("one id that is none does not fail the others' look-up", async () => {
    await site.post("/api/heartbeat", "lena", { session_id: "1" });
    const bad = ["", "x".repeat(256), "a\u0007"].map((id) => `user=${encodeURIComponent(id)}`).join("&");
    const answer = await site.get(`/api/presence?user=lena&${bad}`, "bob");
    const { users } = (await answer.json()) as { users: { online: boolean }[] };
    expect(users.map(({ online }) => online).sort()).toEqual([false, false, false, true]);
  });

  test("canSee hides users from lists and look-ups", async () => {
    await site.close();
    site = await openSite(db.name, { canSee: (viewer, user) => viewer.userId === user });
    await site.post("/api/heartbeat", "hide1", { session_id: "1" });
    await site.post("/api/heartbeat", "hide2", { session_id: "1" });
    const list = await (await site.get("/api/presence", "hide1")).json();
    expect(list.users.map((user: { user_id: string }) => user.user_id)).toEqual(["hide1"]);
    expect((await (await site.get("/api/presence?user=hide2", "hide1")).json()).users).toEqual([]);
  });

  test("cleanup is for admins", async () => {
    expect((await site.post("/api/presence/cleanup", "ada", "")).status).toBe(403);
    const answer = await site.post("/api/presence/cleanup", "root", "");
    expect([answer.status, typeof (await answer.json()).offline]).toEqual([200, "number"]);
  });

  test("other paths and methods", async () => {
    expect((await site.get("/api/other", "ada")).status).toBe(404);
    expect((await site.get("/api/heartbeat", "ada")).status).toBe(405);
    expect((await site.post("/api/presence", "ada", "")).status).toBe(405);
  });
});

describe("hostile and unlucky requests leave the process alive", () => {
  test.each([
    ["an address that is none", "GET //[ HTTP/1.1\r\nHost: x\r\n\r\n", 404],
    ["a Host that is none", "GET /api/presence HTTP/1.1\r\nHost: [[[\r\nx-user: ada\r\n\r\n", 200],
    ["a method that fetch does not know", "TRACE /api/presence HTTP/1.1\r\nHost: x\r\nx-user: ada\r\n\r\n", 400],
    ["a broken query", "GET /api/presence?user=%ff%zz HTTP/1.1\r\nHost: x\r\nx-user: ada\r\n\r\n", 200],
    [
      "a position that is none",
      "GET /api/presence/events HTTP/1.1\r\nHost: x\r\nx-user: ada\r\nLast-Event-ID: -5\r\n\r\n",
      400,
    ],
  ])("%s", async (_, text, status) => {
    expect(await raw(site.port, text)).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
  });

  test("a body cut off in the middle", async () => {
    await new Promise<void>((resolve) => {
      const socket = connect(site.port, "127.0.0.1", () => {
        socket.write("POST /api/heartbeat HTTP/1.1\r\nHost: x\r\nx-user: ada\r\nContent-Length: 100\r\n\r\n{", () =>
          socket.destroy(),
        );
      });
      socket.on("close", () => resolve());
    });
    expect((await site.post("/api/heartbeat", "ada", { session_id: "after" })).status).toBe(200);
  });

  test("no database: 503, and an answer that says nothing of the inside", async () => {
    const errors: unknown[] = [];
    const other = await openSite(db.name, {
      database: { host: "127.0.0.1", port: 1, database: "secret" },
      onError: (error) => errors.push(error),
    });
    const answer = await other.post("/api/heartbeat", "ada", { session_id: "s" });
    expect(answer.status).toBe(503);
    expect(await answer.text()).not.toMatch(/secret|ECONNREFUSED|127/);
    expect((await other.get("/api/presence/events", "ada")).status).toBe(503);
    expect(errors.length).toBeGreaterThan(0);
    await other.close();
  });
});
