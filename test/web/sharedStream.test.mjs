// Tabs of one person in one browser share an event stream, and nobody misses anything when it changes hands.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { TIMING, connected, shows, until, watched } from "./support.mjs";

const path = (name) => fileURLToPath(new URL(`../../${name}`, import.meta.url));
const { build } = await import(createRequire(path("examples/chat/package.json")).resolve("vite"));

/** The package as one module, for pages that are not the example. */
async function clientModule() {
  const lib = { entry: path("client/src/index.ts"), formats: ["es"], fileName: "client" };
  const [{ output }] = await build({ configFile: false, logLevel: "silent", build: { write: false, lib } });
  return output[0].code;
}

describe("a shared stream", () => {
  let site, browser, watcher, code;
  watched(async (all) => {
    ({ site, browser, watcher } = all);
    code = await clientModule();
  });

  /** Somebody whose event streams are counted: those that stand, with the tab that each belongs to. */
  async function person(name) {
    const somebody = await browser.person(site, name);
    const streams = new Map();
    const begins = (request) => {
      if (request.url().includes("/presence/events")) streams.set(request, request.frame().page());
    };
    const ends = (request) => streams.delete(request);
    somebody.context.on("request", begins).on("requestfailed", ends).on("requestfinished", ends);
    somebody.context.on("page", (page) => {
      const gone = () => [...streams].forEach(([request, owner]) => owner === page && streams.delete(request));
      page.on("close", gone).on("crash", gone);
    });
    const leader = () =>
      until(`one stream for all tabs of ${name}`, () => (streams.size === 1 ? [...streams.values()][0] : null));
    /** A tab with a service of ours, which notes the numbers of all changes it is told of. */
    const service = async (rooms = []) => {
      const page = await somebody.context.newPage();
      await page.route("**/client.js", (route) => route.fulfill({ contentType: "text/javascript", body: code }));
      await page.goto(`${site.address}me`);
      await page.evaluate(
        async ([userId, rooms, { requestTimeout, ...timing }]) => {
          const { PresenceService, HttpTransport } = await import("/client.js");
          const transport = new HttpTransport({ requestTimeout, sharedStream: true });
          const presence = (window.presence = new PresenceService({ userId, transport, ...timing }));
          window.seen = [];
          window.resyncs = 0;
          presence.on("snapshot", ({ seq }) => (window.since = seq));
          presence.on("change", ({ seq, room }) => window.seen.push([seq, room ?? null]));
          presence.on("resync", () => window.resyncs++);
          for (const room of rooms) presence.room(room).enter();
          presence.start();
        },
        [somebody.id, rooms, { ...TIMING, silenceLimit: 4000 }],
      );
      await page.waitForFunction(() => window.presence.state.isConnected && window.presence.state.joined);
      return page;
    };
    return { ...somebody, streams, leader, service };
  }

  const comes = (guest) => site.sql("SELECT update_user_heartbeat($1, 'g')", [guest]);
  const goes = (guest) => site.sql("SELECT handle_user_disconnect($1, 'g')", [guest]);

  /** Each tab was told of every change since its list once, in order, and shows what the database has. */
  async function missedNothing(pages, rooms = []) {
    const feed = (await site.feed(0)).filter(({ room }) => room === null || rooms.includes(room));
    const end = Number(feed.at(-1).seq);
    for (const page of pages) {
      const { since, seen, resyncs } = await until("told of all", async () => {
        const told = await page.evaluate(() => ({ since, seen: window.seen, resyncs }));
        return (told.seen.at(-1)?.[0] ?? told.since) >= end ? told : null;
      });
      assert.equal(resyncs, 0);
      const expected = feed.map(({ seq }) => Number(seq)).filter((seq) => seq > since);
      assert.deepEqual(
        seen.map(([seq]) => seq).filter((seq) => seq <= end),
        expected,
      );
      await until("the list is right", async () => {
        const truth = (await site.sql("SELECT user_id FROM get_active_users()")).map(({ user_id }) => user_id).sort();
        const shown = await page.evaluate(() => window.presence.state.activeUsers.map(({ user_id }) => user_id).sort());
        return JSON.stringify(shown) === JSON.stringify(truth);
      });
    }
  }

  it("ten tabs over HTTP/1.1: one stream, and all are told the same", async () => {
    const ada = await person("Ada");
    const tabs = [];
    for (let i = 0; i < 10; i++) tabs.push(await ada.service()); // each waits until it is connected
    await shows(watcher, ada.id, "10 tabs");
    await ada.leader();
    await comes("guest");
    await goes("guest");
    await missedNothing(tabs);
    await ada.leader();
    await ada.leave();
  });

  it("the tab that has it closes, crashes, or hangs: another takes over, nothing is lost or doubled", async () => {
    const bob = await person("Bob");
    let tabs = [];
    for (let i = 0; i < 5; i++) tabs.push(await bob.service());
    let running = true;
    // The world goes on all the time.
    const traffic = (async () => {
      for (let i = 0; running; i++) {
        await comes(`guest ${i % 7}`);
        await goes(`guest ${(i + 3) % 7}`);
      }
      for (let i = 0; i < 7; i++) await goes(`guest ${i}`);
    })();
    const successor = async (old) => {
      tabs = tabs.filter((tab) => tab !== old);
      await until("another tab has the stream", () => [...bob.streams.values()].some((owner) => tabs.includes(owner)));
      for (const tab of tabs) await tab.waitForFunction(() => window.presence.state.isConnected);
    };
    const closed = await bob.leader();
    await closed.close();
    await successor(closed);

    const crashed = await bob.leader();
    await Promise.all([crashed.waitForEvent("crash"), crashed.goto("chrome://crash").catch(() => {})]);
    await successor(crashed);
    await crashed.close();

    const hung = await bob.leader();
    const debug = await bob.context.newCDPSession(hung);
    await debug.send("Debugger.enable");
    const paused = new Promise((resolve) => debug.once("Debugger.paused", resolve));
    await debug.send("Debugger.pause");
    await paused;
    const others = tabs.filter((tab) => tab !== hung);
    await successor(hung);
    await debug.send("Debugger.disable"); // it wakes up, and believes for a moment that it leads
    await hung.waitForFunction(() => window.presence.state.isConnected);
    tabs = [...others, hung];
    running = false;
    await traffic;
    await missedNothing(tabs);
    await bob.leader();
    await bob.context.close(); // the session of the one that crashed goes by timeout
  });

  it("tabs in different rooms: each is told of its own", async () => {
    const cleo = await person("Cleo");
    const [plain, hall, den] = [await cleo.service(), await cleo.service(["hall"]), await cleo.service(["den"])];
    await cleo.leader();
    for (const room of ["hall", "den", "elsewhere"])
      await site.sql("SELECT update_user_heartbeat('visitor', 'g'), join_room('visitor', 'g', $1)", [room]);
    const members = (page, room) =>
      page.evaluate(
        (name) =>
          window.presence
            .room(name)
            .state.users.map(({ user_id }) => user_id)
            .sort()
            .join(),
        room,
      );
    for (const [page, room] of [
      [hall, "hall"],
      [den, "den"],
    ]) {
      await until(`who is in ${room}`, async () => (await members(page, room)) === "cleo,visitor");
      await missedNothing([page], [room]);
    }
    await missedNothing([plain]);
    await (await cleo.leader()).close(); // its rooms go, those of the others stay
    await goes("visitor");
    for (const [page, room] of [
      [hall, "hall"],
      [den, "den"],
    ].filter(([page]) => !page.isClosed())) {
      await until(`the visitor has left ${room}`, async () => (await members(page, room)) === "cleo");
      await missedNothing([page], [room]);
    }
    await cleo.leader();
    await cleo.leave();
  });

  it("another user in another tab has a stream of his own", async () => {
    const dora = await person("Dora");
    const pages = [await dora.service(), await dora.service()];
    await dora.leader();
    await dora.context.addCookies([{ name: "chat_name", value: "Emil", url: site.address }]);
    const emil = await dora.tab();
    await shows(watcher, "emil", "1 tab");
    for (const page of pages) await page.waitForFunction(() => window.presence.state.connection === "unauthorized");
    assert.equal(await dora.leader(), emil);
    await connected(emil);
    await shows(watcher, "dora", null);
    await emil.close();
    await shows(watcher, "emil", null);
    await dora.context.close();
  });
});
