// What the browser tests share: a database of their own with the real extension, the example's real server in a process of its own,
// and a real Chromium. The PostgreSQL server is the one that the PG… variables name.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { after, before } from "node:test";
import { fileURLToPath } from "node:url";
import pg from "pg";
import { chromium } from "playwright-core";

const chat = fileURLToPath(new URL("../../examples/chat/dist/server/", import.meta.url));
const browserPath = process.env.CHROMIUM ?? ["/usr/bin/chromium", "/usr/bin/google-chrome"].find(existsSync);

/** Seconds of silence after which a session is stale, where that is what is tested; 120 in the product. */
export const TIMEOUT = 4;
// Limits of what is waited for are generous, because a machine may be busy; what the product promises is compared with the times of events.
/** Seconds: longer than the sites' timeout, because a browser gives a closing page half a second for its goodbye and no more. */
const PATIENCE = 90;
/** What pages do, in ms. Each is an option of the package with a longer default. */
export const TIMING = {
  heartbeatInterval: 400,
  hiddenHeartbeatInterval: 600,
  retryBase: 100,
  retryMax: 400,
  requestTimeout: 1000,
  silenceLimit: 1500,
  keepAlive: 400,
  wakeCheckInterval: 200,
};

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Asks again until the answer is neither false nor undefined; a question that fails (no server at the moment) is asked again, too. */
export async function until(what, ask, seconds = PATIENCE) {
  const end = Date.now() + seconds * 1000;
  for (;;) {
    let problem = "";
    try {
      const answer = await ask();
      if (answer !== false && answer !== undefined && answer !== null) return answer;
    } catch (error) {
      problem = `: ${error.message}`;
    }
    if (Date.now() > end) assert.fail(`not within ${seconds} s: ${what}${problem}`);
    await sleep(25);
  }
}

/** A program of ours; its first line of output is its address. */
export async function startProgram(path, args = [], env = {}) {
  const child = spawn(process.execPath, [path, ...args], {
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let errors = "";
  child.stderr.setEncoding("utf8").on("data", (text) => (errors += text));
  const address = await new Promise((resolve, reject) => {
    child.stdout.setEncoding("utf8").once("data", (text) => resolve(text.trim()));
    child.once("exit", (code) => reject(new Error(`${path} ended with ${code}: ${errors}`)));
  });
  const stop = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill("SIGCONT");
    child.kill("SIGTERM");
    await once(child, "exit");
  };
  return { address, pid: child.pid, kill: (signal) => child.kill(signal), stop };
}

/** `settings` are those of the database, `timing` goes to the pages. */
export async function openSite({ settings = {}, timing = {} } = {}) {
  const database = `web_${process.pid}_${Math.random().toString(36).slice(2, 8)}`;
  const admin = (text) => withClient({ database: "postgres" }, (client) => client.query(text));
  await admin(`CREATE DATABASE ${database}`);
  for (const [name, value] of Object.entries({ timeout: "1min", notify_level: "session", ...settings })) {
    await admin(`ALTER DATABASE ${database} SET presence.${name} = '${value}'`);
  }
  const pool = new pg.Pool({ database, max: 3 });
  pool.on("error", () => {}); // a restart of the server is part of the tests
  await pool.query("CREATE EXTENSION presence");

  const start = (env = {}) =>
    startProgram(`${chat}main.js`, [], {
      PGDATABASE: database,
      HOST: "127.0.0.1",
      PORT: "0",
      CHAT_TIMING: JSON.stringify({ ...TIMING, ...timing }),
      ...env,
    });
  const server = await start();

  const sql = async (text, values) => (await pool.query(text, values)).rows;
  const one = async (text, values) => Object.values((await sql(text, values))[0])[0];
  const site = {
    address: server.address,
    sql,
    one,
    position: () => one("SELECT seq FROM presence_snapshot() LIMIT 1").then(Number),
    /** The feed after `seq`, of one user or of all. */
    feed: (seq, user = null) =>
      sql("SELECT * FROM presence_changes_since($1, 10000) WHERE user_id = coalesce($2, user_id) ORDER BY seq", [
        seq,
        user,
      ]),
    sessions: async (user) =>
      (await sql("SELECT sessions FROM get_presence(ARRAY[$1]::presence_id[]) WHERE online", [user]))[0]?.sessions ?? 0,
    /** Whether somebody but us ends silent sessions. It needs a moment to come to a new database. */
    hasWorker: async () => (await one("SELECT worker_pid FROM presence_health")) !== null,
    async close() {
      await server.stop();
      await until("presence_verify() finds nothing", async () => {
        assert.deepEqual(await sql("SELECT * FROM presence_verify()"), []);
        return true;
      });
      await pool.end();
      await admin(`DROP DATABASE ${database} WITH (FORCE)`);
    },
  };

  /**
   * Waits for the committed event of a departure, which a worker makes by itself. Where there is none, the clean-up is called, as pg_cron or
   * an admin would.
   */
  site.departure = (user, seq, seconds) =>
    until(
      `user_offline of ${user}`,
      async () => {
        if (!worker) await sql("SELECT cleanup_stale_presence()");
        return (await site.feed(seq, user)).find((event) => event.event === "user_offline");
      },
      seconds,
    );
  const worker = await until("the worker", () => site.hasWorker(), 3).catch(() => false);
  site.worker = worker;
  return site;
}

async function withClient(config, action) {
  const client = new pg.Client(config);
  await client.connect();
  try {
    return await action(client);
  } finally {
    await client.end();
  }
}

/** A browser with its process, so that it can be killed. Playwright switches the back/forward cache off; it is back on here. */
export async function openBrowser() {
  assert.ok(browserPath, "no Chromium found: run scripts/install-dependencies web, or set CHROMIUM");
  const server = await chromium.launchServer({
    executablePath: browserPath,
    ignoreDefaultArgs: ["--disable-back-forward-cache"],
    args: ["--disable-gpu"],
  });
  const browser = await chromium.connect(server.wsEndpoint());
  return {
    /** A browser context of its own for somebody: his cookies, his tabs. */
    async person(site, name, options = {}) {
      const address = options.address ?? site.address;
      const context = await this.newContext({ reducedMotion: "reduce", ...options });
      await context.addCookies([{ name: "chat_name", value: encodeURIComponent(name), url: address }]);
      return {
        context,
        id: name.toLowerCase().replace(/\s+/g, "-"),
        /** A tab that is connected and has its session. */
        async tab() {
          const page = await context.newPage();
          await page.goto(address);
          await connected(page);
          return page;
        },
        /** Closes all tabs, and the context only when the goodbyes have arrived: it would take its network with it. */
        async leave() {
          for (const page of context.pages()) await page.close();
          await until(`${name} has left`, async () => (await site.sessions(this.id)) === 0);
          await context.close();
        },
      };
    },
    async newContext(options) {
      const context = await browser.newContext(options);
      context.setDefaultTimeout(30_000);
      return context;
    },
    rawTab: (site, name) => openRawTab(browser, site, name),
    kill: () => process.kill(server.process().pid, "SIGKILL"),
    async close() {
      await browser.close().catch(() => {});
      await server.kill().catch(() => {});
    },
  };
}

/**
 * A tab without Playwright, which makes every page believe that it is looked at: such a page can be neither hidden nor frozen. Spoken to by
 * DevTools protocol alone.
 */
async function openRawTab(browser, site, name) {
  const devtools = await browser.newBrowserCDPSession();
  const { browserContextId } = await devtools.send("Target.createBrowserContext");
  await devtools.send("Storage.setCookies", {
    browserContextId,
    cookies: [{ name: "chat_name", value: encodeURIComponent(name), url: site.address }],
  });
  const { targetId } = await devtools.send("Target.createTarget", { url: site.address, browserContextId });
  const { sessionId } = await devtools.send("Target.attachToTarget", { targetId, flatten: false });
  const waiting = new Map();
  devtools.on("Target.receivedMessageFromTarget", ({ message }) => {
    const { id, result, error } = JSON.parse(message);
    if (error === undefined) waiting.get(id)?.resolve(result);
    else waiting.get(id)?.reject(new Error(error.message));
  });
  let id = 0;
  const send = (method, params = {}) =>
    new Promise((resolve, reject) => {
      waiting.set(++id, { resolve, reject });
      devtools
        .send("Target.sendMessageToTarget", { sessionId, message: JSON.stringify({ id, method, params }) })
        .catch(reject);
    });
  return {
    send,
    evaluate: async (expression) => (await send("Runtime.evaluate", { expression, returnByValue: true })).result.value,
    /** Another tab of the same window comes to the front. */
    hide: () => devtools.send("Target.createTarget", { url: "about:blank", browserContextId }),
    show: () => devtools.send("Target.activateTarget", { targetId }),
    close: () => devtools.send("Target.closeTarget", { targetId }),
  };
}

/** For a suite: a site, a browser and somebody who watches, given to `begin` before its tests and closed after them. */
export function watched(begin, options) {
  const all = {};
  before(async () => {
    all.site = await openSite(options);
    all.browser = await openBrowser();
    all.watcher = await (await all.browser.person(all.site, "Watcher")).tab();
    await begin(all);
  });
  after(async () => {
    await all.browser?.close();
    await all.site?.close();
  });
}

/** How much two colours that the browser computed differ, from 1 to 21, as WCAG 2 reckons it. */
export function contrast(one, other) {
  const luminance = (colour) => {
    const [red, green, blue] = colour
      .match(/[\d.]+/g)
      .map((value) => value / 255)
      .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

export const light = (page) => page.getByRole("status", { name: "Connection" });

export async function connected(page, seconds = PATIENCE) {
  try {
    await page.waitForFunction(() => document.querySelector("header .light.online") !== null, null, {
      timeout: seconds * 1000,
      polling: 50,
    });
  } catch {
    assert.fail(
      `not connected within ${seconds} s: ${(await page.locator("body").innerText({ timeout: 1000 }).catch(String)).slice(0, 500)}`,
    );
  }
}

/** What a page shows of those who are online: id → "Active · 2 tabs". */
export const online = (page) =>
  page.evaluate(() =>
    Object.fromEntries(
      [...document.querySelectorAll("#people ul:not(.absent) li")].map((item) => [
        item.dataset.user,
        item.querySelector("small").textContent,
      ]),
    ),
  );

export async function shows(page, user, text, seconds = PATIENCE) {
  let shown;
  const fits = async () => {
    shown = await online(page);
    return text === null ? !(user in shown) : shown[user]?.includes(text);
  };
  await until(`${user} is shown as ${text}`, fits, seconds).catch((error) =>
    assert.fail(`${error.message}; shown is ${JSON.stringify(shown)}`),
  );
}
