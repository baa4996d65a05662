/** One event of a text/event-stream, or null for a comment (the server's keep-alive). */
export type StreamEvent = { id: string; event: string; data: string } | null;

/**
 * Reads Server-Sent Events from a fetch() body. EventSource would do, but it hides the keep-alive comments, by
 * which alone a page can tell a quiet connection from a dead one.
 */
export async function readEventStream(
  body: ReadableStream<Uint8Array>,
  receive: (event: StreamEvent) => void,
): Promise<void> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const blocks = (rest + decoder.decode(value, { stream: true })).replaceAll("\r\n", "\n").split("\n\n");
      rest = blocks.pop() ?? "";
      for (const block of blocks) receive(parse(block));
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parse(block: string): StreamEvent {
  const event = { id: "", event: "message", data: "" };
  let told = false;
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    if (colon === 0) continue;
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
    if (field === "data") event.data += event.data === "" ? value : `\n${value}`;
    else if (field === "id" || field === "event") event[field] = value;
    told ||= field === "data";
  }
  return told ? event : null;
}
