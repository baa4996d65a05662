// <who-is-here> on pages without a framework: those that the documentation shows, and a strict one.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { after, afterEach, before, describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { TIMING, contrast, openBrowser, openSite, sleep, startProgram, until } from "./support.mjs";

const path = (name) => fileURLToPath(new URL(name, import.meta.url));
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const pictures = process.env.PICTURES ?? path("../../build/look");

const STRICT = `<!doctype html><html lang="en"><meta charset="utf-8"><title>Strict</title>
<script type="module" src="/presence-client/whoIsHere.js"></script><who-is-here user="ada"></who-is-here>`;
const BARE = `<!doctype html><html lang="en"><meta charset="utf-8"><title>Bare</title><main></main>`;

/** A page of the documentation. */
const pageOf = (document) => /^```html\n(.*?)^```$/ms.exec(readFileSync(path(`../../${document}`), "utf8"))[1];

describe("who-is-here", () => {
  let site, plain, browser, folder;
  const tabs = [];

  before(async () => {
    site = await openSite({ settings: { timeout: "10min" } });
    folder = mkdtempSync(`${tmpdir()}/presence-plain-`);
    // The package as it is built, in a place of its own: other tests build it at the same time.
    const built = `${folder}/node_modules/presence-client`;
    mkdirSync(built, { recursive: true });
    mkdirSync(`${folder}/pages`);
    mkdirSync(pictures, { recursive: true });
    const compiler = path("../../client/node_modules/typescript/bin/tsc");
    const project = path("../../client/tsconfig.build.json");
    await promisify(execFile)(process.execPath, [compiler, "-p", project, "--outDir", `${built}/dist/esm`]);
    cpSync(path("../../client/package.json"), `${built}/package.json`);
    symlinkSync(path("node_modules/pg"), `${folder}/node_modules/pg`);
    const pages = {
      index: pageOf("docs/front-end.md"),
      short: pageOf("client/README.md"),
      strict: STRICT,
      bare: BARE,
    };
    for (const [name, html] of Object.entries(pages)) writeFileSync(`${folder}/pages/${name}.html`, html);
    plain = await serve();
    browser = await openBrowser();
  });
  after(async () => {
    await browser?.close();
    await plain?.stop();
    await site?.close();
    rmSync(folder, { recursive: true, force: true });
  });

  // Nobody stays for the next test.
  afterEach(async () => {
    for (const tab of tabs.splice(0)) await tab.close();
    await site.sql("SELECT mark_user_offline(user_id) FROM presence WHERE metadata ->> 'by' = 'sql'");
    await until("nobody is online", async () => (await site.sql("SELECT * FROM get_active_users()")).length === 0);
  });

  const serve = async (port = 0) =>
    startProgram(path("plainSite.mjs"), [`${folder}/node_modules/presence-client`, `${folder}/pages`], {
      PGDATABASE: await site.one("SELECT current_database()"),
      PORT: String(port),
    });
  const open = async (name, page = "", options = {}) => {
    const person = await browser.person(site, name, { address: plain.address, ...options });
    const tab = await person.context.newPage();
    tabs.push(tab);
    tab.faults = [];
    tab.on("pageerror", (error) => tab.faults.push(error.message));
    tab.on("console", (message) => message.type() === "error" && tab.faults.push(message.text()));
    await tab.goto(plain.address + page);
    return tab;
  };
  const here = (page) => page.locator("who-is-here");
  const names = (page) => page.getByRole("listitem").locator("bdi").allTextContents();
  const shows = (page, ...expected) =>
    until(`${expected} are shown`, async () => {
      const shown = await names(page);
      return assert.deepEqual(shown, expected) ?? true;
    });
  const leave = async (page, user) => {
    await page.close();
    await until(`${user} has left`, async () => (await site.sessions(user)) === 0);
  };
  const beat = (id, metadata = {}, status = "active") =>
    site.sql("SELECT update_user_heartbeat($1::text, gen_random_uuid(), status => $2, metadata => $3)", [
      id,
      status,
      { by: "sql", ...metadata },
    ]);
  const goodbye = (id) => site.sql("SELECT mark_user_offline($1::text)", [id]);

  for (const page of ["", "short.html"]) {
    it(`two people see each other, and who leaves is gone: ${page || "the page of docs/front-end.md"}`, async () => {
      const ada = await open("Ada", page);
      await shows(ada, "Ada");
      const bob = await open("Bob", page);
      await shows(bob, "Bob", "Ada");
      await shows(ada, "Ada", "Bob");
      assert.equal(await ada.getByRole("status").textContent(), "2 here");
      if (page === "") assert.equal(await ada.title(), "The hall (2)");
      await leave(bob, "bob");
      await shows(ada, "Ada");
      assert.deepEqual(ada.faults, []);
    });
  }

  it("a name is text, on a page that allows no script and no style of others", async () => {
    const name = `<img src=x onerror="document.title='broken'"><b>Eve</b>`;
    const eve = await open(name, "strict.html");
    await shows(eve, name);
    assert.equal(await here(eve).locator("img, b").count(), 0);
    assert.equal(await eve.title(), "Strict");
    assert.equal(await eve.locator("who-is-here .avatar").evaluate((it) => getComputedStyle(it).borderRadius), "50%");
    assert.deepEqual(eve.faults, []);
  });

  it("shows the people of its room, and another room's when told so", async () => {
    await beat("outsider", { name: "Outsider" });
    const ada = await open("Ada");
    const carl = await open("Carl");
    await here(carl).evaluate((element) => (element.room = "den"));
    await shows(carl, "Carl");
    await shows(ada, "Ada");
    await here(ada).evaluate((element) => element.setAttribute("room", "den"));
    await shows(ada, "Ada", "Carl");
    await here(ada).evaluate((element) => element.removeAttribute("room"));
    await until("everybody", async () => (await names(ada)).includes("Outsider"));
    await shows(carl, "Carl");
  });

  it("moving it is no goodbye, removing it is; nothing of it goes on", async () => {
    const ada = await open("Ada");
    await shows(ada, "Ada");
    const seq = await site.position();
    await here(ada).evaluate(async (element) => {
      for (let time = 0; time < 5; time++) {
        document.body.append(document.createElement("section"));
        document.body.lastChild.append(element);
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    });
    await sleep(500); // longer than a goodbye waits
    assert.deepEqual(
      (await site.feed(seq, "ada")).map(({ event }) => event),
      [],
    );
    await shows(ada, "Ada");
    const calls = [];
    ada.on("request", (request) => calls.push(request.url()));
    await here(ada).evaluate((element) => {
      window.kept = element;
      element.remove();
    });
    await until("gone", async () => (await site.sessions("ada")) === 0);
    assert.deepEqual(
      calls.filter((url) => !/user-disconnect|room-leave|events(\?|$)/.test(url)),
      [],
    );
    assert.equal(await ada.evaluate(() => window.kept.getAttribute("connection")), "stopped");
    await ada.evaluate(() => document.body.append(window.kept));
    await shows(ada, "Ada");
  });

  it("says that the server is away, dimmed, and is right again when it is back", async () => {
    const ada = await open("Ada", "strict.html");
    await beat("bob", { name: "Bob" });
    await shows(ada, "Ada", "Bob");
    const opacity = () => ada.getByRole("list").evaluate((list) => getComputedStyle(list).opacity);
    assert.equal(await opacity(), "1");
    await plain.stop();
    await ada.locator("who-is-here[connection=reconnecting]").waitFor();
    await ada.getByRole("status").getByText("Connection lost").waitFor();
    await until("dimmed", async () => (await opacity()) === "0.45");
    assert.deepEqual(await names(ada), ["Ada", "Bob"]);
    await goodbye("bob");
    plain = await serve(new URL(plain.address).port);
    await shows(ada, "Ada");
    await ada.locator("who-is-here[connection=online]").waitFor();
    await until("bright again", async () => (await opacity()) === "1");
    assert.equal(await ada.getByRole("status").textContent(), "1 online");
  });

  it("takes what it was given before it was defined, and a service that is somebody else's", async () => {
    const ada = await open("Ada", "bare.html");
    await ada.evaluate(async (timing) => {
      const { PresenceService } = await import("/presence-client/index.js");
      window.service = new PresenceService({ userId: "ada", ...timing });
      window.service.start();
      const element = document.createElement("who-is-here");
      Object.assign(element, { service: window.service, max: 1, texts: { count: (count) => `${count} da` } });
      document.querySelector("main").append(element);
    }, TIMING);
    await beat("bob");
    await ada.evaluate(() => import("/presence-client/whoIsHere.js"));
    await shows(ada, "Ada");
    await ada.getByRole("listitem").getByText("+1 more").waitFor();
    assert.equal(await ada.getByRole("status").textContent(), "2 da");
    await here(ada).evaluate((element) => element.remove());
    await sleep(500); // longer than a goodbye waits
    assert.equal(await ada.evaluate(() => window.service.state.connection), "online");
    assert.equal(await site.sessions("ada"), 1);
  });

  it("without a user it watches; who is not signed in is told so", async () => {
    const seq = await site.position();
    await beat("bob", { name: "Bob" });
    const watch = (tab) =>
      tab.evaluate(async () => {
        await import("/presence-client/whoIsHere.js");
        document.querySelector("main").append(document.createElement("who-is-here"));
      });
    const ada = await open("Ada", "bare.html");
    await watch(ada);
    await shows(ada, "Bob");
    assert.deepEqual((await site.feed(seq, "ada")).length, 0);
    await ada.context().clearCookies();
    const nobody = await ada.context().newPage();
    tabs.push(nobody);
    await nobody.goto(`${plain.address}bare.html`);
    await watch(nobody);
    await nobody.getByRole("status").getByText("Not signed in").waitFor();
  });

  it("can be read by everybody: names, shapes, contrast in light and dark, no motion where none is wanted", async () => {
    const statuses = ["active", "busy", "idle", "away"];
    for (const [index, name] of ["Grace Hopper", "Alan Turing", "Katherine Johnson", "Donald Knuth"].entries())
      await beat(`person-${index}`, { name }, statuses[index]);
    for (let index = 4; index < 12; index++) await beat(`person-${index}`);
    for (const [colorScheme, reducedMotion] of [
      ["light", "no-preference"],
      ["dark", "reduce"],
    ]) {
      const ada = await open("Ada Lovelace", "", { colorScheme, reducedMotion, viewport: { width: 640, height: 400 } });
      await here(ada).evaluate((element) => element.removeAttribute("room"));
      await ada.getByText("+5 more").waitFor();
      const items = await ada.getByRole("list", { name: "Who is here" }).getByRole("listitem").allInnerTexts();
      assert.deepEqual(
        items.slice(0, 5).map((text) => text.replace(/^\S*\n/, "").replaceAll("\n", "")),
        [
          "Ada Lovelace, active",
          "Grace Hopper, active",
          "Alan Turing, busy",
          "Katherine Johnson, idle",
          "Donald Knuth, away",
        ],
      );
      const marks = await ada.locator("who-is-here .mark").evaluateAll((all) =>
        all.map((mark) => {
          const { fill, backgroundColor } = getComputedStyle(mark);
          return { shape: mark.firstElementChild.getAttribute("d"), fill, backgroundColor };
        }),
      );
      assert.equal(new Set(marks.map(({ shape }) => shape)).size, 4);
      for (const mark of marks) assert.ok(contrast(mark.fill, mark.backgroundColor) >= 3, JSON.stringify(mark));
      const person = ada.locator("who-is-here .person").first();
      const animation = await person.evaluate((it) => getComputedStyle(it).animationName);
      assert.equal(animation, reducedMotion === "reduce" ? "none" : "come");
      await ada.screenshot({ path: `${pictures}/who-is-here-${colorScheme}.png`, animations: "disabled" });
      await here(ada).evaluate((element) => element.setAttribute("compact", ""));
      assert.equal(await person.locator(".name").textContent(), "Ada Lovelace");
      await ada.screenshot({ path: `${pictures}/who-is-here-compact-${colorScheme}.png`, animations: "disabled" });
      await ada.evaluate(axe);
      const { violations } = await ada.evaluate(() => globalThis.axe.run());
      assert.deepEqual(
        violations
          .map(({ id, nodes }) => [id, nodes.map(({ target }) => target)])
          .filter(([id]) => !/^(landmark|region)/.test(id)),
        [],
      );
      assert.deepEqual(ada.faults, []);
      await leave(ada, "ada lovelace");
    }
  });
});
