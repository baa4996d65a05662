// The starters, as somebody begins with them: built, on their own production servers, with people who sign in by the page's own form.
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:net";
import { after, before, describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { openBrowser, openSite, startProgram, until } from "./support.mjs";

const next = fileURLToPath(new URL("../../examples/next", import.meta.url));

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return String(port);
}

describe("starter for Next.js", () => {
  let site, browser, server, address;
  /** What any page has said in its console; a hydration that fails does so there. */
  const said = [];

  before(async () => {
    site = await openSite();
    browser = await openBrowser();
    const port = await freePort();
    address = `http://127.0.0.1:${port}/`;
    server = await startProgram(
      `${next}/node_modules/next/dist/bin/next`,
      ["start", next, "--hostname", "127.0.0.1", "--port", port],
      { PGDATABASE: await site.one("SELECT current_database()"), NEXT_TELEMETRY_DISABLED: "1" },
    );
    await until("the server answers", async () => (await fetch(address)).ok);
  });
  after(async () => {
    await browser?.close();
    await server?.stop();
    await site?.close();
  });

  async function open(context) {
    const page = await context.newPage();
    page.on("console", (message) => said.push(message.text()));
    page.on("pageerror", (error) => said.push(String(error)));
    await page.goto(address);
    return page;
  }
  const shown = (page) => page.getByRole("listitem").allInnerTexts();
  const shows = (page, people) =>
    until(`the page shows ${people}`, async () => (await shown(page)).sort().join() === people.join());

  it("shows two people each other, as they come and go", async () => {
    const [adas, alans] = [await browser.newContext(), await browser.newContext()];
    const signIn = async (page, name) => {
      await page.getByLabel("Your name").fill(name);
      await page.getByRole("button", { name: "Sign in" }).click();
    };
    const ada = await open(adas);
    await signIn(ada, "Ada Lovelace");
    await shows(ada, ["Ada Lovelace: active"]);
    await ada.getByText("1 online").waitFor();

    const alan = await open(alans);
    await signIn(alan, "Alan Turing");
    const both = ["Ada Lovelace: active", "Alan Turing: active"];
    await shows(alan, both);
    await shows(ada, both);
    await ada.getByText("2 online").waitFor();

    // By his goodbye: the session would last for a minute without.
    const seq = await site.position();
    await alan.close();
    await shows(ada, ["Ada Lovelace: active"]);
    const left = (await site.feed(seq, "alan turing")).find(({ event }) => event === "user_offline");
    assert.equal(left.reason, "disconnect");

    // Signed in still, so what the server renders is hydrated with the hook in it.
    const again = await open(alans);
    await shows(again, both);
    await shows(ada, both);
    await ada.close();
    await shows(again, ["Alan Turing: active"]);
    await again.close();
    await until("both have left", async () => (await site.sessions("alan turing")) === 0);
    await adas.close();
    await alans.close();
    assert.deepEqual(said, []);
  });

  it("shows nobody to whoever is not signed in", async () => {
    await site.sql("SELECT update_user_heartbeat('grace'::text, 'tab'::text)");
    for (const path of ["presence", "presence/events"]) {
      const answer = await fetch(`${address}api/${path}`);
      assert.equal(answer.status, 401);
      assert.doesNotMatch(await answer.text(), /grace/);
    }
    const html = await (await fetch(address)).text();
    assert.match(html, /Your name/);
    assert.doesNotMatch(html, /Connecting|grace/);
    const known = await fetch(`${address}api/presence`, { headers: { cookie: "starter_name=Ada" } });
    assert.match(await known.text(), /grace/);
    assert.equal((await fetch(`${address}api/else`)).status, 404);
    await site.sql("SELECT mark_user_offline('grace')");
  });

  it("renders the shell on the server", async () => {
    const html = await (await fetch(address, { headers: { cookie: "starter_name=Ada" } })).text();
    assert.match(html, /<h1>Who is online<\/h1>/);
    assert.match(html, /<p role="status">Connecting…<\/p>/);
    assert.doesNotMatch(html, /Your name/);
  });
});
