// @vitest-environment happy-dom
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { PresenceError, PresenceService, type PresenceOptions, type StatusChoice } from "../../src/index.js";
import { Recorder, change, user } from "./recorder.js";

let transport: Recorder;
let service: PresenceService;
let visibility: "visible" | "hidden";
let onLine: boolean;

beforeEach(() => {
  vi.useFakeTimers();
  visibility = "visible";
  onLine = true;
  vi.spyOn(document, "visibilityState", "get").mockImplementation(() => visibility);
  vi.spyOn(navigator, "onLine", "get").mockImplementation(() => onLine);
  vi.spyOn(Math, "random").mockReturnValue(1); // the longest pause that back-off allows
});

afterEach(() => {
  service.stop();
  localStorage.clear();
  sessionStorage.clear();
  vi.restoreAllMocks();
  vi.useRealTimers();
});

function make(options: Partial<PresenceOptions> = {}): PresenceService {
  transport = new Recorder();
  service = new PresenceService({ userId: "ada", transport, ...options });
  return service;
}

const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms);
const seconds = (n: number) => n * 1000;
const page = (name: string) => window.dispatchEvent(new Event(name));
async function look(state: "visible" | "hidden") {
  visibility = state;
  document.dispatchEvent(new Event("visibilitychange"));
  await pass(0);
}

describe("heartbeats", () => {
  test("every 30 s while visible, every 2 minutes while hidden, and each says which", async () => {
    make().start();
    await pass(0);
    expect(transport.beats).toHaveLength(1);
    expect(transport.beats[0]).toMatchObject({
      user_id: "ada",
      session_id: service.sessionId,
      heartbeat_interval: 30,
      status: "active",
    });
    await pass(seconds(90));
    expect(transport.beats).toHaveLength(4);
    await look("hidden");
    expect(transport.beats).toHaveLength(5); // at once, so that the server expects the longer one
    expect(transport.beats[4]?.heartbeat_interval).toBe(120);
    await pass(seconds(119));
    expect(transport.beats).toHaveLength(5);
    await pass(seconds(1));
    expect(transport.beats).toHaveLength(6);
    await pass(seconds(10));
    await look("visible");
    expect(transport.beats).toHaveLength(7);
    expect(transport.beats[6]?.heartbeat_interval).toBe(30);
    await pass(seconds(30));
    expect(transport.beats).toHaveLength(8);
  });

  test("every interval is an option, and undefined means the default", async () => {
    make({ heartbeatInterval: 500, hiddenHeartbeatInterval: 900, retryBase: undefined as never }).start();
    await pass(1000);
    expect(transport.beats).toHaveLength(3);
    expect(transport.beats[0]?.heartbeat_interval).toBe(0.5);
  });

  test("after a failure sooner, then ever more slowly, up to a limit", async () => {
    make().start();
    transport.answer = () => {
      throw new PresenceError("503", 503);
    };
    transport.beats = [];
    await pass(seconds(200));
    const pauses = transport.beats.slice(1).map((beat, i) => (beat.at - transport.beats[i]!.at) / 1000);
    expect(pauses.slice(0, 8)).toEqual([1, 2, 4, 8, 16, 30, 30, 30].slice(0, 8));
  });

  test("jitter: no two pages return in the same instant", async () => {
    vi.mocked(Math.random).mockReturnValue(0);
    make();
    transport.answer = () => {
      throw new PresenceError("503", 503);
    };
    service.start();
    await pass(seconds(0.5));
    expect(transport.beats).toHaveLength(2); // half of the first second
  });

  test("a server that asks to wait is obeyed", async () => {
    make();
    transport.answer = () => {
      throw new PresenceError("429", 429, seconds(20));
    };
    service.start();
    await pass(0);
    await pass(seconds(19));
    expect(transport.beats).toHaveLength(1);
    await pass(seconds(1));
    expect(transport.beats).toHaveLength(2);
  });

  test("one at a time: what changes while one is under way follows it", async () => {
    make();
    let answer!: (online: boolean) => void;
    transport.answer = () => new Promise((resolve) => (answer = resolve));
    service.start();
    service.setMetadata({ mood: "fine" });
    service.setMetadata({ mood: "better" });
    await pass(seconds(1));
    expect(transport.beats).toHaveLength(1);
    answer(true);
    await pass(0);
    expect(transport.beats.map((beat) => beat.metadata)).toEqual([undefined, { mood: "better" }]);
  });

  test("a machine that slept beats within the look of the clock", async () => {
    make().start();
    await pass(seconds(1));
    vi.setSystemTime(Date.now() + 3600_000); // timers stood still
    await pass(seconds(5));
    expect(transport.beats).toHaveLength(2);
  });

  test("a clock that is set back does not stop them", async () => {
    make().start();
    await pass(seconds(1));
    vi.setSystemTime(Date.now() - 86_400_000);
    await pass(seconds(36));
    expect(transport.beats.length).toBeGreaterThanOrEqual(2);
  });

  test("the network is back, or the page thaws: at once, without waiting for the old request", async () => {
    make().start();
    transport.answer = () => new Promise(() => {});
    await pass(seconds(1));
    page("online");
    await pass(0);
    expect(transport.beats).toHaveLength(2);
    document.dispatchEvent(new Event("resume"));
    await pass(0);
    expect(transport.beats).toHaveLength(3);
  });
});

describe("the life of the page", () => {
  test("a session id for each page, kept nowhere else", () => {
    make();
    const other = new PresenceService({ userId: "ada", transport });
    expect(other.sessionId).not.toBe(service.sessionId);
    expect([sessionStorage.length, localStorage.length]).toEqual([0, 0]);
  });

  test("closing says goodbye once; out of the back/forward cache it is a new session", async () => {
    make().start();
    await pass(0);
    const first = service.sessionId;
    page("pagehide");
    await look("hidden"); // browsers send it after pagehide
    expect(transport.goodbyes).toEqual([first]);
    expect(transport.standing).toBe(0); // an open connection would keep the page out of that cache
    await pass(seconds(600));
    expect(transport.beats).toHaveLength(1);
    visibility = "visible";
    page("pageshow");
    await pass(0);
    expect(transport.beats).toHaveLength(2);
    expect(transport.beats[1]?.session_id).not.toBe(first);
    expect(transport.standing).toBe(1);
  });

  test("the first pageshow is nothing new", async () => {
    make().start();
    page("pageshow");
    await pass(0);
    expect(transport.beats).toHaveLength(1);
  });

  test("a page rendered ahead is nobody's presence until it is shown", async () => {
    let ahead = true;
    Object.defineProperty(document, "prerendering", { configurable: true, get: () => ahead });
    make().start();
    await pass(seconds(60));
    expect([transport.beats.length, transport.connections.length]).toEqual([0, 0]);
    ahead = false;
    document.dispatchEvent(new Event("prerenderingchange"));
    await pass(0);
    expect([transport.beats.length, transport.standing]).toEqual([1, 1]);
    Reflect.deleteProperty(document, "prerendering");
  });

  test("stop() leaves no timer, no listener and no connection", async () => {
    const live = new Set<unknown>();
    let added = 0;
    for (const target of [window, document]) {
      const addEventListener = target.addEventListener.bind(target) as (...args: never[]) => void;
      const removeEventListener = target.removeEventListener.bind(target) as (...args: never[]) => void;
      vi.spyOn(target, "addEventListener").mockImplementation(((...args: never[]) => {
        added++;
        live.add(args[1]);
        addEventListener(...args);
      }) as never);
      vi.spyOn(target, "removeEventListener").mockImplementation(((...args: never[]) => {
        live.delete(args[1]);
        removeEventListener(...args);
      }) as never);
    }
    make().start();
    await pass(0);
    transport.connect({ seq: 1, users: [] });
    await look("hidden"); // the lingering timer too
    service.stop();
    expect(added).toBeGreaterThan(8);
    expect(live.size).toBe(0);
    expect(vi.getTimerCount()).toBe(0);
    expect(transport.standing).toBe(0);
    expect(transport.goodbyes).toHaveLength(1);
    const count = transport.beats.length;
    page("online");
    await look("visible");
    await pass(seconds(300));
    expect(transport.beats).toHaveLength(count);
    service.stop(); // twice is harmless
    expect(transport.goodbyes).toHaveLength(1);
    service.start(); // and it can begin again
    await pass(0);
    expect(transport.beats).toHaveLength(count + 1);
  });

  test("a listener may stop the service in the middle of it", async () => {
    make();
    service.on("heartbeat", () => service.stop());
    service.start();
    service.setMetadata({ mood: "fine" }); // another one is due when the first is answered
    await pass(seconds(120));
    expect(vi.getTimerCount()).toBe(0);
    expect(transport.goodbyes.length).toBeGreaterThan(0);
    expect(transport.beats.length).toBeLessThanOrEqual(2);
  });

  test("watching only, then joining and leaving", async () => {
    make({ autoJoin: false }).start();
    await pass(seconds(60));
    expect([transport.beats.length, transport.standing]).toEqual([0, 1]);
    service.join();
    await pass(0);
    expect(service.state.joined).toBe(true);
    service.leave();
    await pass(seconds(60));
    expect([transport.beats.length, transport.goodbyes.length, transport.standing]).toEqual([1, 1, 1]);
    expect(service.state.joined).toBe(false);
  });
});

describe("idle", () => {
  test("active, idle, away, and active again with the first input", async () => {
    make({ idleAfter: 10_000, awayAfter: 25_000 }).start();
    const told: string[] = [];
    service.on("status", (status) => told.push(status));
    await pass(9_999);
    window.dispatchEvent(new Event("keydown"));
    await pass(9_999);
    expect(told).toEqual([]);
    await pass(1);
    expect(told).toEqual(["idle"]);
    await pass(15_000);
    expect(told).toEqual(["idle", "away"]);
    window.dispatchEvent(new Event("pointermove"));
    await pass(0);
    expect(told).toEqual(["idle", "away", "active"]);
    expect(transport.beats.at(-1)?.status).toBe("active");
    expect(transport.beats.map((beat) => beat.status)).toContain("away");
  });

  test("to look at the page again is a sign of life", async () => {
    make({ idleAfter: 10_000 }).start();
    await look("hidden");
    await pass(20_000);
    expect(service.state.status).toBe("idle");
    await look("visible");
    expect(service.state.status).toBe("active");
  });

  test("a status of one's own choice stays, and input beneath it is told to nobody", async () => {
    make({ idleAfter: 10_000 }).start();
    service.setStatus("busy");
    const told: string[] = [];
    service.on("status", (status) => told.push(status));
    await pass(60_000);
    window.dispatchEvent(new Event("keydown"));
    expect(told).toEqual([]);
    service.setStatus(null);
    expect(told).toEqual(["active"]);
  });
});

describe("what a person chose", () => {
  /** A page of its own: another tab, or this one after a reload. */
  async function open(options: Partial<PresenceOptions> = {}) {
    const page = { transport: new Recorder(), service: null as unknown as PresenceService };
    page.service = new PresenceService({ userId: "ada", transport: page.transport, ...options });
    page.service.start();
    await pass(0);
    return page;
  }

  const choice = (status: StatusChoice["status"], more = {}) => ({ status, until: null, message: null, ...more });

  test("a status is his in all tabs, and after a reload; heartbeats go on saying what the tab does", async () => {
    make().start();
    await pass(0);
    const other = await open();
    const stranger = await open({ userId: "bob" });
    service.setStatus("busy", { until: new Date("2100-01-01"), message: "Writing" });
    expect(service.state.chosenStatus).toBe(null); // views are told in a moment
    window.dispatchEvent(new Event("storage")); // as browsers do in the other tabs
    await pass(0);
    expect(transport.chosen).toEqual(choice("busy", { until: "2100-01-01T00:00:00.000Z", message: "Writing" }));
    for (const { state } of [service, other.service])
      expect([state.status, state.chosenStatus, state.statusUntil, state.statusMessage]).toEqual([
        "busy",
        "busy",
        "2100-01-01T00:00:00.000Z",
        "Writing",
      ]);
    expect([stranger.service.state.status, stranger.transport.beats.length]).toEqual(["active", 1]);
    await pass(seconds(30));
    expect(transport.beats.map((beat) => beat.status)).toEqual(["active", "active"]);

    const reloaded = await open();
    expect([reloaded.service.state.chosenStatus, reloaded.transport.statusCalls]).toEqual([null, ["read"]]); // what the server says
    window.dispatchEvent(new Event("storage"));
    await pass(0);
    expect(service.state.chosenStatus).toBe(null);
    for (const each of [other, stranger, reloaded]) each.service.stop();
  });

  test("what was chosen on another device is learned from the feed, also to be invisible", async () => {
    make().start();
    await pass(0);
    transport.connect({ seq: 4, epoch: null, users: [user("ada"), user("bob")] });
    await pass(0);
    expect(transport.statusCalls).toEqual(["read"]);
    transport.chosen = choice("invisible");
    transport.last.sink.change(change(5, "user_offline", "bob"));
    // What he says in this tab, or in another one, is no choice.
    transport.last.sink.change(change(6, "update", "ada", { details: { status: "idle", metadata: { at: 1 } } }));
    transport.last.sink.change(change(7, "session_start", "ada"));
    await pass(0);
    expect([transport.statusCalls.length, service.state.chosenStatus]).toEqual([1, null]);
    transport.last.sink.change(change(8, "user_offline", "ada"));
    await pass(0);
    expect([service.state.chosenStatus, service.state.status]).toEqual(["invisible", "active"]);
    transport.chosen = choice(null, { online: false }); // from a server that may not know who is invisible
    transport.last.sink.change(change(9, "update", "ada"));
    await pass(0);
    expect(service.state.chosenStatus).toBe("invisible");
    transport.chosen = choice("busy", { message: "Reading" });
    transport.last.sink.change(change(10, "update", "ada", { details: { status: "busy", message: "Reading" } }));
    await pass(0);
    const asked = transport.statusCalls.length;
    transport.last.sink.change(change(11, "update", "ada", { details: { status: "busy", message: "Reading" } }));
    await pass(0);
    expect([service.state.statusMessage, transport.statusCalls.length]).toEqual(["Reading", asked]);
    transport.chosen = choice("busy", { message: "Writing" });
    transport.last.sink.change(change(12, "update", "ada", { details: { status: "busy", message: "Writing" } }));
    await pass(0);
    expect(service.state.statusMessage).toBe("Writing");
    transport.chosen = choice(null); // over
    transport.last.sink.change(change(13, "user_online", "ada"));
    await pass(0);
    expect(service.state.chosenStatus).toBe(null);
  });

  test("what could not be said is said when the server can be reached, also after a reload", async () => {
    transport = new Recorder();
    const failing = (recorder: Recorder) => {
      recorder.answerStatus = () => {
        throw new PresenceError("no answer", 0);
      };
    };
    failing(transport);
    service = new PresenceService({ userId: "ada", transport });
    const errors: number[] = [];
    service.on("error", ({ status }) => errors.push(status));
    service.start();
    await pass(0);
    service.setStatus("away");
    await pass(0);
    expect([service.state.chosenStatus, transport.chosen.status]).toEqual(["away", null]);
    expect(errors.length).toBeGreaterThan(0);
    service.stop();

    const reloaded = await open();
    expect([reloaded.service.state.chosenStatus, reloaded.transport.statusCalls]).toEqual(["away", ["away"]]);
    failing(reloaded.transport);
    reloaded.service.setStatus(null);
    await pass(0);
    reloaded.transport.answerStatus = () => {};
    expect(reloaded.transport.chosen.status).toBe("away");
    await pass(seconds(30)); // with the next heartbeat
    expect([reloaded.service.state.chosenStatus, reloaded.transport.chosen.status]).toEqual([null, null]);
    reloaded.service.stop();
  });

  test("the last of several choices counts", async () => {
    make().start();
    await pass(0);
    let answer!: () => void;
    transport.answerStatus = () => new Promise<void>((resolve) => (answer = resolve));
    service.setStatus("busy");
    service.setStatus("away");
    service.setStatus("invisible");
    answer();
    await pass(0);
    expect(service.state.chosenStatus).toBe("invisible");
    answer();
    await pass(0);
    expect([transport.statusCalls, service.state.chosenStatus]).toEqual([["read", "busy", "invisible"], "invisible"]);
  });

  test("a choice of what is shown already is said, although an answer under way tells otherwise", async () => {
    make().start();
    await pass(0);
    service.setStatus("busy");
    await pass(0);
    transport.chosen = choice("away"); // on another device
    let answer!: () => void;
    transport.answerStatus = () => new Promise<void>((resolve) => (answer = resolve));
    transport.last.sink.change(change(1, "update", "ada", { details: { status: "away" } }));
    await pass(0);
    service.setStatus("busy");
    transport.answerStatus = () => {};
    answer();
    await pass(0);
    expect([service.state.chosenStatus, transport.chosen.status]).toEqual(["busy", "busy"]);
  });

  test("a choice that the server refuses is none", async () => {
    make().start();
    await pass(0);
    transport.answerStatus = () => {
      throw new PresenceError("400 message is too long", 400);
    };
    service.setStatus("busy", { message: "x".repeat(2000) });
    await pass(0);
    transport.answerStatus = () => {};
    await pass(seconds(30));
    expect([service.state.chosenStatus, transport.chosen.status]).toEqual([null, null]);
  });

  test("a gateway that has no such function is asked once, until somebody looks at the page", async () => {
    make().start();
    transport.answerStatus = () => {
      throw new PresenceError("404", 404);
    };
    await pass(seconds(120));
    expect([transport.beats.length > 3, transport.statusCalls]).toEqual([true, ["read"]]);
    await look("hidden");
    await look("visible");
    expect(transport.statusCalls).toEqual(["read", "read"]);
  });

  test("a transport without statuses says so", () => {
    const bare = Object.assign(new Recorder(), { status: undefined });
    const lonely = new PresenceService({ userId: "ada", transport: bare });
    expect(() => lonely.setStatus("busy")).toThrow("knows no chosen status");
  });

  test("heartbeats say how long ago the last input was", async () => {
    make().start();
    await pass(seconds(12));
    window.dispatchEvent(new Event("keydown"));
    await pass(seconds(18));
    await pass(seconds(30));
    expect(transport.beats.map((beat) => beat.inactive_for)).toEqual([0, 18, 48]);
  });

  test("metadata is merged, sent at once, and kept over a reload", async () => {
    make({ metadata: { room: "blue", device: "phone" } }).start();
    await pass(0);
    service.setMetadata({ room: "red", mood: "fine" });
    await pass(0);
    service.setMetadata({ device: null });
    await pass(0);
    service.setMetadata({ mood: "fine" }); // nothing new
    await pass(0);
    expect(transport.beats.map(({ metadata }) => metadata)).toEqual([
      { room: "blue", device: "phone" },
      { room: "red", device: "phone", mood: "fine" },
      { room: "red", mood: "fine" },
    ]);
    const reloaded = await open({ metadata: { room: "blue", device: "phone", build: 2 } });
    expect(reloaded.transport.beats[0]?.metadata).toEqual({ room: "red", mood: "fine", build: 2 });
    reloaded.service.setMetadata({ room: null, mood: null, build: null });
    await pass(0);
    expect(reloaded.transport.beats[1]?.metadata).toEqual({});
    reloaded.service.stop();
  });

  test("more metadata than the server takes is refused here, and changes nothing", async () => {
    make({ metadata: { room: "blue" } }).start();
    expect(() => service.setMetadata({ text: "ö".repeat(2100) })).toThrow(RangeError);
    await pass(seconds(30));
    expect(transport.beats.map(({ metadata }) => metadata)).toEqual([{ room: "blue" }, { room: "blue" }]);
    sessionStorage.setItem("presence metadata of ada", JSON.stringify({ text: "x".repeat(5000) }));
    const other = await open({ metadata: { room: "blue" } });
    expect(other.transport.beats[0]?.metadata).toEqual({ room: "blue" });
    other.service.stop();
  });

  test.each(["not JSON", "[1]", '"asleep"', "7"])(
    "what others wrote into the storage (%s) is nobody's choice",
    async (text) => {
      localStorage.setItem("presence status of ada", text);
      sessionStorage.setItem("presence metadata of ada", text);
      make({ metadata: { room: "blue" } }).start();
      await pass(0);
      expect(transport.beats[0]).toMatchObject({ status: "active", metadata: { room: "blue" } });
    },
  );

  test("without storage it holds as long as the page", async () => {
    vi.spyOn(window, "localStorage", "get").mockImplementation(() => {
      throw new DOMException("denied", "SecurityError");
    });
    vi.spyOn(window, "sessionStorage", "get").mockReturnValue(undefined as never);
    make().start();
    await pass(0);
    service.setStatus("away");
    service.setMetadata({ a: 1 });
    await look("hidden");
    await look("visible");
    expect(transport.beats.at(-1)).toMatchObject({ metadata: { a: 1 } });
    expect([service.state.chosenStatus, transport.chosen.status]).toEqual(["away", "away"]);
    vi.restoreAllMocks();
  });

  test("has the application's own type", async () => {
    interface Card {
      name: string;
      room?: string;
    }
    const typed = new PresenceService<Card>({ userId: "ada", transport: new Recorder(), metadata: { room: "blue" } });
    typed.setMetadata({ room: null });
    // @ts-expect-error: no such key
    typed.setMetadata({ rom: "red" });
    typed.on("change", ({ details }) => details.metadata?.name.length);
    const names: (string | undefined)[] = typed.state.activeUsers.map((user) => user.metadata?.name);
    expect(names).toEqual([]);
  });
});

describe("the feed", () => {
  test("the list, its changes, and catch-up after the last number", async () => {
    make().start();
    await pass(0);
    transport.connect({ seq: 10, users: [user("ada"), user("bob", { sessions: 2 })] });
    transport.last.sink.change(change(11, "user_online", "carl", { details: { status: "idle" } }));
    transport.last.sink.change(change(11, "user_online", "carl")); // twice
    transport.last.sink.change(change(9, "user_offline", "ada")); // old
    transport.last.sink.change(
      change(13, "session_end", "bob", { sessions: 1, details: { metadata: { of: "the ended one" } } }),
    );
    transport.last.sink.change(change(14, "update", "bob", { details: { status: "away", metadata: { a: 1 } } }));
    transport.last.sink.change(change(15, "user_offline", "ada"));
    await pass(0);
    expect(service.state.activeUsers.map(({ user_id, status, sessions }) => [user_id, status, sessions])).toEqual([
      ["carl", "idle", 1],
      ["bob", "away", 1],
    ]);
    expect(service.state.activeUsers[1]?.metadata).toEqual({ a: 1 });
    expect(service.state.lastSeen.get("ada")).toBeDefined();
    expect(service.state.stats).toMatchObject({
      online: 2,
      sessions: 2,
      changes: 4,
      seq: 15,
      byStatus: { active: 0, idle: 1, away: 1, busy: 0 },
    });
    transport.last.fail(new Error("cut"));
    await pass(seconds(1));
    expect(transport.last.since).toEqual({ seq: 15, epoch: null });
  });

  test("counts and order stay right through a long random history", async () => {
    make().start();
    await pass(0);
    vi.mocked(Math.random).mockRestore();
    const statuses = ["active", "busy", "idle", "away"] as const;
    const pick = <Value>(values: readonly Value[]) => values[Math.floor(Math.random() * values.length)] as Value;
    const ids = [...Array(12).keys()].map((i) => `u${i}`);
    let right = [user("u3", { sessions: 2, status: "busy" }), user("u1")] as ReturnType<typeof user>[];
    transport.connect({ seq: 0, users: right });
    const history: string[] = [];
    for (let seq = 1; seq <= 2000; seq++) {
      const id = pick(ids);
      const known = right.find(({ user_id }) => user_id === id);
      const more = { sessions: 1 + Math.floor(Math.random() * 3), details: { status: pick(statuses) } };
      const next = { ...user(id), sessions: more.sessions, status: more.details.status as "active" };
      const event = pick(["user_online", "user_offline", "update", "session_start"] as const);
      history.push(`${event} ${id} ${JSON.stringify(more)}`);
      if (event === "user_online") right = [next, ...right.filter((other) => other !== known)];
      else if (event === "user_offline") right = right.filter((other) => other !== known);
      else right = right.map((other) => (other === known ? next : other));
      transport.last.sink.change(change(seq, event, id, more));
      if (seq % 10 !== 0) continue;
      await pass(0);
      const { activeUsers, stats } = service.state;
      expect(activeUsers, history.join("\n")).toEqual(right);
      expect(stats.online).toBe(right.length);
      expect(stats.sessions).toBe(right.reduce((sum, { sessions }) => sum + sessions, 0));
      for (const status of statuses)
        expect(stats.byStatus[status]).toBe(right.filter((each) => (each.status as string) === status).length);
    }
  });

  test("users who did not change stay the same objects, and lastSeen is replaced", async () => {
    make().start();
    await pass(0);
    transport.connect({ seq: 1, users: [user("ada"), user("bob")] });
    await pass(0);
    const {
      activeUsers: [ada],
      lastSeen,
    } = service.state;
    transport.last.sink.change(change(2, "user_offline", "bob"));
    await pass(0);
    expect(service.state.activeUsers[0]).toBe(ada);
    expect(service.state.lastSeen).not.toBe(lastSeen);
    transport.last.sink.snapshot({ seq: 7, users: [user("ada"), user("bob")] });
    await pass(0);
    expect(service.state.activeUsers[0]).toBe(ada);
    expect(service.state.lastSeen.has("bob")).toBe(false);
  });

  test("the epoch stays with the position, and a list in place of changes is one resync", async () => {
    make().start();
    const seen: string[] = [];
    service.on("change", ({ seq }) => seen.push(`change ${seq}`));
    service.on("resync", ({ seq }) => seen.push(`resync ${seq}`));
    await pass(0);
    transport.connect({ seq: 10, epoch: "a", users: [user("ada")] });
    transport.last.sink.change(change(11, "user_online", "bob"));
    transport.last.sink.position({ seq: 13, epoch: "a" });
    transport.last.fail(new Error("cut"));
    await pass(seconds(1));
    expect(transport.last.since).toEqual({ seq: 13, epoch: "a" });
    // Restored from a backup: the same numbers, for other events.
    transport.connect({ seq: 5, epoch: "b", users: [user("carl")] });
    transport.last.sink.change(change(6, "user_online", "dora"));
    await pass(0);
    expect(service.state.activeUsers.map(({ user_id }) => user_id)).toEqual(["dora", "carl"]);
    expect(seen).toEqual(["change 11", "resync 5", "change 6"]);
    transport.last.fail(new Error("cut"));
    await pass(seconds(1));
    expect(transport.last.since).toEqual({ seq: 6, epoch: "b" });
  });

  test("silence is a dead connection", async () => {
    make({ silenceLimit: 1000, retryBase: 100 }).start();
    await pass(0);
    transport.connect({ seq: 1, users: [] });
    await pass(900);
    transport.last.sink.alive();
    await pass(900);
    expect(transport.connections).toHaveLength(1);
    await pass(300);
    expect(transport.connections).toHaveLength(2);
    expect(transport.standing).toBe(1);
    expect(service.state.stats.reconnects).toBe(1);
  });

  test("what arrives on a connection that was given up is not heard", async () => {
    make().start();
    await pass(0);
    const old = transport.last;
    page("online");
    transport.connect({ seq: 5, users: [] });
    old.sink.snapshot({ seq: 99, users: [user("ghost")] });
    old.sink.change(change(6, "user_online", "ghost"));
    await pass(0);
    expect(service.state.activeUsers).toEqual([]);
  });

  test("a hidden tab gives its connection back after a while and catches up when seen", async () => {
    make({ hiddenFeedLinger: 5_000 }).start();
    await pass(0);
    transport.connect({ seq: 5, users: [] });
    await look("hidden");
    await pass(4_999);
    expect(transport.standing).toBe(1);
    await pass(1);
    expect(transport.standing).toBe(0);
    await look("visible");
    expect([transport.standing, transport.last.since?.seq]).toEqual([1, 5]);
  });

  test("errors of the feed are told, and a refusal's pause is kept", async () => {
    make({ autoJoin: false }).start();
    const errors: number[] = [];
    service.on("error", (error) => errors.push(error.status));
    await pass(0);
    transport.last.fail(new PresenceError("429", 429, 9_000));
    await pass(8_999);
    expect([errors, transport.connections.length]).toEqual([[429], 1]);
    await pass(1);
    expect(transport.connections).toHaveLength(2);
  });
});

describe("unauthorized", () => {
  const refuse = (status = 401, code: string | null = null) => {
    transport.answer = () => {
      throw new PresenceError("no", status, null, code);
    };
  };

  test("a 401 ends all asking, until the headers are new", async () => {
    make();
    let looks = 0;
    let fresh = false;
    transport.renewed = async () => {
      looks++;
      return fresh;
    };
    const errors: number[] = [];
    service.on("error", (error) => errors.push(error.status));
    service.start();
    await pass(0);
    transport.connect({ seq: 4, users: [user("ada")] });
    refuse();
    await pass(seconds(30));
    expect([service.state.connection, service.state.isConnected, service.state.joined]).toEqual([
      "unauthorized",
      false,
      false,
    ]);
    expect([transport.beats.length, transport.standing, errors]).toEqual([2, 0, [401]]);
    await look("hidden");
    window.dispatchEvent(new Event("keydown"));
    service.setStatus("busy");
    page("online");
    await pass(seconds(300));
    expect([transport.beats.length, transport.connections.length]).toEqual([2, 1]);
    expect(looks).toBeGreaterThan(5);
    expect(transport.goodbyes).toEqual([]); // it may be the same user's token that is renewed in a moment
    await look("visible");
    transport.answer = () => true;
    fresh = true;
    await pass(seconds(30));
    transport.connect();
    await pass(0);
    expect([service.state.connection, service.state.joined, transport.last.since?.seq]).toEqual(["online", true, 4]);
    expect(transport.beats[2]?.session_id).toBe(transport.beats[0]?.session_id);
  });

  test("one of the feed counts as well", async () => {
    make({ autoJoin: false }).start();
    await pass(0);
    transport.last.fail(new PresenceError("no", 401));
    await pass(seconds(600));
    expect([service.state.connection, transport.connections.length]).toEqual(["unauthorized", 1]);
  });

  test("headers that are new each time are tried ever more slowly", async () => {
    make({ autoJoin: false });
    transport.renewed = async () => true;
    transport.follow = (
      (follow) =>
      (...args: Parameters<typeof follow>) => {
        void follow(...args).catch(() => {});
        return Promise.reject(new PresenceError("no", 401));
      }
    )(transport.follow.bind(transport));
    service.start();
    await pass(seconds(1 + 2 + 4 + 8 + 16));
    expect(transport.connections).toHaveLength(6);
    await pass(seconds(90));
    expect(transport.connections).toHaveLength(9);
  });

  test("with cookies: once when the page is looked at, and with join()", async () => {
    make();
    refuse();
    service.start();
    await pass(seconds(600));
    expect(transport.beats).toHaveLength(1);
    await look("hidden");
    await look("visible");
    expect(transport.beats).toHaveLength(2);
    await pass(seconds(600));
    expect([transport.beats.length, service.state.connection]).toEqual([2, "unauthorized"]);
    transport.answer = () => true;
    service.join();
    await pass(0);
    expect([transport.beats.length, service.state.joined]).toEqual([3, true]);
  });

  test("somebody else is signed in: the session ends, another 403 is an error like any other", async () => {
    make().start();
    await pass(0);
    refuse(403);
    await pass(seconds(31));
    expect([service.state.connection, transport.beats.length]).toEqual(["connecting", 3]);
    refuse(403, "other_user");
    await pass(seconds(2));
    expect([service.state.connection, transport.goodbyes]).toEqual(["unauthorized", [transport.beats[0]?.session_id]]);
  });

  test("stop() ends the waiting, too", async () => {
    make();
    transport.renewed = async () => false;
    refuse();
    service.start();
    await pass(seconds(10));
    service.stop();
    expect(vi.getTimerCount()).toBe(0);
    await pass(seconds(10));
    expect([service.state.connection, transport.goodbyes.length]).toEqual(["stopped", 1]);
  });
});

describe("connection status", () => {
  test("connecting, online, reconnecting, offline, stopped", async () => {
    make();
    const told: string[] = [];
    service.on("connection", (connection) => told.push(connection));
    service.start();
    await pass(0);
    expect(told).toEqual(["connecting"]);
    transport.connect({ seq: 1, users: [] });
    await pass(0);
    transport.last.sink.lost(); // the database behind the server
    await pass(0);
    transport.last.sink.opened();
    await pass(0);
    onLine = false;
    transport.answer = () => {
      throw new PresenceError("no network", 0);
    };
    page("offline");
    await pass(0);
    onLine = true;
    transport.answer = () => true;
    page("online");
    await pass(0);
    transport.connect();
    await pass(0);
    service.stop();
    await pass(0);
    expect(told).toEqual(["connecting", "online", "reconnecting", "online", "offline", "online", "stopped"]);
  });

  test.each([true, false])(
    "what works is online, whatever the browser says of the network (joined: %s)",
    async (autoJoin) => {
      onLine = false;
      make({ autoJoin }).start();
      await pass(0);
      expect(service.state.connection).toBe("offline");
      transport.connect({ seq: 1, users: [] });
      await pass(0);
      expect(service.state.connection).toBe("online");
      page("offline");
      await pass(0);
      if (!autoJoin) transport.connect(); // the watcher's only way to try
      await pass(0);
      expect([service.state.connection, service.state.isConnected]).toEqual(["online", true]);
      if (autoJoin) expect(transport.beats).toHaveLength(2); // asked at once
    },
  );

  test("a connection that the server wants renewed is followed by another without a blink", async () => {
    make().start();
    await pass(0);
    transport.connect({ seq: 7, users: [] });
    await pass(0);
    const told: string[] = [];
    service.on("connection", (connection) => told.push(connection));
    transport.last.sink.renew();
    transport.connections[0]?.finish();
    await pass(0);
    expect([transport.connections.length, transport.standing, transport.last.since?.seq]).toEqual([2, 1, 7]);
    transport.connect();
    await pass(0);
    expect([told, service.state.stats.reconnects]).toEqual([[], 0]);
  });

  test("a look at another tab and back does not make the light blink", async () => {
    make().start();
    await pass(0);
    transport.connect({ seq: 1, users: [] });
    await pass(0);
    const told: string[] = [];
    service.on("connection", (connection) => told.push(connection));
    await look("hidden");
    await look("visible");
    transport.connect();
    await pass(0);
    expect(told).toEqual([]);
    expect(transport.connections.length).toBe(2);
  });

  test("heartbeats that fail, and a way that is open again", async () => {
    make().start();
    await pass(0);
    transport.connect({ seq: 1, users: [] });
    transport.answer = () => {
      throw new PresenceError("gone", 0);
    };
    await pass(seconds(30));
    expect(service.state.connection).toBe("reconnecting");
    transport.answer = () => true;
    await pass(seconds(2));
    expect(transport.connections).toHaveLength(2); // the feed may hang in the old, dead connection
    expect(service.state.connection).toBe("online");
    expect(service.state.stats.heartbeatsFailed).toBe(1);
  });

  test("a listener that throws keeps nobody else from hearing", async () => {
    const complaint = vi.spyOn(console, "error").mockImplementation(() => {});
    make();
    service.on("state", () => {
      throw new Error("mine");
    });
    let heard = 0;
    service.on("state", () => heard++);
    service.start();
    await pass(0);
    expect(heard).toBeGreaterThan(0);
    expect(complaint).toHaveBeenCalled();
    service.stop();
    await pass(0);
  });
});

test("triggerCleanup asks the server, and says what came of it", async () => {
  make();
  expect(await service.triggerCleanup()).toEqual({ outcome: "done", offline: 3, error: null });
  for (const [status, outcome] of [
    [403, "forbidden"],
    [401, "forbidden"],
    [503, "failed"],
    [0, "failed"],
  ] as const) {
    transport.cleanup = () => Promise.reject(new PresenceError("no", status));
    expect(await service.triggerCleanup()).toMatchObject({ outcome, offline: 0, error: { status } });
  }
});
