/** One event of a text/event-stream, or null for a comment (the server's keep-alive). */
export type StreamEvent = { id: string; event: string; data: string } | null;

/**
 * Reads Server-Sent Events from a fetch() body. EventSource would do, but it hides the keep-alive comments, by which alone a page
 * can tell a quiet connection from a dead one. `alive` is called for whatever arrives: a long list on a slow line is no silence.
 */
export async function readEventStream(
  body: ReadableStream<Uint8Array>,
  receive: (event: StreamEvent) => void,
  alive: () => void = () => {},
): Promise<void> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let pieces: string[] = []; // of a line whose end has not come
  let lines: string[] = []; // of an event whose end has not come
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      alive();
      const parts = decoder.decode(value, { stream: true }).split("\n");
      for (const [i, part] of parts.entries()) {
        pieces.push(part);
        if (i === parts.length - 1) break;
        const line = pieces.join("").replace(/\r$/, "");
        pieces = [];
        if (line !== "") {
          lines.push(line);
        } else {
          receive(parse(lines));
          lines = [];
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parse(lines: readonly string[]): StreamEvent {
  const event = { id: "", event: "message" };
  const data: string[] = [];
  for (const line of lines) {
    const colon = line.indexOf(":");
    if (colon === 0) continue;
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
    if (field === "data") data.push(value);
    else if (field === "id" || field === "event") event[field] = value;
  }
  return data.length > 0 ? { ...event, data: data.join("\n") } : null;
}
