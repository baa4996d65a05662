// @vitest-environment happy-dom
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { PresenceService, acquirePresence, pagePresence } from "../../src/index.js";
import { WhoIsHere, type PresenceChange } from "../../src/whoIsHere.js";
import { Recorder, change, user } from "../unit/recorder.js";

let transport: Recorder;
let service: PresenceService;
let told: PresenceChange[];

beforeEach(() => {
  vi.useFakeTimers();
  transport = new Recorder();
  service = new PresenceService({ userId: "ada", transport });
  told = [];
});
afterEach(async () => {
  document.body.replaceChildren();
  await pass(300);
  service.stop();
  await pass(300);
  localStorage.clear();
  vi.unstubAllGlobals();
  vi.useRealTimers();
});

const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms);

function add(attributes: Record<string, string> = {}, given: PresenceService | null = service): WhoIsHere {
  const element = document.createElement("who-is-here");
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.addEventListener("presence-change", ({ detail }) => void told.push(detail));
  if (given !== null) element.service = given;
  document.body.append(element);
  return element;
}

async function arrive(...users: ReturnType<typeof user>[]) {
  service.start();
  await pass(0);
  transport.connect({ seq: 1, users: [...users].reverse() }); // newest first
  await pass(0);
}

const part = (element: WhoIsHere, name: string) => [...element.shadowRoot!.querySelectorAll(`[part~=${name}]`)];
const texts = (element: WhoIsHere, name: string) => part(element, name).map(({ textContent }) => textContent);
const count = (element: WhoIsHere) => texts(element, "count")[0];

test("oneself, then who has been here longest, by name and status; what is beyond max is a number", async () => {
  const element = add({ max: "3" });
  await arrive(
    user("bob", { metadata: { name: "Bob Stone" }, status: "busy" }),
    user("carl", { status: "away", metadata: { name: " \u200b" } }),
    user("ada", { metadata: { name: "Ada" } }),
    user("dora"),
    user("emil"),
  );
  expect(texts(element, "name")).toEqual(["Ada", "Bob Stone", "carl"]);
  expect(texts(element, "initials")).toEqual(["A", "BS", "C"]);
  expect(texts(element, "status")).toEqual([", active", ", busy", ", away"]);
  expect([count(element), texts(element, "more")]).toEqual(["5 online", ["+2 more"]]);
  expect(part(element, "me")).toHaveLength(1);
  expect(new Set(part(element, "mark").map((mark) => mark.firstElementChild!.getAttribute("d"))).size).toBe(3);
  expect(part(element, "list")[0]!.getAttribute("role")).toBe("list");
  expect(told.at(-1)).toEqual({
    users: [
      { user_id: "ada", name: "Ada", status: "active" },
      { user_id: "bob", name: "Bob Stone", status: "busy" },
      { user_id: "carl", name: "carl", status: "away" },
    ],
    count: 5,
    connection: "online",
  });
  element.max = 5;
  await pass(0);
  expect([texts(element, "name"), texts(element, "more")]).toEqual([["Ada", "Bob Stone", "carl", "dora", "emil"], []]);
  expect(told.at(-1)?.users).toHaveLength(5);
  element.max = 0;
  await pass(0);
  expect([texts(element, "name"), texts(element, "more")]).toEqual([[], ["+5 more"]]);
});

test("nobody's place is made anew, and nothing is written that was so already", async () => {
  const element = add();
  await arrive(user("bob"), user("carl"));
  const [bob, carl] = part(element, "person");
  const written: MutationRecord[] = [];
  const observer = new MutationObserver((records) => void written.push(...records));
  observer.observe(element.shadowRoot!, { subtree: true, childList: true, attributes: true, characterData: true });
  const events = told.length;
  await pass(35_000); // a heartbeat
  expect([written.splice(0), told.length]).toEqual([[], events]);
  transport.last.sink.change(change(2, "user_online", "dora"));
  transport.last.sink.change(change(3, "update", "carl", { details: { status: "idle", metadata: { name: "Carl" } } }));
  await pass(0);
  expect(part(element, "person").slice(0, 2)).toEqual([bob, carl]);
  expect(texts(element, "name")).toEqual(["bob", "Carl", "dora"]);
  expect(told.length).toBe(events + 1);
  const moved = written
    .flatMap(({ removedNodes }) => [...removedNodes])
    .filter((node) => node === bob || node === carl);
  expect(moved).toEqual([]);
  transport.last.sink.change(change(4, "user_offline", "bob"));
  await pass(0);
  expect(part(element, "person")[0]).toBe(carl);
  observer.disconnect();
});

test("a name is text, whatever is in it", async () => {
  const element = add();
  const name = `<img src=x onerror="window.broken = true"><script>window.broken = true</script>`;
  await arrive(user("bob", { metadata: { name } }), user(`"><b>`));
  expect(texts(element, "name")).toEqual([name, `"><b>`]);
  expect(element.shadowRoot!.querySelector("img, script, b")).toBeNull();
});

test("says how the connection is, and never a number that may be wrong", async () => {
  const element = add();
  await pass(0);
  expect([element.getAttribute("connection"), count(element)]).toEqual(["stopped", "Not connected"]);
  await arrive(user("ada"), user("bob"));
  expect([element.getAttribute("connection"), count(element)]).toEqual(["online", "2 online"]);
  transport.last.finish();
  await pass(0);
  expect([element.getAttribute("connection"), count(element)]).toEqual([
    "reconnecting",
    "Connection lost, trying again…",
  ]);
  expect(texts(element, "name")).toEqual(["ada", "bob"]);
  expect(told.at(-1)).toMatchObject({ count: 2, connection: "reconnecting" });
  element.texts = { count: (number) => `${number} da` };
  await pass(1500);
  transport.connect();
  await pass(0);
  expect(count(element)).toBe("2 da");
});

test("numbers that change all the time are not all read out", async () => {
  const element = add();
  await arrive(user("ada"));
  const live = () => [count(element), part(element, "count")[0]!.getAttribute("aria-live")];
  expect(live()).toEqual(["1 online", "polite"]);
  transport.last.sink.change(change(2, "user_online", "bob"));
  await pass(0);
  expect(live()).toEqual(["2 online", "off"]);
  await pass(10_000);
  transport.last.sink.change(change(3, "user_online", "carl"));
  await pass(0);
  expect(live()).toEqual(["3 online", "polite"]);
  transport.last.finish();
  await pass(0);
  expect(live()[1]).toBe("polite");
});

test("a room: entered while the element is in the page, with the names that people have everywhere", async () => {
  const element = add({ room: "hall" });
  await arrive(user("ada"), user("bob", { metadata: { name: "Bob" } }), user("carl"));
  expect([element.getAttribute("connection"), count(element)]).toEqual(["connecting", "Connecting…"]);
  const entered = (name: string) => ({ ...user(name, { metadata: { name: "Forged" } }), entered_at: "2026-01-01" });
  transport.last.sink.room({ room: "hall", seq: 1, users: [entered("bob"), entered("ada")] });
  await pass(0);
  expect([texts(element, "name"), count(element)]).toEqual([["ada", "Bob"], "2 here"]);
  element.room = "den";
  await pass(300);
  expect(texts(element, "name")).toEqual([]);
  transport.last.sink.forbidden("den");
  await pass(0);
  expect(count(element)).toBe("Not open to you");
  element.room = null;
  await pass(300);
  expect(count(element)).toBe("3 online");
  expect(transport.roomCalls.map(([room, , what]) => [room, what])).toEqual([
    ["hall", "join"],
    ["den", "join"],
    ["hall", "leave"],
  ]);
});

test("a given service is not started, not stopped, and no longer listened to", async () => {
  let listening = 0;
  const on: PresenceService["on"] = service.on.bind(service);
  vi.spyOn(service, "on").mockImplementation((name, listener) => {
    const forget = on(name, listener);
    listening++;
    return () => {
      listening--;
      forget();
    };
  });
  const element = add({ user: "bob" });
  await pass(1000);
  expect([element.service, transport.beats.length, listening]).toEqual([service, 0, 1]);
  await arrive(user("ada"));
  element.remove();
  await pass(1000);
  expect([service.state.connection, transport.goodbyes.length]).toEqual(["online", 0]);
  expect([element.getAttribute("connection"), texts(element, "name")]).toEqual(["stopped", []]);
  expect(listening).toBe(0);
});

/** What the elements that have no service ask of the server. */
function requests() {
  const asked: string[] = [];
  vi.stubGlobal("fetch", (url: string, init: RequestInit) => {
    asked.push(`${init.method ?? "GET"} ${url}`);
    if (url.includes("/events"))
      return new Promise((_, reject) => init.signal!.addEventListener("abort", () => reject(new Error("aborted"))));
    return Promise.resolve(new Response(JSON.stringify({ online: true, status: null })));
  });
  vi.stubGlobal("navigator", { onLine: true, sendBeacon: (url: string) => asked.push(`beacon ${url}`) > 0 });
  return asked;
}
const beats = (asked: string[]) => asked.filter((request) => !request.startsWith("GET"));

test("elements of the same settings share one service, which ends with the last one", async () => {
  const asked = requests();
  const [one, other] = [add({ user: "ada" }, null), add({ user: "ada", room: "hall" }, null)];
  const elsewhere = add({ user: "ada", "base-url": "/there" }, null);
  await pass(0);
  expect(one.service).toBe(other.service);
  expect(one.service).not.toBe(elsewhere.service);
  const lease = acquirePresence({ userId: "ada" }); // a hook in the same page
  expect(lease.service).toBe(one.service);
  expect(beats(asked)).toEqual(["POST /api/heartbeat", "POST /there/heartbeat", "POST /api/room-join"]);
  one.remove();
  other.remove();
  await pass(1000);
  expect(asked.filter((request) => request.startsWith("beacon"))).toEqual([]);
  lease.release();
  elsewhere.remove();
  await pass(1000);
  expect(asked.filter((request) => request.startsWith("beacon")).sort()).toEqual([
    "beacon /api/user-disconnect",
    "beacon /there/user-disconnect",
  ]);
  expect(vi.getTimerCount()).toBe(0);
});

test("moving it says nothing, removing it says goodbye, another user takes the place of the first", async () => {
  const asked = requests();
  const element = add({ user: "ada" }, null);
  await pass(0);
  const { service } = element;
  const box = document.body.appendChild(document.createElement("div"));
  box.append(element);
  element.remove();
  document.body.prepend(element);
  await pass(1000);
  expect([element.service === service, beats(asked)]).toEqual([true, ["POST /api/heartbeat"]]);
  element.setAttribute("user", "bob");
  await pass(1000);
  expect([element.service?.userId, beats(asked).slice(1)]).toEqual([
    "bob",
    ["POST /api/heartbeat", "beacon /api/user-disconnect"],
  ]);
  element.remove();
  await pass(1000);
  expect(beats(asked).slice(3)).toEqual(["beacon /api/user-disconnect"]);
  expect([element.service, vi.getTimerCount()]).toEqual([null, 0]);
});

test("without a user it watches for nobody, and leaves the page's hooks theirs", async () => {
  const asked = requests();
  const lease = acquirePresence({ userId: "ada" });
  const element = add({ room: "hall" }, null);
  await pass(0);
  expect(element.service?.state.joined).toBe(false);
  expect(beats(asked)).toEqual(["POST /api/heartbeat"]);
  expect(asked.filter((request) => request.includes("/status"))).toEqual(["GET /api/presence/status?user_id=ada"]);
  expect(asked).toContain("GET /api/presence/events?room=hall");
  expect(pagePresence()).toBe(lease.service);
  lease.release();
});

test("who speaks for nobody has no status to ask for", async () => {
  const watching = new PresenceService({ userId: "", autoJoin: false, transport });
  watching.start();
  await pass(0);
  transport.connect({ seq: 1, users: [user("ada")] });
  await pass(0);
  expect([watching.user("ada")?.sessions, watching.user("bob"), watching.state.isConnected]).toEqual([
    1,
    undefined,
    true,
  ]);
  expect([transport.statusCalls, transport.beats]).toEqual([[], []]);
  watching.stop();
});
