import type { IncomingMessage, ServerResponse } from "node:http";
import { Readable } from "node:stream";
import type { PresenceServer } from "./handlers.js";

/**
 * For node:http, Express and Connect: `app.use(nodeAdapter(presence))`. Calls `next` for what is not ours, or
 * answers 404 where there is none.
 */
export function nodeAdapter(server: PresenceServer) {
  return async (incoming: IncomingMessage, outgoing: ServerResponse, next?: () => void): Promise<void> => {
    const url = (incoming as { originalUrl?: string }).originalUrl ?? incoming.url ?? "/";
    const headers = new Headers();
    for (const [name, value] of Object.entries(incoming.headers)) {
      if (value !== undefined && !name.startsWith(":")) headers.set(name, Array.isArray(value) ? value.join(", ") : value);
    }
    const method = incoming.method ?? "GET";
    const body = method === "GET" || method === "HEAD" ? {} : { body: Readable.toWeb(incoming), duplex: "half" };
    // The host is in the headers; here it only completes the address, and what a client wrote may not be a valid one.
    const request = new Request(new URL(url, "http://localhost"), { method, headers, ...body } as RequestInit);

    const answer = server.handle(request, { remoteAddress: incoming.socket.remoteAddress });
    if (answer === undefined) {
      if (next !== undefined) return next();
      outgoing.writeHead(404).end();
      return;
    }
    await sendResponse(await answer, outgoing);
  };
}

/** Passes a Response on at the reader's pace: what the client does not take stays in the stream, which counts it. */
async function sendResponse(response: Response, outgoing: ServerResponse): Promise<void> {
  outgoing.writeHead(response.status, Object.fromEntries(response.headers));
  if (response.body === null) {
    outgoing.end();
    return;
  }
  const reader = response.body.getReader();
  const gone = new Promise<void>((resolve) => outgoing.once("close", resolve));
  gone.then(() => reader.cancel().catch(() => {}));
  try {
    for (let part = await reader.read(); !part.done && !outgoing.destroyed; part = await reader.read()) {
      if (!outgoing.write(part.value)) {
        await Promise.race([gone, new Promise((resolve) => outgoing.once("drain", resolve))]);
      }
    }
  } finally {
    // A reader that was dropped does not drain: end() would wait for it for ever.
    if (outgoing.writableNeedDrain) outgoing.destroy();
    else outgoing.end();
  }
}
