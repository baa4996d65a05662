import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import pg from "pg";
import { expect, vi } from "vitest";
import {
  createPresenceServer,
  nodeAdapter,
  type PresenceServer,
  type PresenceServerOptions,
} from "../../src/server/index.js";

/** A database of its own with the real extension, on the server that the PG… variables name. */
export async function createDatabase(settings: Record<string, string> = {}) {
  const name = `client_test_${process.pid}_${Math.random().toString(36).slice(2)}`;
  const admin = new pg.Client({ database: "postgres" });
  await admin.connect();
  await admin.query(`CREATE DATABASE ${name}`);
  for (const [key, value] of Object.entries(settings))
    await admin.query(`ALTER DATABASE ${name} SET ${key} = '${value}'`);
  const pool = new pg.Pool({ database: name, max: 4 });
  pool.on("error", () => {});
  await pool.query("CREATE EXTENSION presence");
  return {
    name,
    pool,
    admin,
    /** All that happened so far is no longer in the feed. */
    async forgetEvents() {
      const client = await pool.connect();
      await client.query("SET presence.event_retention = 0");
      await client.query("SELECT scheduled_presence_cleanup()");
      await client.query("RESET presence.event_retention");
      client.release();
    },
    async drop() {
      await verify(pool).finally(() => pool.end());
      // The server ends sessions a moment after their clients left; one killed meanwhile would be told so, with nobody to listen.
      const sessions = "SELECT FROM pg_stat_activity WHERE datname = $1 AND backend_type = 'client backend'";
      const gone = async () => expect((await admin.query(sessions, [name])).rowCount).toBe(0);
      await vi.waitFor(gone, { timeout: 5000 }).catch(() => {});
      await admin.query(`DROP DATABASE ${name} WITH (FORCE)`);
      await admin.end();
    },
  };
}

/** Fails where tables, cache, counts and feed disagree. What a test has changed by hand, a worker reviews first. */
async function verify(pool: pg.Pool) {
  const schema =
    "SELECT quote_ident(nspname) AS name FROM pg_extension JOIN pg_namespace AS n ON n.oid = extnamespace WHERE extname = 'presence'";
  const { rows } = await pool.query<{ name: string }>(schema);
  const wrong = async () => (await pool.query(`SELECT * FROM ${rows[0]?.name}.presence_verify()`)).rows;
  await vi.waitFor(async () => expect(await wrong()).toEqual([]), { timeout: 8000, interval: 100 });
}

/**
 * Functions of somebody who may create some beside the extension's, and would like to be called instead: they fit text, which
 * is what callers have, better than the extension's own do. What they were called with is in the table `hijacked`.
 */
export async function addHostileOverloads(pool: pg.Pool): Promise<() => Promise<string[]>> {
  const fit = {
    "update_user_heartbeat(text, text, text, inet, interval, text, jsonb)": "true",
    "update_user_heartbeat(text, text)": "true",
    "update_user_heartbeat(presence_id, presence_id)": "true",
    "update_user_heartbeats(text[], text[])": "1",
    "update_user_heartbeats(text[], text[], timestamptz[])": "1",
    "update_user_heartbeat(text, text, text, inet, interval, text, jsonb, timestamptz)": "true",
    "handle_user_disconnect(text, text)": "true",
    "get_presence(text[])": "'eve'::text",
    "presence_grant(text, text)": "true",
    "presence_changes_since(bigint)": "1",
    "presence_changes_since(bigint, bigint)": "1",
    "presence_changes_since(bigint, integer)": "1",
    "join_room(text, text, text, jsonb)": "true",
    "leave_room(text, text, text)": "true",
    "room_snapshot(text)": "'eve'::text",
    "set_typing(text, text, text, interval)": "true",
    "clear_typing(text, text, text)": "true",
    "get_typing(text)": "'eve'::text",
    "set_user_status(text, text, timestamptz, text)": "true",
    "set_session_location(text, text, text, double precision, double precision)": "true",
    "get_user_status(text)": "'eve'::text",
  };
  await pool.query("CREATE TABLE public.hijacked (name text); GRANT INSERT ON public.hijacked TO PUBLIC");
  for (const [signature, result] of Object.entries(fit)) {
    await pool.query(
      `CREATE FUNCTION public.${signature} RETURNS ${result.endsWith("::text") ? "text" : result === "true" ? "boolean" : "integer"}
       LANGUAGE sql AS $$ INSERT INTO public.hijacked VALUES ($name$${signature}$name$); SELECT ${result} $$`,
    );
  }
  return async () =>
    (await pool.query<{ name: string }>("SELECT name FROM public.hijacked")).rows.map(({ name }) => name);
}

/** Real endpoints on a real port. Who sends a request is in the header `x-user`. */
export async function openSite(database: string, options: Partial<PresenceServerOptions> = {}) {
  const presence: PresenceServer = createPresenceServer({
    authenticate(request) {
      const user = request.headers.get("x-user");
      return user === null ? null : { userId: user, isAdmin: user === "root" };
    },
    database: { database },
    tick: 5,
    pollInterval: 100,
    onError: () => {},
    ...options,
  });
  const adapter = nodeAdapter(presence);
  const server: Server = createServer((request, response) => void adapter(request, response));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  const url = `http://127.0.0.1:${port}`;
  return {
    presence,
    server,
    port,
    url,
    post: (path: string, user: string | null, body: unknown, headers: Record<string, string> = {}) =>
      fetch(url + path, {
        method: "POST",
        headers: { ...(user !== null && { "x-user": user }), ...headers },
        body: typeof body === "string" || body instanceof Uint8Array ? (body as BodyInit) : JSON.stringify(body),
      }),
    get: (path: string, user: string | null, headers: Record<string, string> = {}) =>
      fetch(url + path, { headers: { ...(user !== null && { "x-user": user }), ...headers } }),
    async close() {
      await presence.close();
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

export type Site = Awaited<ReturnType<typeof openSite>>;

export interface Message {
  id: string | null;
  event: string;
  data: any;
}

/** An event stream as a browser sees it, message by message. */
export async function openStream(site: Site, user: string, headers: Record<string, string> = {}) {
  const abort = new AbortController();
  const response = await fetch(`${site.url}/api/presence/events`, {
    headers: { "x-user": user, ...headers },
    signal: abort.signal,
  });
  const messages: Message[] = [];
  const stream = { response, messages, comments: 0, ended: false, close: () => abort.abort(), next };
  void (async () => {
    let rest = "";
    const decoder = new TextDecoder();
    try {
      for await (const chunk of response.body as unknown as AsyncIterable<Uint8Array>) {
        const blocks = (rest + decoder.decode(chunk, { stream: true })).split("\n\n");
        rest = blocks.pop() ?? "";
        for (const block of blocks) {
          const field = (name: string) => new RegExp(`^${name}: (.*)$`, "m").exec(block)?.[1] ?? null;
          const data = field("data");
          if (data === null) stream.comments++;
          else messages.push({ id: field("id"), event: field("event") ?? "message", data: JSON.parse(data) });
        }
      }
    } catch {
      // aborted
    }
    stream.ended = true;
  })();
  /** The first message, read or still to come, that fits. */
  function next(fits: (message: Message) => boolean): Promise<Message> {
    return vi.waitFor(
      () => {
        const found = messages.find(fits);
        expect(found, `got only ${JSON.stringify(messages).slice(0, 2000)}`).toBeDefined();
        return found as Message;
      },
      { timeout: 10_000, interval: 10 },
    );
  }
  return stream;
}
