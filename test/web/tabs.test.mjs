// Tabs that open, close, are duplicated, reloaded, left and come back.
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { TIMING, connected, light, online, openBrowser, openSite, shows, sleep, until, watched } from "./support.mjs";

describe("tabs", () => {
  let site, browser, watcher;
  watched((all) => ({ site, browser, watcher } = all));

  it("all open tabs appear; closing one keeps the user, closing the last one ends him at once", async () => {
    const seq = await site.position();
    const ada = await browser.person(site, "Ada Lovelace");
    const tabs = [await ada.tab(), await ada.tab(), await ada.tab()];
    await shows(watcher, ada.id, "3 tabs");
    assert.equal(await site.sessions(ada.id), 3);
    for (const tab of tabs) assert.match((await online(tab))[ada.id], /3 tabs/);

    await tabs[0].close();
    await shows(watcher, ada.id, "2 tabs");
    await tabs[1].close();
    await shows(watcher, ada.id, "1 tab");

    await tabs[2].close();
    await until("the database knows", async () => (await site.sessions(ada.id)) === 0);
    await shows(watcher, ada.id, null);

    const events = (await site.feed(seq, ada.id)).map(
      ({ event, reason, sessions }) => `${event} ${reason} ${sessions}`,
    );
    assert.deepEqual(
      events.filter((event) => event.startsWith("user")),
      ["user_online heartbeat 1", "user_offline disconnect 0"],
    );
    await watcher.getByText("Ada Lovelace left").waitFor();
  });

  it("a duplicated tab has a session of its own", async () => {
    const bob = await browser.person(site, "Bob");
    const first = await bob.tab();
    await first.evaluate(() => sessionStorage.setItem("marker", "copied"));
    const [second] = await Promise.all([
      first.waitForEvent("popup"),
      first.evaluate(() => void window.open(location.href)),
    ]);
    await connected(second);
    assert.equal(await second.evaluate(() => sessionStorage.getItem("marker")), "copied"); // it really is a duplicate
    await shows(watcher, bob.id, "2 tabs");
    await second.close();
    await shows(watcher, bob.id, "1 tab");
    assert.equal(await site.sessions(bob.id), 1);
    await bob.leave();
    await shows(watcher, bob.id, null);
  });

  it("a page that comes back from the back/forward cache joins again, with a new session", async () => {
    const cleo = await browser.person(site, "Cleo");
    const tab = await cleo.tab();
    const session = () => site.one("SELECT session_id FROM presence_sessions WHERE user_id = 'cleo' AND online");
    const before = await session();
    await tab.evaluate(() => {
      window.marker = "the same document";
      addEventListener("pageshow", (event) => (window.persisted = event.persisted));
    });
    const seq = await site.position();
    await tab.evaluate(() => void (location.href = "/me"));
    await until("left", async () => (await site.sessions(cleo.id)) === 0);
    await shows(watcher, cleo.id, null);
    // Playwright waits for a load that does not happen when a page is taken out of the cache.
    await tab.evaluate(() => history.back()).catch(() => {});
    await shows(watcher, cleo.id, "1 tab");
    assert.equal(await tab.evaluate(() => window.marker), "the same document");
    assert.equal(await tab.evaluate(() => window.persisted), true);
    await connected(tab);
    assert.notEqual(await session(), before);
    assert.deepEqual(
      (await site.feed(seq, cleo.id)).map((event) => event.event).filter((name) => name.startsWith("user")),
      ["user_offline", "user_online"],
    );
    await cleo.leave();
  });

  it("navigating away and back without the cache is a new session, and nobody is left over", async () => {
    const dora = await browser.person(site, "Dora");
    const tab = await dora.tab();
    for (let round = 0; round < 3; round++) {
      await tab.reload();
      await connected(tab);
    }
    await until("one session", async () => (await site.sessions(dora.id)) === 1);
    await dora.leave();
    await until("none", async () => (await site.sessions(dora.id)) === 0);
    await shows(watcher, dora.id, null);
  });
});

describe("a chosen status", () => {
  it("is the person's, in all tabs and after a reload", async (t) => {
    const site = await openSite();
    t.after(() => site.close());
    const browser = await openBrowser();
    t.after(() => browser.close());
    const watcher = await (await browser.person(site, "Watcher")).tab();
    const ada = await browser.person(site, "Ada");
    const tabs = [await ada.tab(), await ada.tab()];
    const choice = (tab) => tab.getByLabel("My status").inputValue();
    await tabs[0].getByLabel("My status").selectOption("busy");
    await shows(watcher, ada.id, "Busy · 2 tabs");
    await until("the other tab knows", async () => (await choice(tabs[1])) === "busy");
    const phone = await (await browser.person(site, "Ada")).tab(); // shares nothing but the account
    await until("the other device knows", async () => (await choice(phone)) === "busy");
    await phone.close();
    await tabs[1].reload();
    await connected(tabs[1]);
    await shows(watcher, ada.id, "Busy · 2 tabs");
    assert.equal(await choice(tabs[1]), "busy");
    await tabs[1].getByLabel("My status").selectOption("");
    await shows(watcher, ada.id, "Active · 2 tabs");
    await until("the other tab knows", async () => (await choice(tabs[0])) === "");
    await tabs[0].getByLabel("My status").selectOption("invisible");
    await shows(watcher, ada.id, null);
    await tabs[1].reload();
    await connected(tabs[1]);
    await until("the reloaded tab knows", async () => (await choice(tabs[1])) === "invisible");
    await shows(watcher, ada.id, null);
    await tabs[1].getByLabel("My status").selectOption("");
    await shows(watcher, ada.id, "Active · 2 tabs");
  });
});

describe("accounts", () => {
  let site, browser, watcher;
  watched((all) => ({ site, browser, watcher } = all));

  it("another user signs in, and the cookie changes first: nobody is left over", async () => {
    const ada = await browser.person(site, "Ada");
    const [closing, staying] = [await ada.tab(), await ada.tab()];
    await shows(watcher, ada.id, "2 tabs");
    await ada.context.addCookies([{ name: "chat_name", value: "Bob", url: site.address }]);
    // One tab leaves, and its beacon carries the wrong cookie; the other one asks, and is told.
    const seq = await site.position();
    await closing.goto("about:blank");
    await shows(watcher, ada.id, null);
    assert.equal((await site.feed(seq, ada.id)).at(-1).reason, "disconnect");
    await until("the light says so", async () => (await light(staying).textContent()) === "Not signed in");
    await closing.close();
    const bob = await ada.tab();
    await shows(watcher, "bob", "1 tab");
    await bob.close();
    await shows(watcher, "bob", null);
  });

  it("signed out elsewhere: no more requests, until somebody is back", async () => {
    const cleo = await browser.person(site, "Cleo");
    const tab = await cleo.tab();
    await cleo.context.clearCookies();
    await until("the light says so", async () => (await light(tab).textContent()) === "Not signed in");
    let requests = 0;
    tab.on("request", () => requests++);
    await sleep(5 * TIMING.heartbeatInterval); // time for what must not happen
    assert.equal(requests, 0);
    await cleo.context.addCookies([{ name: "chat_name", value: "Cleo", url: site.address }]);
    await tab.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));
    await connected(tab);
    await shows(watcher, cleo.id, "1 tab");
    await cleo.leave();
  });
});

describe("reload", () => {
  const GRACE = 4;

  it("does not flicker with leave_grace", async (t) => {
    const site = await openSite({ settings: { leave_grace: `${GRACE}s` } });
    t.after(() => site.close());
    if (!site.worker) return t.skip("presence.leave_grace needs the background worker");
    const browser = await openBrowser();
    t.after(() => browser.close());
    const watcher = await (await browser.person(site, "Watcher")).tab();
    const eve = await browser.person(site, "Eve");
    const tab = await eve.tab();
    await shows(watcher, eve.id, "1 tab");
    // Every list that the watcher shows from now on, not only those at which we happen to look.
    await watcher.evaluate(() => {
      window.vanished = 0;
      new MutationObserver(() => {
        if (document.querySelector("#people ul:not(.absent) li[data-user=eve]") === null) window.vanished++;
      }).observe(document.querySelector("#people"), { childList: true, subtree: true });
    });
    const seq = await site.position();
    for (let round = 0; round < 3; round++) {
      await tab.reload();
      await connected(tab);
    }
    await shows(watcher, eve.id, "1 tab");
    assert.equal(await watcher.evaluate(() => window.vanished), 0);
    assert.deepEqual(
      (await site.feed(seq, eve.id)).filter(({ event }) => event.startsWith("user")),
      [],
    );

    const closing = Date.now();
    await tab.close();
    const gone = await site.departure(eve.id, seq);
    await shows(watcher, eve.id, null);
    const took = (gone.at - closing) / 1000;
    assert.ok(took >= GRACE - 0.1, `gone after ${took} s, before the grace was over`);
  });
});
