// @vitest-environment happy-dom
import { derived, get } from "svelte/store";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { useIsOnline, useOnlineCount, usePresenceManager, useRoom, useTyping } from "../../src/svelte/index.js";
import { Recorder, change, user } from "../unit/recorder.js";

let transport: Recorder;
let ends: (() => void)[];

beforeEach(() => {
  vi.useFakeTimers();
  transport = new Recorder();
  ends = [];
});
afterEach(async () => {
  for (const end of ends) end();
  await pass(300);
  localStorage.clear();
  vi.useRealTimers();
});

const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms);

async function arrive() {
  await pass(0);
  transport.connect({ seq: 1, users: [user("ada"), user("bob")] });
  await pass(0);
}

test("a store that follows the feed, from its first subscriber to its last", async () => {
  const presence = usePresenceManager({ currentUser: "ada", transport });
  await pass(1000);
  expect([transport.beats.length, vi.getTimerCount()]).toEqual([0, 0]);
  const shown: string[] = [];
  const names = derived(presence, ({ activeUsers }) => activeUsers.map(({ user_id }) => user_id).join());
  ends = [names.subscribe((now) => shown.push(now)), presence.subscribe(() => {})];
  await arrive();
  transport.last.sink.change(change(2, "user_offline", "bob"));
  await pass(0);
  expect([shown, get(presence).isConnected, get(presence).stats.online]).toEqual([["", "ada,bob", "ada"], true, 1]);
  expect(await get(presence).triggerCleanup()).toMatchObject({ outcome: "done", offline: 3 });
  ends.shift()?.();
  await pass(1000);
  expect([transport.beats.length, transport.goodbyes.length, transport.standing]).toEqual([1, 0, 1]);
  ends.shift()?.();
  await pass(300);
  expect([transport.goodbyes.length, transport.standing, vi.getTimerCount()]).toEqual([1, 0, 0]);
  ends = [presence.subscribe(({ activeUsers }) => shown.push(`again ${activeUsers.length}`))];
  await pass(0);
  expect([transport.beats.length, shown.at(-1)]).toEqual([2, "again 0"]);
});

test("nobody signed in: nothing starts", async () => {
  const presence = usePresenceManager({ currentUser: null, transport });
  ends = [presence.subscribe(() => {})];
  await pass(1000);
  expect([transport.beats.length, transport.connections.length, vi.getTimerCount()]).toEqual([0, 0, 0]);
  expect(await get(presence).triggerCleanup()).toMatchObject({ outcome: "forbidden", offline: 0 });
});

test("on the server: the empty state, and nothing starts", async () => {
  vi.stubGlobal("window", undefined);
  const presence = usePresenceManager({ currentUser: "ada", transport });
  ends = [presence.subscribe(() => {}), useRoom("lobby").subscribe(() => {})];
  vi.unstubAllGlobals();
  expect([get(presence).connection, get(presence).activeUsers]).toEqual(["stopped", []]);
  await pass(1000);
  expect([transport.beats.length, transport.connections.length, vi.getTimerCount()]).toEqual([0, 0, 0]);
});

test("one answer of many: told when it is another one, and only then", async () => {
  const told: unknown[] = [];
  const bob = useIsOnline("bob");
  ends = [
    bob.subscribe((now) => told.push(now)),
    useOnlineCount().subscribe((now) => told.push(now)),
    usePresenceManager({ currentUser: "ada", transport }).subscribe(() => {}),
  ];
  await arrive();
  expect(told.splice(0)).toEqual([false, 0, true, 2]);
  transport.last.sink.change(change(2, "user_online", "carl"));
  transport.last.sink.change(change(3, "update", "bob", { details: { status: "busy" } }));
  await pass(0);
  expect(told.splice(0)).toEqual([3]);
  ends.pop()?.();
  await pass(300);
  expect(told.splice(0)).toEqual([false, 0]);
});

test("a room: entered and left with its subscribers", async () => {
  const room = useRoom("lobby", { at: "lobby" });
  const { typing, setTyping } = useTyping("lobby");
  const told: (readonly string[])[] = [];
  ends = [
    usePresenceManager({ currentUser: "ada", transport }).subscribe(() => {}),
    room.subscribe(() => {}),
    typing.subscribe((now) => told.push(now)),
  ];
  await arrive();
  transport.last.sink.room({ room: "lobby", seq: 1, users: [{ ...user("ada"), entered_at: "2026-01-01T00:00:00Z" }] });
  transport.last.sink.typing("lobby", ["bob", "ada"]);
  await pass(0);
  expect([get(room).joined, get(room).count, told]).toEqual([true, 1, [[], ["bob"]]]);
  setTyping();
  ends.pop()?.();
  ends.pop()?.();
  await pass(500);
  expect(transport.roomCalls.map(([name, , what]) => [name, what])).toEqual([
    ["lobby", { at: "lobby" }],
    ["lobby", "types"],
    ["lobby", "leave"],
  ]);
});
