// How the example page looks and behaves where products are judged: narrow screens, order, focus, contrast, motion, and when something is wrong.
// Pictures of each go to build/look/.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { mkdirSync } from "node:fs";
import { after, before, describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { connected, contrast, light, openBrowser, openSite, shows, until } from "./support.mjs";

const pictures = process.env.PICTURES ?? fileURLToPath(new URL("../../build/look", import.meta.url));
const LONG = "Hildegard Wilhelmine von Bingen-Sommerfeld y Monteverde";
const NAMES = ["Mary Shelley", "Yvonne Zoll", "Bob Ort", LONG, "Émile Zola", "Chloé Arc"];
const idOf = (name) =>
  name
    .normalize("NFKD")
    .toLowerCase()
    .replace(/\p{M}/gu, "")
    .replace(/[^a-z]+/g, "-");

describe("look", () => {
  let site, browser;

  before(async () => {
    mkdirSync(pictures, { recursive: true });
    site = await openSite({ settings: { timeout: "10min" } });
    browser = await openBrowser();
    for (const [index, name] of NAMES.entries()) await beat(name, ["active", "busy", "idle", "away"][index % 4]);
    await beat("Alan Turing");
    await site.sql("SELECT mark_user_offline('alan-turing')");
    await until("the server's table", () => site.sql("SELECT 1 FROM chat_message"));
    await say("Mary Shelley", "Has anybody seen the nightly build?");
    await say("Mary Shelley", "https://builds.example.com/pipelines/nightly-aarch64-unknown-linux-gnu-with-sanitizers");
    await say(LONG, "It is green.\n\nThen I merge.");
    await say("Ada Lovelace", "Wonderful. Then I can show it this afternoon.");
  });
  after(async () => {
    await browser?.close();
    await site?.close();
  });

  // A session of its own each time: one that was ended on purpose does not begin again.
  const beat = async (name, status = "active") => {
    const session = randomUUID();
    await site.sql(
      "SELECT update_user_heartbeat($1::text, $2::text, status => $3, metadata => jsonb_build_object('name', $4::text))",
      [idOf(name), session, status, name],
    );
    await site.sql("SELECT join_room($1::text, $2::text, 'lobby')", [idOf(name), session]);
  };
  let said = 0;
  const say = (name, body) =>
    site.sql("INSERT INTO chat_message (key, room, user_id, name, body) VALUES ($1, 'lobby', $2, $3, $4)", [
      `look ${++said}`,
      idOf(name),
      name,
      body,
    ]);
  const open = async (name, { width = 1280, height = 800, ...options } = {}) => {
    const { context } = await browser.person(site, name, { viewport: { width, height }, ...options });
    const page = await context.newPage();
    await page.goto(site.address);
    return page;
  };
  const picture = (page, name) => page.screenshot({ path: `${pictures}/${name}.png`, animations: "disabled" });
  const order = (page) =>
    page.locator("#people ul:not(.absent) li").evaluateAll((items) => items.map((item) => item.dataset.user));

  for (const width of [320, 390, 768, 1280]) {
    it(`cuts no name and leaves no hole, ${width} pixels wide`, async () => {
      const page = await open(LONG, { width, height: width < 700 ? 844 : 900 });
      await connected(page);
      await shows(page, idOf(LONG), "Active");
      await page.locator(".absent [data-user=alan-turing]").waitFor();
      await page.getByText("It is green.").waitFor();
      await page.getByRole("link", { name: /^Lobby \d people/ }).waitFor();
      await picture(page, `${width}`);
      const found = await page.evaluate(() => {
        const cut = [];
        for (const element of document.querySelectorAll(
          ".me .name, li strong, li small, h1, h2:not(#rooms-title), header button, .room-name, .by:not(.unseen) bdi, .body, .composer > *:not(.problem):not(label)",
        )) {
          const { left, right, width, height } = element.getBoundingClientRect();
          const inside = left >= 0 && right <= innerWidth + 0.5 && width > 20 && height > 10;
          if (!inside || element.scrollWidth > element.clientWidth + 1) cut.push(element.textContent);
        }
        const bottoms = ["#people", ".room"].map((part) => document.querySelector(part).getBoundingClientRect());
        return {
          cut,
          wide: document.documentElement.scrollWidth,
          beside: bottoms[0].left >= bottoms[1].right,
          bottoms: bottoms.map(({ bottom }) => Math.round(bottom)),
        };
      });
      assert.deepEqual(found.cut, []);
      assert.ok(found.wide <= width, `${found.wide} pixels wide`);
      assert.equal(found.beside, width >= 700);
      if (found.beside) assert.equal(found.bottoms[0], found.bottoms[1]);
      await page.context().close();
    });
  }

  it("lists oneself first and the others by name, also after a reload", async () => {
    const page = await open("Mary Shelley");
    await connected(page);
    await shows(page, "mary-shelley", "Active");
    const expected = ["mary-shelley", "bob-ort", "chloe-arc", "emile-zola", idOf(LONG), "yvonne-zoll"];
    assert.deepEqual(await order(page), expected);
    // Who comes again comes to the same place.
    await site.sql("SELECT mark_user_offline('yvonne-zoll')");
    await shows(page, "yvonne-zoll", null);
    await beat("Yvonne Zoll");
    await shows(page, "yvonne-zoll", "Active");
    assert.deepEqual(await order(page), expected);
    await page.reload();
    await connected(page);
    await shows(page, "mary-shelley", "Active");
    assert.deepEqual(await order(page), expected);
    await page.context().close();
  });

  it("shows each state by a shape of its own, with enough contrast, in light and dark", async () => {
    for (const colorScheme of ["light", "dark"]) {
      const page = await open("Ada Lovelace", { colorScheme });
      await connected(page);
      await page.locator(".absent [data-user=alan-turing]").waitFor();
      // An element that is drawn anew in this moment has no colour.
      const drawn = async () => {
        const parts = await page.locator("#people li, header").evaluateAll((parts) => {
          const card = getComputedStyle(document.querySelector("#people")).backgroundColor;
          return parts.map((part) => ({
            state: part.querySelector("small")?.textContent.split(" ")[0],
            shape: part.querySelector("svg path")?.getAttribute("d"),
            fill: getComputedStyle(part.querySelector("svg")).fill,
            card,
          }));
        });
        return parts.map(({ fill, card, ...part }) => ({ ...part, contrast: contrast(fill, card) }));
      };
      const marks = await until("each state is drawn", drawn);
      const shapes = new Map(marks.filter(({ state }) => state).map(({ state, shape }) => [state, shape]));
      assert.deepEqual([...shapes.keys()].sort(), ["Active", "Away", "Busy", "Idle", "last"]);
      assert.equal(new Set(shapes.values()).size, 5);
      for (const mark of marks) assert.ok(mark.contrast >= 3, JSON.stringify(mark));
      const [edge, field] = await page
        .locator("#status")
        .evaluate((select) => [getComputedStyle(select).borderColor, getComputedStyle(select).backgroundColor]);
      assert.notEqual(edge, field);
      await picture(page, colorScheme);
      await page.context().close();
    }
  });

  it("tells by words and shapes that it is cut off, and that it is back", async () => {
    const page = await open("Ada Lovelace", { width: 390, height: 844 });
    await connected(page);
    await shows(page, "bob-ort", "Idle");
    const shapes = () =>
      page.locator(".light path, [data-user=bob-ort] path").evaluateAll((paths) => paths.map((path) => path.outerHTML));
    const before = await shapes();
    assert.equal(before.length, 2);
    await page.context().setOffline(true);
    await page.getByText("This device has no network. What you see is from").waitFor();
    await page.getByRole("region", { name: /^Were online \d+$/ }).waitFor();
    assert.equal(await light(page).textContent(), "No network");
    const after = await shapes();
    assert.ok(after.every((shape, index) => shape !== before[index]));
    assert.match(await page.title(), /No network/);
    await picture(page, "offline");
    await page.context().setOffline(false);
    await connected(page);
    await page.getByRole("region", { name: /^Online \d+$/ }).waitFor();
    assert.deepEqual(await shapes(), before);
    await page.context().close();
  });

  it("keeps technical numbers out of sight until they are asked for", async () => {
    const page = await open("Ada Lovelace");
    await connected(page);
    const numbers = page.getByText(/feed position|heartbeats|round trip|reconnects/i);
    for (const number of await numbers.all()) assert.equal(await number.isVisible(), false);
    await page.getByText("For developers").press("Enter");
    await page.getByText("Feed position").waitFor();
    await page.context().close();
  });

  it("leaves the reader of the log where he is and offers the way to the end", async () => {
    const page = await open("Ada Lovelace", { height: 480 });
    await connected(page);
    await shows(page, "bob-ort", "Idle");
    const log = page.getByRole("log");
    const place = () => log.evaluate((box) => box.scrollTop);
    const rest = () => log.evaluate((box) => box.scrollHeight - box.clientHeight - box.scrollTop);
    for (let round = 0; round < 15; round++) await say("Bob Ort", `Line ${round}`);
    await log.getByText("Line 14").waitFor();
    assert.ok((await rest()) < 2, "the end is followed");

    await log.evaluate((box) => (box.scrollTop = 40));
    await until("the page has noticed", () =>
      log.evaluate((box) => new Promise((done) => requestAnimationFrame(() => done(box.scrollTop === 40)))),
    );
    await site.sql("SELECT mark_user_offline('bob-ort')");
    await log.getByText("Bob Ort left").waitFor();
    assert.equal(await page.getByRole("button", { name: /new/ }).count(), 0, "who goes is no message");
    await say("Mary Shelley", "Has he gone?");
    const button = page.getByRole("button", { name: "1 new message" });
    await button.waitFor();
    assert.equal(await place(), 40);
    await picture(page, "log");
    await button.press("Enter");
    await until("the end", async () => (await rest()) < 2);
    await button.waitFor({ state: "detached" });
    assert.equal(await page.evaluate(() => document.activeElement.getAttribute("role")), "log");
    await beat("Bob Ort", "idle");
    await log.getByText("Bob Ort came in").waitFor();
    assert.ok((await rest()) < 2, "the end is followed again");
    await page.context().close();
  });

  it("takes a name of one emoji, and says why it does not take an invisible one", async () => {
    const context = await browser.newContext({ viewport: { width: 390, height: 844 } });
    const page = await context.newPage();
    await page.goto(site.address);
    const field = page.getByLabel("Your name");
    for (const nothing of ["", "   ", "\u200d\u200b"]) {
      await field.fill(nothing);
      await field.press("Enter");
      await page.getByRole("alert").getByText("at least one visible character").waitFor();
      assert.equal(await field.getAttribute("aria-invalid"), "true");
      assert.equal(await field.evaluate((input) => document.activeElement === input), true);
    }
    const described = await field.evaluate(
      (input) => document.getElementById(input.getAttribute("aria-describedby")).textContent,
    );
    assert.match(described, /visible character/);
    await picture(page, "name");
    for (const emoji of ["❤️", "🇩🇪", "1️⃣", "👍🏽", "👩‍🚀"]) {
      await field.fill(emoji);
      await page.getByText("visible character").waitFor({ state: "detached" });
      await field.press("Enter");
      await connected(page);
      await page.locator("#people li").getByText(`${emoji} (you)`).waitFor();
      assert.equal(await page.locator(".me .avatar").textContent(), emoji);
      if (emoji !== "👩‍🚀") await page.getByRole("button", { name: "Sign out" }).click();
    }
    await picture(page, "emoji");
    await context.close();
  });

  it("says so when the server does not answer: before signing in, at signing in, and after", async () => {
    const context = await browser.newContext({ viewport: { width: 390, height: 844 } });
    const page = await context.newPage();
    await page.route("**/me", (route) => route.fulfill({ status: 502 }));
    await page.goto(site.address);
    await page.getByRole("alert").getByText("The server does not answer.").waitFor();
    await page.unroute("**/me");
    await page.getByRole("button", { name: "Try again" }).click();
    await page.route("**/sign-in", (route) => route.abort());
    await page.getByRole("button", { name: "Ada Lovelace" }).click();
    await page.getByRole("alert").getByText("The server does not answer.").waitFor();
    await page.unroute("**/sign-in");
    await page.route("**/api/**", (route) => route.abort());
    await page.getByRole("button", { name: "Ada Lovelace" }).click();
    await page.getByText("The server does not answer. Trying again.").waitFor();
    await page.getByText("Not known before there is a connection.").waitFor();
    assert.equal(await page.locator("#people .count").count(), 0);
    await picture(page, "no-server");
    await context.close();
  });

  it("says so when signing out fails, and stays", async () => {
    const page = await open("Ada Lovelace", { width: 390, height: 844 });
    await connected(page);
    await page.context().setOffline(true);
    await page.getByText("This device has no network.").waitFor();
    await page.getByRole("button", { name: "Sign out" }).click();
    await page.getByRole("alert").getByText("You are still signed in").waitFor();
    await picture(page, "not-signed-out");
    await page.context().setOffline(false);
    await connected(page);
    await shows(page, "ada-lovelace", "Active");
    await page.getByRole("button", { name: "Sign out" }).click();
    await page.getByRole("heading", { name: "Who are you?" }).waitFor();
    await page.context().close();
  });

  it("offers to sign in again when the login has ended", async () => {
    const page = await open("Ada Lovelace", { width: 390, height: 844 });
    await connected(page);
    await page.context().clearCookies();
    await page.getByText("You are no longer signed in.").waitFor();
    await picture(page, "unauthorized");
    await page.getByRole("button", { name: "Sign in again" }).click();
    await page.getByRole("heading", { name: "Who are you?" }).waitFor();
    await page.context().close();
  });

  it("moves nothing for those who want no motion", async () => {
    for (const [reducedMotion, moving] of [
      ["no-preference", true],
      ["reduce", false],
    ]) {
      const { context } = await browser.person(site, "Ada Lovelace", { reducedMotion });
      const page = await context.newPage();
      await page.route("**/api/**", (route) => route.abort());
      await page.goto(site.address);
      await page.locator(".light svg.waiting").waitFor();
      assert.equal((await page.evaluate(() => document.getAnimations().length)) > 0, moving);
      await context.close();
    }
  });

  it("takes the focus through the page in the order of reading, and shows it", async () => {
    const page = await open("Ada Lovelace", { width: 390, height: 844 });
    await connected(page);
    const stops = [];
    for (let step = 0; step < 13; step++) {
      await page.keyboard.press("Tab");
      const [stop, seen] = await page.evaluate(() => {
        const { id, textContent, role, ariaLabel } = document.activeElement;
        const href = document.activeElement.getAttribute("href");
        const own = getComputedStyle(document.activeElement);
        return [id || href || role || ariaLabel || textContent.trim(), own.outlineStyle !== "none" && own.outlineWidth];
      });
      assert.equal(seen, "3px", stop);
      stops.push(stop);
    }
    assert.deepEqual(stops, [
      "#log",
      "status",
      "Sign out",
      "#/lobby",
      "#/design",
      "#/backend",
      "#/coffee",
      "log",
      "message",
      "Send",
      "people",
      "Clean up stale users",
      "For developers",
    ]);
    await page.context().close();
  });

  it("says that nobody else is here", async () => {
    await site.sql("SELECT mark_user_offline(user_id) FROM get_active_users()");
    const page = await open("Ada Lovelace", { width: 390, height: 844 });
    await connected(page);
    await page.getByText("Nobody else is here.").waitFor();
    await page.getByRole("link", { name: /^Coffee/ }).click();
    await page.getByText("Nobody has written here yet. Be the first.").waitFor();
    await picture(page, "alone");
    await page.context().close();
  });
});
