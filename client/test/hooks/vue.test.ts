// @vitest-environment happy-dom
import { createApp, createSSRApp, effectScope, h, nextTick, ref, watch, type App, type Ref } from "vue";
import { renderToString } from "vue/server-renderer";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { useIsOnline, useOnlineCount, usePresenceManager, useRoom, useTyping } from "../../src/vue/index.js";
import { Recorder, change, user } from "../unit/recorder.js";

let transport: Recorder;
let app: App | undefined;
let host: HTMLElement;
let last: ReturnType<typeof usePresenceManager>;

beforeEach(() => {
  vi.useFakeTimers();
  transport = new Recorder();
  host = document.createElement("div");
});
afterEach(async () => {
  app?.unmount();
  app = undefined;
  await pass(300);
  localStorage.clear();
  vi.useRealTimers();
});

const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms);

/** Vue's development build waits this long (ms) for its devtools. */
const LEFT = 3000;

const people = (currentUser: string | null | Ref<string | null>) => ({
  setup() {
    last = usePresenceManager({ currentUser, transport });
    const { isConnected, activeUsers } = last;
    return () =>
      h("p", `${isConnected.value ? "on" : "off"}: ${activeUsers.value.map(({ user_id }) => user_id).join()}`);
  },
});

function show(currentUser: string | null | Ref<string | null>) {
  app = createApp(people(currentUser));
  app.mount(host);
}

async function arrive() {
  await pass(0);
  transport.connect({ seq: 1, users: [user("ada"), user("bob")] });
  await pass(0);
}

test("refs that follow the feed; unmounting says goodbye and leaves nothing behind", async () => {
  show("ada");
  expect(host.textContent).toBe("off: ");
  await arrive();
  expect(host.textContent).toBe("on: ada,bob");
  expect(last.stats.value).toMatchObject({ online: 2, seq: 1 });
  expect(await last.triggerCleanup()).toMatchObject({ outcome: "done", offline: 3 });
  transport.last.sink.change(change(2, "user_offline", "bob"));
  await pass(0);
  expect(host.textContent).toBe("on: ada");
  app?.unmount();
  app = undefined;
  await pass(LEFT);
  expect([transport.goodbyes.length, transport.standing, vi.getTimerCount()]).toEqual([1, 0, 0]);
});

test("another user, and nobody", async () => {
  const me = ref<string | null>("ada");
  show(me);
  await pass(0);
  me.value = "bob";
  await pass(1000);
  expect(transport.beats.map((beat) => beat.user_id)).toEqual(["ada", "bob"]);
  expect(transport.goodbyes).toEqual([transport.beats[0]?.session_id]);
  me.value = null;
  await pass(1000);
  expect([transport.goodbyes.length, last.connection.value, last.service.value]).toEqual([2, "stopped", null]);
  expect(await last.triggerCleanup()).toMatchObject({ outcome: "forbidden", offline: 0 });
});

test("the server renders the empty state, starts nothing, and the page takes over without complaint", async () => {
  const html = await renderToString(createSSRApp(people("ada")));
  expect(html).toBe("<p>off: </p>");
  await pass(LEFT);
  expect([transport.beats.length, transport.connections.length, vi.getTimerCount()]).toEqual([0, 0, 0]);
  host.innerHTML = html;
  const complaints = [vi.spyOn(console, "error"), vi.spyOn(console, "warn")];
  app = createSSRApp(people("ada"));
  app.mount(host);
  await arrive();
  for (const complaint of complaints) expect(complaint).not.toHaveBeenCalled();
  expect(host.textContent).toBe("on: ada,bob");
});

test("one answer of many: told when it is another one, and only then; ended with its scope", async () => {
  const id = ref("bob");
  const told: unknown[] = [];
  const scope = effectScope();
  scope.run(() => {
    watch(useIsOnline(id), (now) => told.push(now));
    watch(useOnlineCount(), (now) => told.push(now));
    usePresenceManager({ currentUser: "ada", transport });
  });
  await arrive();
  expect(told.splice(0)).toEqual([true, 2]);
  transport.last.sink.change(change(2, "user_online", "carl"));
  transport.last.sink.change(change(3, "update", "bob", { details: { status: "busy" } }));
  await pass(0);
  expect(told.splice(0)).toEqual([3]);
  id.value = "nobody";
  await nextTick();
  await nextTick();
  expect(told.splice(0)).toEqual([false]);
  scope.stop();
  await pass(300);
  expect([transport.goodbyes.length, transport.standing, vi.getTimerCount()]).toEqual([1, 0, 0]);
});

test("a room: entered and left with its scope, also another one", async () => {
  const room = ref("lobby");
  const scope = effectScope();
  const [state, { typing, setTyping }] = scope.run(() => {
    usePresenceManager({ currentUser: "ada", transport });
    return [useRoom(room, () => ({ at: room.value })), useTyping(room)] as const;
  })!;
  await arrive();
  transport.last.sink.room({ room: "lobby", seq: 1, users: [{ ...user("ada"), entered_at: "2026-01-01T00:00:00Z" }] });
  transport.last.sink.typing("lobby", ["bob", "ada"]);
  await pass(0);
  expect([state.value.joined, state.value.count, typing.value]).toEqual([true, 1, ["bob"]]);
  setTyping();
  room.value = "den";
  await pass(300);
  expect([state.value.joined, state.value.loaded, typing.value]).toEqual([true, false, []]);
  scope.stop();
  await pass(500);
  expect(transport.roomCalls.map(([name, , what]) => [name, what])).toEqual([
    ["lobby", { at: "lobby" }],
    ["lobby", "types"],
    ["den", { at: "den" }],
    ["lobby", "leave"],
  ]);
  expect([transport.goodbyes.length, vi.getTimerCount()]).toEqual([1, 0]);
});
