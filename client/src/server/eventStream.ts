import type { PresenceEvent, PresenceSnapshot } from "../core/types.js";
import type { EventHub, HubListener } from "./eventHub.js";

const READY = "event: ready\ndata: {}\n\n";
/** The stream stands, but the database behind it is away. */
const LOST = "event: lost\ndata: {}\n\n";

/** One change as it travels. Made once, however many streams it goes to. */
const frames = new WeakMap<PresenceEvent, string>();
function frameOf(event: PresenceEvent): string {
  let frame = frames.get(event);
  if (frame === undefined) frames.set(event, (frame = `id: ${event.seq}\ndata: ${JSON.stringify(event)}\n\n`));
  return frame;
}

export interface EventStreamOptions {
  hub: EventHub;
  /** Where the client stopped; null: it knows nothing yet. */
  since: number | null;
  readSnapshot: () => Promise<PresenceSnapshot>;
  readChanges: (seq: number) => Promise<PresenceEvent[] | null>;
  canSee: (user: string) => boolean;
  keepAlive: number;
  /** Unread bytes at which a client is dropped. */
  mostUnread: number;
  /** Asked every `recheck` ms; false ends the stream. */
  stillAllowed: () => Promise<boolean>;
  recheck: number;
  closed: () => void;
}

/**
 * The body of one text/event-stream: first what the client missed, then what happens. A client that does not keep up is cut off, not buffered for: it
 * comes back with its last number and reads the rest from the feed, at its own speed.
 */
export function eventStream(options: EventStreamOptions): ReadableStream<Uint8Array> {
  const { hub, canSee, mostUnread } = options;
  const encoder = new TextEncoder();
  let seq = options.since;
  let ended = false;
  let drained = () => {};
  let timer: ReturnType<typeof setInterval>;
  let output: ReadableStreamDefaultController<Uint8Array>;

  const end = () => {
    if (ended) return;
    ended = true;
    hub.remove(listener);
    clearInterval(timer);
    drained();
    options.closed();
    try {
      // close() would wait for a reader who does not read.
      if (full()) output.error(new Error("presence: the reader is too slow"));
      else output.close();
    } catch {
      // The reader went first.
    }
  };
  const send = (text: string) => {
    if (!ended && text !== "") output.enqueue(encoder.encode(text));
  };
  const sendSnapshot = (snapshot: PresenceSnapshot) => {
    seq = snapshot.seq;
    const users = snapshot.users.filter((user) => canSee(user.user_id));
    send(`id: ${seq}\nevent: snapshot\ndata: ${JSON.stringify({ seq, users })}\n\n`);
  };
  const sendChanges = (events: readonly PresenceEvent[]) => {
    let text = "";
    for (const event of events) {
      if (seq !== null && event.seq <= seq) continue;
      seq = event.seq;
      if (canSee(event.user_id)) text += frameOf(event);
    }
    send(text);
  };
  const full = () => (output.desiredSize ?? 0) <= 0;

  const listener: HubListener = {
    changes(events) {
      if (full()) end();
      else sendChanges(events);
    },
    snapshot(snapshot) {
      if (full()) end();
      else sendSnapshot(snapshot);
    },
    connected(connected) {
      if (!full()) send(connected ? READY : LOST);
    },
    end,
  };

  /** From the client's position to the hub's, page by page, each only when the one before has been taken. */
  const catchUp = async () => {
    // A client ahead of the feed has talked to a server that is no more.
    if (seq === null || seq > (hub.position ?? 0)) sendSnapshot(await options.readSnapshot());
    for (;;) {
      // Also after the last page: a change that meets a full stream ends it, and a long list over a slow line would never arrive.
      while (full() && !ended) await new Promise<void>((resolve) => (drained = resolve));
      if (ended || (seq ?? 0) >= (hub.position ?? 0)) break;
      const events = await options.readChanges(seq ?? 0);
      if (events === null) sendSnapshot(await options.readSnapshot());
      else if (events.length === 0) break;
      else sendChanges(events);
    }
    if (ended) return;
    // No await since the last comparison: nothing can fall between.
    hub.add(listener);
    if (hub.connected) send(READY);
  };

  let checked = Date.now();
  const recheck = () => {
    if (Date.now() - checked < options.recheck) return;
    checked = Date.now();
    // Where the question itself fails, the stream goes on: a fault there must not cut off everybody.
    options.stillAllowed().then(
      (allowed) => allowed || end(),
      () => {},
    );
  };

  return new ReadableStream<Uint8Array>(
    {
      start(controller) {
        output = controller;
        send(": presence\n\n"); // makes proxies and browsers hand over the headers at once
        let stuck = 0;
        timer = setInterval(
          () => {
            stuck = full() ? stuck + 1 : 0;
            if (stuck > 2) end();
            else if (stuck === 0) send(": keep-alive\n\n");
            recheck();
          },
          Math.min(options.keepAlive, options.recheck),
        );
        timer.unref?.();
        catchUp().catch(end);
      },
      pull() {
        drained();
      },
      cancel: end,
    },
    { highWaterMark: mostUnread, size: (chunk) => chunk?.byteLength ?? 0 },
  );
}
