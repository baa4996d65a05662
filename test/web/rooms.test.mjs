// Two people meet in the example's rooms: what they write, who types, who is where; also where the network, the server or the database is away.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdirSync } from "node:fs";
import { after, before, describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { connected, openBrowser, openSite, shows, sleep, until } from "./support.mjs";

const pictures = process.env.PICTURES ?? fileURLToPath(new URL("../../build/look", import.meta.url));

const log = (page) => page.getByRole("log");
const field = (page) => page.getByRole("textbox", { name: /^Message to / });
const enter = (page, room) => page.getByRole("navigation", { name: "Rooms" }).getByRole("link", { name: room }).click();
const bodies = (page) => page.locator("[data-message] .body").allTextContents();
/** Only what the room has is a message; what is on its way is none yet. */
const reads = (page, body) => page.locator("[data-message] .body").getByText(body, { exact: true }).waitFor();
async function write(page, body) {
  await field(page).fill(body);
  await field(page).press("Enter");
  await reads(page, body);
}

/** Ada and Bob, each in a browser of their own, with nothing written yet. */
function meeting(options) {
  const all = {};
  before(async () => {
    mkdirSync(pictures, { recursive: true });
    all.site = await openSite({ settings: { timeout: "10min" }, ...options });
    all.browser = await openBrowser();
    all.ada = await (await all.browser.person(all.site, "Ada Lovelace")).tab();
    all.bob = await (await all.browser.person(all.site, "Bob Ort")).tab();
  });
  after(async () => {
    await all.browser?.close();
    await all.site?.close();
  });
  return all;
}

/** As a script would, with the page's cookie. */
const post = (page, message, path = "/messages") =>
  page.evaluate(
    async ([message, path]) => {
      const body = typeof message === "string" ? message : JSON.stringify(message);
      const response = await fetch(path, { method: "POST", body });
      return [response.status, response.status === 204 ? null : (await response.json()).error];
    },
    [message, path],
  );
const KEY = "0123456789abcdef".repeat(2);

describe("rooms", () => {
  const all = meeting();

  it("two people write and read each other; another room hears nothing", async () => {
    const { ada, bob, browser, site } = all;
    const carl = await (await browser.person(site, "Carl")).tab();
    await enter(carl, "Design");
    await carl.getByText("Nobody has written here yet.").waitFor();
    await write(ada, "Good morning, Bob");
    await reads(bob, "Good morning, Bob");
    await write(bob, "Good morning,\nAda");
    await reads(ada, "Good morning, Ada");
    assert.deepEqual(await bodies(ada), ["Good morning, Bob", "Good morning,\nAda"]);
    assert.deepEqual(await bodies(bob), await bodies(ada));
    // One's own are told apart by words and place, not by colour alone.
    const authors = (page) => page.locator("[data-message] .by bdi").allTextContents();
    assert.deepEqual(await authors(ada), ["You", "Bob Ort"]);
    assert.deepEqual(await authors(bob), ["Ada Lovelace", "You"]);
    const edges = await ada
      .locator("[data-message] .bubble")
      .evaluateAll((bubbles) => bubbles.map((bubble) => bubble.getBoundingClientRect().left));
    assert.ok(edges[0] > edges[1], `own at ${edges[0]}, the other's at ${edges[1]}`);
    // What comes after it in his own room would have come after it here, too.
    await write(carl, "Quiet here");
    assert.deepEqual(await bodies(carl), ["Quiet here"]);
    assert.equal((await bodies(ada)).length, 2);
    await carl.context().close();
  });

  it("shows who is typing, to others only, until the message is sent or given up", async () => {
    const { ada, bob } = all;
    await field(ada).pressSequentially("Wait");
    await bob.getByText("Ada Lovelace is typing…").waitFor();
    assert.equal(await ada.getByText("is typing").count(), 0);
    await field(ada).press("Enter");
    await reads(bob, "Wait");
    await bob.getByText("is typing").waitFor({ state: "detached" });
    await field(ada).pressSequentially("No");
    await bob.getByText("Ada Lovelace is typing…").waitFor();
    await field(ada).fill("");
    await bob.getByText("is typing").waitFor({ state: "detached" });
    await field(ada).pressSequentially("Hm");
    await bob.getByText("Ada Lovelace is typing…").waitFor();
    await bob.getByText("is typing").waitFor({ state: "detached" }); // who types no more, without a word
    await field(ada).fill("");
  });

  it("shows who is where, and who comes into the room and leaves it", async () => {
    const { ada, bob } = all;
    const place = (page, user) => page.locator(`#people [data-user=${user}] .place`).textContent();
    const room = (page, name) => page.getByRole("navigation", { name: "Rooms" }).getByRole("link", { name });
    await until("both are in the lobby", async () => (await place(ada, "bob-ort")) === "in Lobby");
    await enter(bob, "Coffee");
    await until("he is elsewhere", async () => (await place(ada, "bob-ort")) === "in Coffee");
    await log(ada).getByText("Bob Ort left").waitFor();
    await room(ada, /^Coffee 1 person: Bob Ort$/).waitFor();
    await room(ada, /^Lobby 1 person: Ada Lovelace$/).waitFor();
    const came = log(ada).getByText("Bob Ort came in");
    const before = await came.count(); // 1 where she was here first
    await enter(bob, "Lobby");
    await came.nth(before).waitFor();
    await room(ada, /^Lobby 2 people: Ada Lovelace, Bob Ort$/).waitFor();
    await room(ada, /^Coffee 0 people$/).waitFor();
    assert.equal(await log(bob).getByText("Bob Ort").count(), 0, "nobody is told of himself");
  });

  it("has the room in its address: reload, back, a link, and an address that names none", async () => {
    const { ada, site } = all;
    const heading = (name) => ada.getByRole("heading", { level: 2, name, exact: true }).waitFor();
    await enter(ada, "Design");
    await heading("Design");
    assert.match(ada.url(), /#\/design$/);
    await reads(ada, "Quiet here");
    await ada.reload();
    await connected(ada);
    await heading("Design");
    await reads(ada, "Quiet here");
    await until("counted there", async () => (await site.one("SELECT room_count('design')::integer")) === 1);
    await ada.goBack();
    await heading("Lobby");
    await reads(ada, "Good morning, Bob");
    await ada.goto(`${site.address}#/coffee`);
    await heading("Coffee");
    await ada.goto(`${site.address}#/nowhere`);
    await until("the first one", () => /#\/(coffee|lobby)$/.test(ada.url()));
    await enter(ada, "Lobby");
    await heading("Lobby");
  });

  it("shows the last 50 messages of a room, the oldest first", async () => {
    const { ada, site } = all;
    await site.sql(
      `INSERT INTO chat_message (key, room, user_id, name, body)
       SELECT 'h' || n, 'backend', 'carl', 'Carl', 'Number ' || n FROM generate_series(1, 60) AS n`,
    );
    await enter(ada, "Backend");
    await reads(ada, "Number 60");
    assert.deepEqual(
      await bodies(ada),
      Array.from({ length: 50 }, (_, index) => `Number ${index + 11}`),
    );
    const rest = await log(ada).evaluate((box) => box.scrollHeight - box.clientHeight - box.scrollTop);
    assert.ok(rest < 2, "its end is in view");
    await enter(ada, "Lobby");
  });

  it("keeps a draft for each room, also over a reload", async () => {
    const { ada } = all;
    await field(ada).fill("For the lobby");
    await enter(ada, "Design");
    assert.equal(await field(ada).inputValue(), "");
    await field(ada).fill("For design");
    await enter(ada, "Lobby");
    assert.equal(await field(ada).inputValue(), "For the lobby");
    await ada.reload();
    await connected(ada);
    assert.equal(await field(ada).inputValue(), "For the lobby");
    await enter(ada, "Design");
    assert.equal(await field(ada).inputValue(), "For design");
    await field(ada).fill("");
    await enter(ada, "Lobby");
    await field(ada).fill("");
  });

  it("shows what is hostile as the text that it is", async () => {
    const { ada, bob } = all;
    const problems = [];
    bob.on("dialog", (dialog) => problems.push(dialog.message()) && void dialog.dismiss());
    bob.on("pageerror", (error) => problems.push(error.message));
    for (const body of [
      '<img src=x onerror="alert(1)">',
      "</p></li><script>alert(2)</script>",
      "\u202egnikcah",
      "${7*7} {{7*7}}",
    ]) {
      await write(ada, body);
      await reads(bob, body);
    }
    assert.equal(await bob.locator("#log img, #log script").count(), 0);
    assert.deepEqual(problems, []);
    const wide = await bob.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    await write(ada, "w".repeat(2000));
    await reads(bob, "w".repeat(2000));
    assert.equal(await bob.evaluate(() => document.documentElement.scrollWidth - innerWidth), wide);
  });

  it("takes 2000 characters, and says what is wrong with more, with nothing, and with the rest", async () => {
    const { ada, site } = all;
    const count = () => site.one("SELECT count(*)::integer FROM chat_message");
    const before = await count();
    await field(ada).fill("x".repeat(2001));
    await ada.getByText("1 too many").waitFor();
    await field(ada).press("Enter");
    await ada.getByRole("alert").getByText("1 character too long: 2000 at most.").waitFor();
    assert.equal((await field(ada).inputValue()).length, 2001, "it can be shortened");
    assert.equal(await field(ada).getAttribute("aria-invalid"), "true");
    for (const nothing of ["  \n ", "\u200b"]) {
      await field(ada).fill(nothing);
      await field(ada).press("Enter");
      assert.equal(await field(ada).inputValue(), "");
    }
    const hello = { key: KEY, room: "lobby", body: "hello" };
    const refusals = [
      [{ ...hello, body: "x".repeat(2001) }, 400, "1 character too long: 2000 at most."],
      [{ ...hello, body: "😀".repeat(2003) }, 400, "3 characters too long: 2000 at most."],
      [{ ...hello, body: " \u0000\n" }, 400, "Write something first."],
      [{ ...hello, body: { length: 1 } }, 400, "Write something first."],
      [{ ...hello, room: "cellar" }, 404, "There is no such room."],
      [{ ...hello, room: "constructor" }, 404, "There is no such room."],
      [{ ...hello, key: "1" }, 400, "key is not 32 hexadecimal digits."],
      ["{", 400, "That is no JSON."],
      ["null", 404, "There is no such room."],
      [{ ...hello, body: "x".repeat(70_000) }, 413, "That is too long."],
    ];
    for (const [message, status, error] of refusals)
      assert.deepEqual(await post(ada, message), [status, error], JSON.stringify(message).slice(0, 80));
    assert.equal(await count(), before);
    // Sent twice, written once; and an emoji is one character.
    const most = { ...hello, body: "😀".repeat(2000) };
    assert.deepEqual(await post(ada, most), [204, null]);
    assert.deepEqual(await post(ada, most), [204, null]);
    assert.equal(await count(), before + 1);
    const stranger = await (await all.browser.newContext()).newPage();
    await stranger.goto(site.address);
    assert.deepEqual(await post(stranger, { ...hello, key: KEY.replace("0", "1") }), [401, "You are not signed in."]);
    assert.equal(await stranger.evaluate(async () => (await fetch("/messages?room=lobby")).status), 401);
    assert.equal(await ada.evaluate(async () => (await fetch("/messages?room=cellar")).status), 404);
    await stranger.context().close();
  });

  it("leaves whoever reads further up where he is, and offers the way to the new messages", async () => {
    const { ada, bob } = all;
    await enter(ada, "Backend");
    await enter(bob, "Backend");
    await reads(ada, "Number 60");
    await reads(bob, "Number 60");
    const place = () => log(bob).evaluate((box) => box.scrollTop);
    await log(bob).evaluate((box) => (box.scrollTop = 100));
    await until("the page has noticed", () =>
      log(bob).evaluate((box) => new Promise((done) => requestAnimationFrame(() => done(box.scrollTop === 100)))),
    );
    await write(ada, "Something new");
    const button = bob.getByRole("button", { name: "1 new message" });
    await button.waitFor();
    assert.equal(await place(), 100);
    assert.match(await bob.title(), /^\(1\) Backend/);
    await write(ada, "And more");
    await bob.getByRole("button", { name: "2 new messages" }).press("Enter");
    await bob.getByRole("button", { name: /new message/ }).waitFor({ state: "detached" });
    const rest = () => log(bob).evaluate((box) => box.scrollHeight - box.clientHeight - box.scrollTop);
    assert.ok((await rest()) < 2);
    assert.match(await bob.title(), /^Backend/);
    await write(ada, "Followed again");
    await reads(bob, "Followed again");
    assert.ok((await rest()) < 2);
    for (const page of [ada, bob]) await enter(page, "Lobby");
  });

  it("can be used by keyboard alone", async () => {
    const { ada, bob } = all;
    await ada.reload();
    await connected(ada);
    await ada.keyboard.press("Tab");
    await ada.keyboard.press("Enter"); // skip to the messages
    await until("the log has the focus", () => ada.evaluate(() => document.activeElement?.id === "log"));
    await ada.keyboard.press("Tab");
    await ada.keyboard.type("First line");
    await ada.keyboard.press("Shift+Enter");
    await ada.keyboard.type("second line");
    await ada.keyboard.press("Enter");
    await reads(bob, "First line second line");
    assert.equal((await bodies(bob)).at(-1), "First line\nsecond line");
    await ada.keyboard.type("By the button");
    await ada.keyboard.press("Tab");
    await ada.keyboard.press("Space");
    await reads(bob, "By the button");
    assert.equal(await ada.evaluate(() => document.activeElement?.id), "message");
    // Back past the log to the rooms.
    for (let step = 0; step < 2; step++) await ada.keyboard.press("Shift+Tab");
    assert.equal(await ada.evaluate(() => document.activeElement?.getAttribute("href")), "#/coffee");
    await ada.keyboard.press("Enter");
    await ada.getByRole("heading", { name: "Coffee" }).waitFor();
    assert.equal(await ada.evaluate(() => document.activeElement?.getAttribute("href")), "#/coffee");
    await enter(ada, "Lobby");
  });

  it("says that whoever appears offline is in no room, and lets him in again", async () => {
    const { ada, bob } = all;
    await ada.getByLabel("My status").selectOption("invisible");
    await ada.getByText("You appear offline.").waitFor();
    await shows(bob, "ada-lovelace", null);
    await ada.getByLabel("My status").selectOption("");
    await until(
      "she is back in the room",
      async () => (await bob.locator("#people [data-user=ada-lovelace] .place").textContent()) === "in Lobby",
    );
  });
});

describe("messages over losses", () => {
  const all = meeting();

  it("the network cut and back: no message is lost, none comes twice, and what failed can be sent again", async () => {
    const { ada, bob } = all;
    await write(bob, "Before");
    await reads(ada, "Before");
    await ada.context().setOffline(true);
    await ada.getByText("This device has no network.").waitFor();
    await field(ada).fill("From the tunnel");
    await field(ada).press("Enter");
    const failed = log(ada).locator(".failed");
    await failed.getByText("The server does not answer.").waitFor();
    await ada.screenshot({ path: `${pictures}/failed.png`, animations: "disabled" });
    for (const number of [1, 2, 3]) await write(bob, `Meanwhile ${number}`);
    await ada.context().setOffline(false);
    await connected(ada);
    await reads(ada, "Meanwhile 3");
    await failed.getByRole("button", { name: "Try again" }).click();
    await reads(bob, "From the tunnel");
    await reads(ada, "From the tunnel");
    await failed.waitFor({ state: "detached" });
    const expected = ["Before", "Meanwhile 1", "Meanwhile 2", "Meanwhile 3", "From the tunnel"];
    assert.deepEqual(await bodies(ada), expected);
    assert.deepEqual(await bodies(bob), expected);
  });

  it("where only the answer was lost, the message is there once", async () => {
    const { ada, bob, site } = all;
    // The server has it, and neither its answer nor what it says of it arrives.
    await ada.route("**/messages", async (route) => {
      await route.fetch();
      await route.abort();
    });
    await field(ada).fill("Did you get this?");
    await field(ada).press("Enter");
    await reads(bob, "Did you get this?");
    await ada.unroute("**/messages");
    await reads(ada, "Did you get this?");
    await until("it is on its way no more", async () => (await log(ada).locator(".unsent").count()) === 0);
    assert.equal(await site.one("SELECT count(*)::integer FROM chat_message WHERE body = 'Did you get this?'"), 1);
  });

  it("what failed is still there after a reload, and can be thrown away", async () => {
    const { ada } = all;
    await ada.route("**/messages", (route) => route.fulfill({ status: 503, json: { error: "Not now." } }));
    await field(ada).fill("Never mind");
    await field(ada).press("Enter");
    await log(ada).locator(".failed").getByText("Not now.").waitFor();
    await ada.reload();
    await connected(ada);
    const failed = log(ada).locator(".failed");
    await failed.getByText("Never mind").waitFor();
    await ada.unroute("**/messages");
    await failed.getByRole("button", { name: "Discard" }).click();
    await failed.waitFor({ state: "detached" });
    assert.ok(!(await bodies(ada)).includes("Never mind"));
  });

  it("a message stream that cannot be opened is said, and opened later", async () => {
    const { ada, bob } = all;
    await ada.route("**/messages?*", (route) => route.fulfill({ status: 503 }));
    await ada.reload();
    await connected(ada);
    await ada.getByText("Messages cannot be loaded at the moment. Trying again.").waitFor();
    await write(bob, "Can you see this?");
    await ada.unroute("**/messages?*");
    await reads(ada, "Can you see this?");
    await ada.getByText("cannot be loaded").waitFor({ state: "detached" });
  });

  it("writers in many transactions at once: every reader has every message once, in the order of their numbers", async () => {
    const { ada, bob, site } = all;
    await enter(ada, "Coffee");
    await enter(bob, "Coffee");
    await ada.getByText("Nobody has written here yet.").waitFor();
    await bob.getByText("Nobody has written here yet.").waitFor();
    const insert = (number) =>
      site.sql(
        // Its number is given, and then it takes a while until others can see it.
        `WITH said AS (INSERT INTO chat_message (key, room, user_id, name, body)
                       VALUES ('c' || $1, 'coffee', 'carl', 'Carl', 'Cup ' || $1) RETURNING id)
         SELECT pg_sleep(random() * 0.02) FROM said`,
        [number],
      );
    let interrupting = true;
    const interrupt = (async () => {
      while (interrupting) {
        await ada.context().setOffline(true);
        await sleep(100);
        await ada.context().setOffline(false);
        await sleep(300);
      }
    })();
    await Promise.all(Array.from({ length: 120 }, (_, number) => insert(number)));
    interrupting = false;
    await interrupt;
    await connected(ada);
    const truth = (await site.sql("SELECT body FROM chat_message WHERE room = 'coffee' ORDER BY id")).map(
      ({ body }) => body,
    );
    assert.equal(truth.length, 120);
    for (const page of [ada, bob]) {
      await until("all have come", async () => {
        assert.deepEqual(await bodies(page), truth);
        return true;
      });
    }
  });

  it("the database restarted: what is written afterwards comes, and nothing is missed", async (t) => {
    const { WEB_SERVER_DIR } = process.env;
    if (!WEB_SERVER_DIR) return t.skip("WEB_SERVER_DIR does not say which server may be restarted");
    const { ada, bob, site } = all;
    for (const page of [ada, bob]) await enter(page, "Design");
    await write(ada, "Before the restart");
    await reads(bob, "Before the restart");
    await site.sql("CHECKPOINT");
    await promisify(execFile)(fileURLToPath(new URL("../../scripts/private-server", import.meta.url)), [
      "restart",
      WEB_SERVER_DIR,
      "-m",
      "fast",
    ]);
    // Before the example's server is back: it has to look, nobody will notify it.
    await until("the database answers", () =>
      site.sql(
        `INSERT INTO chat_message (key, room, user_id, name, body) VALUES ('r', 'design', 'carl', 'Carl', 'Unheard')
         ON CONFLICT (key) DO NOTHING`,
      ),
    );
    for (const page of [ada, bob]) {
      await connected(page);
      await reads(page, "Unheard");
    }
    await write(ada, "After the restart");
    await reads(bob, "After the restart");
    for (const page of [ada, bob])
      assert.deepEqual(await bodies(page), ["Before the restart", "Unheard", "After the restart"]);
  });
});
