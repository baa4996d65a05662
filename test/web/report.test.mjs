// scripts/report: what it draws of a real database, in a real browser. Pictures go to build/look/.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdirSync } from "node:fs";
import { after, before, describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { openBrowser, openSite } from "./support.mjs";

const program = fileURLToPath(new URL("../../scripts/report", import.meta.url));
const pictures = process.env.PICTURES ?? fileURLToPath(new URL("../../build/look", import.meta.url));

describe("report", () => {
  let site, browser, database;

  before(async () => {
    mkdirSync(pictures, { recursive: true });
    site = await openSite();
    browser = await openBrowser();
    database = await site.one("SELECT current_database()");
  });
  after(async () => {
    await browser?.close();
    await site?.close();
  });

  const draw = async (...args) => (await promisify(execFile)(program, [...args, `dbname=${database}`])).stdout;
  const open = async (html, { width = 1200, ...options } = {}) => {
    const context = await browser.newContext({ viewport: { width, height: 900 }, ...options });
    const page = await context.newPage();
    const wrong = [];
    page.on("request", (request) => wrong.push(request.url()));
    page.on("console", (message) => wrong.push(message.text()));
    page.on("pageerror", (error) => wrong.push(error.message));
    await page.setContent(html);
    return { page, wrong, close: () => context.close() };
  };
  const picture = (page, name) => page.screenshot({ path: `${pictures}/report-${name}.png`, fullPage: true });
  /** Whether something is wider than the page, or covers another text of its drawing. */
  const faults = (page) =>
    page.evaluate(() => {
      const found = [];
      if (document.documentElement.scrollWidth > innerWidth) found.push("the page is wider than the window");
      for (const svg of document.querySelectorAll("svg")) {
        const box = svg.getBoundingClientRect();
        const texts = [...svg.querySelectorAll("text")].map((text) => [text.textContent, text.getBoundingClientRect()]);
        for (const [name, { left, right, top, bottom }] of texts) {
          if (left < box.left - 1 || right > box.right + 1 || bottom > box.bottom + 1) found.push(`${name} is cut`);
          for (const [other, it] of texts)
            if (name < other && left < it.right && it.left < right && top < it.bottom && it.top < bottom)
              found.push(`${name} covers ${other}`);
        }
      }
      return found;
    });

  it("says how to begin where there are no reports", async () => {
    const { page, wrong, close } = await open(await draw());
    assert.match(await page.locator(".empty").innerText(), /no reports yet[^]*presence\.reports = on/i);
    assert.equal(await page.locator("svg").count(), 0);
    assert.deepEqual([await faults(page), wrong], [[], []]);
    await picture(page, "empty");
    await close();
  });

  it("shows what presence_roll_up() has added up", async () => {
    await site.sql(`ALTER DATABASE ${database} SET presence.reports = on`);
    await site.sql("SELECT update_user_heartbeat('ann', 'tab'), update_user_heartbeat('bob', 'tab')");
    await site.sql("SELECT mark_user_offline('bob')");
    await site.sql("SELECT set_config('presence.reports', 'on', false), presence_roll_up()");
    const { page, close } = await open(await draw());
    assert.match(await page.locator("dl div", { hasText: "People today" }).innerText(), /\n2\n/);
    assert.match(await page.locator(".shares").innerText(), /left on purpose\s+1 100\.0 %/);
    assert.deepEqual(await faults(page), []);
    await close();
  });

  describe("of a month", () => {
    let html;
    before(async () => {
      // Weeks with quiet weekends and nights; a day for which nothing is known.
      await site.sql(
        "DELETE FROM presence_report_slot; DELETE FROM presence_report_day; DELETE FROM presence_report_end; DELETE FROM presence_report_return",
      );
      await site.sql(`
        INSERT INTO presence_report_slot
        SELECT at, 300, 300 * n, n + 40, at FROM generate_series(date_trunc('day', now(), 'UTC') - interval '31 days', now(), '5 min') AS at,
        LATERAL (SELECT extract(isodow FROM at AT TIME ZONE 'UTC') AS d, extract(hour FROM at AT TIME ZONE 'UTC') + extract(minute FROM at) / 60 AS h) AS p,
        LATERAL (SELECT round(200 + (CASE WHEN d < 6 THEN 3000 ELSE 900 END) * exp(-(((h - 14) / 4) ^ 2)))::bigint AS n) AS c
        WHERE at::date <> current_date - 9`);
      await site.sql(
        "INSERT INTO presence_report_day SELECT (now() AT TIME ZONE 'UTC')::date - n, 5000 + n % 7 * 300, 11000 - n * 20, 19000 - n * 100, 14000 + n FROM generate_series(0, 31) AS n",
      );
      await site.sql(`
        INSERT INTO presence_report_end
        SELECT (now() AT TIME ZONE 'UTC')::date, reason, at_least::interval, NULL, share * n
        FROM (VALUES ('leave', 3), ('disconnect', 11), ('timeout', 5)) AS r (reason, share),
             (VALUES ('0s', 120), ('10s', 210), ('30s', 300), ('1min', 420), ('2min', 700), ('5min', 900), ('10min', 1400), ('30min', 800), ('1h', 500), ('2h', 260), ('4h', 90), ('8h', 20), ('24h', 4)) AS l (at_least, n)`);
      await site.sql(
        "INSERT INTO presence_report_return SELECT date_trunc('hour', now()) - n * interval '1 day', 'user' || u, 7 FROM generate_series(0, 29) AS n, generate_series(1, 1 + n % 5) AS u",
      );
      html = await draw();
    });

    for (const [width, colorScheme] of [
      [1200, "light"],
      [1200, "dark"],
      [390, "light"],
      [320, "dark"],
    ]) {
      it(`is readable ${width} pixels wide, ${colorScheme}`, async () => {
        const { page, wrong, close } = await open(html, { width, colorScheme });
        assert.deepEqual([await faults(page), wrong], [[], []]);
        assert.equal(await page.locator("svg").count(), 4);
        await picture(page, `${width}-${colorScheme}`);
        await close();
      });
    }

    it("has a table for each drawing, and asks no other host", async () => {
      const { page, close } = await open(html);
      assert.deepEqual(
        await page
          .locator("section")
          .evaluateAll((sections) =>
            sections.filter((section) => !section.querySelector("table caption")).map((section) => section.innerText),
          ),
        [],
      );
      const people = page.locator("section", { hasText: "Different people" });
      await people.locator("summary").click();
      assert.match(await people.locator("tbody tr").first().innerText(), /^\d{4}-\d\d-\d\d\s+5,000\s+11,000\s+19,000$/);
      assert.equal(await people.locator("tbody tr").count(), 30);
      assert.doesNotMatch(html, /https?:|<script|<link|<img|user1/i);
      // The day of which nothing is known is no day on which nobody was there.
      const line = await page.locator("path.line.a").first().getAttribute("d");
      assert.equal(line.match(/M/g).length, 2);
      await close();
    });

    it("shows as many days as are asked for", async () => {
      const { page, close } = await open(await draw("--days", "7"));
      assert.equal(await page.locator("section", { hasText: "Different people" }).locator("tbody tr").count(), 7);
      assert.deepEqual(await faults(page), []);
      await close();
    });
  });

  it("refuses what it does not understand, and says so", async () => {
    await assert.rejects(draw("--days", "0"), /usage: scripts\/report/);
    await assert.rejects(promisify(execFile)(program, ["dbname=template1"]), /has no extension presence/);
  });
});
