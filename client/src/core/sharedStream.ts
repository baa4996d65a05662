import { maybeSameFeed, type FeedPosition } from "./feedPosition.js";
import { newSessionId } from "./sessionId.js";
import { PresenceError, type FeedSink, type FollowedRoom, type PresenceTransport } from "./transport.js";

/** A tab that leads answers at once. One that has not for this long (ms) is frozen, or hangs. */
const ANSWER = 2_000;
/** Tabs that come with other rooms are gathered for this long (ms) before the stream is opened anew for them. */
const GATHER = 50;
/** Rooms of all tabs together in one stream: what our endpoints allow one by default. */
const MOST_ROOMS = 50;

/** One word of a stream: the sink's function and what it is called with. */
type Word = { [Name in keyof FeedSink]: [name: Name, ...args: Parameters<FeedSink[Name]>] }[keyof FeedSink];

const WORDS = [
  "opened",
  "lost",
  "renew",
  "alive",
  "snapshot",
  "change",
  "room",
  "forbidden",
  "typing",
  "position",
] satisfies Word[0][];

type Message = { from: string } & (
  | { kind: "hello"; rooms: string[]; number: number } // to whoever leads; the answers carry the number
  | { kind: "bye" }
  | { kind: "lead" | "gone" }
  | { kind: "wait" | "alone"; to: string; number: number }
  | { kind: "welcome"; to: string; number: number; at: FeedPosition; open: boolean }
  | { kind: "words"; words: Word[] }
  | { kind: "end"; error: Pick<PresenceError, "message" | "status" | "retryAfter" | "code"> | null }
);
type WithoutSender<Each> = Each extends Message ? Omit<Each, "from"> : never;

/** transport.follow() for that user, by one stream for all tabs of the browser where transport and browser allow it. */
export function sharedFollow(
  transport: PresenceTransport,
  user: string,
  silenceLimit: number,
): PresenceTransport["follow"] {
  const patience = Math.min(ANSWER, silenceLimit / 2);
  return (since, sink, signal, rooms = []) => {
    const alone = () => transport.follow(since, sink, signal, rooms, user);
    const locks = globalThis.navigator?.locks;
    // Who only watches, and says for nobody, may be somebody else in each tab.
    const nobody = user === "" || transport.shared === undefined;
    if (nobody || globalThis.document === undefined || locks === undefined) return alone();
    // Tabs with another version of this protocol are none of ours.
    const name = JSON.stringify(["presence-client stream 1", transport.shared, user]);
    let channel: BroadcastChannel;
    try {
      channel = new BroadcastChannel(name);
    } catch {
      return alone(); // not in this browser, or not for this origin
    }
    return new Member({ transport, user, sink, locks, name, channel, patience }, since, rooms).follow(signal);
  };
}

interface Surroundings {
  transport: PresenceTransport;
  user: string;
  sink: FeedSink;
  locks: LockManager;
  name: string;
  channel: BroadcastChannel;
  /** Milliseconds for the leader's answer. */
  patience: number;
}

/**
 * One tab's part in the stream that tabs share. Who holds the lock leads: he follows the feed with the rooms of all, and passes on every word.
 *
 * Nothing is missed. The leader's welcome says "all after `at` you will be told". Only then does the newcomer open a short stream of his
 * own, from where he is, and keeps for later what he is told meanwhile. When that stream is `opened` it is complete up to a moment after the
 * welcome, so up to `at` at least. Nothing comes twice either: what is behind our position is dropped. A lock that changes hands is
 * the same again, only that most are at `at` already and need no stream of their own.
 */
class Member {
  readonly #id = newSessionId();
  readonly #mine: ReadonlySet<string>;
  #over = false;
  #finish!: (error: PresenceError | null) => void;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** What the sink has been told reaches up to here. */
  #at: FeedPosition | null;
  /** Rooms whose list need not be sent. */
  #known: Set<string>;
  /** A stream of our own: the leader's for all, a follower's until he has caught up. */
  #connection: AbortController | undefined;
  /** The shared stream stands. */
  #open = false;

  // Who leads:
  #leading = false;
  #resign = () => {};
  #members = new Map<string, { rooms: readonly string[]; number: number }>();
  #waiting = new Set<string>();
  #covered: Set<string>; // rooms of the present stream
  #mostRooms = MOST_ROOMS;
  #gathering: ReturnType<typeof setTimeout> | undefined;
  #outbox: Word[] = [];

  // Who follows:
  #candidacy = new AbortController();
  #number = 0; // of our latest hello
  #leader: string | null = null; // who answered it
  #welcome: FeedPosition | null = null;
  #early: Word[] | null = null; // what the leader said while we catch up
  #caughtUp = false;
  #stole = false;
  #alone = false;

  constructor(
    private readonly around: Surroundings,
    since: FeedPosition | null,
    rooms: readonly FollowedRoom[],
  ) {
    this.#at = since;
    this.#mine = new Set(rooms.map(({ room }) => room));
    this.#covered = new Set(this.#mine);
    this.#known = new Set(rooms.filter(({ known }) => known).map(({ room }) => room));
  }

  follow(signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const stop = () => this.#finish(null);
      this.#finish = (error) => {
        if (this.#over) return;
        this.#post({ kind: this.#leading ? "gone" : "bye" });
        this.#over = true;
        signal.removeEventListener("abort", stop);
        this.#leaveOthers();
        this.#connection?.abort();
        if (error === null) resolve();
        else reject(error);
      };
      signal.addEventListener("abort", stop);
      this.around.channel.onmessage = ({ data }: MessageEvent<Message>) => this.#hear(data);
      this.#stand();
      this.#ask();
      if (signal.aborted) stop();
    });
  }

  #leaveOthers(): void {
    clearTimeout(this.#timer);
    clearTimeout(this.#gathering);
    this.#leading = false;
    this.#candidacy.abort();
    this.around.channel.close();
    this.#resign();
  }

  /** A stream for this tab alone, as if there were no others. */
  #goAlone(): void {
    this.#post({ kind: "bye" });
    this.#alone = true;
    this.#early = null;
    this.#leaveOthers();
    this.#connect();
  }

  // ---- who leads

  /** Waits for the lock, or takes it from a tab that no longer answers. */
  #stand(steal = false): void {
    this.#candidacy.abort();
    const { signal } = (this.#candidacy = new AbortController());
    const lead = () => {
      if (signal.aborted) return;
      this.#lead();
      return new Promise<void>((resign) => (this.#resign = resign));
    };
    this.around.locks.request(this.around.name, steal ? { steal } : { signal }, lead).catch((error: unknown) => {
      if (signal.aborted) return;
      if ((error as Error).name !== "AbortError") return this.#goAlone(); // this page may not have locks
      this.#leading = false; // stolen: others have not heard us for long
      this.#stand();
      this.#ask();
    });
  }

  #lead(): void {
    clearTimeout(this.#timer);
    this.#leading = true;
    this.#open = false;
    this.#early = null;
    this.#members.clear();
    this.#waiting.clear();
    this.#covered = new Set(this.#mine);
    this.#post({ kind: "lead" });
    this.#connect();
  }

  #admit(from: string, rooms: readonly string[], number: number): void {
    this.#members.set(from, { rooms, number });
    if (this.#wantedRooms().size > this.#mostRooms) return this.#sendAway(from);
    this.#waiting.add(from);
    if (this.#at !== null && rooms.every((room) => this.#covered.has(room))) return this.#welcomeWaiting([from]);
    this.#post({ kind: "wait", to: from, number });
    if (document.hidden) return this.#welcomeWaiting(); // its timers may stand still for a minute
    this.#gathering ??= setTimeout(() => {
      this.#gathering = undefined;
      this.#welcomeWaiting();
    }, GATHER);
  }

  #welcomeWaiting(members = [...this.#waiting]): void {
    if (!this.#leading || this.#at === null) return;
    // From here on: what they are told begins at this position.
    if (members.some((id) => this.#members.get(id)?.rooms.some((room) => !this.#covered.has(room)))) this.#connect();
    for (const to of members) {
      const number = this.#members.get(to)?.number;
      if (number !== undefined) this.#post({ kind: "welcome", to, number, at: this.#at, open: this.#open });
      this.#waiting.delete(to);
    }
  }

  #sendAway(member: string): void {
    const number = this.#members.get(member)?.number;
    this.#members.delete(member);
    if (number !== undefined) this.#post({ kind: "alone", to: member, number });
  }

  #wantedRooms(): Set<string> {
    return new Set([...this.#mine, ...[...this.#members.values()].flatMap(({ rooms }) => rooms)]);
  }

  // ---- who follows

  #ask(): void {
    this.#leader = this.#welcome = this.#early = null;
    this.#covered = new Set(this.#mine);
    this.#disconnect();
    this.#post({ kind: "hello", rooms: [...this.#mine], number: ++this.#number });
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      // Whoever took the lock from us, and does not answer either, cannot hear us.
      if (this.#stole) return this.#goAlone();
      this.#stole = true;
      this.#stand(true);
    }, this.around.patience);
  }

  #begin(at: FeedPosition, open: boolean): void {
    this.#welcome = at;
    this.#open = open;
    this.#caughtUp = false;
    const here = this.#at;
    const missedNothing = here !== null && here.epoch != null && here.epoch === at.epoch && here.seq >= at.seq;
    // Who is typing in a room is told when a stream opens.
    const roomsKnown = this.#mine.size === 0 || (!open && [...this.#mine].every((room) => this.#known.has(room)));
    if (missedNothing && roomsKnown) {
      if (open) this.#tell(["opened"]);
    } else {
      this.#early = [];
      this.#connect();
    }
  }

  /** Ends the stream of our own as soon as the shared one does all that it does. */
  #settle(): void {
    if (this.#over || this.#early === null || !this.#caughtUp || !this.#open) return;
    const words = this.#early;
    this.#early = null;
    this.#disconnect();
    if (!maybeSameFeed(this.#at ?? { seq: 0 }, this.#welcome ?? { seq: 0 }))
      return this.#finish(new PresenceError("the other tabs follow another feed", 0));
    for (const word of words) this.#tell(word);
  }

  // ---- what is heard

  #hear(message: Message): void {
    if (this.#over || this.#alone) return;
    const { kind, from } = message;
    if (this.#leading) {
      if (kind === "hello") this.#admit(from, message.rooms, message.number);
      else if (kind === "bye") this.#members.delete(from);
    } else if (kind === "lead" || (kind === "gone" && from === this.#leader)) {
      this.#ask();
    } else if ("to" in message) {
      if (message.to !== this.#id || message.number !== this.#number) return;
      clearTimeout(this.#timer);
      this.#leader = from;
      if (message.kind === "welcome") this.#begin(message.at, message.open);
      else if (message.kind === "alone") this.#goAlone();
    } else if (from === this.#leader) {
      if (kind === "words") this.#hearLeader(message.words);
      else if (kind === "end") {
        const { error } = message;
        this.#finish(error && new PresenceError(error.message, error.status, error.retryAfter, error.code));
      }
    }
  }

  #hearLeader(words: readonly Word[]): void {
    for (const word of words) {
      const state = word[0] === "opened" || word[0] === "lost";
      if (state) this.#open = word[0] === "opened";
      if (word[0] === "alive" || (this.#welcome !== null && this.#early === null)) this.#tell(word);
      else if (!state) this.#early?.push(word);
    }
    this.#settle();
  }

  #hearServer(word: Word): void {
    const [name] = word;
    if (name === "renew") return this.#connect();
    if (this.#leading && this.#members.size > 0 && this.#outbox.push(word) === 1) queueMicrotask(() => this.#flush());
    if (name === "opened" || name === "lost") {
      if (this.#leading) this.#open = name === "opened";
      else this.#caughtUp = name === "opened";
    }
    this.#tell(word);
    if (this.#leading && this.#waiting.size > 0 && this.#gathering === undefined) this.#welcomeWaiting();
    this.#settle();
  }

  /** Tells the sink what is new to it and concerns it. */
  #tell(word: Word): void {
    if (this.#over) return;
    const { sink } = this.around;
    const behind = ({ seq }: FeedPosition) => this.#at !== null && seq < this.#at.seq;
    const concerns = (room: string) => this.#mine.has(room);
    switch (word[0]) {
      case "snapshot":
        this.#at = { seq: word[1].seq, epoch: word[1].epoch ?? null };
        this.#known.clear(); // the server sends them anew
        break;
      case "position":
        if (behind(word[1])) return;
        this.#at = word[1];
        break;
      case "change": {
        const { seq, room } = word[1];
        if (this.#at !== null && seq <= this.#at.seq) return;
        this.#at = { ...this.#at, seq };
        if (room == null || concerns(room)) break;
        return sink.position(this.#at);
      }
      case "room":
        if (behind(word[1])) return; // of a stream that was behind ours, which has brought it
        this.#known.add(word[1].room);
        if (!concerns(word[1].room)) return;
        break;
      case "forbidden":
        this.#known.delete(word[1]);
        if (!concerns(word[1])) return;
        break;
      case "typing":
        if (!concerns(word[1])) return;
    }
    const [name, ...what] = word;
    (sink[name] as (...what: unknown[]) => void)(...what);
  }

  // ---- the server, and the other tabs

  /** A new stream from where we are, in place of the present one. */
  #connect(): void {
    if (this.#leading) {
      const wanted = this.#wantedRooms();
      // Their list comes by the stream with which those who want them catch up.
      for (const room of wanted) if (!this.#covered.has(room)) this.#known.add(room);
      this.#covered = wanted;
    }
    const rooms = [...this.#covered].map((room) => ({ room, known: this.#known.has(room) }));
    this.#disconnect();
    const connection = (this.#connection = new AbortController());
    const current = () => this.#connection === connection && !this.#over;
    const hear = (name: Word[0]) => [
      name,
      (...what: unknown[]) => void (current() && this.#hearServer([name, ...what] as Word)),
    ];
    const sink = Object.fromEntries(WORDS.map(hear)) as unknown as FeedSink;
    const { transport, user } = this.around;
    void transport
      .follow(this.#at, sink, connection.signal, rooms, user)
      .then(
        () => null,
        (error: unknown) => PresenceError.of(error),
      )
      .then((error) => {
        if (!current()) return;
        // A server may allow fewer rooms.
        if (this.#leading && error?.status === 400 && this.#covered.size > this.#mine.size) {
          this.#mostRooms = this.#mine.size;
          const foreign = (room: string) => !this.#mine.has(room);
          for (const [id, { rooms }] of this.#members) if (rooms.some(foreign)) this.#sendAway(id);
          return this.#connect();
        }
        if (this.#leading) {
          const { message, status, retryAfter, code } = error ?? new PresenceError("", 0);
          this.#post({ kind: "end", error: error && { message, status, retryAfter, code } });
        }
        this.#finish(error);
      });
  }

  #disconnect(): void {
    const connection = this.#connection;
    this.#connection = undefined;
    connection?.abort();
  }

  #flush(): void {
    const words = this.#outbox.splice(0);
    if (words.length > 0) this.#post({ kind: "words", words });
  }

  #post(message: WithoutSender<Message>): void {
    this.#flush(); // said before
    if (!this.#over && !this.#alone) this.around.channel.postMessage({ ...message, from: this.#id });
  }
}
