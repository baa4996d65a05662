import { createComponent, createEffect, createRoot, createSignal, For, type Accessor, type Component } from "solid-js";
import { render } from "solid-js/web";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import {
  useIsOnline,
  useOnlineCount,
  usePresenceManager,
  useRoom,
  useTyping,
  type PresenceManager,
} from "../../src/solid/index.js";
import { Roster } from "../../src/core/roster.js";
import type { PresenceUser } from "../../src/index.js";
import { Recorder, change, user } from "../unit/recorder.js";

let transport: Recorder;
let dispose: () => void;
let last: PresenceManager;
let host: HTMLElement;

beforeEach(() => {
  vi.useFakeTimers();
  transport = new Recorder();
  host = document.createElement("div");
});
afterEach(async () => {
  dispose();
  await pass(300);
  localStorage.clear();
  vi.useRealTimers();
});

const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms);

function show(currentUser: string | null | Accessor<string | null>, more = {}): void {
  // <For each={activeUsers()}>{(person) => …}</For> without the compiler.
  dispose = render(() => {
    last = usePresenceManager({ currentUser, transport, ...more });
    return createComponent(For as Component<Record<string, unknown>>, {
      get each() {
        return last.activeUsers();
      },
      children: (person: PresenceUser) => {
        const item = document.createElement("li");
        item.textContent = person.user_id;
        return item;
      },
    });
  }, host);
}

const items = () => [...host.querySelectorAll("li")];
const shown = () => items().map((item) => item.textContent);

async function arrive() {
  await pass(0);
  transport.connect({ seq: 1, users: [user("ada"), user("bob")] });
  await pass(0);
}

test("accessors that follow the feed, and rows that stay where nothing changed", async () => {
  show("ada");
  expect([last.isConnected(), last.activeUsers().length]).toEqual([false, 0]);
  await arrive();
  expect([shown(), last.isConnected(), last.stats().online]).toEqual([["ada", "bob"], true, 2]);
  expect(await last.triggerCleanup()).toMatchObject({ outcome: "done", offline: 3 });
  const [ada] = items();
  transport.last.sink.change(change(2, "user_online", "carl"));
  await pass(0);
  expect(shown()).toEqual(["carl", "ada", "bob"]);
  expect(items()[1]).toBe(ada);
});

test("unmounting says goodbye and leaves nothing behind", async () => {
  show("ada");
  await arrive();
  dispose();
  await pass(300);
  expect([transport.goodbyes.length, transport.standing, vi.getTimerCount()]).toEqual([1, 0, 0]);
});

test("another user, and nobody", async () => {
  const [me, setMe] = createSignal<string | null>("ada");
  show(me);
  await pass(0);
  setMe("bob");
  await pass(1000);
  expect(transport.beats.map((beat) => beat.user_id)).toEqual(["ada", "bob"]);
  expect(transport.goodbyes).toEqual([transport.beats[0]?.session_id]);
  setMe(null);
  await pass(1000);
  expect([transport.goodbyes.length, last.connection(), last.service()]).toEqual([2, "stopped", null]);
  expect(await last.triggerCleanup()).toMatchObject({ outcome: "forbidden", offline: 0 });
});

test("a hot reload, which disposes and renders again, makes one session", async () => {
  show("ada");
  await pass(100);
  dispose();
  show("ada");
  await pass(1000);
  expect([transport.beats.length, transport.goodbyes.length, transport.standing]).toEqual([1, 0, 1]);
  await arrive();
  expect(shown()).toEqual(["ada", "bob"]);
});

test("autoJoin false only watches", async () => {
  show("ada", { autoJoin: false });
  await arrive();
  expect([transport.beats.length, last.joined(), shown()]).toEqual([0, false, ["ada", "bob"]]);
});

test("two components share one session", async () => {
  show("ada");
  const second = createRoot((end) => {
    usePresenceManager({ currentUser: "ada", transport });
    return end;
  });
  await pass(1000);
  expect([transport.beats.length, transport.standing]).toEqual([1, 1]);
  second();
  await pass(1000);
  expect(transport.goodbyes).toEqual([]);
});

test("one answer of many: told when it is another one, and only then", async () => {
  const [me, setMe] = createSignal<string | null>("ada");
  const [id, setId] = createSignal("bob");
  const told: unknown[] = [];
  dispose = createRoot((end) => {
    const online = useIsOnline(id);
    const count = useOnlineCount();
    createEffect(() => told.push(online()));
    createEffect(() => told.push(count()));
    usePresenceManager({ currentUser: me, transport });
    return end;
  });
  setId("carl"); // before anything is known
  await arrive();
  expect(told.splice(0)).toEqual([false, 0, 2]);
  setId("bob");
  expect(told.splice(0)).toEqual([true]);
  transport.last.sink.change(change(2, "user_online", "carl"));
  transport.last.sink.change(change(3, "update", "bob", { details: { status: "busy" } }));
  await pass(0);
  expect(told.splice(0)).toEqual([3]);
  setMe(null);
  await pass(300);
  expect(told.splice(0)).toEqual([0, false]);
});

test("the list is written out for whoever asks for it", async () => {
  const written = vi.spyOn(Roster.prototype, "users", "get");
  const end = createRoot((end) => {
    last = usePresenceManager({ currentUser: "ada", transport });
    return end;
  });
  dispose = end;
  await arrive();
  expect(last.stats().online).toBe(2);
  expect(written).not.toHaveBeenCalled();
  expect(last.activeUsers()).toHaveLength(2);
  expect(last.activeUsers()).toBe(last.activeUsers());
  written.mockRestore();
});

test("a room: entered and left with its owner, also another one", async () => {
  const [room, setRoom] = createSignal("lobby");
  let state!: ReturnType<typeof useRoom>;
  let typing!: ReturnType<typeof useTyping>;
  dispose = createRoot((end) => {
    state = useRoom(room, () => ({ at: room() }));
    typing = useTyping(room);
    usePresenceManager({ currentUser: "ada", transport });
    return end;
  });
  await arrive();
  transport.last.sink.room({ room: "lobby", seq: 1, users: [{ ...user("ada"), entered_at: "2026-01-01T00:00:00Z" }] });
  transport.last.sink.typing("lobby", ["bob", "ada"]);
  await pass(0);
  expect([state().joined, state().count, typing.typing()]).toEqual([true, 1, ["bob"]]);
  typing.setTyping();
  setRoom("den");
  await pass(300);
  expect([state().joined, state().loaded, typing.typing()]).toEqual([true, false, []]);
  dispose();
  await pass(500);
  expect(transport.roomCalls.map(([room, , what]) => [room, what])).toEqual([
    ["lobby", { at: "lobby" }],
    ["lobby", "types"],
    ["den", { at: "den" }],
    ["lobby", "leave"],
  ]);
  expect([transport.goodbyes.length, vi.getTimerCount()]).toEqual([1, 0]);
});
