// What nobody announces: crashes, lost networks, frozen tabs, a database that restarts.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { isDeepStrictEqual, promisify } from "node:util";
import { describe, it } from "node:test";
import {
  TIMEOUT,
  TIMING,
  connected,
  light,
  online,
  openBrowser,
  openSite,
  shows,
  sleep,
  startProgram,
  until,
  watched,
} from "./support.mjs";

/** The promise is a departure within one second beyond the timeout. */
const LATE = 1;

describe("losses", () => {
  let site, browser, watcher;
  watched((all) => ({ site, browser, watcher } = all), { settings: { timeout: `${TIMEOUT}s` } });

  /** Silent from about `moment` on: he must go by timeout, not before his time and at most a second after it, and the watcher must see it. */
  async function goesSilently(user, seq, moment) {
    const gone = await site.departure(user, seq, TIMEOUT + 30);
    const heard = await site.one("SELECT max(heartbeat_at) FROM presence_sessions WHERE user_id = $1", [user]);
    assert.equal(gone.reason, "timeout");
    const silence = (gone.at - heard) / 1000;
    assert.ok(silence >= TIMEOUT - 0.01, `gone after ${silence} s of silence, before his time`);
    const took = (gone.at - Math.max(heard, moment)) / 1000;
    assert.ok(took <= TIMEOUT + LATE, `gone after ${took} s, too late`);
    await shows(watcher, user, null);
    return took;
  }

  it("a browser killed with SIGKILL: gone within the timeout and a second", async (t) => {
    const victim = await openBrowser();
    t.after(() => victim.close());
    const fay = await victim.person(site, "Fay");
    await fay.tab();
    await fay.tab();
    await shows(watcher, fay.id, "2 tabs");
    const seq = await site.position();
    const moment = Date.now();
    victim.kill();
    const took = await goesSilently(fay.id, seq, moment);
    t.diagnostic(`gone after ${took.toFixed(2)} s with a timeout of ${TIMEOUT} s`);
    await watcher.getByText("Fay has not been heard any more").waitFor();
  });

  it("a lost network (offline): gone, and back by itself with nothing missed", async () => {
    const gus = await browser.person(site, "Gus");
    const tab = await gus.tab();
    await shows(watcher, gus.id, "1 tab");
    const seq = await site.position();
    const moment = Date.now();
    await gus.context.setOffline(true);
    await until("the light says so", async () => (await light(tab).textContent()) === "No network");
    await goesSilently(gus.id, seq, moment);
    const visitor = await browser.person(site, "Passer By"); // comes and goes meanwhile
    await visitor.tab();
    await visitor.leave();
    await shows(watcher, visitor.id, null);

    await gus.context.setOffline(false);
    await connected(tab);
    await shows(watcher, gus.id, "1 tab");
    await tab.getByText("Passer By left").waitFor();
    assert.equal(await tab.getByText("Passer By came in").count(), 1);
    await until("both show the same", async () => isDeepStrictEqual(await online(tab), await online(watcher)));
    await gus.leave();
  });

  it("a stopped proxy in between: gone, and back by itself with nothing missed", async (t) => {
    const { hostname, port } = new URL(site.address);
    const proxy = await startProgram(fileURLToPath(new URL("proxy.mjs", import.meta.url)), [hostname, port]);
    t.after(() => proxy.stop());
    const hal = await browser.person(site, "Hal", { address: proxy.address });
    const tab = await hal.tab();
    await shows(watcher, hal.id, "1 tab");
    const seq = await site.position();
    const moment = Date.now();
    proxy.kill("SIGSTOP");
    await until("the light says so", async () => (await light(tab).textContent()) === "Reconnecting…");
    await goesSilently(hal.id, seq, moment);
    const visitor = await browser.person(site, "Passer Too");
    await visitor.tab();
    await visitor.leave();
    await shows(watcher, visitor.id, null);

    proxy.kill("SIGCONT");
    await connected(tab);
    await shows(watcher, hal.id, "1 tab");
    await tab.getByText("Passer Too left").waitFor();
    await until("both show the same", async () => isDeepStrictEqual(await online(tab), await online(watcher)));
    await hal.leave();
  });

  it("a hidden tab beats more slowly and says so; a frozen one goes, and is back as soon as it is thawed", async () => {
    const tab = await browser.rawTab(site, "Ida");
    await shows(watcher, "ida", "1 tab").catch(async (error) =>
      assert.fail(`${error.message}; the page: ${await tab.evaluate("document.body.innerText")}`),
    );
    const interval = (seconds) =>
      until(`heartbeats every ${seconds} s`, () =>
        site.one(
          "SELECT bool_or(heartbeat_interval = make_interval(secs => $1)) FROM presence_sessions WHERE user_id = 'ida' AND online",
          [seconds],
        ),
      );
    await interval(TIMING.heartbeatInterval / 1000);
    await tab.hide();
    await interval(TIMING.hiddenHeartbeatInterval / 1000);
    const seq = await site.position();
    await tab.evaluate("window.ticks = 0; setInterval(() => window.ticks++, 50)");
    const moment = Date.now();
    await tab.send("Page.setWebLifecycleState", { state: "frozen" });
    const ticks = await tab.evaluate("ticks");
    await goesSilently("ida", seq, moment);
    assert.equal(await tab.evaluate("ticks"), ticks); // it really stood still

    await tab.send("Page.setWebLifecycleState", { state: "active" });
    await shows(watcher, "ida", "1 tab");
    assert.equal(await tab.evaluate("document.visibilityState"), "hidden"); // thawed, still in the background
    await interval(TIMING.hiddenHeartbeatInterval / 1000);
    await tab.show();
    await interval(TIMING.heartbeatInterval / 1000);
    await until("connected", () => tab.evaluate("document.querySelector('header .light.online') !== null"));
    await tab.close();
    await shows(watcher, "ida", null);
  });
});

describe("database restarts", () => {
  const patience = 20; // seconds: longer than a restart takes

  for (const mode of ["fast", "immediate"]) {
    it(`${mode}: all pages come back, nothing is missed, nobody is said to have left`, async (t) => {
      const { WEB_SERVER_DIR } = process.env;
      if (!WEB_SERVER_DIR) return t.skip("WEB_SERVER_DIR does not say which server may be restarted");
      const site = await openSite({ settings: { timeout: `${patience}s` } });
      t.after(() => site.close());
      const browser = await openBrowser();
      t.after(() => browser.close());
      const people = [];
      for (const name of ["Jo", "Kim"]) people.push(await browser.person(site, name));
      const pages = [await people[0].tab(), await people[0].tab(), await people[1].tab()];
      for (const page of pages) await shows(page, "jo", "2 tabs");
      const everybody = { jo: "Active · 2 tabs", kim: "Active · 1 tab" };
      for (const page of pages)
        await until(
          "both",
          async () =>
            JSON.stringify(Object.entries(await online(page)).sort()) === JSON.stringify(Object.entries(everybody)),
        );
      const seq = await site.position();
      for (const page of pages) {
        await page.evaluate(() => {
          window.seen = [];
          const look = () =>
            window.seen.push(
              [...document.querySelectorAll("#people ul:not(.absent) li")]
                .map((item) => item.dataset.user)
                .sort()
                .join(),
            );
          new MutationObserver(look).observe(document.querySelector("#people"), { childList: true, subtree: true });
        });
      }

      // A crash replays the creation of a database that no checkpoint has seen, and its feed then begins a new epoch.
      await site.sql("CHECKPOINT");
      await promisify(execFile)(fileURLToPath(new URL("../../scripts/private-server", import.meta.url)), [
        "restart",
        WEB_SERVER_DIR,
        "-m",
        mode,
      ]);
      // Somebody comes and goes before the pages are back: they must read it in the feed.
      await until("the server answers", () =>
        site.sql("SELECT update_user_heartbeat('quick', 'q', metadata => '{\"name\": \"Quick\"}')"),
      );
      await site.sql("SELECT join_room('quick', 'q', 'lobby')");
      await site.sql("SELECT handle_user_disconnect('quick', 'q')");

      for (const page of pages) {
        await connected(page);
        await page.getByText("Quick left").waitFor();
        assert.equal(await page.getByText("Quick came in").count(), 1);
      }
      // Until every session has been heard again and anything that expires wrongly would have.
      const back = await site.one("SELECT now()");
      await until(
        "all heard",
        async () =>
          (await site.one("SELECT count(*)::integer FROM presence_sessions WHERE online AND heartbeat_at > $1", [
            back,
          ])) === 3,
      );
      await sleep(500);
      if (!site.worker) await site.sql("SELECT cleanup_stale_presence()");
      const events = (await site.feed(seq))
        .filter(({ event }) => event.startsWith("user_"))
        .map(({ event, user_id }) => `${event} ${user_id}`);
      assert.deepEqual(events, ["user_online quick", "user_offline quick"]);
      for (const page of pages) {
        assert.deepEqual(await online(page), everybody);
        const seen = await page.evaluate(() => window.seen);
        assert.deepEqual(
          seen.filter((list) => !/^jo,kim(,quick)?$/.test(list)),
          [],
        );
      }
    });
  }
});
