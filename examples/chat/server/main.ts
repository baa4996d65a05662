import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { createPresenceServer, nodeAdapter } from "presence-client/server";
import { problemWith, tidyBody } from "../src/messages.js";
import { PEOPLE, idOf, tidyName } from "../src/people.js";
import { roomOf } from "../src/rooms.js";
import { Messages } from "./messages.js";

// The database is named by the PG… variables. HOST=0.0.0.0 shows the page to the phone on the table, too.
const { HOST = "127.0.0.1", PORT = "8080", CHAT_ADMINS = "ada-lovelace" } = process.env;
// How often pages beat and how soon they retry; empty: the package's defaults. The tests set short ones.
const timing = JSON.parse(process.env.CHAT_TIMING ?? "{}") as { keepAlive?: number };

const admins = new Set(CHAT_ADMINS.split(","));

/** Anybody is who he says he is: this is a demonstration. Put the look-up of your own session cookie here. */
function signedIn(cookies: string | null | undefined) {
  const value = /(?:^|;\s*)chat_name=([^;]+)/.exec(cookies ?? "")?.[1];
  if (value === undefined) return null;
  let name: string;
  try {
    name = tidyName(decodeURIComponent(value));
  } catch {
    return null;
  }
  const id = idOf(name);
  return id === "" ? null : { id, name, admin: admins.has(id) };
}

const presence = createPresenceServer({
  authenticate(request) {
    const me = signedIn(request.headers.get("cookie"));
    return me && { userId: me.id, isAdmin: me.admin, metadata: { name: me.name } };
  },
  ...(timing.keepAlive && { keepAlive: timing.keepAlive }),
});
const answerPresence = nodeAdapter(presence);
const messages = new Messages(timing.keepAlive ?? 15_000);

const page = fileURLToPath(new URL("../page", import.meta.url));
const TYPES: Record<string, string> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".css": "text/css",
};

async function sendFile(path: string, response: ServerResponse): Promise<void> {
  const file = join(page, normalize(path === "/" ? "/index.html" : path));
  const found = file.startsWith(page) && (await stat(file).catch(() => null))?.isFile();
  if (!found) return void response.writeHead(404).end();
  // Hashed names may be kept for ever; the page that names them must be asked for each time.
  const caching = path.startsWith("/assets/") ? "public, max-age=31536000, immutable" : "no-cache";
  response.writeHead(200, {
    "content-type": TYPES[extname(file)] ?? "application/octet-stream",
    "cache-control": caching,
  });
  createReadStream(file).pipe(response);
}

class Refusal extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

async function readText(request: IncomingMessage, most: number): Promise<string> {
  request.setEncoding("utf8");
  let text = "";
  for await (const part of request) {
    text += part as string;
    if (text.length > most) throw new Refusal(413, "That is too long.");
  }
  return text;
}

function sendJson(
  response: ServerResponse,
  value: object,
  { status = 200, headers = {} }: { status?: number; headers?: Record<string, string> } = {},
): void {
  response
    .writeHead(status, { "content-type": "application/json", "cache-control": "no-store", ...headers })
    .end(JSON.stringify(value));
}

function roomNamed(id: unknown): string {
  const room = roomOf(id);
  if (room === undefined) throw new Refusal(404, "There is no such room.");
  return room.id;
}

function writerOf(request: IncomingMessage) {
  const me = signedIn(request.headers.cookie);
  if (me === null) throw new Refusal(401, "You are not signed in.");
  return me;
}

async function addMessage(request: IncomingMessage): Promise<void> {
  const me = writerOf(request);
  let sent: Record<string, unknown>;
  try {
    sent = { ...(JSON.parse(await readText(request, 64 * 1024)) as object) };
  } catch (error) {
    throw error instanceof SyntaxError ? new Refusal(400, "That is no JSON.") : error;
  }
  const room = roomNamed(sent.room);
  const { key } = sent;
  if (typeof key !== "string" || !/^[0-9a-f]{32}$/.test(key))
    throw new Refusal(400, "key is not 32 hexadecimal digits.");
  const body = tidyBody(typeof sent.body === "string" ? sent.body : "");
  const problem = problemWith(body);
  if (problem !== null) throw new Refusal(400, problem);
  await messages.add({ key, room, user_id: me.id, name: me.name, body });
}

async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { pathname, searchParams } = new URL(request.url ?? "/", "http://localhost");
  switch (`${request.method} ${pathname}`) {
    case "GET /me":
      return sendJson(response, { me: signedIn(request.headers.cookie), people: PEOPLE, timing });
    case "POST /sign-in": {
      const cookie = `chat_name=${encodeURIComponent(tidyName(await readText(request, 1000)))}`;
      return sendJson(
        response,
        { me: signedIn(cookie) },
        { headers: { "set-cookie": `${cookie}; Path=/; SameSite=Lax; HttpOnly` } },
      );
    }
    case "POST /sign-out":
      return sendJson(response, { me: null }, { headers: { "set-cookie": "chat_name=; Path=/; Max-Age=0" } });
    case "GET /messages": {
      writerOf(request);
      // The browser's own word when it comes back by itself, the page's when it had to begin anew.
      const since = request.headers["last-event-id"] ?? searchParams.get("after");
      const after = /^\d{1,15}$/.test(String(since)) ? Number(since) : null;
      return messages.follow(roomNamed(searchParams.get("room")), after, response);
    }
    case "POST /messages":
      await addMessage(request);
      return void response.writeHead(204).end();
  }
  if (request.method !== "GET") return void response.writeHead(405).end();
  return sendFile(pathname, response);
}

const server = createServer((request, response) => {
  const failed = (error: unknown) => {
    if (response.headersSent) return void response.destroy();
    if (error instanceof Refusal) return sendJson(response, { error: error.message }, { status: error.status });
    console.error("chat:", error);
    sendJson(response, { error: "The server cannot do that at the moment." }, { status: 503 });
  };
  answerPresence(request, response, () => void answer(request, response).catch(failed)).catch(failed);
});
server.listen(Number(PORT), HOST, () => {
  const address = server.address();
  console.log(
    `http://${HOST === "0.0.0.0" ? "localhost" : HOST}:${typeof address === "object" ? address?.port : PORT}/`,
  );
});

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.once(signal, () => {
    server.close();
    server.closeAllConnections(); // event streams never end by themselves
    void Promise.all([presence.close(), messages.close()]).finally(() => process.exit(0));
  });
}
