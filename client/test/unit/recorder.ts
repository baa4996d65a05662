import type { FeedPosition } from "../../src/core/feedPosition.js";
import type { FeedSink, FollowedRoom, PresenceTransport } from "../../src/core/transport.js";
import type { Heartbeat, PresenceEvent, PresenceSnapshot, StatusChoice } from "../../src/core/types.js";

/** A transport in the test's hands: it notes what is asked of it and answers as told. */
export class Recorder implements PresenceTransport {
  beats: (Heartbeat & { at: number })[] = [];
  goodbyes: string[] = [];
  connections: {
    since: FeedPosition | null;
    sink: FeedSink;
    signal: AbortSignal;
    rooms: readonly FollowedRoom[];
    fail: (error: unknown) => void;
    finish: () => void;
  }[] = [];
  /** What a heartbeat answers: a value, an error to throw, or a promise that the test settles. */
  answer: () => boolean | Promise<boolean> = () => true;

  async heartbeat(beat: Heartbeat): Promise<boolean> {
    this.beats.push({ ...beat, at: Date.now() });
    return this.answer();
  }

  leave(_user: string, session: string): void {
    this.goodbyes.push(session);
  }

  follow(
    since: FeedPosition | null,
    sink: FeedSink,
    signal: AbortSignal,
    rooms: readonly FollowedRoom[] = [],
  ): Promise<void> {
    return new Promise((resolve, reject) => {
      this.connections.push({ since, sink, signal, rooms, fail: reject, finish: resolve });
      signal.addEventListener("abort", () => reject(new Error("aborted")));
    });
  }

  /** What was asked for in rooms: the room, the session, and what. */
  roomCalls: [room: string, session: string, what: unknown][] = [];
  answerJoin: () => boolean | Promise<boolean> = () => true;
  rooms = {
    join: async ({ room, session_id, metadata }: { room: string; session_id: string; metadata?: object }) => {
      this.roomCalls.push([room, session_id, metadata ?? "join"]);
      return this.answerJoin();
    },
    leave: async ({ room, session_id }: { room: string; session_id: string }) =>
      void this.roomCalls.push([room, session_id, "leave"]),
    setTyping: async ({ room, session_id, typing }: { room: string; session_id: string; typing: boolean }) =>
      void this.roomCalls.push([room, session_id, typing ? "types" : "typed"]),
  };

  /** What the server knows to be chosen, and what it was asked. */
  chosen: StatusChoice = { status: null, until: null, message: null };
  statusCalls: (StatusChoice["status"] | "read")[] = [];
  answerStatus: () => void | Promise<void> = () => {};
  status = {
    read: async () => {
      this.statusCalls.push("read");
      await this.answerStatus();
      return this.chosen;
    },
    choose: async (_user: string, choice: StatusChoice) => {
      this.statusCalls.push(choice.status);
      await this.answerStatus();
      return (this.chosen = choice);
    },
  };

  /** As where cookies say who somebody is. */
  renewed = async (): Promise<boolean | null> => null;
  lookUp = async () => [];
  cleanup = async () => 3;

  get last() {
    return this.connections.at(-1)!;
  }

  /** How many feed connections stand. */
  get standing(): number {
    return this.connections.filter(({ signal }) => !signal.aborted).length;
  }

  /** The connection stands, with this list. */
  connect(snapshot?: PresenceSnapshot): void {
    this.last.sink.alive();
    if (snapshot !== undefined) this.last.sink.snapshot(snapshot);
    this.last.sink.opened();
  }
}

export const AT = "2026-01-01T00:00:00Z";

export function user(user_id: string, more = {}) {
  return { user_id, status: "active" as const, sessions: 1, online_since: AT, metadata: null, ...more };
}

export function change(
  seq: number,
  event: PresenceEvent["event"],
  user_id: string,
  more: Partial<PresenceEvent> = {},
): PresenceEvent {
  return { seq, at: AT, event, user_id, reason: "heartbeat", sessions: 1, details: {}, ...more };
}
