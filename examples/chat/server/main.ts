import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { createPresenceServer, nodeAdapter } from "presence-client/server";
import { PEOPLE, idOf, tidyName } from "../src/people.js";

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

async function readText(request: IncomingMessage): Promise<string> {
  let text = "";
  for await (const part of request) {
    text += (part as Buffer).toString();
    if (text.length > 1000) throw new Error("too long");
  }
  return text;
}

function sendJson(response: ServerResponse, value: object, headers: Record<string, string> = {}): void {
  response
    .writeHead(200, { "content-type": "application/json", "cache-control": "no-store", ...headers })
    .end(JSON.stringify(value));
}

async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { pathname } = new URL(request.url ?? "/", "http://localhost");
  switch (`${request.method} ${pathname}`) {
    case "GET /me":
      return sendJson(response, { me: signedIn(request.headers.cookie), people: PEOPLE, timing });
    case "POST /sign-in": {
      const cookie = `chat_name=${encodeURIComponent(tidyName(await readText(request)))}`;
      return sendJson(
        response,
        { me: signedIn(cookie) },
        { "set-cookie": `${cookie}; Path=/; SameSite=Lax; HttpOnly` },
      );
    }
    case "POST /sign-out":
      return sendJson(response, { me: null }, { "set-cookie": "chat_name=; Path=/; Max-Age=0" });
  }
  if (request.method !== "GET") return void response.writeHead(405).end();
  return sendFile(pathname, response);
}

const server = createServer((request, response) => {
  const failed = (error: unknown) => {
    console.error("chat:", error);
    if (!response.headersSent) response.writeHead(500);
    response.end();
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
    void presence.close().finally(() => process.exit(0));
  });
}
