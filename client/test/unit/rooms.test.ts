import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { PresenceError, PresenceService } from "../../src/index.js";
import { AT, Recorder, change, user } from "./recorder.js";

let transport: Recorder;
let service: PresenceService;

beforeEach(async () => {
  vi.useFakeTimers();
  transport = new Recorder();
  service = new PresenceService({ userId: "ada", transport });
  service.start();
  await pass(0);
  transport.connect({ seq: 1, users: [user("ada"), user("bob")] });
});
afterEach(() => {
  service.stop();
  vi.useRealTimers();
});

const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms);
const member = (user_id: string) => ({
  user_id,
  status: "active" as const,
  sessions: 1,
  entered_at: AT,
  metadata: null,
});
const said = () => transport.roomCalls.splice(0).map(([room, , what]) => [room, what]);
const lobby = () => service.room("lobby");
const names = () => lobby().state.users.map(({ user_id }) => user_id);

test("in the room as long as somebody wants to be, over one stream", async () => {
  const first = lobby().enter();
  const second = lobby().enter();
  const other = service.room("den").enter({ cursor: 1 });
  await pass(0);
  expect(said()).toEqual([
    ["lobby", "join"],
    ["den", { cursor: 1 }],
  ]);
  expect([transport.standing, transport.connections.length]).toEqual([1, 2]);
  expect([transport.last.since?.seq, transport.last.rooms]).toEqual([
    1,
    [
      { room: "lobby", known: false },
      { room: "den", known: false },
    ],
  ]);
  expect(lobby().state).toMatchObject({ joined: true, loaded: false });
  first();
  first();
  await pass(300);
  expect(said()).toEqual([]);
  second();
  const again = lobby().enter(); // a component that moved
  await pass(300);
  expect(said()).toEqual([]);
  again();
  other();
  await pass(300);
  expect(said()).toEqual([
    ["lobby", "leave"],
    ["den", "leave"],
  ]);
  expect(transport.last.rooms).toEqual([]);
});

test("the list, then changes; those before the list are in it", async () => {
  lobby().enter();
  await pass(0);
  const { sink } = transport.last;
  sink.change(change(2, "room_join", "carl", { room: "lobby" }));
  sink.room({ room: "lobby", seq: 3, users: [member("carl"), member("ada")] });
  sink.change(change(3, "room_join", "carl", { room: "lobby" }));
  expect(names()).toEqual(["carl", "ada"]);
  const before = lobby().state;
  expect(lobby().state).toBe(before);
  sink.change(change(4, "room_join", "bob", { room: "lobby", details: { status: "busy", metadata: { cursor: 7 } } }));
  sink.change(change(5, "update", "ada", { details: { status: "away", metadata: { name: "Ada" } } }));
  sink.change(change(6, "room_leave", "carl", { room: "lobby", sessions: 0 }));
  sink.change(change(7, "room_join", "dora", { room: "den" }));
  expect(lobby().state).toMatchObject({ count: 2, loaded: true });
  expect(lobby().state.users).toMatchObject([
    { user_id: "bob", status: "busy", metadata: { cursor: 7 } },
    { user_id: "ada", status: "away", metadata: null },
  ]);
  sink.change(change(8, "room_update", "bob", { room: "lobby", details: { metadata: { cursor: 8 } } }));
  expect(lobby().state.users[0]?.metadata).toEqual({ cursor: 8 });
  // Nothing of it is what these are as users.
  expect(service.state.activeUsers.map(({ user_id, metadata }) => [user_id, metadata])).toEqual([
    ["ada", { name: "Ada" }],
    ["bob", null],
  ]);
  transport.last.finish();
  await pass(1000);
  expect(transport.last).toMatchObject({ since: { seq: 8 }, rooms: [{ room: "lobby", known: true }] });
  // The feed starts over, and breaks off before the lists have come.
  transport.connect({ seq: 20, users: [user("ada")] });
  transport.last.finish();
  await pass(1000);
  expect(transport.last.rooms).toEqual([{ room: "lobby", known: false }]);
});

test("joined again where the session is another one, or may have ended", async () => {
  lobby().enter();
  await pass(0);
  const [first] = transport.roomCalls.splice(0);
  service.leave();
  expect(lobby().state.joined).toBe(false);
  service.join();
  await pass(0);
  const [second] = transport.roomCalls.splice(0);
  expect([second?.[1] !== first?.[1], second?.[1]]).toEqual([true, service.sessionId]);
  await pass(60_000); // heartbeats keep the room
  expect(said()).toEqual([]);
  transport.answer = () => Promise.reject(new PresenceError("gone", 0));
  await pass(60_000);
  transport.answer = () => true;
  await pass(30_000);
  expect(said()).toEqual([["lobby", "join"]]);
});

test("a failed join is tried again, a closed room is not", async () => {
  transport.answerJoin = () => Promise.reject(new PresenceError("later", 503));
  lobby().enter();
  await pass(0);
  expect(said()).toEqual([["lobby", "join"]]);
  transport.answerJoin = () => true;
  await pass(1100);
  expect([said(), lobby().state.joined]).toEqual([[["lobby", "join"]], true]);
  transport.answerJoin = () => Promise.reject(new PresenceError("no", 403, null, "closed_room"));
  service.room("vault").enter();
  await pass(60_000);
  expect(said()).toEqual([["vault", "join"]]);
  expect(service.room("vault").state).toMatchObject({ forbidden: true, joined: false });
  expect(service.state.connection).not.toBe("unauthorized");
  // Closed to somebody who was in it, and opened again.
  transport.answerJoin = () => true;
  transport.last.sink.room({ room: "vault", seq: 1, users: [member("ada")] });
  transport.last.sink.forbidden("vault");
  expect(service.room("vault").state).toMatchObject({ forbidden: true, loaded: false, count: 0 });
  transport.last.sink.renew();
  expect(transport.last.rooms).toContainEqual({ room: "vault", known: false });
  transport.last.sink.room({ room: "vault", seq: 2, users: [member("bob")] });
  await pass(30_000);
  expect(said()).toEqual([["vault", "join"]]);
  expect(service.room("vault").state).toMatchObject({ forbidden: false, joined: true, count: 1 });
});

test("left while the join is under way: leaves after it", async () => {
  let answer!: (joined: boolean) => void;
  transport.answerJoin = () => new Promise((resolve) => (answer = resolve));
  lobby().enter()();
  await pass(300);
  expect(said()).toEqual([["lobby", "join"]]);
  answer(true);
  await pass(0);
  expect([said(), lobby().state.joined]).toEqual([[["lobby", "leave"]], false]);
});

test("typing is passed on every few seconds, and others are shown", async () => {
  lobby().enter();
  await pass(0);
  said();
  for (let key = 0; key < 40; key++) {
    lobby().setTyping();
    await pass(100);
  }
  expect(said()).toEqual([
    ["lobby", "types"],
    ["lobby", "types"],
  ]);
  lobby().setTyping(false);
  lobby().setTyping(false);
  expect(said()).toEqual([["lobby", "typed"]]);
  transport.last.sink.typing("lobby", ["ada", "bob"]);
  expect(lobby().state.typing).toEqual(["bob"]);
  transport.last.sink.lost();
  transport.last.sink.typing("lobby", ["bob"]);
  transport.last.sink.opened();
  transport.last.sink.lost();
  expect(lobby().state.typing).toEqual([]);
});
