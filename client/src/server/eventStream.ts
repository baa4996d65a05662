import { formatPosition, maybeSameFeed, type FeedPosition } from "../core/feedPosition.js";
import type { PresenceEvent, PresenceSnapshot, RoomSnapshot } from "../core/types.js";
import type { FeedPage } from "./database.js";
import type { EventHub, HubListener } from "./eventHub.js";

const READY = "event: ready\ndata: {}\n\n";
/** Open another one: this one ends, and nothing is wrong. */
const RENEW = "event: renew\ndata: {}\n\n";
/** The stream stands, but the database behind it is away. */
const LOST = "event: lost\ndata: {}\n\n";

const encoder = new TextEncoder();

/** What travels to many streams is put into words once. */
function once<Key extends object, Value>(make: (key: Key) => Value): (key: Key) => Value {
  const made = new WeakMap<Key, Value>();
  return (key) => {
    let value = made.get(key);
    if (value === undefined) made.set(key, (value = make(key)));
    return value;
  };
}
const dataOf = once((event: PresenceEvent) => JSON.stringify(event));
/** For who is in no room that the page tells of. */
const wholePage = once(({ events, end }: FeedPage) => {
  const last = events.at(-1);
  const text = events.map((event) => (event.room == null ? changeFrame(event, end) : "")).join("");
  return encoder.encode(last?.room == null ? text : text + positionFrame({ ...end, seq: last.seq }));
});
const roomsOf = once(({ events }: FeedPage) => new Set(events.flatMap(({ room }) => room ?? [])));
const wholeSnapshot = once((snapshot: PresenceSnapshot) => encoder.encode(snapshotFrame(snapshot)));

function changeFrame(event: PresenceEvent, { epoch = null }: FeedPosition): string {
  return `id: ${formatPosition({ seq: event.seq, epoch })}\ndata: ${dataOf(event)}\n\n`;
}

function snapshotFrame({ seq, epoch = null, users }: PresenceSnapshot): string {
  return `id: ${formatPosition({ seq, epoch })}\nevent: snapshot\ndata: ${JSON.stringify({ seq, epoch, users })}\n\n`;
}

/** Also who may see nothing of what came before must not ask for it again. */
function positionFrame(position: FeedPosition): string {
  return `id: ${formatPosition(position)}\nevent: position\ndata: ${JSON.stringify(position)}\n\n`;
}

function frame(event: string, data: object): string {
  return `event: ${event}\ndata: ${JSON.stringify(data)}\n\n`;
}

export interface EventStreamOptions {
  hub: EventHub;
  /** Where the client stopped; null: it knows nothing yet. */
  since: FeedPosition | null;
  /** Not `fresh`: one that was read for another stream a moment ago will do. */
  readSnapshot: (fresh: boolean) => Promise<PresenceSnapshot>;
  /** Of which the page is told what happens there. */
  rooms: ReadonlySet<string>;
  /** Those of them whose list it does not know. */
  unknownRooms: ReadonlySet<string>;
  /** Those that it asked for, and may not enter. */
  forbiddenRooms: ReadonlySet<string>;
  readRoom: (room: string) => Promise<RoomSnapshot>;
  /** Null: the feed does not continue from there. */
  readChanges: (seq: number) => Promise<FeedPage | null>;
  /** Undefined: everybody. */
  canSee: ((user: string) => boolean) | undefined;
  /** A client that missed more changes than this, or more bytes of them, gets the list instead. */
  catchUp: { changes: number; bytes: number };
  keepAlive: number;
  /** Unread bytes at which a client is dropped. */
  mostUnread: number;
  /** After this long (ms) the page is asked to open another one. */
  lifetime: number;
  closed: () => void;
}

/**
 * The body of one text/event-stream: first what the client missed, then what happens. A client that does not keep up is cut
 * off, not buffered for: it comes back with its last number and reads the rest from the feed, at its own speed.
 */
export function eventStream(options: EventStreamOptions): ReadableStream<Uint8Array> {
  const { hub, canSee, mostUnread, rooms } = options;
  let listsDue = [...options.unknownRooms];
  let position = options.since;
  let ended = false;
  let ready = false;
  let caughtUp = false;
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
    if (ended) return;
    position = { seq: snapshot.seq, epoch: snapshot.epoch ?? null };
    if (canSee === undefined) output.enqueue(wholeSnapshot(snapshot));
    else send(snapshotFrame({ ...snapshot, users: snapshot.users.filter((user) => canSee(user.user_id)) }));
  };
  const sendRoom = (list: RoomSnapshot) => {
    const users = canSee === undefined ? list.users : list.users.filter((user) => canSee(user.user_id));
    send(frame("room", { ...list, users }));
  };
  const isFor = ({ room, user_id }: PresenceEvent) => (room == null || rooms.has(room)) && (canSee?.(user_id) ?? true);
  /** The number of bytes or characters that this took. */
  const sendChanges = (page: FeedPage): number => {
    const first = page.events[0];
    const common = canSee === undefined && (rooms.size === 0 || ![...rooms].some((room) => roomsOf(page).has(room)));
    if (common && first !== undefined && first.seq > (position?.seq ?? -1)) {
      const bytes = wholePage(page);
      if (!ended) output.enqueue(bytes);
      position = { ...page.end, seq: page.events.at(-1)?.seq ?? first.seq };
      return bytes.byteLength;
    }
    let text = "";
    let told = true;
    for (const event of page.events) {
      if (position !== null && event.seq <= position.seq) continue;
      position = { ...page.end, seq: event.seq };
      told = isFor(event);
      if (told) text += changeFrame(event, page.end);
    }
    if (!told && position !== null) text += positionFrame(position);
    send(text);
    return text.length;
  };
  const tell = (connected: boolean) => {
    if (connected !== ready) send(connected ? READY : LOST);
    ready = connected;
  };
  const full = () => (output.desiredSize ?? 0) <= 0;

  const listener: HubListener = {
    rooms,
    typing(room, users) {
      if (!full()) send(frame("typing", { room, users: canSee === undefined ? users : users.filter(canSee) }));
    },
    changes(page) {
      if (full()) end();
      else sendChanges(page);
    },
    snapshot(snapshot) {
      if (full()) return end();
      // It may be more than the limit allows to lie unread; what comes after it waits in the feed.
      hub.remove(listener);
      caughtUp = false;
      sendSnapshot(snapshot);
      listsDue = [...rooms];
      catchUp().catch(end);
    },
    connected(connected) {
      if (!full()) tell(connected);
    },
    end,
  };

  /** From the client's position to the hub's, page by page, each only when the one before has been taken. */
  const catchUp = async () => {
    let sent = 0;
    const hubPosition = () => hub.position ?? { seq: 0, epoch: null };
    const startOver = async (fresh: boolean) => {
      sendSnapshot(await options.readSnapshot(fresh));
      listsDue = [...rooms]; // read after it: the changes sent from here on continue them
      sent = 0;
    };
    // A client of another feed, or ahead of this one, has talked to a server that is no more.
    if (position === null || !maybeSameFeed(position, hubPosition()) || position.seq > hubPosition().seq) {
      await startOver(false);
    }
    for (;;) {
      // Also after the last page: a change that meets a full stream ends it, and a long list over a slow line would never arrive.
      while (full() && !ended) await new Promise<void>((resolve) => (drained = resolve));
      if (ended) break;
      const room = listsDue.pop();
      if (room !== undefined) {
        sendRoom(await options.readRoom(room));
        continue;
      }
      const at: FeedPosition = position ?? { seq: 0 };
      if (at.seq >= hubPosition().seq) break;
      const page = await options.readChanges(at.seq);
      const { changes, bytes } = options.catchUp;
      if (page === null || !maybeSameFeed(at, page.end) || page.end.seq - at.seq > changes || sent > bytes) {
        await startOver(true);
      } else if (page.events.length === 0) {
        break;
      } else {
        sent += sendChanges(page);
      }
    }
    if (ended) return;
    // The feed was replaced just now. The client comes back and starts over, when the hub has noticed, too.
    if (position !== null && !maybeSameFeed(position, hubPosition())) return end();
    // No await since the last comparison: nothing can fall between.
    hub.add(listener);
    caughtUp = true;
    if (hub.connected) tell(true);
  };

  const began = performance.now();
  const renew = () => {
    // Not before the list has arrived: on a slow line it never would.
    if (!caughtUp || full() || performance.now() - began < options.lifetime) return;
    send(RENEW);
    end();
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
            renew();
          },
          Math.min(options.keepAlive, options.lifetime),
        );
        timer.unref?.();
        for (const room of options.forbiddenRooms) send(frame("forbidden", { room }));
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
