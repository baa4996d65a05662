// A full room: 200 tabs of simulated clients beside a real browser. They beat and leave as pages do; every fifth also follows the changes, and the
// others are like tabs in the background.
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { TIMING, online, openBrowser, openSite, shows, until } from "./support.mjs";

const { visitor } = await import(new URL("../../examples/chat/dist/server/visitors.js", import.meta.url));

const USERS = 100;
const TABS = 2;

describe("crowd", () => {
  let site, browser, person, page;
  const crowd = [];

  before(async () => {
    // 200 clients in one process on a busy machine: nobody is to go by timeout here.
    site = await openSite({
      settings: { timeout: "5min" },
      timing: { heartbeatInterval: 5000, silenceLimit: 30_000, requestTimeout: 30_000 },
    });
    browser = await openBrowser();
    person = await browser.person(site, "Ada Lovelace");
    page = await person.tab();
  });
  after(async () => {
    for (const { tab } of crowd) tab.stop();
    await browser?.close();
    await site?.close();
  });

  const watchers = () => crowd.filter(({ tab, watches }) => watches && tab.state.connection !== "stopped");
  const truth = async () =>
    Object.fromEntries(
      (await site.sql("SELECT user_id, sessions FROM get_active_users()")).map(({ user_id, sessions }) => [
        user_id,
        sessions,
      ]),
    );
  const shown = async () =>
    Object.fromEntries(
      Object.entries(await online(page)).map(([user, text]) => [user, parseInt(text.match(/\d+ tab/)[0])]),
    );
  const count = async (users, tabs) => {
    await until(
      `${users} users with ${tabs} tabs are shown`,
      async () => {
        const sessions = Object.values(await shown());
        return sessions.length === users && sessions.reduce((sum, each) => sum + each, 0) === tabs;
      },
      120,
    );
    assert.deepEqual(await shown(), await truth());
    assert.equal(await page.locator("#people .count").first().textContent(), String(users));
  };

  it("200 more tabs: the page shows them all", async () => {
    for (let user = 0; user < USERS; user++) {
      for (let tab = 0; tab < TABS; tab++) {
        const name = `Guest ${user}`;
        const watches = user % 5 === 0;
        const service = visitor(
          site.address,
          name,
          { ...TIMING, heartbeatInterval: 5000, silenceLimit: 30_000 },
          watches,
        );
        service.start();
        crowd.push({ name, tab: service, watches });
      }
    }
    await count(USERS + 1, USERS * TABS + 1);
    await until("each of them has joined", () => crowd.every(({ tab }) => tab.state.joined), 120);
    for (const { tab } of watchers())
      await until("each sees them all", () => tab.state.activeUsers.length === USERS + 1, 120);
  });

  it("the real tab among them opens, closes and reloads as if it were alone", async () => {
    const second = await person.tab();
    await shows(page, person.id, "2 tabs");
    await second.close();
    await shows(page, person.id, "1 tab");
    const watcher = crowd[0].tab;
    await page.close();
    await until(
      "a simulated client sees him go",
      () => !watcher.state.activeUsers.some((user) => user.user_id === person.id),
    );
    const { reason } = (await site.feed(0, person.id)).findLast(({ event }) => event === "user_offline");
    assert.equal(reason, "disconnect"); // and not once it has been silent for long enough
    page = await person.tab();
    await count(USERS + 1, USERS * TABS + 1);
  });

  it("half of the tabs close, then half of the users: the page follows", async () => {
    const seconds = crowd.filter((_, index) => index % TABS === 1);
    for (const { tab } of seconds) tab.stop();
    await count(USERS + 1, USERS + 1);
    for (const { tab } of crowd.slice(0, USERS)) tab.stop();
    await count(USERS / 2 + 1, USERS / 2 + 1);
    // Everybody else has seen the same.
    for (const { tab } of watchers()) {
      await until("each sees the rest", () => tab.state.activeUsers.length === USERS / 2 + 1);
    }
    const events = (await site.feed(0)).filter(({ event }) => event === "user_offline");
    assert.deepEqual([...new Set(events.map(({ reason }) => reason))], ["disconnect"]);
  });
});
