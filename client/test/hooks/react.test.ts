// @vitest-environment happy-dom
import { StrictMode, act, createElement, useState } from "react";
import { createRoot, hydrateRoot, type Root } from "react-dom/client";
import { renderToString } from "react-dom/server";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import {
  useIsOnline,
  useOnlineCount,
  usePresenceManager,
  usePresenceService,
  useRoom,
  useTyping,
  type PresenceManager,
} from "../../src/react/index.js";
import { Recorder, change, user } from "../unit/recorder.js";

let transport: Recorder;
let root: Root;
let host: HTMLElement;
let last: PresenceManager;
let renders: number;

beforeEach(() => {
  vi.useFakeTimers();
  (globalThis as Record<string, unknown>).IS_REACT_ACT_ENVIRONMENT = true;
  transport = new Recorder();
  host = document.createElement("div");
  renders = 0;
});
afterEach(async () => {
  await act(async () => root?.unmount());
  await pass(300);
  localStorage.clear();
  vi.useRealTimers();
});

const pass = (ms: number) => act(() => vi.advanceTimersByTimeAsync(ms));

function People({ me, autoJoin }: { me: string | null; autoJoin?: boolean }) {
  renders++;
  last = usePresenceManager({ currentUser: me, transport, ...(autoJoin !== undefined && { autoJoin }) });
  return createElement(
    "p",
    null,
    `${last.isConnected ? "on" : "off"}: ${last.activeUsers.map((person) => person.user_id).join()}`,
  );
}

async function show(element: ReturnType<typeof createElement>) {
  root = createRoot(host);
  await act(async () => root.render(element));
}

async function arrive() {
  await act(async () => {
    transport.connect({ seq: 1, users: [user("ada"), user("bob")] });
    await vi.advanceTimersByTimeAsync(0);
  });
}

test("values that follow the feed", async () => {
  await show(createElement(People, { me: "ada" }));
  expect(host.textContent).toBe("off: ");
  await arrive();
  expect(host.textContent).toBe("on: ada,bob");
  expect(last.stats).toMatchObject({ online: 2, seq: 1 });
  expect(await last.triggerCleanup()).toMatchObject({ outcome: "done", offline: 3 });
  await act(async () => {
    transport.last.sink.change(change(2, "user_offline", "bob"));
    await vi.advanceTimersByTimeAsync(0);
  });
  expect(host.textContent).toBe("on: ada");
});

test("signed out and in again at once: joined again", async () => {
  await show(createElement(People, { me: "ada" }));
  await arrive();
  last.service?.leave();
  await act(async () => root.render(createElement(People, { me: null })));
  await act(async () => root.render(createElement(People, { me: "ada" })));
  await pass(0);
  expect(last.joined).toBe(true);
  expect(transport.goodbyes).toHaveLength(1);
  expect(transport.beats).toHaveLength(2);
});

test("strict mode mounts twice and makes one session, which never said goodbye", async () => {
  await show(createElement(StrictMode, null, createElement(People, { me: "ada" })));
  await pass(1000);
  expect(new Set(transport.beats.map((beat) => beat.session_id)).size).toBe(1);
  expect([transport.beats.length, transport.goodbyes.length, transport.standing]).toEqual([1, 0, 1]);
  await arrive();
  expect(host.textContent).toBe("on: ada,bob");
});

test("unmounting says goodbye and leaves nothing behind", async () => {
  await show(createElement(People, { me: "ada" }));
  await arrive();
  await act(async () => root.unmount());
  await pass(300);
  expect(transport.goodbyes).toHaveLength(1);
  expect(transport.standing).toBe(0);
  expect(vi.getTimerCount()).toBe(0);
  const before = renders;
  await pass(300_000);
  expect([renders, transport.beats.length]).toEqual([before, 1]);
});

test("moving from one place of the page to another is not leaving", async () => {
  let move!: (place: string) => void;
  function Page() {
    const [place, set] = useState("left");
    move = set;
    return createElement("div", null, createElement(People, { key: place, me: "ada" }));
  }
  await show(createElement(Page));
  await pass(100);
  await act(async () => move("right"));
  await pass(1000);
  expect([transport.beats.length, transport.goodbyes.length]).toEqual([1, 0]);
});

test("several components share one session, which lives as long as one of them", async () => {
  const both = (second: boolean) =>
    createElement(
      "div",
      null,
      createElement(People, { me: "ada", key: 1 }),
      second ? createElement(People, { me: "ada", key: 2 }) : null,
    );
  await show(both(true));
  await pass(1000);
  expect([transport.beats.length, transport.standing]).toEqual([1, 1]);
  await act(async () => root.render(both(false)));
  await pass(1000);
  expect(transport.goodbyes).toEqual([]);
});

test("another user: the old one leaves, the new one joins; nobody: nothing", async () => {
  await show(createElement(People, { me: "ada" }));
  await act(async () => root.render(createElement(People, { me: "bob" })));
  await pass(1000);
  expect(transport.beats.map((beat) => beat.user_id)).toEqual(["ada", "bob"]);
  expect(transport.goodbyes).toEqual([transport.beats[0]?.session_id]);
  await act(async () => root.render(createElement(People, { me: null })));
  await pass(1000);
  expect(transport.goodbyes).toHaveLength(2);
  expect([host.textContent, last.service, last.connection]).toEqual(["off: ", null, "stopped"]);
  expect(await last.triggerCleanup()).toMatchObject({ outcome: "forbidden", offline: 0 });
});

test("autoJoin false only watches", async () => {
  await show(createElement(People, { me: "ada", autoJoin: false }));
  await arrive();
  expect([transport.beats.length, host.textContent]).toEqual([0, "on: ada,bob"]);
});

test("the server renders the empty state, starts nothing, and the page takes over without complaint", async () => {
  const html = renderToString(createElement(People, { me: "ada" }));
  expect(html).toBe("<p>off: </p>");
  expect([transport.beats.length, transport.connections.length, vi.getTimerCount()]).toEqual([0, 0, 0]);
  host.innerHTML = html;
  const complaint = vi.spyOn(console, "error");
  await act(async () => {
    root = hydrateRoot(host, createElement(People, { me: "ada" }), {
      onRecoverableError: (error) => console.error(error),
    });
  });
  expect(complaint).not.toHaveBeenCalled();
  await arrive();
  expect(host.textContent).toBe("on: ada,bob");
});

test("one answer of many: rendered again when it is another one, and only then", async () => {
  let rendered = 0;
  function Light({ id }: { id: string }) {
    rendered++;
    return createElement("b", null, useIsOnline(id) ? "on" : "off");
  }
  const Count = () => createElement("i", null, String(useOnlineCount()));
  function Page({ me, id }: { me: string | null; id: string }) {
    renders++;
    usePresenceService({ currentUser: me, transport });
    return createElement("div", null, createElement(Light, { id }), createElement(Count));
  }
  await show(createElement(Page, { me: "ada", id: "bob" }));
  expect(host.textContent).toBe("off0");
  await arrive();
  expect(host.textContent).toBe("on2");
  const before = [rendered, renders];
  await act(async () => {
    transport.last.sink.change(change(2, "user_online", "carl"));
    transport.last.sink.change(change(3, "update", "bob", { details: { status: "busy" } }));
    await vi.advanceTimersByTimeAsync(0);
  });
  expect(host.textContent).toBe("on3");
  expect([rendered, renders]).toEqual(before);
  await act(async () => {
    transport.last.sink.change(change(4, "user_offline", "bob"));
    await vi.advanceTimersByTimeAsync(0);
  });
  expect(host.textContent).toBe("off2");
  await act(async () => root.render(createElement(Page, { me: "ada", id: "carl" })));
  expect(host.textContent).toBe("on2");
  await act(async () => root.render(createElement(Page, { me: null, id: "carl" })));
  await pass(300);
  expect(host.textContent).toBe("off0");
});

test("a room: entered and left with the component, rendered again when the room changes", async () => {
  let type!: (typing?: boolean) => void;
  const Members = ({ room }: { room: string }) => {
    renders++;
    const { users, joined } = useRoom(room, { at: room });
    return createElement("p", null, `${joined ? "in" : "out"} ${users.map(({ user_id }) => user_id).join()};`);
  };
  const Writers = ({ room }: { room: string }) => {
    const { typing, setTyping } = useTyping(room);
    type = setTyping;
    return createElement("p", null, typing.join());
  };
  function Page({ room }: { room: string | null }) {
    usePresenceService({ currentUser: "ada", transport });
    return room && createElement("div", null, createElement(Members, { room }), createElement(Writers, { room }));
  }
  const turn = (work: () => void) => act(async () => (work(), void (await vi.advanceTimersByTimeAsync(0))));
  await show(createElement(StrictMode, null, createElement(Page, { room: "lobby" })));
  await arrive();
  const member = (user_id: string) => ({ ...user(user_id), entered_at: "2026-01-01T00:00:00Z" });
  await turn(() => transport.last.sink.room({ room: "lobby", seq: 1, users: [member("ada")] }));
  expect(host.textContent).toBe("in ada;");
  expect([transport.roomCalls.map(([, , what]) => what), transport.standing]).toEqual([[{ at: "lobby" }], 1]);
  const before = renders;
  await turn(() => transport.last.sink.change(change(2, "user_online", "carl")));
  await turn(() => transport.last.sink.typing("lobby", ["bob"]));
  await turn(() => transport.last.sink.typing("lobby", ["bob"]));
  expect(host.textContent).toBe("in ada;bob");
  expect(renders - before).toBeLessThan(3); // strict mode renders twice
  await turn(() => transport.last.sink.change(change(3, "room_join", "carl", { room: "lobby" })));
  expect(host.textContent).toBe("in carl,ada;bob");
  type();
  await act(async () => root.render(createElement(StrictMode, null, createElement(Page, { room: "den" }))));
  await pass(300);
  expect(host.textContent).toBe("in ;");
  await act(async () => root.render(createElement(StrictMode, null, createElement(Page, { room: null }))));
  await pass(300);
  expect(transport.roomCalls.map(([room, , what]) => [room, what])).toEqual([
    ["lobby", { at: "lobby" }],
    ["lobby", "types"],
    ["den", { at: "den" }],
    ["lobby", "leave"],
    ["den", "leave"],
  ]);
});
