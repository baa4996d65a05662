// The example page itself: what it says, keyboard, screen readers, light and dark, desktop and phone, pictures for the documentation.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { after, before, describe, it } from "node:test";
import { connected, openBrowser, openSite, shows, until } from "./support.mjs";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
/** Where the pictures of the documentation are, if they are to be made anew. */
const images = process.env.UPDATE_IMAGES;

const DESKTOP = { viewport: { width: 1180, height: 690 } };
const PHONE = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, hasTouch: true };

describe("page", () => {
  let site, browser;

  before(async () => {
    site = await openSite({ settings: { timeout: "10min" } });
    browser = await openBrowser();
    // People who beat by SQL, as another backend would let them.
    const people = [
      ["alan-turing", "Alan Turing", "busy", 2, "design"],
      ["grace-hopper", "Grace Hopper", "active", 3, "lobby"],
      ["katherine-johnson", "Katherine Johnson", "idle", 1, "lobby"],
      ["donald-knuth", "Donald Knuth", "away", 1, "coffee"],
      ["margaret-hamilton", "Margaret Hamilton", "active", 1, "lobby"],
      ["barbara-liskov", "Barbara Liskov", "active", 1, "lobby"],
    ];
    for (const [id, name, status, tabs, room] of people) {
      for (let tab = 0; tab < tabs; tab++) {
        await site.sql(
          "SELECT update_user_heartbeat($1::text, $2::text, status => $3, metadata => jsonb_build_object('name', $4::text))",
          [id, `tab ${tab}`, status, name],
        );
      }
      await site.sql("SELECT join_room($1::text, 'tab 0', $2)", [id, room]);
    }
    await site.sql("SELECT mark_user_offline('barbara-liskov')");
    await until("the server's table", () => site.sql("SELECT 1 FROM chat_message"));
    const messages = [
      ["barbara-liskov", "Barbara Liskov", "The nightly build is green. I am off, see you tomorrow!"],
      ["grace-hopper", "Grace Hopper", "Then I would release this afternoon."],
      ["grace-hopper", "Grace Hopper", "Has anybody looked at it on a phone?"],
      ["ada-lovelace", "Ada Lovelace", "I have, and in the dark. It looks fine."],
      ["katherine-johnson", "Katherine Johnson", "My numbers agree with the old ones to the last digit."],
    ];
    for (const [id, name, body] of messages) {
      await site.sql("INSERT INTO chat_message (key, room, user_id, name, body) VALUES ($3, 'lobby', $1, $2, $3)", [
        id,
        name,
        body,
      ]);
    }
  });
  const margaret = async (session) => {
    await site.sql(
      "SELECT update_user_heartbeat('margaret-hamilton', $1::text, status => 'active', metadata => '{\"name\": \"Margaret Hamilton\"}')",
      [session],
    );
    await site.sql("SELECT join_room('margaret-hamilton', $1::text, 'lobby')", [session]);
  };
  after(async () => {
    await browser?.close();
    await site?.close();
  });

  const ada = async (options) => (await browser.person(site, "Ada Lovelace", options)).tab();

  it("says who is here, in which state, with how many tabs, and when the others were last seen", async () => {
    const page = await ada(DESKTOP);
    await shows(page, "alan-turing", "Busy · 2 tabs");
    await shows(page, "grace-hopper", "Active · 3 tabs");
    await shows(page, "katherine-johnson", "Idle · 1 tab");
    await shows(page, "donald-knuth", "Away · 1 tab");
    assert.equal(await page.locator("[data-user=alan-turing] .avatar").innerText(), "AT");
    const absent = page.locator(".absent [data-user=barbara-liskov]");
    await absent.getByText("last seen just now").waitFor();
    assert.equal(await absent.locator("strong").textContent(), "Barbara Liskov");

    await site.sql("SELECT mark_user_offline('margaret-hamilton')");
    await shows(page, "margaret-hamilton", null);
    await page.getByText("Margaret Hamilton left").waitFor();
    await page.locator(".absent [data-user=margaret-hamilton]").waitFor();
    await margaret("tab 1");
    await shows(page, "margaret-hamilton", "1 tab");
    await page.context().close();
  });

  it("counts the minutes since somebody was seen", async () => {
    const page = await (await browser.newContext(DESKTOP)).newPage();
    await page.context().addCookies([{ name: "chat_name", value: "Ada Lovelace", url: site.address }]);
    await page.clock.install({ time: Date.now() + 3 * 60_000 }); // a visitor whose clock is 3 minutes later
    await page.goto(site.address);
    await page.locator(".absent [data-user=barbara-liskov]").getByText("last seen 3 minutes ago").waitFor();
    await page.context().close();
  });

  it("lets an admin clean up, and nobody else", async () => {
    const page = await ada(DESKTOP);
    await page.getByRole("button", { name: "Clean up stale users" }).click();
    await page.getByRole("status", { name: "Clean-up" }).getByText("Nobody was stale.").waitFor();
    const other = await (await browser.person(site, "Somebody Else")).tab();
    assert.equal(await other.getByRole("button", { name: "Clean up stale users" }).count(), 0);
    assert.equal(
      await other.evaluate(async () => (await fetch("/api/presence/cleanup", { method: "POST" })).status),
      403,
    );
    await page.context().close();
    await other.context().close();
  });

  it("can be used by keyboard alone: sign in, skip, choose a status, sign out", async () => {
    const context = await browser.newContext(DESKTOP);
    const page = await context.newPage();
    await page.goto(site.address);
    const focused = () =>
      page.evaluate(() => document.activeElement?.textContent?.trim() || document.activeElement?.id);
    await until("the field has the focus", async () => (await focused()) === "name");
    await page.keyboard.type("Zoë O'Neil");
    await page.keyboard.press("Enter");
    await connected(page);
    await shows(page, "zoe-o-neil", "Active · 1 tab");

    await page.keyboard.press("Tab");
    assert.equal(await focused(), "Skip to the messages");
    await page.keyboard.press("Enter");
    await until("the messages have the focus", () => page.evaluate(() => document.activeElement?.id === "log"));

    // Back past the rooms to the status, whose native list answers to letters and arrows.
    const order = [];
    for (let step = 0; step < 7; step++) {
      await page.keyboard.press("Shift+Tab");
      order.push(
        await page.evaluate(
          () =>
            document.activeElement?.getAttribute("href") ||
            document.activeElement?.id ||
            document.activeElement?.textContent,
        ),
      );
    }
    assert.deepEqual(order, ["#/coffee", "#/backend", "#/design", "#/lobby", "Sign out", "status", "#log"]);
    await page.keyboard.press("Tab");
    // What has the focus must be seen to have it.
    assert.notEqual(await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle), "none");
    await page.keyboard.press("b");
    await shows(page, "zoe-o-neil", "Busy · 1 tab");

    await page.keyboard.press("Tab");
    await page.keyboard.press("Space");
    await page.getByRole("heading", { name: "Who are you?" }).waitFor();
    await until("the field has the focus again", async () => (await focused()) === "name");
    await until("signed out is offline", async () => (await site.sessions("zoe-o-neil")) === 0);

    await page.keyboard.press("Tab");
    await page.keyboard.press("Tab");
    assert.match(await focused(), /Ada Lovelace$/);
    await page.keyboard.press("Enter");
    await connected(page);
    await shows(page, "ada-lovelace", "1 tab");
    await context.close();
  });

  it("tells screen readers what changes", async () => {
    const page = await ada(DESKTOP);
    await page.getByRole("list", { name: "Not here" }).waitFor();
    const tree = await page.locator("body").ariaSnapshot();
    for (const part of [
      /link "Skip to the messages"/,
      /heading "Who is here" \[level=1\]/,
      /status "Connection": Connected/,
      /combobox "My status"/,
      /region "Online \d+"/,
      /list "Online \d+"/,
      /list "Not here"/,
      /navigation "Rooms"/,
      /link "Coffee 1 person: Donald Knuth"/,
      /region "Lobby"/,
      /log "Messages in Lobby"/,
      /textbox "Message to Lobby"/,
    ]) {
      assert.match(tree, part);
    }
    assert.doesNotMatch(tree, /\bAT\b/); // initials are decoration
    await page.context().close();
  });

  for (const [device, size] of [
    ["desktop", DESKTOP],
    ["phone", PHONE],
  ]) {
    for (const colorScheme of ["light", "dark"]) {
      it(`is accessible (${device}, ${colorScheme})`, async () => {
        const context = await browser.newContext({ ...size, colorScheme, reducedMotion: "reduce" });
        const page = await context.newPage();
        const check = async (where) => {
          await page.evaluate(axe);
          const { violations, passes } = await page.evaluate(() => window.axe.run());
          assert.deepEqual(
            violations.map(({ id, nodes }) => `${where}: ${id}: ${nodes.map((node) => node.html).join(" ")}`),
            [],
          );
          assert.ok(passes.some(({ id }) => id === "color-contrast"));
          const [wide, seen] = await page.evaluate(() => [document.documentElement.scrollWidth, window.innerWidth]);
          assert.ok(wide <= seen, `${where}: ${wide} pixels wide on a screen of ${seen}`);
        };
        await page.goto(site.address);
        await page.getByRole("button", { name: "Ada Lovelace" }).waitFor();
        await check("sign-in");
        await page.getByRole("button", { name: "Ada Lovelace" }).click();
        await connected(page);
        await shows(page, "alan-turing", "Busy");
        await site.sql("SELECT mark_user_offline('margaret-hamilton')");
        await page.getByText("Margaret Hamilton left").waitFor();
        await margaret(randomUUID());
        await page.getByText("Margaret Hamilton came in").waitFor();
        await check("chat");

        const picture = { desktop: colorScheme, phone: colorScheme === "light" ? "phone" : null }[device];
        if (picture !== null) {
          await page.evaluate(() => document.activeElement?.blur());
          const image = await page.screenshot({
            animations: "disabled",
            ...(images && { path: `${images}/${picture}.png` }),
          });
          assert.ok(image.length > 10_000);
        }
        await context.setOffline(true);
        await page.getByRole("status", { name: "Connection" }).getByText("No network").waitFor();
        await check("without network");
        await context.close();
      });
    }
  }

  it("loads everything from its own server, and says nothing on the console", async () => {
    const context = await browser.newContext(DESKTOP);
    const page = await context.newPage();
    const foreign = [],
      said = [];
    page.on(
      "request",
      (request) =>
        request.url().startsWith(site.address) || request.url().startsWith("data:") || foreign.push(request.url()),
    );
    page.on("console", (message) => said.push(message.text()));
    page.on("pageerror", (error) => said.push(error.message));
    await page.goto(site.address);
    await page.getByRole("button", { name: "Grace Hopper" }).click();
    await connected(page);
    await shows(page, "grace-hopper", "4 tabs");
    await page.reload();
    await connected(page);
    assert.deepEqual({ foreign, said }, { foreign: [], said: [] });
    await context.close();
  });
});
