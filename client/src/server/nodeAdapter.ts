import type { IncomingMessage, ServerResponse } from "node:http";
import type { PresenceServer } from "./handlers.js";

/**
 * For node:http, Express and Connect: `app.use(nodeAdapter(presence))`. Calls `next` for what is not ours, or
 * answers 404 where there is none. Never rejects: whatever a client sends, the process lives.
 */
export function nodeAdapter(server: PresenceServer) {
  return async (incoming: IncomingMessage, outgoing: ServerResponse, next?: () => void): Promise<void> => {
    // Express cuts the mount point off `url`.
    const url = (incoming as { originalUrl?: string }).originalUrl ?? incoming.url ?? "/";
    // By the path alone: a request of somebody else's must reach him with its body unread.
    if (!server.owns(url.split("?", 1)[0] ?? "")) {
      if (next !== undefined) next();
      else outgoing.writeHead(404).end();
      return;
    }
    try {
      const request = await toRequest(incoming, url, server.bodyBytes);
      // More than we read is still coming: this connection is of no further use.
      if (!incoming.complete && incoming.httpVersionMajor < 2) outgoing.setHeader("connection", "close");
      const answer = server.handle(request, { remoteAddress: incoming.socket.remoteAddress });
      if (answer !== undefined) await sendResponse(await answer, outgoing);
    } catch {
      // Not a request that fetch knows (TRACE), or the connection broke.
      if (outgoing.headersSent) outgoing.destroy();
      else outgoing.writeHead(400).end();
    }
  };
}

async function toRequest(incoming: IncomingMessage, url: string, most: number): Promise<Request> {
  const headers = new Headers();
  for (const [name, value] of Object.entries(incoming.headers)) {
    if (value !== undefined && !name.startsWith(":"))
      headers.set(name, Array.isArray(value) ? value.join(", ") : value);
  }
  // HTTP/2 has it in place of Host.
  const authority = incoming.headers[":authority"];
  if (typeof authority === "string" && !headers.has("host")) headers.set("host", authority);
  const method = incoming.method ?? "GET";
  const init: RequestInit = { method, headers };
  if (method === "POST") init.body = await readBody(incoming, most);
  // The host is in the headers; here it only completes the address, and what a client wrote may not be a valid one.
  return new Request(new URL(url, "http://localhost"), init);
}

/** The body, or as much of it as shows that it is too long. */
function readBody(incoming: IncomingMessage, most: number): Promise<Uint8Array<ArrayBuffer> | string> {
  // A body parser that ran before us (express.json(), say) has left what it found.
  const { body } = incoming as { body?: unknown };
  if (incoming.readableDidRead && body !== undefined) {
    return Promise.resolve(
      typeof body === "string" ? body : body instanceof Uint8Array ? new Uint8Array(body) : JSON.stringify(body),
    );
  }
  return new Promise((resolve, reject) => {
    const chunks: Uint8Array[] = [];
    let size = 0;
    incoming.on("data", (chunk: Uint8Array) => {
      if (size > most) return; // thrown away
      chunks.push(chunk);
      size += chunk.byteLength;
      if (size > most) resolve(new Uint8Array(Buffer.concat(chunks)));
    });
    incoming.once("end", () => resolve(new Uint8Array(Buffer.concat(chunks))));
    incoming.once("error", reject);
    incoming.once("close", () => reject(new Error("the connection broke")));
  });
}

/** Passes a Response on at the reader's pace: what the client does not take stays in the stream, which counts it. */
async function sendResponse(response: Response, outgoing: ServerResponse): Promise<void> {
  outgoing.writeHead(response.status, Object.fromEntries(response.headers));
  if (response.body === null) {
    outgoing.end();
    return;
  }
  const reader = response.body.getReader();
  // He may have left while we asked the database: then nobody emits "close" any more.
  const gone = outgoing.destroyed ? Promise.resolve() : new Promise<void>((resolve) => outgoing.once("close", resolve));
  // While we wait for a client that takes nothing, the stream may give him up. Its ordinary end is no reason to stop waiting.
  const dropped = reader.closed.then(
    () => gone,
    () => {},
  );
  void gone.then(() => reader.cancel().catch(() => {}));
  for (let part = await reader.read(); !part.done && !outgoing.destroyed; part = await reader.read()) {
    if (!outgoing.write(part.value)) {
      await Promise.race([gone, dropped, new Promise((resolve) => outgoing.once("drain", resolve))]);
    }
  }
  outgoing.end();
}
